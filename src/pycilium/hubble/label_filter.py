"""Label selectors as users type them (`app=web,tier in (a, b),!old`), tried against security labels.

The syntax is that of Kubernetes; a key may carry a source (`k8s:app`, `reserved:world`), else any source will do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_TOKEN = re.compile(r"\s*(?:(?P<word>[A-Za-z0-9_./:-]+)|(?P<mark>==|!=|[=!,()]))")
_SOURCES = re.compile(r"^(?P<source>[a-z0-9-]+):(?P<key>.+)$")
ANY_SOURCE = "any"


class SelectorSyntaxError(ValueError):
    """The selector cannot be read; the message says where and what was expected."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """One comma-separated part. `values` None: only the key's presence counts."""

    source: str
    key: str
    values: frozenset[str] | None
    negated: bool

    def matches(self, labels: Iterable[str]) -> bool:
        found = any(self._matches_label(label) for label in labels)
        return found != self.negated

    def _matches_label(self, label: str) -> bool:
        name, _, value = label.partition("=")
        source, separator, key = name.partition(":")
        if not separator:
            source, key = "", name
        if key != self.key or self.source not in (ANY_SOURCE, source):
            return False
        return self.values is None or value in self.values


def parse_label_selector(text: str) -> tuple[Requirement, ...]:
    """The selector's requirements, all of which must hold. Raises SelectorSyntaxError."""
    tokens = _tokens(text)
    requirements = []
    while tokens:
        requirements.append(_requirement(tokens, text))
        if tokens and tokens.pop(0) != ",":
            raise SelectorSyntaxError(f"{text!r}: a comma is expected between requirements")
        if not tokens and text.rstrip().endswith(","):
            raise SelectorSyntaxError(f"{text!r}: a requirement is expected after the last comma")
    return tuple(requirements)


def _tokens(text: str) -> list[str]:
    tokens, position = [], 0
    while position < len(text.rstrip()):
        match = _TOKEN.match(text, position)
        if match is None:
            raise SelectorSyntaxError(f"{text!r}: unexpected {text[position:].strip()[0]!r}")
        tokens.append(match["word"] or match["mark"])
        position = match.end()
    return tokens


def _requirement(tokens: list[str], text: str) -> Requirement:
    absent = tokens[0] == "!"
    if absent:
        del tokens[0]
    source, key = _key(_word(tokens, text, "a key"))
    operator = tokens[0] if tokens else ","
    if absent or operator == ",":
        return Requirement(source, key, None, absent)
    del tokens[0]
    if operator in ("=", "==", "!="):
        value = tokens.pop(0) if tokens and tokens[0] != "," else ""
        return Requirement(source, key, frozenset((value,)), operator == "!=")
    if operator in ("in", "notin"):
        return Requirement(source, key, _values(tokens, text), operator == "notin")
    raise SelectorSyntaxError(f"{text!r}: one of = == != in notin is expected after {key!r}, not {operator!r}")


def _values(tokens: list[str], text: str) -> frozenset[str]:
    if not tokens or tokens.pop(0) != "(":
        raise SelectorSyntaxError(f"{text!r}: values in parentheses are expected")
    values = [_word(tokens, text, "a value")]
    while tokens and tokens[0] == ",":
        del tokens[0]
        values.append(_word(tokens, text, "a value"))
    if not tokens or tokens.pop(0) != ")":
        raise SelectorSyntaxError(f"{text!r}: a closing parenthesis is expected")
    return frozenset(values)


def _word(tokens: list[str], text: str, what: str) -> str:
    if not tokens or not (tokens[0][0].isalnum() or tokens[0][0] in "_./:-"):
        raise SelectorSyntaxError(f"{text!r}: {what} is expected{f', not {tokens[0]!r}' if tokens else ''}")
    return tokens.pop(0)


def _key(word: str) -> tuple[str, str]:
    match = _SOURCES.match(word)
    return (match["source"], match["key"]) if match else (ANY_SOURCE, word)

"""Helm's template language, as much of it as our chart uses: the test's other opinion on what a template means.

Written from Helm's documentation and not from our templates' writer; anything else that a template says is an error.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

_ACTION = re.compile(r"\n?[ \t]*\{\{- (.*?) \}\}|\{\{ (.*?) \}\}")
_TOKEN = re.compile(r'\s*("(?:[^"\\]|\\.)*"|[()|]|[^\s()|]+)')


def rendered(text: str, values: Mapping[str, Any], namespace: str) -> str:
    """What Helm makes of the template `text`."""
    context = {"Values": values, "Release": {"Namespace": namespace}}
    out: list[str] = []
    shown = [True]  # of each block that is open: whether its text appears
    position = 0
    for action in _ACTION.finditer(text):
        if all(shown):
            out.append(text[position : action.start()])
        position = action.end()
        words = action[1] or action[2]
        if words == "end":
            shown.pop()
        elif words == "else":
            shown[-1] = not shown[-1]
        elif words.startswith("if "):
            shown.append(bool(_evaluated(words[3:], context)))
        elif all(shown):
            out.append(str(_evaluated(words, context)))
    if len(shown) != 1:
        raise ValueError("a block has no end")
    return "".join([*out, text[position:]])


def _evaluated(words: str, context: Mapping[str, Any]) -> Any:
    tokens = [token for token in _TOKEN.findall(words) if token]
    value = _pipe(tokens, context)
    if tokens:
        raise ValueError(f"{words!r}: {tokens[0]!r} is left over")
    return value


def _pipe(tokens: list[str], context: Mapping[str, Any]) -> Any:
    value = _call(tokens, context, ())
    while tokens and tokens[0] == "|":
        tokens.pop(0)
        value = _call(tokens, context, (value,))
    return value


def _call(tokens: list[str], context: Mapping[str, Any], piped: tuple[Any, ...]) -> Any:
    name = tokens.pop(0)
    if name not in _FUNCTIONS:
        return _operand(name, tokens, context)
    arguments = []
    while tokens and tokens[0] not in ("|", ")"):
        arguments.append(_operand(tokens.pop(0), tokens, context))
    return _FUNCTIONS[name](*arguments, *piped)


def _operand(word: str, tokens: list[str], context: Mapping[str, Any]) -> Any:
    if word == "(":
        value = _pipe(tokens, context)
        if tokens.pop(0) != ")":
            raise ValueError("a parenthesis is open")
        return value
    if word.startswith('"'):
        return json.loads(word)
    if not word.startswith("."):
        raise ValueError(f"{word!r} is no function, string or path that is known here")
    value = context
    for name in word[1:].split("."):
        value = value[name]
    return value


def _to_json(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return "".join(f"\\u{ord(each):04x}" if each in "<>&\u2028\u2029" else each for each in text)


def _to_string(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        if abs(value) >= 10**6:
            raise ValueError(f"{value} would have an exponent")
        return str(value)
    raise ValueError(f"{value!r} has another text in Go")


_FUNCTIONS: Mapping[str, Any] = {
    "toJson": _to_json,
    "toString": _to_string,
    "join": lambda separator, items: separator.join(map(_to_string, items)),
    "printf": lambda pattern, *parts: pattern % parts,
    "sha256sum": lambda text: hashlib.sha256(text.encode()).hexdigest(),
}

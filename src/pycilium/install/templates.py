"""Objects with holes: the one form of our manifests, from which come both a cluster's objects and Helm's templates.

A tree is what JSON has, with holes in it that values fill. `realized` fills them here; `chart_templates` writes the
same tree in Helm's language, whose part that it uses is small enough to be evaluated by a test.
Invariant: every hole means the same in both; a hole that only one can have does not exist.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Plain = dict[str, Any]


class _Absent:
    def __repr__(self) -> str:
        return "ABSENT"


ABSENT = _Absent()
"""Nothing at all: neither the entry nor its key."""


@dataclass(frozen=True, slots=True)
class Value:
    """The value at `path`, as it is."""

    path: str


@dataclass(frozen=True, slots=True)
class Text:
    """The value at `path` as a string: what a ConfigMap and a variable of the environment take."""

    path: str


@dataclass(frozen=True, slots=True)
class Joined:
    """A list of strings at `path` as one string."""

    path: str
    separator: str = " "


@dataclass(frozen=True, slots=True)
class Json:
    """The value at `path` as a string of JSON, keys in order."""

    path: str


@dataclass(frozen=True, slots=True)
class Namespace:
    """The namespace that everything is installed into."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """A text that differs whenever values do, so that pods roll when what they read at their start has changed."""


@dataclass(frozen=True, slots=True)
class Format:
    """`pattern`, in which `%s` stand for `parts`."""

    pattern: str
    parts: tuple[Text | Namespace, ...]


@dataclass(frozen=True, slots=True)
class When:
    """`then` where the value at `path` is neither false nor empty nor 0, else `otherwise`."""

    path: str
    then: Any
    otherwise: Any = ABSENT


@dataclass(frozen=True, slots=True)
class Filling:
    """What fills holes: values, and the namespace."""

    values: Mapping[str, Any]
    namespace: str


def at(values: Mapping[str, Any], path: str) -> Any:
    """The value at `path`; KeyError if there is none."""
    found: Any = values
    for name in path.split("."):
        found = found[name]
    return found


def as_text(value: Any) -> str:
    """A value as a string: as JSON has it, but for strings, which are themselves."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def realized(tree: Any, filling: Filling) -> Any:
    """The tree with its holes filled; ABSENT if nothing is left of it."""
    match tree:
        case When(path, then, otherwise):
            return realized(then if at(filling.values, path) else otherwise, filling)
        case Value(path):
            return at(filling.values, path)
        case Text(path):
            return as_text(at(filling.values, path))
        case Joined(path, separator):
            return separator.join(at(filling.values, path))
        case Json(path):
            return as_json(at(filling.values, path))
        case Namespace():
            return filling.namespace
        case Fingerprint():
            return fingerprint(filling.values)
        case Format(pattern, parts):
            return pattern % tuple(realized(part, filling) for part in parts)
        case dict():
            filled = {key: realized(inner, filling) for key, inner in tree.items()}
            return {key: inner for key, inner in filled.items() if inner is not ABSENT}
        case list() | tuple():
            return [inner for inner in (realized(item, filling) for item in tree) if inner is not ABSENT]
        case _:
            return tree


def as_json(value: Any) -> str:
    """As Helm's toJson writes it: keys in order, and what HTML would misread escaped."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def fingerprint(values: Mapping[str, Any]) -> str:
    """SHA-256 of values as Helm's toJson writes them."""
    return hashlib.sha256(as_json(values).encode()).hexdigest()

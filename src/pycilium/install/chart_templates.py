"""Trees with holes in Helm's template language.

Used of it: if, else and end on lines of their own, paths of .Values, .Release.Namespace, pipes, and the functions
toJson, toString, join, printf and sha256sum. Everything that is no block is written as JSON, which is
YAML too, so that neither quoting nor indentation of values can go wrong.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from pycilium.install.templates import (
    ABSENT,
    Fingerprint,
    Format,
    Joined,
    Json,
    Namespace,
    Text,
    Value,
    When,
)

_PLAIN_KEY = re.compile(r"[A-Za-z][A-Za-z0-9./-]*")
_WORDS = ("true", "false", "yes", "no", "on", "off", "null", "y", "n")
_HOLES = (Value, Text, Joined, Json, Namespace, Fingerprint, Format)


def template(tree: Any) -> str:
    """The text of a template that makes one object, or none."""
    return "\n".join(_whole(tree)) + "\n"


def _whole(tree: Any) -> Iterator[str]:
    if isinstance(tree, When):
        yield from _branches(tree, _whole)
    else:
        yield from _mapping(tree, "")


def _mapping(tree: dict[str, Any], pad: str) -> Iterator[str]:
    _certain(tree, tree.values())
    for key, inner in tree.items():
        yield from _entry(key, inner, pad)


def _entry(key: str, inner: Any, pad: str) -> Iterator[str]:
    if isinstance(inner, When):
        yield from _branches(inner, lambda branch: _entry(key, branch, pad))
    elif isinstance(inner, dict) and inner:
        yield f"{pad}{_key(key)}:"
        yield from _mapping(inner, f"{pad}  ")
    elif isinstance(inner, list | tuple) and inner:
        yield f"{pad}{_key(key)}:"
        _certain(inner, inner)
        for item in inner:
            yield from _item(item, f"{pad}  ")
    else:
        yield f"{pad}{_key(key)}: {_inline(inner)}"


def _item(item: Any, pad: str) -> Iterator[str]:
    if isinstance(item, When):
        yield from _branches(item, lambda branch: _item(branch, pad))
    elif isinstance(item, dict) and item:
        yield f"{pad}-"
        yield from _mapping(item, f"{pad}  ")
    else:
        yield f"{pad}- {_inline(item)}"


def _branches(fork: When, written: Any) -> Iterator[str]:
    yield f"{{{{- if .Values.{fork.path} }}}}"
    yield from written(fork.then)
    if fork.otherwise is not ABSENT:
        yield "{{- else }}"
        yield from written(fork.otherwise)
    yield "{{- end }}"


def _inline(value: Any) -> str:
    if isinstance(value, _HOLES):
        return f"{{{{ {_pipe(value)} | toJson }}}}"
    text = json.dumps(list(value) if isinstance(value, tuple) else value)
    if "{{" in text:
        raise ValueError(f"{value!r} would be read as a template")
    return text


def _pipe(hole: Any) -> str:
    match hole:
        case Value(path):
            return f".Values.{path}"
        case Text(path):
            return f".Values.{path} | toString"
        case Joined(path, separator):
            return f".Values.{path} | join {json.dumps(separator)}"
        case Json(path):
            return f".Values.{path} | toJson"
        case Namespace():
            return ".Release.Namespace"
        case Fingerprint():
            return ".Values | toJson | sha256sum"
        case Format(pattern, parts):
            return f"printf {json.dumps(pattern)} {' '.join(f'({_pipe(part)})' for part in parts)}"
    raise ValueError(f"{hole!r} is no hole")


def _key(key: str) -> str:
    return key if _PLAIN_KEY.fullmatch(key) and key.lower() not in _WORDS else json.dumps(key)


def _certain(tree: Any, inner: Any) -> None:
    """What is written as a block must not be empty, whatever the values: it would be null."""
    if all(isinstance(each, When) and each.otherwise is ABSENT for each in inner):
        raise ValueError(f"every part of {tree!r} may be absent: make it absent as a whole")

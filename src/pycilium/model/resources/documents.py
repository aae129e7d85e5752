"""From text to a tree of plain values, with the line of every value: YAML (several documents) and JSON.

Reads YAML as Kubernetes' own tools do: no dates and no base-60 numbers, so that `12:30` stays text; duplicate keys are
refused, which YAML's and JSON's usual readers let pass in silence. Owns no knowledge of resources.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import yaml

from pycilium.errors import InvalidResource

MAX_VALUES = 1_000_000
"""Of one document with its aliases written out: a few lines of YAML can stand for billions."""

MAX_DEPTH = 100
"""Levels of nesting. The C reader calls itself for each level and would overrun its stack."""

_INT = re.compile(r"[-+]?(0b[01][01_]*|0o?[0-7][0-7_]*|0x[0-9a-fA-F][0-9a-fA-F_]*|[1-9][0-9_]*|0)")
_STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a file: its value, its number from 1 on and, for YAML, where each part of it stands."""

    value: Any
    index: int
    node: yaml.Node | None = None

    def line_of(self, path: str) -> int | None:
        """The line, from 1 on, of the value at `path`, or of the innermost part of it that is there."""
        if self.node is None:
            return None
        node = self.node
        for key, position in _STEP.findall(path):
            inner = _child(node, key, int(position) if position else None)
            if inner is None:
                break
            node = inner
        return int(node.start_mark.line) + 1


def read_documents(text: str, source: str) -> list[Document]:
    """All documents that are not empty; InvalidResource names the line and column of what is malformed."""
    if source.endswith(".json") or text.lstrip()[:1] in ("{", "["):
        try:
            value = json.loads(text, object_pairs_hook=_no_duplicates)
            _check_depth(value)
            return [Document(value, 1)]
        except json.JSONDecodeError as error:
            if source.endswith(".json"):  # otherwise it may be YAML in flow style
                _malformed(source, error.lineno, error.colno, f"malformed JSON: {error.msg}")
        except _DuplicateKeyError as error:
            raise InvalidResource(f"the key {error.key!r} stands twice in one object", source=source) from None
        except RecursionError:
            raise InvalidResource(f"nested too deeply: at most {MAX_DEPTH} levels", source=source) from None
    try:
        return list(_yaml_documents(text))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = ": ".join(part for part in (error.context, error.problem) if part)
        _malformed(source, mark.line + 1 if mark else 0, mark.column + 1 if mark else 0, f"malformed YAML: {reason}")
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        column = error.position - text.rfind("\n", 0, error.position)
        _malformed(source, line, column, f"malformed YAML: {error.reason}")
    except ValueError as error:  # a scalar that its own type refuses, such as 0x_
        raise InvalidResource(f"malformed YAML: {error}", source=source) from error


class _Loader(yaml.CSafeLoader):
    """The safe loader without YAML 1.1's dates and base-60 numbers, and strict about keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        _refuse_duplicates(node)
        return super().construct_mapping(node, deep=deep)


_OURS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("timestamp", "int", "float"))
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in pairs if tag not in _OURS]
    for first, pairs in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}
_FLOAT = re.compile(
    r"[-+]?([0-9][0-9_]*)\.[0-9_]*([eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+|\.[0-9][0-9_]*([eE][-+]?[0-9]+)?"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)


class _Dumper(yaml.CSafeDumper):
    """Puts text in quotes that either YAML 1.1 or our loader would take for something else."""


for _each in (_Loader, _Dumper):
    _each.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(f"(?:{_INT.pattern})$"), list("-+0123456789"))
    _each.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(f"(?:{_FLOAT.pattern})$"), list("-+0123456789."))


def write_documents(values: Sequence[Any]) -> str:
    """YAML, one document for each value; our own reader gives the same values back."""
    return yaml.dump_all(
        values, Dumper=_Dumper, sort_keys=False, explicit_start=len(values) > 1, allow_unicode=True, width=120
    )


def _check_yaml_depth(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                reason = f"nested too deeply: at most {MAX_DEPTH} levels"
                raise yaml.MarkedYAMLError(None, None, reason, event.start_mark)  # type: ignore[arg-type]
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _check_depth(value: Any) -> None:
    """RecursionError if a value has too many levels; found without recursion."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [inner for outer in level if isinstance(outer, (dict, list)) for inner in _inside(outer)]
    if level:
        raise RecursionError


def _inside(value: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def _yaml_documents(text: str) -> Iterator[Document]:
    _check_yaml_depth(text)
    loader = _Loader(text)
    try:
        index = 0
        while loader.check_node():
            node = loader.get_node()
            if node is None:
                continue
            index += 1
            _check_size(node, {})
            value = loader.construct_document(node)
            if value is not None:
                yield Document(value, index, node)
    finally:
        loader.dispose()


def _check_size(node: yaml.Node, sizes: dict[int, int]) -> int:
    """The number of values of `node` with aliases written out; refuses those that hold themselves."""
    known = sizes.get(id(node))
    if known is not None:
        if not known:
            raise yaml.MarkedYAMLError(problem="a value that holds itself", problem_mark=node.start_mark)
        return known
    sizes[id(node)] = 0
    total = 1
    for child in _children(node):
        total += _check_size(child, sizes)
        if total > MAX_VALUES:
            raise yaml.MarkedYAMLError(problem="too many values (aliases of aliases?)", problem_mark=node.start_mark)
    sizes[id(node)] = total
    return total


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        yield from node.value
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key
            yield value


def _refuse_duplicates(node: yaml.MappingNode) -> None:
    seen: set[str] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
            continue
        if key.value in seen:
            raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} stands twice", problem_mark=key.start_mark)
        seen.add(key.value)


def _child(node: yaml.Node, key: str, position: int | None) -> yaml.Node | None:
    if isinstance(node, yaml.SequenceNode) and position is not None and position < len(node.value):
        found: yaml.Node = node.value[position]
        return found
    if isinstance(node, yaml.MappingNode) and position is None:
        return next((value for name, value in node.value if getattr(name, "value", None) == key), None)
    return None


class _DuplicateKeyError(Exception):
    def __init__(self, key: str) -> None:
        self.key = key


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        raise _DuplicateKeyError(next(name for name in names if names.count(name) > 1))
    return result


def _malformed(source: str, line: int, column: int, reason: str) -> NoReturn:
    raise InvalidResource(f"line {line}, column {column}: {reason}", source=source) from None

"""JSON schemas of msgspec types: of Helm's values, and (without what Kubernetes does not take) of our resources."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import inspect

Schema = dict[str, Any]

_BOUNDS = {"ge": "minimum", "le": "maximum"}
_LENGTHS = {"min_length": "minLength", "max_length": "maxLength", "pattern": "pattern"}
_COUNTS = {"min_length": "minItems", "max_length": "maxItems"}


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a type is written.

    Attributes:
        closed: objects have these fields, all of them, and no others. Kubernetes does without.
        either: of an integer or a string, and of other unions.
    """

    closed: bool
    either: Callable[[list[Schema]], Schema]


HELM = Dialect(closed=True, either=lambda schemas: {"anyOf": schemas})


def schema(shape: inspect.Type, dialect: Dialect) -> Schema:
    """The schema of a type; TypeError for one that no schema of ours has."""
    match shape:
        case inspect.Metadata():
            return {**schema(shape.type, dialect), **(shape.extra_json_schema or {})}
        case inspect.BoolType():
            return {"type": "boolean"}
        case inspect.IntType():
            return {"type": "integer", **_limits(shape, _BOUNDS)}
        case inspect.StrType():
            return {"type": "string", **_limits(shape, _LENGTHS)}
        case inspect.DateTimeType():
            return {"type": "string", "format": "date-time"}
        case inspect.LiteralType():
            return _literal(shape.values)
        case inspect.ListType() | inspect.VarTupleType():
            return {"type": "array", "items": schema(shape.item_type, dialect), **_limits(shape, _COUNTS)}
        case inspect.DictType():
            return {"type": "object", "additionalProperties": schema(shape.value_type, dialect)}
        case inspect.StructType():
            return _object(shape, dialect)
        case inspect.UnionType():
            said = [schema(each, dialect) for each in shape.types if not isinstance(each, inspect.NoneType)]
            return said[0] if len(said) == 1 else dialect.either(said)
        case inspect.AnyType():
            return {}
    raise TypeError(f"no schema is known for {shape!r}")


def schema_of(kind: Any, dialect: Dialect) -> Schema:
    return schema(inspect.type_info(kind), dialect)


def _object(shape: inspect.StructType, dialect: Dialect) -> Schema:
    fields = {field.encode_name: schema(field.type, dialect) for field in shape.fields}
    required = [field.encode_name for field in shape.fields if field.required or dialect.closed]
    return {
        "type": "object",
        **({"additionalProperties": False} if dialect.closed else {}),
        **({"required": required} if required else {}),
        **({"properties": fields} if fields else {}),
    }


def _literal(values: tuple[Any, ...]) -> Schema:
    kinds = {"boolean" if isinstance(value, bool) else "string" for value in values}
    kind = {"type": kinds.pop()} if len(kinds) == 1 else {}
    return {**kind, "enum": list(values)}


def _limits(shape: Any, names: dict[str, str]) -> Schema:
    found = {name: getattr(shape, attribute, None) for attribute, name in names.items()}
    return {name: value for name, value in found.items() if value is not None}


def described(kind: type[msgspec.Struct], description: Callable[[str], str]) -> Schema:
    """The closed schema of `kind`, each of whose fields has the description that its path leads to."""
    return _with_descriptions(schema_of(kind, HELM), "", description)


def _with_descriptions(plain: Schema, path: str, description: Callable[[str], str]) -> Schema:
    inner = {
        name: _with_descriptions(field, f"{path}.{name}".lstrip("."), description)
        for name, field in plain.get("properties", {}).items()
    }
    text = description(path)
    return {**({"description": text} if text else {}), **plain, **({"properties": inner} if inner else {})}

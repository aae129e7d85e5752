"""Strict decoding of resources, and their encoding back.

`decode_documents` is the door for what users write: structure, values and meaning are checked, and one fault refuses
the whole text. `decode_stored` is the door for what went through the first one already: structure only, and fast.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import msgspec

from pycilium.errors import InvalidResource
from pycilium.model.resources.base import Resource
from pycilium.model.resources.checks import did_you_mean
from pycilium.model.resources.kinds import Kind, kind_of, kind_on_wire, known_kinds

if TYPE_CHECKING:  # it brings the YAML library, which agents never need
    from pycilium.model.resources.documents import Document

R = TypeVar("R", bound=Resource)

DEFAULT_NAMESPACE = "default"
_DROPPED_METADATA = ("managedFields", "selfLink")
"""What `kubectl get -o yaml` prints of the API server's own bookkeeping; it says nothing about the resource."""

_AT = re.compile(r"^(?P<reason>.*?)(?: - at (?P<key>`key` in )?`\$(?P<path>.*)`)?$", re.DOTALL)
_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MISSING_FIELD = re.compile(r"Object missing required field `(.*)`", re.DOTALL)
_WRONG_TYPE = re.compile(r"Expected `(?P<expected>.*)`, got `(?P<got>.*)`", re.DOTALL)
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")
_IN_WORDS = {
    "str": "a string",
    "int": "a whole number",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
}


def decode_documents(text: str, source: str = "", *, namespace: str = DEFAULT_NAMESPACE) -> list[Resource]:
    """All resources of a file in YAML (several documents, lists) or JSON; all of them, or InvalidResource.

    Args:
        text: what the file holds.
        source: its name, for errors.
        namespace: for resources that need one and name none.
    """
    from pycilium.model.resources.documents import read_documents

    return [resource for document in read_documents(text, source) for resource in _decode(document, source, namespace)]


def decode_object(value: Any, source: str = "", *, namespace: str = DEFAULT_NAMESPACE) -> Resource:
    """One resource from plain values (as JSON gives them), with all checks."""
    from pycilium.model.resources.documents import Document

    (resource,) = _decode(Document([value], 1), source, namespace)
    return resource


def decode_stored(kind: Kind[R], raw: bytes | str) -> R:
    """A resource that `encode_json` wrote; InvalidResource if its structure is not that of `kind`."""
    try:
        resource: R = _decoder(kind.resource).decode(raw)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:  # ValueError: text that is no UTF-8
        raise InvalidResource(str(error), source=f"a stored {kind.name}") from error
    return resource


def validate(resource: Resource) -> None:
    """Checks a resource that code has built as if a user had written it."""
    try:
        kind_of(resource).validate(resource)
    except InvalidResource as error:
        raise _with_source(error, str(resource.key)) from None


def encode_json(resource: Resource) -> bytes:
    """Compact JSON with Kubernetes' names; what was not said is left out."""
    return msgspec.json.encode(resource)


def to_plain(resource: Resource) -> dict[str, Any]:
    """Plain values as JSON has them."""
    plain: dict[str, Any] = msgspec.json.decode(encode_json(resource))
    return plain


def encode_yaml(*resources: Resource) -> str:
    """YAML, one document for each resource."""
    from pycilium.model.resources.documents import write_documents

    return write_documents([to_plain(resource) for resource in resources])


@functools.cache
def _decoder(resource: type[Resource]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(resource)


def _decode(document: Document, source: str, namespace: str) -> list[Resource]:
    resources = []
    for value, prefix in _items(document.value, ""):
        described = f"document {document.index}"
        try:
            kind = _kind(value)
            described = f"{described}, {kind.name}{_described_name(value)}"
            resources.append(_resource(kind, value, namespace))
        except InvalidResource as error:
            line = document.line_of(prefix + error.path)
            place = ", ".join(part for part in (described, prefix.rstrip("."), f"line {line}" if line else "") if part)
            raise _with_source(error, f"{source}: {place}" if source else place) from None
    return resources


def _items(value: Any, prefix: str) -> Iterator[tuple[Any, str]]:
    """The resources in a document: itself, or what a List or JSON array holds; with the path before each."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield item, f"[{index}]."
    elif (
        isinstance(value, dict) and str(value.get("kind", "")).endswith("List") and isinstance(value.get("items"), list)
    ):
        for index, item in enumerate(value["items"]):
            yield item, f"{prefix}items[{index}]."
    else:
        yield value, prefix


def _kind(value: Any) -> Kind[Any]:
    if not isinstance(value, dict):
        raise InvalidResource(f"a resource is an object with apiVersion, kind and metadata, not {_in_words(value)}")
    for field in ("apiVersion", "kind"):
        if not isinstance(value.get(field), str):
            raise InvalidResource(f"is missing or not a string; {known_kinds()}", path=field)
    return kind_on_wire(value["apiVersion"], value["kind"])


def _described_name(value: dict[str, Any]) -> str:
    metadata = value.get("metadata")
    if not isinstance(metadata, dict) or not metadata.get("name"):
        return ""
    namespace = metadata.get("namespace")
    return f" {namespace}/{metadata['name']}" if namespace else f" {metadata['name']}"


def _resource(kind: Kind[R], value: dict[str, Any], namespace: str) -> R:
    prepared = {**value, "apiVersion": kind.api_version}
    if isinstance(value.get("metadata"), dict):
        prepared["metadata"] = _prepared_metadata(kind, value["metadata"], namespace)
    if kind.api_version.startswith("cilium.io/"):
        for field in ("spec", "specs"):
            if field in value:
                _refuse_nulls(value[field], field)
    try:
        resource = msgspec.convert(prepared, kind.resource)
    except msgspec.ValidationError as error:
        _explain(str(error), kind, prepared)
    kind.validate(resource)
    return resource


def _prepared_metadata(kind: Kind[Any], metadata: dict[str, Any], namespace: str) -> dict[str, Any]:
    kept = {key: value for key, value in metadata.items() if value is not None and key not in _DROPPED_METADATA}
    if kind.namespaced and not kept.get("namespace"):
        kept["namespace"] = namespace
    return kept


def _refuse_nulls(value: Any, path: str) -> None:
    """Refuses fields without a value in Cilium's kinds, as the API server does: `fromEndpoints:` would allow all."""
    if value is None:
        raise InvalidResource("has no value: give it one, or leave the field out", path=path)
    if isinstance(value, dict):
        for key, inner in value.items():
            _refuse_nulls(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _refuse_nulls(inner, f"{path}[{index}]")


def _explain(message: str, kind: Kind[Any], value: Any) -> NoReturn:
    """Turns msgspec's words into a path and a reason that says what would be right."""
    match = _AT.match(message)
    assert match is not None
    reason, path, at, struct_or_type = match["reason"], "", value, kind.resource
    struct: Any = struct_or_type
    for key, position in _STEP.findall(match["path"] or ""):
        if position == "...":
            odd = _odd_key(at)
            path, at, struct = f"{path}.{odd}", _at(at, odd), _element(struct)
        elif position:
            path, at, struct = f"{path}[{position}]", _at(at, int(position)), _element(struct)
        else:
            path, at, struct = f"{path}.{key}", _at(at, key), _field_type(struct, key)
    path = path.lstrip(".")
    if match["key"]:
        raise InvalidResource("every key must be a string: put it in quotes", path=path)
    if unknown := _UNKNOWN_FIELD.fullmatch(reason):
        known = _wire_fields(struct)
        listed = f"; known here: {', '.join(known)}" if known else ""
        hint = did_you_mean(unknown[1], known)
        raise InvalidResource(f"unknown field{hint}{listed}", path=".".join(filter(None, (path, unknown[1]))))
    if missing := _MISSING_FIELD.fullmatch(reason):
        raise InvalidResource("is missing", path=".".join(filter(None, (path, missing[1]))))
    if reason.startswith("Invalid enum value"):
        choices = _choices(struct)
        reason = f"{at!r} is not one of {', '.join(choices)}{did_you_mean(str(at), choices)}" if choices else reason
    elif wrong := _WRONG_TYPE.fullmatch(reason):
        reason = _wrong_type(wrong["expected"], at)
    raise InvalidResource(reason, path=path)


def _wrong_type(expected: str, at: Any) -> str:
    wanted = " or ".join(_IN_WORDS.get(part, part) for part in expected.split(" | ") if part != "null")
    quote = f": put it in quotes, as in {_as_text(at)}" if "str" in expected and isinstance(at, (int, float)) else ""
    unquote = (
        f": leave the quotes out, as in {at}" if expected == "int" and isinstance(at, str) and at.isdigit() else ""
    )
    return f"must be {wanted}, not {_in_words(at)}{quote}{unquote}"


def _as_text(value: float) -> str:
    return f'"{str(value).lower() if isinstance(value, bool) else value}"'


def _in_words(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list"
    if isinstance(value, bool):
        return f"the value {str(value).lower()}"
    return f"the {'string' if isinstance(value, str) else 'value'} {value!r}"


def _odd_key(at: Any) -> str:
    """Msgspec does not say which key of a mapping it means: the first one whose value is no string."""
    if not isinstance(at, dict):
        return "..."
    return next((str(key) for key, value in at.items() if not isinstance(value, str)), "...")


def _at(value: Any, step: str | int) -> Any:
    try:
        return value[step]
    except (LookupError, TypeError):
        return None


def _wire_fields(struct: Any) -> tuple[str, ...]:
    struct = _bare(struct)
    return (
        tuple(struct.__struct_encode_fields__)
        if isinstance(struct, type) and issubclass(struct, msgspec.Struct)
        else ()
    )


def _field_type(struct: Any, wire_field: str) -> Any:
    struct = _bare(struct)
    if not (isinstance(struct, type) and issubclass(struct, msgspec.Struct)):
        return None
    return next((field.type for field in msgspec.structs.fields(struct) if field.encode_name == wire_field), None)


def _element(container: Any) -> Any:
    """What a list or mapping type holds."""
    arguments = [argument for argument in getattr(_bare(container), "__args__", ()) if argument is not ...]
    return arguments[-1] if arguments else None


def _bare(annotation: Any) -> Any:
    """The type without its `| None`."""
    arguments = getattr(annotation, "__args__", ())
    if type(None) in arguments:
        return next(argument for argument in arguments if argument is not type(None))
    return annotation


def _choices(annotation: Any) -> tuple[str, ...]:
    annotation = _bare(annotation)
    return tuple(str(choice) for choice in getattr(annotation, "__args__", ()) if isinstance(choice, str))


def _with_source(error: InvalidResource, source: str) -> InvalidResource:
    return type(error)(error.reason, path=error.path, source=source)

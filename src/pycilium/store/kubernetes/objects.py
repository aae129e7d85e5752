"""Resources as an API server has them: their paths, what is sent, and what is made of what comes back.

An API server may be newer than we are, and adds fields of its own. Reading therefore leaves out what we do not know,
where users' files are read strictly. One thing is never read in part: what a policy asks for. A rule without the
peer that we do not know would allow everybody, so that such a policy is unreadable.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec
from msgspec import inspect

from pycilium.errors import InvalidResource
from pycilium.model.resources import Kind, Resource, ResourceKey, to_plain
from pycilium.store.protocol import Unreadable

R = TypeVar("R", bound=Resource)

_POLICIES = ("NetworkPolicy", "CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy")
_ASKED = ("spec", "specs")
_UNCHECKED = ("CiliumLoadBalancerIPPool", "CiliumL2AnnouncementPolicy", "CiliumNode", "CiliumIdentity")
"""An API server checks their structure alone. Policies and endpoints are judged by who makes rules and addresses of
them, for there may be 50,000."""

_BOOKKEEPING = ("managedFields", "selfLink")
_MICRO_TIMES = ("acquireTime", "renewTime")
"""A Lease's times are of the type MicroTime, which is read with six digits of the second and not without."""


def collection_path(kind: Kind[Any], namespace: str | None = None) -> str:
    """Where a kind is listed, made and watched: in one namespace, or in all."""
    root = "/api/v1" if kind.api_version == "v1" else f"/apis/{kind.api_version}"
    inside = f"/namespaces/{quote(namespace, safe='')}" if namespace and kind.namespaced else ""
    return f"{root}{inside}/{kind.plural}"


def object_path(kind: Kind[Any], namespace: str, name: str) -> str:
    return f"{collection_path(kind, namespace)}/{quote(name, safe='')}"


def crd_name(kind: Kind[Any]) -> str:
    """The CustomResourceDefinition that makes an API server serve `kind`; empty for what every server has."""
    group = kind.api_version.rpartition("/")[0]
    return f"{kind.plural}.{group}" if group and not group.endswith(".k8s.io") else ""


def as_sent(resource: Resource) -> bytes:
    """The JSON of `resource`, in the spelling that an API server takes."""
    plain = to_plain(resource)
    if resource.kind == "Lease":
        spec = plain.get("spec", {})
        spec.update({field: _with_microseconds(spec[field]) for field in _MICRO_TIMES if field in spec})
    return msgspec.json.encode(plain)


def to_be_made(resource: R) -> R:
    """`resource` without what an API server sets and refuses to be told when something is made."""
    return resource.with_metadata(
        uid="",
        resource_version="",
        generation=0,
        creation_timestamp=None,
        deletion_timestamp=None,
        deletion_grace_period_seconds=None,
    )


def as_read(kind: Kind[R], plain: Any) -> R:
    """The resource that an API server sent, without what we do not know; InvalidResource if that is none of `kind`."""
    metadata = plain.get("metadata") if isinstance(plain, dict) else None
    if isinstance(metadata, dict):
        for field in _BOOKKEEPING:
            metadata.pop(field, None)
    try:
        return msgspec.convert(plain, kind.resource)
    except msgspec.ValidationError:
        pass
    try:
        return msgspec.convert(_known_of(kind, plain), kind.resource)
    except msgspec.ValidationError as error:
        raise InvalidResource(str(error), source=str(key_of(kind, plain))) from error


def read_or_set_aside(kind: Kind[R], plain: Any) -> R | Unreadable:
    """The same, or what was read in vain: one odd object must not hide the others."""
    try:
        resource = as_read(kind, plain)
        if kind.name in _UNCHECKED:
            kind.validate(resource)
    except InvalidResource as error:
        return Unreadable(key_of(kind, plain), f"{error.path}: {error.reason}" if error.path else error.reason)
    return resource


def key_of(kind: Kind[Any], plain: Any) -> ResourceKey:
    metadata = plain.get("metadata") if isinstance(plain, dict) else None
    named = metadata if isinstance(metadata, dict) else {}
    return ResourceKey(kind.name, str(named.get("namespace") or ""), str(named.get("name") or ""))


def version_of(plain: Any) -> str:
    """The resource_version of an object or a list; empty if it says none."""
    metadata = plain.get("metadata") if isinstance(plain, dict) else None
    return str(metadata.get("resourceVersion") or "") if isinstance(metadata, dict) else ""


def _with_microseconds(time: str) -> str:
    return time if "." in time else f"{time.removesuffix('Z')}.000000Z"


def _known_of(kind: Kind[Any], plain: Any) -> Any:
    known = _known(plain, _shape(kind))
    if kind.name in _POLICIES and isinstance(plain, dict):
        known |= {field: plain[field] for field in _ASKED if field in plain}
    return known


@functools.cache
def _shape(kind: Kind[Any]) -> inspect.Type:
    return inspect.type_info(kind.resource)


def _known(value: Any, shape: inspect.Type) -> Any:
    """`value` without the fields that `shape` has not and those that are null, which says the same as absence."""
    if isinstance(shape, inspect.UnionType):
        (shape, *_) = [each for each in shape.types if not isinstance(each, inspect.NoneType)]
    if isinstance(value, Mapping):
        if isinstance(shape, inspect.StructType):
            fields = {field.encode_name: field.type for field in shape.fields}
            return {
                key: _known(inner, fields[key]) for key, inner in value.items() if key in fields and inner is not None
            }
        if isinstance(shape, inspect.DictType):
            return {key: _known(inner, shape.value_type) for key, inner in value.items()}
    if isinstance(value, list) and isinstance(shape, inspect.VarTupleType | inspect.ListType):
        return [_known(inner, shape.item_type) for inner in value]
    return value

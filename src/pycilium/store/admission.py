"""What a store does to a resource before it keeps it: checks, and the fields that are the store's to set.

Pure: time and uids come in as values. Shared by the backends that have no API server to do it for them.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from pycilium.errors import Conflict, InvalidResource, WatchExpired
from pycilium.model.resources import Namespace, Resource, ResourceKey, kind_of, validate

R = TypeVar("R", bound=Resource)

NAMESPACE_NAME_LABEL = "kubernetes.io/metadata.name"
"""Kubernetes puts it on every namespace, so that policies can select one by name."""


def created(resource: R, *, uid: str, now: datetime) -> R:
    """A new resource as it is to be kept, but for its version."""
    validate(resource)
    if kind_of(resource).status_apart:
        resource = _with_status(resource, _no_status(type(resource)))
    return _labelled(resource).with_metadata(
        uid=uid,
        creation_timestamp=now.replace(microsecond=0),
        generation=1,
        resource_version="",
        deletion_timestamp=None,
        deletion_grace_period_seconds=None,
    )


def replaced(stored: R, resource: R) -> R:
    """`stored` after `resource` was put in its place, but for its version; `stored` itself if nothing changes.

    Raises Conflict if `resource` was made from another version.
    """
    validate(resource)
    _check_current(stored, resource.metadata.resource_version, resource.metadata.uid)
    if kind_of(resource).status_apart:
        resource = _with_status(resource, getattr(stored, "status", None))
    kept = stored.metadata
    resource = _labelled(resource).with_metadata(
        uid=kept.uid,
        creation_timestamp=kept.creation_timestamp,
        resource_version=kept.resource_version,
        generation=kept.generation,
        deletion_timestamp=kept.deletion_timestamp,
        deletion_grace_period_seconds=kept.deletion_grace_period_seconds,
    )
    if _asked(resource) != _asked(stored):
        resource = resource.with_metadata(generation=kept.generation + 1)
    return stored if resource == stored else resource


def status_patched(stored: R, patch: Mapping[str, Any]) -> R:
    """`stored` with `patch` merged into its status; `stored` itself if nothing changes.

    That the rest of a resource is not valid, which an API server may keep, is not held against the patch.
    """
    key = stored.key
    if "status" not in stored.__struct_fields__:
        raise InvalidResource(f"a {key.kind} has no status", source=str(key))
    plain = msgspec.to_builtins(stored)
    plain["status"] = _merged(plain.get("status") or {}, dict(patch))
    try:
        resource = msgspec.convert(plain, type(stored))
    except msgspec.ValidationError as error:
        raise InvalidResource(str(error), source=str(key)) from error
    if _is_valid(stored):
        validate(resource)
    return stored if resource == stored else resource


def _is_valid(resource: Resource) -> bool:
    try:
        validate(resource)
    except InvalidResource:
        return False
    return True


def check_deletable(stored: Resource, resource_version: str) -> None:
    """Conflict if `resource_version` is given and is not the present one."""
    _check_current(stored, resource_version, "")


def refuse_doubles(keys: Sequence[ResourceKey]) -> None:
    """InvalidResource if a resource is to be applied twice at once."""
    seen: set[ResourceKey] = set()
    for key in keys:
        if key in seen:
            raise InvalidResource("stands twice among the resources to apply", source=str(key))
        seen.add(key)


def version_number(text: str) -> int:
    """A version as the number that it is in these backends; WatchExpired if it cannot be one of theirs."""
    if not (text.isascii() and text.isdigit()):
        raise WatchExpired(f"{text!r} is not a version of this store: list again and watch from there")
    return int(text)


def _check_current(stored: Resource, resource_version: str, uid: str) -> None:
    present = stored.metadata
    if resource_version and resource_version != present.resource_version:
        raise Conflict(
            f"{stored.key} has changed: it is at version {present.resource_version}, not {resource_version}; "
            f"read it again and retry"
        )
    if uid and uid != present.uid:
        raise Conflict(f"{stored.key} was deleted and made anew since it was read; read it again and retry")


def _labelled(resource: R) -> R:
    if not isinstance(resource, Namespace):
        return resource
    return resource.with_metadata(labels={**resource.metadata.labels, NAMESPACE_NAME_LABEL: resource.metadata.name})


def _asked(resource: Resource) -> dict[str, Any]:
    """What a resource asks for: everything but metadata and status."""
    return {name: getattr(resource, name) for name in resource.__struct_fields__ if name not in ("metadata", "status")}


@functools.cache
def _no_status(kind: type[Resource]) -> Any:
    """What a status is while nothing was said: None, or the empty mapping of free-form ones (nobody changes it)."""
    for field in msgspec.structs.fields(kind):
        if field.name == "status":
            return field.default_factory() if callable(field.default_factory) else field.default
    return None


def _with_status(resource: R, status: Any) -> R:
    if "status" not in resource.__struct_fields__:
        return resource
    return msgspec.structs.replace(resource, status=status)


def _merged(target: dict[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """RFC 7386: objects merge, null removes, everything else replaces."""
    result = dict(target)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping):
            inner = result.get(key)
            result[key] = _merged(inner if isinstance(inner, dict) else {}, value)
        else:
            result[key] = value
    return result

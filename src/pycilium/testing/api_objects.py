"""What an API server keeps: objects, versions, and a bounded history of changes. No network, no threads.

Stands in for a Kubernetes API server in what a store of ours makes of one. Objects are plain values as JSON has them
and are kept whole, whatever fields they have. Invariant: every change has the next version, and one history has all.
"""

from __future__ import annotations

import base64
import copy
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from pycilium.model.resources import KINDS

Plain = dict[str, Any]

_MICRO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[-+]\d\d:\d\d)")


@dataclass(frozen=True, slots=True)
class ApiKind:
    """A kind as a server serves it."""

    name: str
    api_version: str
    plural: str
    namespaced: bool
    status_apart: bool

    @property
    def group(self) -> str:
        return self.api_version.rpartition("/")[0]

    @property
    def needs_version(self) -> bool:
        """Whether an update must say which version it was made from."""
        return self.group not in ("", "networking.k8s.io", "apps", "rbac.authorization.k8s.io")


ALL_KINDS = (
    *(ApiKind(kind.name, kind.api_version, kind.plural, kind.namespaced, kind.status_apart) for kind in KINDS),
    *(
        ApiKind(name, api_version, f"{name.lower()}s", namespaced, name in ("Node", "DaemonSet", "Deployment"))
        for api_version, namespaced, names in (
            ("v1", False, ("Node",)),
            ("v1", True, ("ConfigMap", "Event", "Secret", "ServiceAccount")),
            ("apps/v1", True, ("DaemonSet", "Deployment")),
            ("rbac.authorization.k8s.io/v1", False, ("ClusterRole", "ClusterRoleBinding")),
            ("rbac.authorization.k8s.io/v1", True, ("Role", "RoleBinding")),
            ("apiextensions.k8s.io/v1", False, ("CustomResourceDefinition",)),
        )
        for name in names
    ),
)


def kind_named(name: str) -> ApiKind:
    return next(kind for kind in ALL_KINDS if kind.name == name)


class ApiFailure(Exception):
    """A refusal, with the Status object that says it."""

    def __init__(self, code: int, reason: str, message: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.status: Plain = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "details": dict(details or {}),
            "code": code,
        }


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one object: what it was before, None if it was made, and what it is, None if it was deleted."""

    version: int
    kind: ApiKind
    namespace: str
    before: Plain | None
    now: Plain | None
    body: bytes
    """What it is, or was last."""

    def line(self, selected: Callable[[Plain], bool]) -> bytes:
        """How a watch tells it of those that are selected: who comes among them is new there, who leaves is gone."""
        was, is_now = (each is not None and selected(each) for each in (self.before, self.now))
        if not was and not is_now:
            return b""
        event = b"DELETED" if not is_now else b"MODIFIED" if was else b"ADDED"
        return b'{"type":"%s","object":%s}\n' % (event, self.body)


@dataclass(frozen=True, slots=True)
class Stored:
    """An object and its JSON."""

    plain: Plain
    body: bytes


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list, all of whose parts are of one version."""

    bodies: list[bytes]
    version: int
    token: str
    remaining: int


class ApiObjects:
    """All objects of a server.

    Args:
        history: how many changes are kept at the least; at the most twice as many.
        clock: the time for creation timestamps.
    """

    def __init__(self, *, history: int = 10_000, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.history = history
        self.version = 1
        self.on_change: Callable[[Change | None], None] = lambda _: None
        """Told what changed; now and then None, so that whoever follows what is quiet keeps up."""
        self._clock = clock
        self._objects: dict[str, dict[tuple[str, str], Stored]] = {kind.plural: {} for kind in ALL_KINDS}
        self._changes: list[Change] = []
        self._compacted = 0
        self._owned: dict[str, set[tuple[ApiKind, str, str]]] = {}
        """By owner's uid."""
        self._snapshots: dict[tuple[int, str, str], list[bytes]] = {}

    def has(self, kind: ApiKind, namespace: str, name: str) -> bool:
        return (namespace, name) in self._objects[kind.plural]

    def get(self, kind: ApiKind, namespace: str, name: str) -> bytes:
        return self._present(kind, namespace, name).body

    def list(
        self,
        kind: ApiKind,
        namespace: str,
        limit: int,
        token: str,
        selected: Callable[[Plain], bool] = lambda _: True,
    ) -> Page:
        """A page of a list, the first one without a token, of what is selected."""
        if token:
            version, at = map(int, base64.b64decode(token).split(b"."))
            bodies = self._snapshots.get((version, kind.plural, namespace))
            if bodies is None:
                raise _expired("the provided continue parameter is too old to display a consistent list result")
        else:
            version, at = self.version, 0
            objects = sorted(self._objects[kind.plural].items())
            bodies = [
                stored.body for (inside, _), stored in objects if namespace in ("", inside) and selected(stored.plain)
            ]
        end = at + limit if limit else len(bodies)
        key = (version, kind.plural, namespace)
        if end >= len(bodies):
            self._snapshots.pop(key, None)
            return Page(bodies[at:], version, "", 0)
        self._snapshots[key] = bodies
        return Page(bodies[at:end], version, base64.b64encode(b"%d.%d" % (version, end)).decode(), len(bodies) - end)

    def create(self, kind: ApiKind, namespace: str, plain: Plain) -> bytes:
        plain = copy.deepcopy(plain)
        metadata = _metadata(kind, plain)
        name = metadata.get("name")
        if not name:
            raise _invalid(kind, "", "metadata.name", "Required value: name or generateName is required")
        if metadata.get("resourceVersion"):
            raise ApiFailure(400, "BadRequest", "resourceVersion should not be set on objects to be created")
        if kind.namespaced and metadata.setdefault("namespace", namespace) != namespace:
            raise ApiFailure(
                400, "BadRequest", "the namespace of the object does not match the namespace on the request"
            )
        if (namespace, name) in self._objects[kind.plural]:
            raise ApiFailure(
                409, "AlreadyExists", f'{kind.plural} "{name}" already exists', {"name": name, "kind": kind.plural}
            )
        metadata |= {
            "uid": str(uuid.uuid4()),
            "generation": 1,
            "creationTimestamp": f"{self._clock():%Y-%m-%dT%H:%M:%SZ}",
        }
        if kind.status_apart:
            plain.pop("status", None)
        if kind.name == "CustomResourceDefinition":
            plain["status"] = {"conditions": [{"type": "Established", "status": "True"}]}
        return self._keep(None, kind, namespace, plain).body

    def update(self, kind: ApiKind, namespace: str, name: str, plain: Plain, *, status: bool = False) -> bytes:
        """Puts `plain` in an object's place; of the status alone, or of everything but that if it stands apart."""
        present = self._present(kind, namespace, name)
        plain = copy.deepcopy(plain)
        metadata = _metadata(kind, plain)
        if metadata.get("name") != name:
            raise ApiFailure(400, "BadRequest", "the name of the object does not match the name on the URL")
        if not metadata.get("resourceVersion") and kind.needs_version:
            reason = 'Invalid value: "": must be specified for an update'
            raise _invalid(kind, name, "metadata.resourceVersion", reason)
        check_preconditions(kind, present.plain, metadata)
        if status:
            plain = {**present.plain, "status": plain.get("status")}
        elif kind.status_apart:
            plain["status"] = present.plain.get("status")
        if plain.get("status") is None:
            plain.pop("status", None)
        return self._replace(kind, namespace, present, plain).body

    def patch(self, kind: ApiKind, namespace: str, name: str, patch: Plain, *, status: bool = False) -> bytes:
        """A merge patch (RFC 7386)."""
        present = self._present(kind, namespace, name).plain
        check_preconditions(kind, present, patch.get("metadata") or {})
        merged: Plain = _merged(present, patch)
        return self.update(kind, namespace, name, merged, status=status)

    def apply(self, kind: ApiKind, namespace: str, name: str, wanted: Plain, manager: str) -> tuple[bytes, bool]:
        """A server-side apply: what the manager set before and leaves out now goes; with whether it was made anew."""
        if (wanted.get("metadata") or {}).get("name") != name or not manager:
            raise ApiFailure(400, "BadRequest", "an apply needs metadata.name and ?fieldManager")
        if not self.has(kind, namespace, name):
            entry = {"manager": manager, "operation": "Apply", "applied": wanted}
            made = {**wanted, "metadata": {**wanted["metadata"], "managedFields": [entry]}}
            return self.create(kind, namespace, made), True
        present = copy.deepcopy(self._present(kind, namespace, name).plain)
        managers = present["metadata"].get("managedFields", [])
        before: Plain = next((each["applied"] for each in managers if each.get("manager") == manager), {})
        others = [each for each in managers if each.get("manager") != manager]
        merged: Plain = _merged(_without(present, before, wanted), wanted)
        applied = [*others, {"manager": manager, "operation": "Apply", "applied": wanted}]
        self._objects[kind.plural][namespace, name].plain["metadata"]["managedFields"] = applied
        merged["metadata"]["resourceVersion"] = ""
        return self._replace(kind, namespace, self._present(kind, namespace, name), merged).body, False

    def delete(self, kind: ApiKind, namespace: str, name: str, preconditions: Mapping[str, Any]) -> bytes:
        present = self._present(kind, namespace, name)
        check_preconditions(kind, present.plain, preconditions)
        if present.plain["metadata"].get("finalizers"):
            plain = copy.deepcopy(present.plain)
            plain["metadata"]["deletionTimestamp"] = f"{self._clock():%Y-%m-%dT%H:%M:%SZ}"
            return self._replace(kind, namespace, present, plain).body
        return self._remove(kind, namespace, present.plain)

    def changes_after(self, version: int) -> Iterator[Change]:
        """All later changes, of every kind."""
        if version < self._compacted:
            raise _expired(f"too old resource version: {version} ({self._compacted})")
        first = self._changes[0].version if self._changes else self.version + 1
        return iter(self._changes[max(0, version + 1 - first) :])

    def compact(self) -> None:
        """Forgets all changes until now, and lists that are being paged through."""
        self._forget(len(self._changes))

    def _forget(self, number: int) -> None:
        if number:
            self._compacted = self._changes[number - 1].version
            del self._changes[:number]
        self._snapshots = {key: bodies for key, bodies in self._snapshots.items() if key[0] > self._compacted}

    def _present(self, kind: ApiKind, namespace: str, name: str) -> Stored:
        stored = self._objects[kind.plural].get((namespace, name))
        if stored is None:
            details = {"name": name, "group": kind.group, "kind": kind.plural}
            raise ApiFailure(404, "NotFound", f'{kind.plural} "{name}" not found', details)
        return stored

    def _replace(self, kind: ApiKind, namespace: str, present: Stored, plain: Plain) -> Stored:
        before, metadata = present.plain, plain["metadata"]
        kept = ("uid", "creationTimestamp", "generation", "resourceVersion", "managedFields")
        metadata |= {field: before["metadata"][field] for field in kept}
        if "deletionTimestamp" in before["metadata"]:
            metadata["deletionTimestamp"] = before["metadata"]["deletionTimestamp"]
            if not metadata.get("finalizers"):
                body = self._remove(kind, namespace, plain)
                return Stored(plain, body)
        if _asked(plain) != _asked(before):
            metadata["generation"] += 1
        if _settled(kind, plain) == before:
            return present
        return self._keep(before, kind, namespace, plain)

    def _keep(self, before: Plain | None, kind: ApiKind, namespace: str, plain: Plain) -> Stored:
        self.version += 1
        plain["metadata"]["resourceVersion"] = str(self.version)
        plain["metadata"].setdefault("managedFields", [{"manager": "somebody", "operation": "Update"}])
        plain = _settled(kind, plain)
        stored = Stored(plain, msgspec.json.encode(plain))
        self._objects[kind.plural][namespace, plain["metadata"]["name"]] = stored
        for owner in _owners(plain):
            self._owned.setdefault(owner["uid"], set()).add((kind, namespace, plain["metadata"]["name"]))
        self._record(kind, namespace, before, plain, stored.body)
        return stored

    def _remove(self, kind: ApiKind, namespace: str, plain: Plain) -> bytes:
        del self._objects[kind.plural][namespace, plain["metadata"]["name"]]
        self.version += 1
        last = {**plain, "metadata": {**plain["metadata"], "resourceVersion": str(self.version)}}
        body = msgspec.json.encode(last)
        self._record(kind, namespace, plain, None, body)
        self._collect_owned_by(plain["metadata"]["uid"])
        return body

    def _collect_owned_by(self, uid: str) -> None:
        """What belonged to an object that is gone, as the garbage collector does."""
        for kind, namespace, name in self._owned.pop(uid, ()):
            present = self._objects[kind.plural].get((namespace, name))
            if present is not None and [each["uid"] for each in _owners(present.plain)] == [uid]:
                self._remove(kind, namespace, present.plain)

    def _record(self, kind: ApiKind, namespace: str, before: Plain | None, now: Plain | None, body: bytes) -> None:
        change = Change(self.version, kind, namespace, before, now, body)
        self._changes.append(change)
        if len(self._changes) > 2 * self.history:
            self._forget(len(self._changes) - self.history)
        self.on_change(change if self.version % max(1, self.history // 2) else None)


def check_preconditions(kind: ApiKind, present: Plain, wanted: Mapping[str, Any]) -> None:
    """409 unless the version and uid that are named are the present ones."""
    metadata = present["metadata"]
    details = {"name": metadata["name"], "group": kind.group, "kind": kind.plural}
    operation = f'Operation cannot be fulfilled on {kind.plural} "{metadata["name"]}": '
    if wanted.get("uid") not in (None, "", metadata["uid"]):
        why = f"Precondition failed: UID in precondition: {wanted['uid']}, UID in object meta: {metadata['uid']}"
        raise ApiFailure(409, "Conflict", operation + why, details)
    if wanted.get("resourceVersion") not in (None, "", metadata["resourceVersion"]):
        why = "the object has been modified; please apply your changes to the latest version and try again"
        raise ApiFailure(409, "Conflict", operation + why, details)


def _metadata(kind: ApiKind, plain: Plain) -> Plain:
    if (plain.get("apiVersion"), plain.get("kind")) != (kind.api_version, kind.name):
        raise ApiFailure(400, "BadRequest", f"the object is no {kind.name} of {kind.api_version}")
    if kind.name == "Lease":
        for field in ("acquireTime", "renewTime"):
            time = plain.get("spec", {}).get(field)
            if time is not None and not _MICRO_TIME.fullmatch(time):
                raise ApiFailure(400, "BadRequest", f'parsing time "{time}" as "2006-01-02T15:04:05.000000Z07:00"')
    metadata: Plain = plain.setdefault("metadata", {})
    return metadata


def _owners(plain: Plain) -> list[Plain]:
    owners: list[Plain] = plain["metadata"].get("ownerReferences", [])
    return owners


def _settled(kind: ApiKind, plain: Plain) -> Plain:
    """`plain` with what a server says of itself in it, without what is empty."""
    metadata = {key: value for key, value in plain["metadata"].items() if value not in (None, {}, [])}
    if kind.name == "Namespace":
        metadata["labels"] = {**metadata.get("labels", {}), "kubernetes.io/metadata.name": metadata["name"]}
    return {**plain, "metadata": metadata}


def _asked(plain: Plain) -> Plain:
    return {key: value for key, value in plain.items() if key not in ("metadata", "status")}


def _merged(target: Any, patch: Mapping[str, Any]) -> Any:
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merged(result.get(key), value) if isinstance(value, dict) else value
    return result


def _without(present: Any, before: Any, wanted: Any) -> Any:
    """`present` less what stood in `before` and does not in `wanted`."""
    if not (isinstance(present, dict) and isinstance(before, dict) and isinstance(wanted, dict)):
        return present
    return {
        key: _without(value, before.get(key), wanted.get(key))
        for key, value in present.items()
        if key in wanted or key not in before
    }


def _invalid(kind: ApiKind, name: str, field: str, message: str) -> ApiFailure:
    cause = {"reason": "FieldValueInvalid", "message": message, "field": field}
    details = {"name": name, "group": kind.group, "kind": kind.name, "causes": [cause]}
    return ApiFailure(422, "Invalid", f'{kind.name} "{name}" is invalid: {field}: {message}', details)


def _expired(message: str) -> ApiFailure:
    return ApiFailure(410, "Expired", message)

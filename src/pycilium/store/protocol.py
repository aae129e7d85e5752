"""What every store of resources can do, whatever keeps them.

Versions are opaque texts; each write gives a new one, and one order of versions covers all kinds. Contracts that every
backend keeps, and the conformance suite checks:

* A write that returned is there for every reader, in this process or another; a write that raised left nothing behind.
  Over a network its answer can be lost, and all servers with it: StoreUnavailable says so if it may have been kept.
* `list` gives one moment, and its version; watching from it gives every later change, each once and in order.
* `uid`, `creation_timestamp`, `generation` and `resource_version` are the store's to set. `generation` counts changes
  of what is asked for (everything but metadata and status).
* A write that changes nothing is no change: same version, no event.
* Resources are checked before they are kept: InvalidResource.
* One resource that cannot be read (damaged, or written by another version) disturbs no other: `list` names it in
  `unreadable` and gives the rest; `watch` yields an Unreadable in its place and goes on; `get` and writes that would
  read it raise ResourceUnreadable; `delete` and `delete_all` remove it. A watch that cannot say of which resource a
  change is, or that such a resource was deleted, ends with WatchExpired: the list that follows tells.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

from pycilium.errors import ResourceUnreadable
from pycilium.model.resources import Resource, ResourceKey

R = TypeVar("R", bound=Resource)
R_co = TypeVar("R_co", bound=Resource, covariant=True)
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A resource that is kept in a form that cannot be read: which one, and why."""

    key: ResourceKey
    reason: str

    def __str__(self) -> str:
        return (
            f"{self.key} is kept in a form that this version does not read ({self.reason}): it was written by another "
            f"version of pycilium or by hand; delete it, or apply it anew after that"
        )


def readable(found: R | Unreadable) -> R:
    """What was found, or ResourceUnreadable."""
    if isinstance(found, Unreadable):
        raise ResourceUnreadable(str(found))
    return found


def whole(resource: R) -> R:
    """For `list_as`: the resource itself."""
    return resource


@dataclass(frozen=True, slots=True)
class Selection:
    """Of a kind the part that concerns who opens a store, in Kubernetes' words; empty: all."""

    fields: str = ""
    """As `spec.nodeName=node1`."""
    labels: str = ""
    """As `k8s-app=kube-dns`."""


@dataclass(frozen=True, slots=True)
class ResourceList(Generic[T_co]):
    """What `list` found, ordered by namespace and name, and the version to watch from."""

    items: tuple[T_co, ...]
    resource_version: str
    unreadable: tuple[Unreadable, ...] = ()


@dataclass(frozen=True, slots=True)
class WatchEvent(Generic[R_co]):
    """A change. `object` is the resource as it is now, or as it was last if it was deleted."""

    type: Literal["ADDED", "MODIFIED", "DELETED"]
    object: R_co


@dataclass(frozen=True, slots=True)
class Applied(Generic[R_co]):
    """What `apply` did with one resource, in kubectl's words."""

    outcome: Literal["created", "configured", "unchanged"]
    object: R_co


class Store(Protocol):
    """Resources, shared by all who open the same store. Every method may raise StoreUnavailable."""

    async def list(self, kind: type[R], namespace: str | None = None) -> ResourceList[R]:
        """All resources of a kind, in one namespace or (None) in all."""
        ...

    async def list_as(self, kind: type[R], keep: Callable[[R], T], namespace: str | None = None) -> ResourceList[T]:
        """The same list, with what `keep` makes of each resource in its place.

        It is called while the list is read, in the caller's task, so that never more than some hundreds of the
        resources themselves are in memory; and anew for all if the list must be begun again.
        """
        ...

    async def get(self, kind: type[R], name: str, namespace: str = "") -> R:
        """One resource; NotFound, ResourceUnreadable. `namespace` is empty for kinds of the whole cluster."""
        ...

    async def create(self, resource: R) -> R:
        """Keeps a new resource and returns it as kept; AlreadyExists. A status that stands apart is left out."""
        ...

    async def replace(self, resource: R) -> R:
        """Replaces a resource and returns it as kept; NotFound.

        Conflict if it carries a resource_version (or uid) that is not the present one; without one it overwrites. A
        status that stands apart stays as it is.
        """
        ...

    async def patch_status(self, kind: type[R], name: str, namespace: str, patch: Mapping[str, Any]) -> R:
        """Merges `patch` (plain values, names as on the wire) into the status; null removes (RFC 7386); NotFound.

        Of one that cannot be read an API server keeps the patch all the same, before ResourceUnreadable is raised.
        """
        ...

    async def delete(self, kind: type[Resource], name: str, namespace: str = "", *, resource_version: str = "") -> None:
        """Deletes a resource; NotFound; Conflict if a resource_version is given that is not the present one."""
        ...

    async def apply(self, resources: Sequence[Resource]) -> Sequence[Applied[Resource]]:
        """Creates or replaces each; all or nothing where the backend can (SQLite, etcd)."""
        ...

    async def delete_all(self, keys: Sequence[ResourceKey]) -> Sequence[ResourceKey]:
        """Deletes those that exist and returns which did; all or nothing where the backend can."""
        ...

    def watch(self, kind: type[R], from_version: str) -> AsyncGenerator[WatchEvent[R] | Unreadable, None]:
        """Every change of a kind after `from_version`, without end; WatchExpired if those are no longer kept.

        Close it (`contextlib.aclosing`) when it is left early.
        """
        ...

    async def close(self) -> None:
        """Lets go of everything; idempotent. Watches end with StoreUnavailable."""
        ...

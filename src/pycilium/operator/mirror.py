"""What a leader's looks read: kinds of which it follows every change, so that a look asks the store nothing.

A look at everything once a minute would fetch a big cluster's endpoints over and over. Objects are kept slim, for all
of them are kept all the time. Invariant: what `list` gives is what the store told, or StoreUnavailable is raised.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec

from pycilium.errors import StoreUnavailable
from pycilium.model.resources import CiliumEndpoint, ObjectMeta, Pod, Resource, ResourceKey
from pycilium.model.resources.cilium_objects import EndpointIdentity, EndpointNetworking, EndpointStatus
from pycilium.operator.following import keep_following
from pycilium.store import ResourceList, Store, Unreadable
from pycilium.store.protocol import WatchEvent

R = TypeVar("R", bound=Resource)


class Mirror:
    """A store to look at: `kinds` from memory, once `run` has read them, and all others from the store itself."""

    def __init__(self, store: Store, kinds: Mapping[type[Resource], Callable[[Any], Resource]]) -> None:
        """`kinds`: of each followed kind, what is kept of an object."""
        self._store = store
        self._known = {kind: _Known(slim) for kind, slim in kinds.items()}

    def tell(self, kind: type[R], who: Callable[[ResourceList[R] | WatchEvent[R] | Unreadable], None]) -> None:
        """From its beginning `run` tells `who`, too, what the store says of a followed kind."""
        self._known[kind].told = who

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for kind, known in self._known.items():
                tasks.create_task(keep_following(self._store, kind, known.take_in, known.failed), name=kind.__name__)

    async def read(self) -> None:
        """Return once every kind has been read."""
        await asyncio.gather(*(known.read.wait() for known in self._known.values()))

    async def list(self, kind: type[R], namespace: str | None = None) -> ResourceList[R]:
        """As a store does; StoreUnavailable while the store cannot be followed."""
        known = self._known.get(kind)
        if known is None:
            return await self._store.list(kind, namespace)
        if known.error or not known.read.is_set():
            raise StoreUnavailable(known.error or f"{kind.__name__}s have not been read yet")
        items: tuple[Any, ...] = tuple(each for each in known.objects.values() if isinstance(each, Resource))
        unreadable = tuple(each for each in known.objects.values() if isinstance(each, Unreadable))
        return ResourceList(items, known.version, unreadable)

    def count(self, kind: type[Resource]) -> int:
        """How many of a followed kind there are, as far as is known."""
        return len(self._known[kind].objects)


class _Known:
    """Of one kind."""

    def __init__(self, slim: Callable[[Any], Resource]) -> None:
        self._slim = slim
        self.objects: dict[ResourceKey, Resource | Unreadable] = {}
        self.version = ""
        self.error = ""
        self.read = asyncio.Event()
        self.told: Callable[[Any], None] = lambda _: None

    def take_in(self, step: ResourceList[Any] | WatchEvent[Any] | Unreadable) -> None:
        self._keep(step)
        self.told(step)

    def failed(self, why: str) -> None:
        self.error = why

    def _keep(self, step: ResourceList[Any] | WatchEvent[Any] | Unreadable) -> None:
        if isinstance(step, ResourceList):
            self.objects = {each.key: self._slim(each) for each in step.items}
            self.objects |= {each.key: each for each in step.unreadable}
            self.version, self.error = step.resource_version, ""
            self.read.set()
        elif isinstance(step, Unreadable):
            self.objects[step.key] = step
        elif step.type == "DELETED":
            self.objects.pop(step.object.key, None)
        else:
            self.objects[step.object.key] = self._slim(step.object)


def whole(resource: Resource) -> Resource:
    """As it is."""
    return resource


def slim_pod(pod: Pod) -> Pod:
    """Whose it is, where it is, and whether it runs."""
    metadata = pod.metadata
    kept = msgspec.structs.replace(
        _told_apart(metadata),
        owner_references=metadata.owner_references,
        deletion_timestamp=metadata.deletion_timestamp,
    )
    spec: dict[str, Any] = {field: pod.spec[field] for field in ("nodeName", "hostNetwork") if field in pod.spec}
    return Pod(metadata=kept, spec=spec, status={"phase": pod.phase})


def slim_endpoint(endpoint: CiliumEndpoint) -> CiliumEndpoint:
    """Whose identity it has, and on which node it is."""
    status = endpoint.status
    if status is not None:
        identity, networking = status.identity, status.networking
        status = EndpointStatus(
            identity=EndpointIdentity(id=identity.id) if identity else None,
            networking=EndpointNetworking(addressing=(), node=networking.node) if networking else None,
        )
    return CiliumEndpoint(metadata=_told_apart(endpoint.metadata), status=status)


def _told_apart(metadata: ObjectMeta) -> ObjectMeta:
    """Which object it is, and in which version."""
    return ObjectMeta(
        name=metadata.name,
        namespace=metadata.namespace,
        uid=metadata.uid,
        resource_version=metadata.resource_version,
    )

"""The Store protocol over an API server, as pods, nodes and kubectl share it.

The API server keeps versions, uids and generations; what a resource must be is checked here too, before it is sent,
so that all backends refuse the same. Two things differ from one file: `apply` and `delete_all` write one resource after
the other and are not all-or-nothing, and a change whose answer was lost raises although it may have been made.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Any, TypeVar

import msgspec

from pycilium.errors import AlreadyExists, Conflict, NotFound, ResourceUnreadable, StoreUnavailable, WatchExpired
from pycilium.model.resources import Kind, Resource, ResourceKey, kind_of, validate
from pycilium.model.resources.kinds import kind_for_word
from pycilium.store import admission
from pycilium.store.kubernetes.client import ApiClient, Patience
from pycilium.store.kubernetes.failures import Call
from pycilium.store.kubernetes.objects import as_sent, read_or_set_aside, to_be_made, version_of
from pycilium.store.kubernetes.watches import watched
from pycilium.store.protocol import Applied, ResourceList, Selection, Unreadable, WatchEvent, whole

R = TypeVar("R", bound=Resource)
T = TypeVar("T")

PAGE = 500
"""Resources per answer to `list`: bounds what one answer costs the server, and us."""

_WHOLE_AFTER = 2
"""How many lists may run out in mid-page before one is asked for without pages."""

_CONFLICT_PATIENCE_S = 5.0


class KubernetesStore:
    """A Store that is a Kubernetes API server.

    Args:
        client: the API server, and how it is reached.
        page: resources per answer to `list`.
        only: selections, by kind: of those, `list` and `watch` give what the server selects.
    """

    def __init__(
        self, client: ApiClient, *, page: int = PAGE, only: Mapping[type[Resource], Selection] | None = None
    ) -> None:
        self._client = client
        self._page = page
        self._only = dict(only or {})

    async def list(self, kind: type[R], namespace: str | None = None) -> ResourceList[R]:
        return await self.list_as(kind, whole, namespace)

    async def list_as(self, kind: type[R], keep: Callable[[R], T], namespace: str | None = None) -> ResourceList[T]:
        known = kind_of(kind)
        for attempt in range(_WHOLE_AFTER + 1):
            try:
                return await self._list(known, keep, namespace, self._page if attempt < _WHOLE_AFTER else 0)
            except WatchExpired:  # the pages' version was compacted before the last one
                continue
        raise StoreUnavailable(f"{self._client.server} gives up its own list of {known.plural} as expired")

    async def get(self, kind: type[R], name: str, namespace: str = "") -> R:
        return await self._get(kind_of(kind), namespace, name)

    async def create(self, resource: R) -> R:
        validate(resource)
        return await self._sent("create", to_be_made(resource))

    async def replace(self, resource: R) -> R:
        return (await self._replaced(resource))[1]

    async def patch_status(self, kind: type[R], name: str, namespace: str, patch: Mapping[str, Any]) -> R:
        known = kind_of(kind)
        with suppress(ResourceUnreadable):  # here others wrote it, and may read why it is of no use to us
            present = await self._get(known, namespace, name)
            if admission.status_patched(present, patch) is present:
                return present
        call = Call("patch", known, namespace, name, "status" if known.status_apart else "")
        return _readable(known, await self._client.call(call, body=msgspec.json.encode({"status": patch})))

    async def delete(self, kind: type[Resource], name: str, namespace: str = "", *, resource_version: str = "") -> None:
        options: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if resource_version:
            options["preconditions"] = {"resourceVersion": resource_version}
        call = Call("delete", kind_of(kind), namespace, _named(kind_of(kind), namespace, name))
        await self._client.call(call, body=msgspec.json.encode(options))

    async def apply(self, resources: Sequence[Resource]) -> Sequence[Applied[Resource]]:
        """Checks all before it writes the first; what is written stays when a later one fails."""
        admission.refuse_doubles([resource.key for resource in resources])
        for resource in resources:
            validate(resource)
        return [await self._apply(resource) for resource in resources]

    async def delete_all(self, keys: Sequence[ResourceKey]) -> Sequence[ResourceKey]:
        existed = []
        for key in keys:
            try:
                await self.delete(kind_for_word(key.kind).resource, key.name, key.namespace)
            except NotFound:
                continue
            existed.append(key)
        return existed

    async def watch(self, kind: type[R], from_version: str) -> AsyncGenerator[WatchEvent[R] | Unreadable, None]:
        if from_version == "0":  # before everything: what is there was added since
            listed = await self.list(kind)
            from_version = listed.resource_version
            for resource in listed.items:
                yield WatchEvent("ADDED", resource)
            for unreadable in listed.unreadable:
                yield unreadable
            del listed
        async with aclosing(watched(self._client, kind_of(kind), from_version, self._selection(kind))) as events:
            async for event in events:
                yield event

    async def close(self) -> None:
        await self._client.close()

    async def _list(self, kind: Kind[R], keep: Callable[[R], T], namespace: str | None, limit: int) -> ResourceList[T]:
        query = {**self._selection(kind.resource), **({"limit": str(limit)} if limit else {})}
        kept: list[tuple[str, str, T]] = []
        unreadable: list[Unreadable] = []
        while True:
            call = Call("list", kind, namespace)
            page = msgspec.json.decode(await self._client.call(call, query=query))
            for plain in page.get("items") or ():
                found = read_or_set_aside(kind, plain)
                if isinstance(found, Unreadable):
                    unreadable.append(found)
                else:
                    kept.append((found.metadata.namespace, found.metadata.name, keep(found)))
            query["continue"] = page["metadata"].get("continue") or ""
            if not query["continue"]:
                kept.sort(key=lambda each: each[:2])
                return ResourceList(tuple(item for *_, item in kept), version_of(page), tuple(unreadable))

    def _selection(self, kind: type[Resource]) -> dict[str, str]:
        """As a query says it."""
        selection = self._only.get(kind, Selection())
        said = {"fieldSelector": selection.fields, "labelSelector": selection.labels}
        return {name: terms for name, terms in said.items() if terms}

    async def _get(self, kind: Kind[R], namespace: str, name: str) -> R:
        call = Call("get", kind, namespace, _named(kind, namespace, name))
        return _readable(kind, await self._client.call(call))

    async def _apply(self, resource: Resource) -> Applied[Resource]:
        """Creates or replaces, until one of them fits what others do meanwhile."""
        patience = Patience(_CONFLICT_PATIENCE_S)
        while True:
            try:
                before, kept = await self._replaced(resource)
                same = kept.metadata.resource_version == before
                return Applied("unchanged" if same else "configured", kept)
            except NotFound:
                pass
            try:
                return Applied("created", await self.create(resource))
            except AlreadyExists:
                if not await self._waited(patience):
                    raise

    async def _replaced(self, resource: R) -> tuple[str, R]:
        """The version before, and the resource as it is kept."""
        validate(resource)
        if resource.metadata.resource_version:
            return resource.metadata.resource_version, await self._sent("update", resource)
        patience = Patience(_CONFLICT_PATIENCE_S)
        while True:
            stored = await self._get(kind_of(resource), resource.metadata.namespace, resource.metadata.name)
            wanted = admission.replaced(stored, resource)
            before = stored.metadata.resource_version
            if wanted is stored:
                return before, stored
            try:
                return before, await self._sent("update", wanted)
            except Conflict:
                if not await self._waited(patience):
                    raise

    async def _waited(self, patience: Patience) -> bool:
        """A pause after somebody else was faster; False, at once, when there were enough of them."""
        wait_s = patience.pause()
        if wait_s is not None:
            await self._client.sleep(wait_s)
        return wait_s is not None

    async def _sent(self, verb: Any, resource: R) -> R:
        kind, metadata = kind_of(resource), resource.metadata
        call = Call(verb, kind, metadata.namespace, metadata.name)
        return _readable(kind, await self._client.call(call, body=as_sent(resource)))


def _readable(kind: Kind[R], body: bytes) -> R:
    found = read_or_set_aside(kind, msgspec.json.decode(body))
    if isinstance(found, Unreadable):
        raise ResourceUnreadable(str(found))
    return found


def _named(kind: Kind[Any], namespace: str, name: str) -> str:
    """`name`; NotFound if it is empty, which would stand for all of a kind."""
    if not name or (kind.namespaced and not namespace):
        raise NotFound(f"{ResourceKey(kind.name, namespace, name)} does not exist")
    return name

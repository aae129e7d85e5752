"""What a leader's looks read: the same as the store would say, without asking it."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from pycilium.errors import StoreUnavailable
from pycilium.model.resources import CiliumEndpoint, CiliumNode, ObjectMeta, Pod
from pycilium.model.resources.cilium_objects import (
    AddressPair,
    EndpointIdentity,
    EndpointNetworking,
    EndpointState,
    EndpointStatus,
)
from pycilium.operator.mirror import Mirror, slim_endpoint, whole
from pycilium.store.sqlite import SqliteStore


class Counting:
    """A store that says how often it was listed, and that can be away."""

    def __init__(self, store) -> None:
        self.store, self.listed, self.away = store, [], False
        self.was_asked = asyncio.Event()

    async def list(self, kind, namespace=None):
        return await self.list_as(kind, whole, namespace)

    async def list_as(self, kind, keep, namespace=None):
        self.listed.append(kind)
        self.was_asked.set()
        if self.away:
            raise StoreUnavailable("away")
        return await self.store.list_as(kind, keep, namespace)

    def watch(self, kind, version):
        return self.store.watch(kind, version)


@pytest.fixture
async def store(tmp_path):
    opened = SqliteStore(tmp_path / "store.db")
    yield opened
    await opened.close()


@contextlib.asynccontextmanager
async def followed(store):
    mirror = Mirror(store, {CiliumEndpoint: slim_endpoint, CiliumNode: whole})
    running = asyncio.create_task(mirror.run())
    try:
        await mirror.read()
        yield mirror
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def endpoint(name: str, identity: int, state: EndpointState = "ready") -> CiliumEndpoint:
    status = EndpointStatus(
        id=7,
        identity=EndpointIdentity(id=identity, labels=("k8s:app=web",)),
        networking=EndpointNetworking(addressing=(AddressPair(ipv4="10.0.0.7"),), node="192.168.0.1"),
        state=state,
    )
    return CiliumEndpoint(metadata=ObjectMeta(name=name, namespace="default"), status=status)


async def until(mirror: Mirror, version: str) -> None:
    async with asyncio.timeout(10):
        while True:
            if [each.metadata.resource_version for each in (await mirror.list(CiliumEndpoint)).items] == [version]:
                return
            await asyncio.sleep(0)


async def test_looks_ask_nothing_of_kinds_that_are_followed_and_see_every_change(store):
    counting = Counting(store)
    kept = await store.create(endpoint("kept", 300))
    await store.create(endpoint("gone", 301))
    async with followed(counting) as mirror:
        asked = len(counting.listed)
        await store.delete(CiliumEndpoint, "gone", "default")
        await store.replace(kept.with_metadata(labels={"a": "b"}))
        now = (await store.get(CiliumEndpoint, "kept", "default")).metadata.resource_version
        await until(mirror, now)
        (seen,) = (await mirror.list(CiliumEndpoint)).items

        assert (seen.status.identity.id, seen.status.networking.node) == (300, "192.168.0.1")
        assert seen.status.identity.labels == ()
        assert len(counting.listed) == asked
        assert (await mirror.list(Pod)).items == ()
        assert counting.listed[asked:] == [Pod]


async def test_nothing_is_said_that_is_not_known(store):
    counting = Counting(store)
    unread = Mirror(counting, {CiliumNode: whole})
    with pytest.raises(StoreUnavailable, match="CiliumNodes have not been read yet"):
        await unread.list(CiliumNode)

    counting.away = True
    running = asyncio.create_task(unread.run())
    await counting.was_asked.wait()
    running.cancel()

    with pytest.raises(StoreUnavailable, match="away"):
        await unread.list(CiliumNode)

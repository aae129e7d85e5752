"""The operator keeps slices over a real store: filled before they are called complete, and no write without news."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycilium.endpoint.slices import COMPLETE, EndpointName, Slice, SliceWrite
from pycilium.errors import InvalidResource
from pycilium.model.resources import CiliumEndpoint, CiliumEndpointSlice, ObjectMeta
from pycilium.model.resources.cilium_objects import (
    AddressPair,
    CoreEndpoint,
    EndpointIdentity,
    EndpointNetworking,
    EndpointStatus,
)
from pycilium.operator import endpoint_slices, write_rate
from pycilium.operator.election import Leadership, LeaderStore
from pycilium.operator.endpoint_slices import EndpointSlices, NoEndpointSlices
from pycilium.operator.kept_slices import KeptSlices
from pycilium.operator.mirror import Mirror, slim_endpoint
from pycilium.operator.write_rate import Deferral, RateLimit, WriteRate, limit_for
from pycilium.store import ResourceList, WatchEvent
from pycilium.store.sqlite import SqliteStore

NAMES = [f"pod-{number:02d}" for number in range(7)]
MOST = 3


class Noting:
    """A store that notes what was written to slices."""

    def __init__(self, store) -> None:
        self.store, self.written = store, []

    def __getattr__(self, name):
        return getattr(self.store, name)

    async def create(self, resource):
        self.note("create", resource)
        return await self.store.create(resource)

    async def replace(self, resource):
        self.note("replace", resource)
        return await self.store.replace(resource)

    async def delete(self, kind, name, namespace="", *, resource_version=""):
        if kind is CiliumEndpointSlice:
            self.written.append(("delete", name))
        await self.store.delete(kind, name, namespace, resource_version=resource_version)

    def note(self, verb, resource) -> None:
        if isinstance(resource, CiliumEndpointSlice):
            self.written.append((verb, resource.metadata.name))


@pytest.fixture
async def store(tmp_path, monkeypatch):
    monkeypatch.setattr(endpoint_slices, "GATHER_S", 0.0)
    monkeypatch.setattr(endpoint_slices, "RETRY_S", 0.0)
    monkeypatch.setattr(write_rate, "PATIENCE_S", 0.0)
    monkeypatch.setattr(write_rate, "LONG_PATIENCE_S", 0.0)
    opened = SqliteStore(tmp_path / "store.db")
    yield Noting(opened)
    await opened.close()


def endpoint(name: str, identity: int = 1000) -> CiliumEndpoint:
    pair = AddressPair(ipv4=f"10.0.0.{NAMES.index(name) + 1}")
    status = EndpointStatus(
        identity=EndpointIdentity(id=identity), networking=EndpointNetworking(addressing=(pair,), node="172.18.0.2")
    )
    return CiliumEndpoint(metadata=ObjectMeta(name=name, namespace="default"), status=status)


def leader_of(store) -> LeaderStore:
    leadership = Leadership(lambda: 0.0)
    leadership.extend(1e12)
    return LeaderStore(store, leadership)


@contextlib.asynccontextmanager
async def leading(store):
    """One term of an operator."""
    work = EndpointSlices(
        store, leader_of(store), (RateLimit(nodes=0, limit=1000, burst=1000),), MOST, lambda: 1, lambda: 0.0
    )
    mirror = Mirror(store, {CiliumEndpoint: slim_endpoint})
    mirror.tell(CiliumEndpoint, work.endpoints_told)
    tasks = [asyncio.create_task(each.run()) for each in (mirror, work)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def in_slices(store) -> dict[str, list[str]]:
    listed = await store.list(CiliumEndpointSlice)
    return {each.metadata.name: [core.name for core in each.endpoints] for each in listed.items}


async def until_it_holds(store, condition: Callable[[dict[str, list[str]]], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition(await in_slices(store)):  # noqa: ASYNC110  a condition of the store
            await asyncio.sleep(0.01)


async def until(store, wanted: dict[str, list[str]]) -> None:
    await until_it_holds(store, wanted.__eq__)


FULL = {"ces-1": NAMES[:3], "ces-2": NAMES[3:6], "ces-3": NAMES[6:], COMPLETE: []}


async def test_slices_are_filled_before_they_are_called_complete(store):
    await store.apply([endpoint(name) for name in NAMES])
    async with leading(store):
        await until(store, FULL)

    assert [name for _, name in store.written] == ["ces-1", "ces-2", "ces-3", COMPLETE]


async def test_the_next_leader_takes_slices_as_they_are(store):
    await store.apply([endpoint(name) for name in NAMES])
    async with leading(store):
        await until(store, FULL)
    store.written.clear()
    async with leading(store):
        await store.delete(CiliumEndpoint, NAMES[0], "default")
        await until(store, {**FULL, "ces-1": NAMES[1:3]})

    assert store.written == [("replace", "ces-1")]


async def test_slices_follow_endpoints_that_come_change_and_go(store):
    await store.apply([endpoint(name) for name in NAMES[:2]])
    async with leading(store):
        await until(store, {"ces-1": NAMES[:2], COMPLETE: []})
        await store.apply([endpoint(NAMES[0], 1001), endpoint(NAMES[2])])
        await until(store, {"ces-1": NAMES[:3], COMPLETE: []})
        listed = await store.list(CiliumEndpointSlice)
        assert [core.id for each in listed.items for core in each.endpoints] == [1001, 1000, 1000]

        for name in NAMES[:3]:
            await store.delete(CiliumEndpoint, name, "default")
        await until(store, {COMPLETE: []})


async def test_a_slice_that_the_store_refuses_held_back_all_others(store):
    """Those that it was to have may have found room in another by then."""
    refuse = store.note

    def refused(verb, resource):
        refuse(verb, resource)
        if resource.metadata.name == "ces-1":
            raise InvalidResource("the API server does not admit it")

    store.note = refused
    await store.apply([endpoint(name) for name in NAMES])
    async with leading(store):
        await until_it_holds(store, lambda found: {*NAMES[3:]} <= {pod for pods in found.values() for pod in pods})
    assert COMPLETE not in await in_slices(store)


async def test_what_somebody_else_does_to_slices_is_undone(store):
    await store.apply([endpoint(name) for name in NAMES])
    async with leading(store):
        await until(store, FULL)
        await store.delete(CiliumEndpointSlice, "ces-3")
        await until(store, FULL)
        await store.delete(CiliumEndpointSlice, COMPLETE)
        await until(store, FULL)
        kept = await store.get(CiliumEndpointSlice, "ces-3")
        await store.create(kept.with_metadata(name="twice", uid="", resource_version=""))
        await until(store, FULL)


async def test_without_slices_the_mark_goes_before_any_other(store):
    await store.apply([endpoint(name) for name in NAMES])
    async with leading(store):
        await until(store, FULL)
    store.written.clear()

    await NoEndpointSlices(leader_of(store)).run()

    assert store.written[0] == ("delete", COMPLETE)
    assert await in_slices(store) == {}


class TestKeptSlices:
    def slice_of(self, version: str, *names: str) -> CiliumEndpointSlice:
        endpoints = tuple(CoreEndpoint(name=name) for name in names)
        return CiliumEndpointSlice(
            metadata=ObjectMeta(name="ces-1", resource_version=version), namespace="default", endpoints=endpoints
        )

    def kept(self) -> KeptSlices:
        kept = KeptSlices()
        kept.take_in(ResourceList((self.slice_of("1", "a"),), "1"))
        return kept

    def names(self, kept: KeptSlices) -> list[str]:
        return [key.name for each in kept.slices.values() for key in each.entries]

    def wrote(self, kept: KeptSlices, version: str, *names: str) -> None:
        written = self.slice_of(version, *names)
        kept.wrote(written, Slice.of(written))

    def test_what_a_watch_says_of_earlier_writes_takes_nothing_back(self):
        kept = self.kept()
        self.wrote(kept, "2", "a", "b")
        self.wrote(kept, "3", "a", "b", "c")

        kept.take_in(WatchEvent("MODIFIED", self.slice_of("2", "a", "b")))
        assert self.names(kept) == ["a", "b", "c"]
        kept.take_in(WatchEvent("MODIFIED", self.slice_of("3", "a", "b", "c")))
        kept.take_in(WatchEvent("MODIFIED", self.slice_of("4", "by-hand")))
        assert self.names(kept) == ["by-hand"]

    def test_a_watch_may_be_quicker_than_the_answer(self):
        kept = self.kept()
        kept.take_in(WatchEvent("MODIFIED", self.slice_of("2", "a", "b")))
        self.wrote(kept, "2", "a", "b")
        kept.take_in(WatchEvent("DELETED", self.slice_of("3", "a", "b")))
        kept.deleted("ces-1")
        kept.take_in(WatchEvent("ADDED", self.slice_of("4", "c")))

        assert self.names(kept) == ["c"]

    def test_one_that_was_deleted_and_made_again_is_known_as_it_is(self):
        kept = self.kept()
        kept.deleted("ces-1")
        self.wrote(kept, "3", "b")
        kept.take_in(WatchEvent("DELETED", self.slice_of("2", "a")))
        kept.take_in(WatchEvent("ADDED", self.slice_of("3", "b")))
        kept.take_in(WatchEvent("MODIFIED", self.slice_of("4", "by-hand")))

        assert self.names(kept) == ["by-hand"]


class TestWriteRate:
    LIMIT = RateLimit(nodes=0, limit=10, burst=20)

    @given(st.lists(st.floats(0, 3), max_size=60))
    def test_no_more_writes_than_allowed_in_any_time(self, pauses):
        rate, now, made = WriteRate(), 100.0, []
        for pause in pauses:
            now += pause + rate.wait_s(self.LIMIT, now + pause)
            made.append(now)

        for first, begin in enumerate(made):
            for last in range(first, len(made)):
                assert last - first <= self.LIMIT.burst + self.LIMIT.limit * (made[last] - begin) + 1

    def test_a_burst_and_then_one_after_another(self):
        rate = WriteRate()

        assert [rate.wait_s(self.LIMIT, 50.0) for _ in range(21)] == [*[0.0] * 20, 0.1]
        assert rate.wait_s(self.LIMIT, 50.1) == 0.0

    def test_the_limit_is_that_of_the_clusters_size(self):
        limits = [RateLimit(nodes=100, limit=5, burst=10), self.LIMIT, RateLimit(nodes=500, limit=2, burst=4)]

        assert [limit_for(limits, nodes).limit for nodes in (0, 99, 100, 499, 9999)] == [10, 10, 5, 5, 2]
        assert limit_for(limits[2:], 3).limit == 2


class TestDeferral:
    URGENT, LATER = (SliceWrite(name, Slice("default", {}), urgency) for name, urgency in (("a", 1), ("b", 2)))

    def test_what_only_leaves_a_slice_waits(self):
        deferral = Deferral()

        assert deferral.due([self.URGENT, self.LATER], 100.0) == ([self.URGENT], 30.0)
        assert deferral.due([self.LATER], 110.0) == ([], 20.0)
        assert deferral.due([self.LATER], 130.0) == ([self.LATER], None)

    def test_one_that_little_has_left_waits_longer_until_it_is_worth_a_write(self):
        """Told at once, single ends cost every node six times what it is told without slices."""
        entries = {EndpointName("default", f"pod-{number}"): CoreEndpoint() for number in range(18)}
        little, enough = (SliceWrite("c", Slice("default", entries), 2, left) for left in (1, 2))
        deferral = Deferral()

        assert deferral.due([little], 100.0) == ([], 300.0)
        assert deferral.due([little], 140.0) == ([], 260.0)
        assert deferral.due([enough], 140.0) == ([enough], None)
        assert deferral.due([little], 400.0) == ([little], None)

    def test_the_time_begins_anew_when_the_slice_was_written(self):
        deferral = Deferral()
        deferral.due([self.LATER], 100.0)
        deferral.due([], 101.0)

        assert deferral.due([self.LATER], 135.0) == ([], 30.0)

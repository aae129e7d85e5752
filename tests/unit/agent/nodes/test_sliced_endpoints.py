"""Whom an agent believes, slices or CiliumEndpoints: no endpoint is lost from one to the other, in whatever order."""

from __future__ import annotations

from collections import deque
from ipaddress import IPv4Address

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pycilium.agent.nodes.slice_sources import slice_sources
from pycilium.agent.nodes.sliced_endpoints import SlicedEndpoints
from pycilium.endpoint.slices import COMPLETE, EndpointName, Slice, planned
from pycilium.model.l4 import NamedTarget, Protocol
from pycilium.model.remote_endpoint import RemoteEndpoint, remote_endpoint_in_slice
from pycilium.model.resources import CiliumEndpoint, CiliumEndpointSlice, ObjectMeta, ResourceKey
from pycilium.model.resources.cilium_objects import (
    AddressPair,
    CoreEndpoint,
    EndpointIdentity,
    EndpointNetworking,
    EndpointStatus,
    NamedPort,
)
from pycilium.store import ResourceList, Unreadable, WatchEvent
from pycilium.tables import Database

MOST = 3
STABLE = ("s1", "s2")
"""Pods that are there all the time, and never change."""


def core(name: str, identity: int = 1000) -> CoreEndpoint:
    address = f"10.0.0.{sum(map(ord, name)) % 250}"
    networking = EndpointNetworking(addressing=(AddressPair(ipv4=address),), node="172.18.0.2")
    return CoreEndpoint(name=name, id=identity, networking=networking)


def seen(name: str, identity: int = 1000) -> RemoteEndpoint:
    endpoint = remote_endpoint_in_slice("default", core(name, identity))
    assert endpoint is not None
    return endpoint


class World:
    """CiliumEndpoints, an operator that comes late, and an agent that is told late of both, of each in order."""

    def __init__(self) -> None:
        self.endpoints = dict.fromkeys(STABLE, 1000)
        self.slices: dict[str, Slice] = {}
        self.mark = False
        self.restart()

    def restart(self) -> None:
        self.agent, self.shown = SlicedEndpoints(), {}
        self.slice_news, self.endpoint_news = deque(), deque()
        self.following = False
        self.slice_news.append(("list", dict(self.slices), self.mark))

    def change(self, name: str, identity: int) -> None:
        """0: it goes."""
        if identity:
            self.endpoints[name] = identity
        else:
            self.endpoints.pop(name, None)
        if self.following:
            self.endpoint_news.append((name, identity))

    def fill(self, most_writes: int) -> None:
        """An operator with slices, that is interrupted after some writes."""
        wanted = {EndpointName("default", name): core(name, identity) for name, identity in self.endpoints.items()}
        writes = planned(self.slices, wanted, MOST)
        for write in writes[:most_writes]:
            self._write(write.name, write.slice)
        if most_writes >= len(writes) and not self.mark:
            self.mark = True
            self.slice_news.append(("mark", True))

    def clear(self, most_writes: int) -> None:
        """One without."""
        if self.mark:
            self.mark = False
            self.slice_news.append(("mark", False))
        for name in list(self.slices)[:most_writes]:
            self._write(name, Slice("default", {}))

    def _write(self, name: str, contents: Slice) -> None:
        self.slices[name] = contents
        if not contents.entries:
            del self.slices[name]
        self.slice_news.append(("slice", name, contents))

    def read_slices(self) -> None:
        if not self.slice_news:
            return
        kind, *news = self.slice_news.popleft()
        if kind == "list":
            self.agent.slices_listed({name: remote(each) for name, each in news[0].items()}, news[1])
        elif kind == "mark":
            self.agent.mark_changed(*news)
        else:
            self.agent.slice_changed(news[0], remote(news[1]))
        self.settle()

    def read_endpoints(self) -> None:
        if not self.endpoint_news:
            return
        name, identity = self.endpoint_news.popleft()
        if name == "list":
            self.agent.endpoints_listed({each.key: each for each in (seen(*known) for known in identity)})
        else:
            endpoint = seen(name, identity) if identity else None
            self.agent.endpoint_changed(seen(name).key, endpoint)
        self.settle()

    def settle(self) -> None:
        for key, endpoint in self.agent.take_changed():
            if endpoint is None:
                del self.shown[key]
            else:
                self.shown[key] = endpoint
        if self.agent.needs_endpoints != self.following:
            self.following = self.agent.needs_endpoints
            self.endpoint_news.clear()
            if self.following:
                self.endpoint_news.append(("list", list(self.endpoints.items())))

    def all_read(self) -> None:
        while self.slice_news or self.endpoint_news:
            self.read_slices()
            self.read_endpoints()

    def check_stable(self) -> None:
        if self.agent.known or self.shown:
            assert {each: seen(each) for each in STABLE}.items() <= {
                each.name: each for each in self.shown.values()
            }.items()


def remote(contents: Slice):
    found = (remote_endpoint_in_slice("default", each) for each in contents.entries.values())
    return {each.key: each for each in found if each is not None}


steps = st.one_of(
    st.tuples(st.just("change"), st.sampled_from("abcdef"), st.sampled_from([0, 1000, 1001])),
    st.tuples(st.sampled_from(["fill", "clear"]), st.sampled_from([0, 1, 2, 99])),
    st.tuples(st.sampled_from(["read_slices", "read_endpoints"])),
)


@settings(max_examples=400)
@given(st.lists(steps, max_size=40), st.sampled_from(["fill", "clear"]))
def test_switching_slices_on_and_off_loses_no_endpoint_and_ends_with_the_truth(path, last):
    world = World()
    for step, *arguments in path:
        getattr(world, step)(*arguments)
        world.check_stable()
    getattr(world, last)(99)
    world.all_read()
    world.check_stable()

    assert {each.name: each.sec_identity for each in world.shown.values()} == world.endpoints
    assert world.following == (last == "clear")


@given(st.lists(steps, max_size=20))
def test_a_restarted_agent_knows_what_one_that_ran_on_knows(path):
    world = World()
    for step, *arguments in path:
        getattr(world, step)(*arguments)
    world.fill(99)
    world.all_read()
    before = world.shown
    world.restart()
    world.all_read()

    assert world.shown == before


def test_an_endpoint_that_is_not_in_slices_yet_is_not_lost_when_they_become_the_truth():
    world = World()
    world.all_read()
    world.fill(99)
    world.change("young", 1000)
    world.read_endpoints()
    world.all_read()
    assert "young" in {each.name for each in world.shown.values()}
    assert world.following

    world.fill(99)
    world.all_read()
    assert "young" in {each.name for each in world.shown.values()}
    assert not world.following


class TestSources:
    """Over a table, as an agent has it."""

    @pytest.fixture
    def db(self):
        return Database()

    @pytest.fixture
    def table(self, db):
        return db.table("remote-endpoints", key=lambda endpoint: endpoint.key)

    def listed(self, source, *resources, unreadable=()):
        return ResourceList(tuple(source.convert_for_all(each) for each in resources), "1", unreadable)

    def slice_of(self, name: str, *entries: CoreEndpoint) -> CiliumEndpointSlice:
        return CiliumEndpointSlice(metadata=ObjectMeta(name=name), namespace="default", endpoints=entries)

    def endpoint(self, name: str) -> CiliumEndpoint:
        status = EndpointStatus(identity=EndpointIdentity(id=1000), networking=core(name).networking)
        return CiliumEndpoint(metadata=ObjectMeta(name=name, namespace="default"), status=status)

    def known(self, db, table) -> list[str]:
        return sorted(each.name for each in db.snapshot().all(table))

    async def test_slices_without_the_mark_are_not_taken_for_the_truth(self, db, table):
        slices, endpoints = slice_sources(table)

        slices.take_in(db, self.listed(slices, self.slice_of("ces-1", core("a"))))
        assert (self.known(db, table), endpoints.synced.is_set()) == ([], False)

        endpoints.take_in(db, self.listed(endpoints, self.endpoint("a"), self.endpoint("b")))
        assert (self.known(db, table), endpoints.synced.is_set()) == (["a", "b"], True)

    async def test_with_the_mark_nothing_else_is_asked_for(self, db, table):
        slices, endpoints = slice_sources(table)

        slices.take_in(db, self.listed(slices, self.slice_of("ces-1", core("a")), self.slice_of(COMPLETE)))

        assert (self.known(db, table), endpoints.synced.is_set()) == (["a"], True)

    async def test_what_cannot_be_read_stays_as_it_was_and_is_named(self, db, table):
        slices, _ = slice_sources(table)
        slices.take_in(db, self.listed(slices, self.slice_of("ces-1", core("a")), self.slice_of(COMPLETE)))
        damaged = Unreadable(ResourceKey("CiliumEndpointSlice", "", "ces-1"), "odd")

        slices.take_in(db, self.listed(slices, self.slice_of(COMPLETE), unreadable=(damaged,)))

        assert self.known(db, table) == ["a"]
        assert list(slices.rejected) == ["ces-1"]

    async def test_an_entry_that_cannot_be_hides_no_other(self, db, table):
        slices, _ = slice_sources(table)
        odd = CoreEndpoint(
            name="odd", networking=EndpointNetworking(addressing=(AddressPair(ipv4="127.0.0.1"),), node="")
        )

        slices.take_in(db, self.listed(slices, self.slice_of("ces-1", odd, core("a")), self.slice_of(COMPLETE)))

        assert self.known(db, table) == ["a"]
        assert "default/odd" in slices.rejected["ces-1"]

    async def test_names_of_ports_are_known_from_slices_too(self, db, table):
        slices, _ = slice_sources(table)
        named = msgspec.structs.replace(core("a"), named_ports=(NamedPort(name="http", port=8080, protocol="TCP"),))

        slices.take_in(db, self.listed(slices, self.slice_of("ces-1", named), self.slice_of(COMPLETE)))

        assert next(iter(db.snapshot().all(table))).targets == (NamedTarget("http", Protocol.TCP, 8080),)

    async def test_an_endpoint_that_moves_is_there_all_the_time(self, db, table):
        slices, _ = slice_sources(table)
        slices.take_in(db, self.listed(slices, self.slice_of("ces-1", core("a")), self.slice_of(COMPLETE)))
        changes = table.changes(from_start=False)

        slices.take_in(db, WatchEvent("ADDED", self.slice_of("ces-2", core("a"))))
        slices.take_in(db, WatchEvent("DELETED", self.slice_of("ces-1", core("a"))))

        assert list(changes.drain()) == []
        assert next(iter(db.snapshot().all(table))).addresses == (IPv4Address("10.0.0.97"),)

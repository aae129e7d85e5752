"""The operator's work over a real store: nodes get CIDRs, what is dead is removed, what lives is left alone."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime
from ipaddress import ip_network

import msgspec
import pytest

from pycilium.errors import NotFound, StoreUnavailable
from pycilium.identity import MARK
from pycilium.ipam import CidrPool, ClusterPool
from pycilium.ipam.cluster_pool import REST_S
from pycilium.model.resources import CiliumEndpoint, CiliumIdentity, CiliumNode, Lease, ObjectMeta, Pod
from pycilium.model.resources.cilium_objects import (
    EndpointIdentity,
    EndpointNetworking,
    EndpointStatus,
    IpamSpec,
    NodeAddress,
    NodeSpec,
)
from pycilium.operator.election import Leadership, LeaderStore
from pycilium.operator.identity_collection import IdentityCollector
from pycilium.operator.pod_cidrs import PodCidrs
from pycilium.operator.removal import NODE_LEASES, Removal
from pycilium.store import Leases
from pycilium.store.sqlite import SqliteStore


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Unsteady:
    """A store that can be away."""

    def __init__(self, store) -> None:
        self.store, self.away = store, False

    def __getattr__(self, name):
        if self.away:
            raise StoreUnavailable("away")
        return getattr(self.store, name)


@pytest.fixture
async def store(tmp_path):
    opened = SqliteStore(tmp_path / "store.db")
    yield Unsteady(opened)
    await opened.close()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def leader(store, clock):
    leadership = Leadership(clock)
    leadership.extend(1e12)
    return LeaderStore(store, leadership)


def node(name: str, *cidrs: str, address: str = "") -> CiliumNode:
    addresses = (NodeAddress(type="InternalIP", ip=address),) if address else ()
    return CiliumNode(
        metadata=ObjectMeta(name=name), spec=NodeSpec(addresses=addresses, ipam=IpamSpec(pod_cidrs=cidrs))
    )


def endpoint(name: str, at: str, identity: int = 0) -> CiliumEndpoint:
    return CiliumEndpoint(
        metadata=ObjectMeta(name=name, namespace="default"),
        status=EndpointStatus(
            identity=EndpointIdentity(id=identity), networking=EndpointNetworking(addressing=(), node=at)
        ),
    )


async def names(store, kind) -> list[str]:
    return [resource.metadata.name for resource in (await store.list(kind)).items]


async def until(condition) -> None:
    async with asyncio.timeout(30):
        while not await condition():  # noqa: ASYNC110  a condition of the store
            await asyncio.sleep(0.01)


class TestPodCidrs:
    @contextlib.asynccontextmanager
    async def running(self, store, leader, clock, *cidrs: str):
        pool = ClusterPool([CidrPool([ip_network(cidr) for cidr in cidrs], 24)])
        task = asyncio.create_task(PodCidrs(store, leader, pool, clock).run())
        yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def cidrs(self, store, name: str) -> tuple[str, ...]:
        ipam = (await store.get(CiliumNode, name)).spec.ipam
        return ipam.pod_cidrs if ipam else ()

    async def error(self, store, name: str) -> str:
        status = (await store.get(CiliumNode, name)).status
        operator = status.ipam.operator_status if status and status.ipam else None
        return operator.error if operator else ""

    async def test_a_node_gets_a_cidr_when_it_appears(self, store, leader, clock):
        await store.create(node("a", "10.0.0.0/24"))
        async with self.running(store, leader, clock, "10.0.0.0/16"):
            await store.create(node("b"))

            await until(lambda: self.cidrs_are(store, "b", ("10.0.1.0/24",)))

    async def cidrs_are(self, store, name, wanted) -> bool:
        return await self.cidrs(store, name) == wanted

    async def test_exhaustion_is_said_and_taken_back(self, store, leader, clock):
        await store.create(node("a"))
        async with self.running(store, leader, clock, "10.0.0.0/24"):
            await until(lambda: self.cidrs_are(store, "a", ("10.0.0.0/24",)))
            await store.create(node("b"))
            await until(lambda: self.says(store, "b", "no IPv4 pod CIDR is left"))
            clock.now += 1
            await store.delete(CiliumNode, "a")
            await until(lambda: self.says(store, "b", "rest before"))
            clock.now += REST_S
            await store.create(node("c", "172.16.0.0/24"))

            await until(lambda: self.cidrs_are(store, "b", ("10.0.0.0/24",)))
            await until(lambda: self.says_nothing(store, "b"))

    async def says(self, store, name, text) -> bool:
        return text in await self.error(store, name)

    async def says_nothing(self, store, name) -> bool:
        return await self.error(store, name) == ""

    async def test_two_nodes_with_one_cidr_are_left_as_they_are_and_one_is_named(self, store, leader, clock):
        await store.create(node("a", "10.0.0.0/24"))
        await store.create(node("b", "10.0.0.0/24"))
        async with self.running(store, leader, clock, "10.0.0.0/16"):
            await until(lambda: self.says(store, "b", "is a's, which had it first"))

        assert await self.cidrs(store, "a") == await self.cidrs(store, "b") == ("10.0.0.0/24",)
        assert await self.error(store, "a") == ""


class TestRemoval:
    GRACE_S = 60.0

    @pytest.fixture
    def removal(self, leader, clock):
        return Removal(leader, self.GRACE_S, 15.0, clock)

    async def look(self, removal, clock, seconds: float) -> None:
        """Looks all through `seconds`, as the operator does."""
        for _ in range(int(seconds / 15)):
            clock.now += 15
            await removal.once()

    async def test_a_node_without_signs_of_life_goes_with_its_endpoints(self, store, removal, clock):
        leases = Leases(store, namespace=NODE_LEASES, clock=lambda: datetime(1999, 1, 1, tzinfo=UTC))
        for name in ("dead", "alive"):
            await store.create(node(name, address=f"192.168.0.{len(name)}"))
            await leases.acquire(name, name, 40)
            await store.create(endpoint(f"on-{name}", f"192.168.0.{len(name)}"))
        await removal.once()
        await self.look(removal, clock, 45)
        before = await names(store, CiliumNode)
        await leases.renew("alive", "alive")
        await self.look(removal, clock, 15)

        assert before == ["alive", "dead"]
        assert await names(store, CiliumNode) == ["alive"]
        assert await names(store, Lease) == ["alive"]
        assert await names(store, CiliumEndpoint) == ["on-alive"]

    async def test_a_store_that_was_away_makes_nobody_look_dead(self, store, removal, clock):
        await store.create(node("a"))
        await removal.once()
        await self.look(removal, clock, 45)
        store.away = True
        await self.look(removal, clock, 30)
        store.away = False
        await self.look(removal, clock, 60)

        assert await names(store, CiliumNode) == ["a"]

    async def test_an_operator_that_slept_begins_anew(self, store, removal, clock):
        await store.create(node("a"))
        await removal.once()
        clock.now += 3600
        await removal.once()

        assert await names(store, CiliumNode) == ["a"]

    async def test_who_renews_in_the_moment_of_the_removal_stays(self, store, removal, clock):
        leases = Leases(store, namespace=NODE_LEASES)
        await store.create(node("a"))
        await leases.acquire("a", "a", 40)
        await removal.once()
        await self.look(removal, clock, 45)
        delete = store.store.delete

        async def late(kind, name, namespace="", *, resource_version=""):
            await leases.renew("a", "a")
            await delete(kind, name, namespace, resource_version=resource_version)

        store.store.delete = late
        await self.look(removal, clock, 15)

        assert await names(store, CiliumNode) == ["a"]
        assert await names(store, Lease) == ["a"]

    async def test_endpoints_without_a_node_or_of_a_pod_that_is_gone_go(self, store, removal, clock):
        await store.create(node("a"))
        for name, at in (("lost", "nowhere"), ("unknown-pod", "a"), ("old-pod", "a"), ("pod", "a")):
            await store.create(endpoint(name, at))
        for name in ("old-pod", "pod"):
            await store.create(Pod(metadata=ObjectMeta(name=name, namespace="default")))
        leases = Leases(store, namespace=NODE_LEASES)
        await leases.acquire("a", "a", 40)
        await removal.once()
        await store.delete(Pod, "old-pod", "default")
        for _ in range(5):
            await leases.renew("a", "a")
            await self.look(removal, clock, 15)

        assert await names(store, CiliumEndpoint) == ["pod", "unknown-pod"]


class TestIdentities:
    async def test_unused_ones_are_marked_then_removed_and_used_ones_stay(self, store, leader, clock):
        collector = IdentityCollector(leader, 60.0, 15.0, clock)
        for number in ("300", "301"):
            await store.create(CiliumIdentity(metadata=ObjectMeta(name=number), security_labels={"k8s:app": number}))
        await store.create(endpoint("p", "a", 301))
        await collector.once()
        clock.now = 60
        await collector.once()
        marked = [MARK in each.metadata.annotations for each in (await store.list(CiliumIdentity)).items]
        await collector.once()
        clock.now = 120
        await collector.once()

        assert marked == [True, False]
        assert await names(store, CiliumIdentity) == ["301"]

    async def test_one_that_was_taken_up_meanwhile_stays(self, store, leader, clock):
        collector = IdentityCollector(leader, 60.0, 15.0, clock)
        made = await store.create(
            CiliumIdentity(
                metadata=ObjectMeta(name="300", annotations={MARK: "then"}), security_labels={"k8s:app": "web"}
            )
        )
        await collector.once()
        await store.replace(made.with_metadata(annotations={}))
        clock.now = 60
        await collector.once()

        assert await names(store, CiliumIdentity) == ["300"]
        with pytest.raises(NotFound):
            await store.get(CiliumIdentity, "301")
        assert msgspec.to_builtins(await store.get(CiliumIdentity, "300"))["metadata"].get("annotations") is None

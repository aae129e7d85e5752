"""What the node says of its pods in the store, and what it takes back."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from ipaddress import ip_address

import pytest

from pycilium.agent.endpoints.publishing import Publisher
from pycilium.agent.sources import Source
from pycilium.hubble.agent_events import AgentEventLog
from pycilium.model.identity import NODE_LOCAL_IDENTITIES
from pycilium.model.remote_endpoint import remote_endpoint_of
from pycilium.model.resources import CiliumEndpoint, ObjectMeta, OwnerReference, Pod
from pycilium.model.resources.cilium_objects import AddressPair, EndpointNetworking, EndpointStatus, NamedPort
from pycilium.store.sqlite import SqliteStore
from tests.unit.agent.nodes.test_publishing import CONFIG, GATEWAY, UNDERLAY, Publishing
from tests.unit.agent.test_controller import ENDPOINTS

WEB = replace(ENDPOINTS[0], pod_name="web", namespace="default")


@pytest.fixture
async def store(tmp_path):
    opened = SqliteStore(tmp_path / "store.db")
    yield opened
    await opened.close()


@contextlib.asynccontextmanager
async def publishing(store: SqliteStore, *endpoints, reading: bool = True):
    """A node that publishes and, with `reading`, reads what is published."""
    node = Publishing(store, hosts=(GATEWAY, UNDERLAY))
    await node.publisher.try_to_publish()
    with node.intent.db.write() as txn:
        for endpoint in endpoints:
            txn.insert(node.intent.endpoints, endpoint)
    publisher = Publisher(CONFIG, node.intent, store, AgentEventLog(), node.publisher)
    source = Source(CiliumEndpoint, node.intent.remote_endpoints, remote_endpoint_of)
    source.listed = publisher.endpoints_listed
    node.endpoints = source
    tasks = [asyncio.create_task(source.run(store, node.intent.db))] if reading else []
    try:
        if reading:
            await source.synced.wait()  # an agent publishes nothing before it has read
        tasks.append(asyncio.create_task(publisher.run()))
        yield node
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def published(store: SqliteStore, until) -> dict[str, CiliumEndpoint]:
    """What is published once it is as `until` says."""
    async with asyncio.timeout(20):
        while True:
            found = {each.metadata.name: each for each in (await store.list(CiliumEndpoint)).items}
            if until(found):
                return found
            await asyncio.sleep(0)


def node_of(found: dict[str, CiliumEndpoint], name: str) -> str:
    return found[name].status.networking.node


async def test_an_endpoint_names_the_address_of_its_node_also_when_that_changes(store):
    async with publishing(store, WEB) as node:
        first = await published(store, lambda found: "web" in found)
        node.set_hosts(GATEWAY, replace(UNDERLAY, address=ip_address("192.168.0.7")))
        await published(store, lambda found: node_of(found, "web") == "192.168.0.7")

    assert node_of(first, "web") == "192.168.0.1"


async def test_an_identity_of_the_node_alone_is_not_published(store):
    own = replace(WEB, pod_name="own", endpoint_id=9, sec_identity=NODE_LOCAL_IDENTITIES[0])
    async with publishing(store, own, WEB) as node:
        first = await published(store, lambda found: "web" in found)
        with node.intent.db.write() as txn:
            txn.insert(node.intent.endpoints, replace(own, sec_identity=4711))
        later = await published(store, lambda found: "own" in found)

    assert set(first) == {"web"}
    assert later["own"].status.identity.id == 4711


async def test_what_the_store_lost_is_published_again(store):
    async with publishing(store, WEB):
        await published(store, lambda found: "web" in found)
        await store.delete(CiliumEndpoint, "web", "default")
        await published(store, lambda found: "web" in found)


async def test_the_names_of_a_pods_ports_are_published_also_when_the_pod_is_known_later(store):
    port = {"name": "http", "containerPort": 8080}
    pod = Pod(metadata=ObjectMeta(name="web", namespace="default"), spec={"containers": [{"ports": [port]}]})

    async with publishing(store, WEB) as node:
        await published(store, lambda found: "web" in found)
        with node.intent.db.write() as txn:
            txn.insert(node.intent.pods, pod)
        found = await published(store, lambda found: found["web"].status.named_ports)

    assert found["web"].status.named_ports == (NamedPort(name="http", protocol="TCP", port=8080),)


async def test_what_came_and_was_lost_before_anybody_looked_is_published_again(store):
    async with publishing(store, WEB) as node:
        found = await published(store, lambda found: "web" in found)
    seen = remote_endpoint_of(found["web"])
    async with publishing(store, WEB, reading=False) as node:
        await published(store, lambda found: "web" in found)
        await asyncio.sleep(0.05)
        await store.delete(CiliumEndpoint, "web", "default")
        with node.intent.db.write() as txn:
            txn.insert(node.intent.remote_endpoints, seen)
        with node.intent.db.write() as txn:
            txn.delete(node.intent.remote_endpoints, found["web"].key)
        await published(store, lambda found: "web" in found)


async def test_what_was_lost_while_nobody_watched_and_before_it_was_ever_seen_is_published_again(store):
    async with publishing(store, WEB, reading=False) as node:
        await published(store, lambda found: "web" in found)
        await asyncio.sleep(0.05)
        await store.delete(CiliumEndpoint, "web", "default")
        node.endpoints.take_in(node.intent.db, await store.list_as(CiliumEndpoint, node.endpoints.convert_for_all))
        node.endpoints.listed()
        await published(store, lambda found: "web" in found)


@pytest.mark.parametrize(
    ("node", "address", "stays"),
    [
        ("192.168.0.1", "10.0.7.7", False),
        ("one", "10.0.7.7", False),
        ("192.168.0.99", "10.0.0.77", False),
        ("192.168.0.99", "10.0.7.7", True),
    ],
)
async def test_what_an_earlier_agent_left_is_taken_back_and_what_others_published_is_not(store, node, address, stays):
    status = EndpointStatus(networking=EndpointNetworking(addressing=(AddressPair(ipv4=address),), node=node))
    await store.create(CiliumEndpoint(metadata=ObjectMeta(name="old", namespace="default"), status=status))

    async with publishing(store, WEB):
        found = await published(store, lambda found: "web" in found and ("old" in found) is stays)

    assert ("old" in found) is stays


async def test_an_endpoint_belongs_to_its_pod_so_that_it_goes_with_it_and_to_the_next_of_that_name(store):
    async with publishing(store, WEB) as node:
        for uid in ("first", "second"):
            with node.intent.db.write() as txn:
                txn.insert(node.intent.pods, Pod(metadata=ObjectMeta(name="web", namespace="default", uid=uid)))
            found = await published(store, lambda found, uid=uid: [uid] == owners(found))

    assert found["web"].metadata.owner_references == (
        OwnerReference(api_version="v1", kind="Pod", name="web", uid="second"),
    )


def owners(found: dict[str, CiliumEndpoint]) -> list[str]:
    return [owner.uid for each in found.values() for owner in each.metadata.owner_references]

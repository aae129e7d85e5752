"""What the node says of itself in the store, beside what others say there, and under a name that is another's."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import msgspec
import pytest

from pycilium.agent.config import AgentConfig
from pycilium.agent.intent import HostAddress, Intent
from pycilium.agent.nodes.publishing import LEASE_S, NODE_LEASES, NodePublisher, node_ip
from pycilium.errors import InvalidResource
from pycilium.model.node import node_of
from pycilium.model.resources import CiliumNode, Lease, LeaseSpec, ObjectMeta
from pycilium.model.resources.cilium_objects import AddressPair, IpamSpec, NodeAddress, NodeSpec
from pycilium.store.sqlite import SqliteStore

GATEWAY = HostAddress(ip_address("10.0.0.1"), "cilium_host", 32, 9)
UNDERLAY = HostAddress(ip_address("192.168.0.1"), "eth0", 24, 2)
OTHER = HostAddress(ip_address("172.17.0.1"), "docker0", 16, 3)
CONFIG = AgentConfig(node_name="one", devices=["eth0"], ipv6_pod_cidr=None)


@pytest.fixture
async def store(tmp_path):
    opened = SqliteStore(tmp_path / "store.db")
    yield opened
    await opened.close()


class Publishing:
    """A node with addresses, and a clock."""

    def __init__(self, store: SqliteStore, config: AgentConfig = CONFIG, hosts=(GATEWAY, OTHER, UNDERLAY)) -> None:
        self.now_s = 1000.0
        self.intent = Intent.new()
        self.set_hosts(*hosts)
        self.publisher = NodePublisher(config, self.intent, store, "boot-1", elapsed=lambda: self.now_s)

    def set_hosts(self, *hosts: HostAddress) -> None:
        with self.intent.db.write() as txn:
            txn.replace_all(self.intent.host_addresses, hosts)


async def stored(store: SqliteStore) -> CiliumNode:
    return await store.get(CiliumNode, "one")


async def test_a_node_that_the_store_refuses_says_why_and_ends_no_agent(store):
    async def refuse(resource):
        raise InvalidResource("spec.health: not as the CustomResourceDefinition has it", source=resource.metadata.name)

    publishing = Publishing(store)
    create, store.create = store.create, refuse
    assert not await publishing.publisher.try_to_publish()
    assert publishing.publisher.problem == "one: spec.health: not as the CustomResourceDefinition has it"

    store.create = create
    assert await publishing.publisher.try_to_publish()
    assert not publishing.publisher.problem


async def test_it_says_where_it_is_reached_and_what_its_pods_have(store):
    assert await Publishing(store).publisher.try_to_publish()

    node = node_of(await stored(store))
    assert node.internal_ips == (UNDERLAY.address,)
    assert node.gateway_ips == (GATEWAY.address,)
    assert [str(cidr) for cidr in node.pod_cidrs] == ["10.0.0.0/24"]
    assert node.boot_id == "boot-1"


async def test_what_others_wrote_there_stays(store):
    theirs = NodeSpec(
        instance_id="i-7",
        ingress=AddressPair(ipv4="10.0.0.9"),
        addresses=(NodeAddress(type="ExternalIP", ip="203.0.113.1"), NodeAddress(type="InternalIP", ip="192.168.0.1")),
        ipam=IpamSpec(pod_cidrs=("10.9.0.0/24",), pre_allocate=8),
    )
    await store.create(CiliumNode(metadata=ObjectMeta(name="one", labels={"zone": "z"}), spec=theirs))

    await Publishing(store, msgspec.structs.replace(CONFIG, ipam="cluster-pool")).publisher.try_to_publish()

    node = await stored(store)
    assert (node.spec.instance_id, node.spec.ingress, node.spec.ipam) == ("i-7", theirs.ingress, theirs.ipam)
    assert node.metadata.labels == {"zone": "z"}
    assert [each.type for each in node.spec.addresses] == ["InternalIP", "CiliumInternalIP", "ExternalIP"]


async def test_another_address_is_published_while_it_runs(store):
    publishing = Publishing(store)
    await publishing.publisher.try_to_publish()

    moved = replace(UNDERLAY, address=ip_address("192.168.7.7"))
    publishing.set_hosts(GATEWAY, moved)
    await publishing.publisher.try_to_publish()

    assert node_of(await stored(store)).internal_ips == (moved.address,)


async def test_what_is_said_already_is_not_written_again(store):
    publishing = Publishing(store)
    await publishing.publisher.try_to_publish()
    version = (await stored(store)).metadata.resource_version

    await publishing.publisher.try_to_publish()

    assert (await stored(store)).metadata.resource_version == version


@pytest.mark.parametrize("years", [-10, 0, 10])
async def test_a_name_that_another_living_machine_has_is_left_to_it_whatever_its_clock_says(store, years):
    first = Publishing(store)
    await first.publisher.try_to_publish()
    said = datetime.now(UTC) + timedelta(days=365 * years)
    renewed = LeaseSpec(holder_identity="one", lease_duration_seconds=LEASE_S, renew_time=said)
    await store.create(Lease(metadata=ObjectMeta(name="one", namespace=NODE_LEASES), spec=renewed))
    second = Publishing(store, hosts=(replace(UNDERLAY, address=ip_address("192.168.0.2")),))

    published = await second.publisher.try_to_publish()
    second.now_s += LEASE_S + 1
    after_a_while = await second.publisher.try_to_publish()

    assert not published
    assert after_a_while
    assert node_of(await stored(store)).internal_ips == (ip_address("192.168.0.2"),)


async def test_the_refusal_names_the_other_and_says_what_to_do(store):
    first = Publishing(store)
    await first.publisher.try_to_publish()
    renewed = LeaseSpec(holder_identity="one")
    await store.create(Lease(metadata=ObjectMeta(name="one", namespace=NODE_LEASES), spec=renewed))
    second = Publishing(store, hosts=(replace(UNDERLAY, address=ip_address("192.168.0.2")),))

    await second.publisher.try_to_publish()

    assert second.publisher.problem == (
        "another machine, at 192.168.0.1, is node one, or was less than 40 s ago: give this one another node_name, or "
        "stop the other"
    )
    assert node_of(await stored(store)).internal_ips == (UNDERLAY.address,)


async def test_a_kubernetes_node_with_other_addresses_is_published_though_its_kubelet_renews_the_lease(store):
    first = Publishing(store)
    await first.publisher.try_to_publish()
    renewed = LeaseSpec(holder_identity="one", lease_duration_seconds=LEASE_S)
    await store.create(Lease(metadata=ObjectMeta(name="one", namespace=NODE_LEASES), spec=renewed))
    moved = Publishing(
        store,
        config=msgspec.structs.replace(CONFIG, kubernetes_node=True),
        hosts=(replace(UNDERLAY, address=ip_address("192.168.0.2")),),
    )

    assert await moved.publisher.try_to_publish()
    assert node_of(await stored(store)).internal_ips == (ip_address("192.168.0.2"),)


async def test_a_machine_that_was_started_again_takes_its_name_up(store):
    await Publishing(store).publisher.try_to_publish()
    again = NodePublisher(CONFIG, Publishing(store).intent, store, "boot-2")

    assert await again.try_to_publish()
    assert (await stored(store)).spec.bootid == "boot-2"


def test_endpoints_name_their_node_by_its_first_address_on_the_underlay():
    six = HostAddress(ip_address("fc00::1"), "eth0", 64, 2)

    assert node_ip((GATEWAY, six, OTHER, UNDERLAY), CONFIG) == "192.168.0.1"
    assert node_ip((six, UNDERLAY), msgspec.structs.replace(CONFIG, underlay_family="ipv6")) == "fc00::1"
    assert node_ip((GATEWAY,), CONFIG) == ""

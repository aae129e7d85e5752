"""What one packet costs on the path that nearly all take: known connection, no event, no policy.

The figures go into the test report (record_property) and decide nothing: a busy machine is no fault of ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from statistics import median

import pytest

from pycilium.datapath.layouts import Aggregation, ServiceFlags
from tests.bpf.conftest import NodeWith
from tests.bpf.masquerade import NODE, leaving
from tests.bpf.node import DB, WEB, Node
from tests.bpf.packets import address, from_network, from_pod, tcp
from tests.bpf.services import LOAD_BALANCER_IP, small_world
from tests.bpf.test_masquerade_ports import PORTS, take_ports

pytestmark = pytest.mark.root

REPEAT = 100_000
# The harness runs one packet again and again: DB's MACs are such that the rewritten packet is the same again.
MIRROR = replace(DB, mac=WEB.host_mac, host_mac=WEB.mac)


def establish(node: Node, family: int, to: object) -> bytes:
    node.endpoint(MIRROR)
    node.run("from_container", "web", bytes(from_pod(WEB, to, family) / tcp(40000, 80, "S")))
    return bytes(from_pod(WEB, to, family) / tcp(40000, 80, "A"))


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("to", [MIRROR, "world"], ids=["pod", "world"])
def test_established_tcp(
    node_with: NodeWith, record_property: Callable[[str, object], None], family: int, to: object
) -> None:
    node = node_with(aggregation=Aggregation.MEDIUM)
    packet = establish(node, family, to)

    cost_ns = min(node.nanoseconds("from_container", "web", packet, repeat=REPEAT) for _ in range(5))

    record_property("ns per packet of from_container", cost_ns)
    assert len(node.reader.read()) == 0


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("what", ["node", "pod", "reply", "new", "exhausted"])
def test_leaving_the_node(
    node_with: NodeWith, record_property: Callable[[str, object], None], family: int, what: str
) -> None:
    """A packet of the node, one of a masqueraded flow, one that stays as it is, a flow's first, a search in vain.

    Pods leave with the address of WEB itself: so the rewritten packet is the same again.
    """
    node = node_with(sizes={"nat4": 1 << 18, "nat6": 1 << 18}, aggregation=Aggregation.MEDIUM)
    node.masquerade("uplink", ipv4=WEB.ipv4, ipv6=WEB.ipv6)
    packet = bytes(leaving("node" if what == "node" else WEB, "world", family) / tcp(40000, 80, "A"))
    if what == "reply":
        node.run("from_netdev", "uplink", bytes(from_network("world", WEB, family) / tcp(80, 40000, "S")))
    elif what == "exhausted":
        take_ports(node, family, address(WEB, family), PORTS, 80)
    elif what != "new":
        node.run("from_container", "web", bytes(from_pod(WEB, "world", family) / tcp(40000, 80, "S")))

    if what == "new":
        one_each = [bytes(leaving(WEB, "world", family) / tcp(port, 80, "S")) for port in range(20000, 20300)]
        cost_ns = median(node.nanoseconds("to_netdev", "uplink", each, repeat=1) for each in one_each)
    else:
        repeat = 100 if what == "exhausted" else REPEAT
        cost_ns = min(node.nanoseconds("to_netdev", "uplink", packet, repeat=repeat) for _ in range(5))

    record_property("ns per packet of to_netdev", cost_ns)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("client", ["pod", "outside"])
def test_a_service(
    node_with: NodeWith, record_property: Callable[[str, object], None], family: int, client: str
) -> None:
    """One that is its own backend, in the world: so the packet stays the same; what writing it costs is not in here."""
    node = node_with(aggregation=Aggregation.MEDIUM)
    services = small_world(node)
    to = LOAD_BALANCER_IP[family]
    backend = services.backend(to if client == "pod" else NODE[family], 80)
    at = to if client == "pod" else NODE[family]
    services.frontend(at, 80, (backend,), (backend,), flags=ServiceFlags.EXTERNAL)
    program, device = ("from_container", "web") if client == "pod" else ("from_netdev", "uplink")
    head = from_pod(WEB, to, family) if client == "pod" else from_network("world", NODE[family], family)
    node.run(program, device, bytes(head / tcp(40000, 80, "S")))

    packet = bytes(head / tcp(40000, 80, "A"))
    cost_ns = min(node.nanoseconds(program, device, packet, repeat=REPEAT) for _ in range(5))

    record_property(f"ns per packet of {program}", cost_ns)
    assert services.flows(family)

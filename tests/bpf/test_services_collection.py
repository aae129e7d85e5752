"""What became of connections to services lives as long as they do: what the agent's collector takes, and leaves."""

from __future__ import annotations

import time

import pytest

from pycilium.datapath import conntrack, layouts, nat, service_flows
from tests.bpf.conftest import NodeWith
from tests.bpf.masquerade import NODE
from tests.bpf.node import DB, WEB
from tests.bpf.packets import address, from_network, from_pod, tcp
from tests.bpf.services import API, CLIENT, CLUSTER_IP, NODE_PORT, PORT, Services, small_world

pytestmark = pytest.mark.root

FAMILIES = pytest.mark.parametrize("family", [4, 6])
SPECS = {
    4: (layouts.CT4, layouts.NAT4, layouts.SERVICE_FLOWS4),
    6: (layouts.CT6, layouts.NAT6, layouts.SERVICE_FLOWS6),
}


@pytest.fixture
def services(node_with: NodeWith) -> Services:
    return small_world(node_with())


def collect(services: Services, family: int, later_s: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """(alive, removed) of mappings and of flows, at that time."""
    connections, mappings, flows = (services.node.map(spec).raw for spec in SPECS[family])
    now_s = int(time.monotonic()) + later_s
    conntrack.collect(connections, now_s)
    ports = nat.collect(mappings, connections, now_s)
    done = service_flows.collect(flows, connections, now_s)
    return (ports.alive, ports.removed), (done.alive, done.removed)


def arrive(services: Services, family: int) -> None:
    packet = from_network(CLIENT[family], NODE[family], family) / tcp(40000, NODE_PORT, "S")
    services.node.run("from_netdev", "uplink", bytes(packet))


@FAMILIES
@pytest.mark.parametrize("pod", [WEB, DB])
def test_a_pods_flow_goes_with_its_connection(services: Services, family: int, pod: object) -> None:
    services.cluster_ip(family, services.backend(address(pod, family)))  # type: ignore[arg-type]
    packet = from_pod(WEB, CLUSTER_IP[family], family) / tcp(40000, PORT, "S")
    services.node.run("from_container", "web", bytes(packet))
    ports = 1 if pod is WEB else 0

    assert collect(services, family, 30) == ((ports, 0), (2, 0))
    assert collect(services, family, 100) == ((0, ports), (0, 2))


@FAMILIES
def test_a_port_of_the_gateway_is_given_back(services: Services, family: int) -> None:
    services.node_port(family, services.backend(address(API, family)))
    arrive(services, family)

    assert collect(services, family, 30) == ((1, 0), (2, 0))
    assert collect(services, family, 100) == ((0, 1), (0, 2))


@FAMILIES
def test_an_idle_connection_to_the_node_itself_stays(services: Services, family: int) -> None:
    services.node_port(family, services.backend(NODE[family], 9100))
    arrive(services, family)

    assert collect(services, family, 7000) == ((1, 0), (2, 0))
    assert collect(services, family, 9000) == ((0, 1), (0, 2))

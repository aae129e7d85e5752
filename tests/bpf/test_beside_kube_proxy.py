"""Beside kube-proxy: what pods send is translated for services, and the stack sees both directions of all else."""

from __future__ import annotations

import pytest
from scapy.layers.l2 import Ether

from pycilium.datapath.layouts import ServiceFlags, TracePoint
from tests.bpf.conftest import NodeWith
from tests.bpf.masquerade import NODE
from tests.bpf.node import DB, GATEWAY4, GATEWAY6, IDENTITY_HOST, ROUTER_MAC, UPLINK_MAC, WEB, WORLD4, WORLD6, Verdict
from tests.bpf.packets import address, delivered, from_host, from_network, from_pod, tcp, to_stack
from tests.bpf.services import (
    API,
    CLIENT,
    CLUSTER_IP,
    NODE_PORT,
    PORT,
    TARGET_PORT,
    Services,
    small_world,
    turned,
    whole,
)

pytestmark = pytest.mark.root

FAMILIES = pytest.mark.parametrize("family", [4, 6])
GATEWAY = {4: GATEWAY4, 6: GATEWAY6}
WORLD = {4: WORLD4, 6: WORLD6}


@pytest.fixture
def services(node_with: NodeWith) -> Services:
    services = small_world(node_with(beside_kube_proxy=1))
    services.node.masquerade("uplink", ipv4=NODE[4], ipv6=NODE[6])
    for gateway in GATEWAY.values():
        services.node.identity(gateway, IDENTITY_HOST)
    return services


@FAMILIES
def test_a_pods_packet_to_a_service_is_translated(services: Services, family: int) -> None:
    backend = services.backend(address(WEB, family))
    services.frontend(CLUSTER_IP[family], PORT, (backend,))
    packet = from_pod(DB, CLUSTER_IP[family], family) / tcp(20000, PORT, "S")

    ran = services.node.run("from_container", "db", bytes(packet))

    assert ran.verdict == Verdict.REDIRECT
    assert (Ether(ran.packet)[1].dst, Ether(ran.packet)[2].dport) == (address(WEB, family), TARGET_PORT)


@FAMILIES
def test_what_comes_from_outside_for_a_node_port_is_left_to_the_stack(services: Services, family: int) -> None:
    services.node_port(family, services.backend(address(WEB, family)))
    packet = from_network(CLIENT[family], NODE[family], family) / tcp(20000, NODE_PORT, "S")

    ran = services.node.run("from_netdev", "uplink", bytes(packet))

    assert (ran.verdict, ran.packet, ran.events) == (Verdict.PASS, bytes(packet), [])


@FAMILIES
@pytest.mark.parametrize("masqueraded", [False, True])
def test_what_the_stack_sends_on_to_a_pod_is_answered_to_the_stack(
    services: Services, family: int, masqueraded: bool
) -> None:
    client = GATEWAY[family] if masqueraded else CLIENT[family]
    request = from_host(client, WEB, family) / tcp(20000, TARGET_PORT, "S")
    answer = from_pod(WEB, client, family) / tcp(TARGET_PORT, 20000, "SA")

    there = services.node.run("from_host", "cilium_host", bytes(request))
    back = services.node.run("from_container", "web", bytes(answer))

    assert (there.verdict, there.packet) == (Verdict.REDIRECT, bytes(delivered(request, WEB)))
    assert (back.verdict, back.packet) == (Verdict.REDIRECT, bytes(to_stack(answer)))


@FAMILIES
def test_the_stack_sees_what_comes_back_to_a_masqueraded_connection(services: Services, family: int) -> None:
    """Else it takes the next packet for one of no connection, which kube-proxy's rules drop."""
    node = services.node
    request = from_pod(WEB, WORLD[family], family) / tcp(20000, 80, "S")
    node.run("from_container", "web", bytes(request))
    leaving = Ether(src=UPLINK_MAC, dst=ROUTER_MAC) / request[1]
    port = Ether(node.run("to_netdev", "uplink", bytes(leaving)).packet)[2].sport
    reply = from_network(WORLD[family], NODE[family], family) / tcp(80, port, "SA")

    stack = node.run("from_netdev", "uplink", bytes(reply))
    on = from_host(WORLD[family], WEB, family) / tcp(80, 20000, "SA")
    pod = node.run("from_host", "cilium_host", bytes(on))

    assert (stack.verdict, stack.packet) == (
        Verdict.PASS,
        turned(reply, dst=address(WEB, family), dport=20000),
    )
    assert (pod.verdict, pod.packet) == (Verdict.REDIRECT, whole(delivered(on, WEB)))
    assert [event.subtype for event in (*stack.events, *pod.events)] == [TracePoint.TO_ENDPOINT]


def test_pods_of_nodes_on_the_same_link_go_past_the_stack(services: Services) -> None:
    services.reached_by("native")
    packet = from_network(API.ipv4, WEB, 4) / tcp(20000, 80, "S")

    ran = services.node.run("from_netdev", "uplink", bytes(packet))

    assert (ran.verdict, ran.packet) == (Verdict.REDIRECT, bytes(delivered(packet, WEB, hops=1)))


def test_a_pod_of_another_node_reaches_a_host_port_natively(services: Services) -> None:
    services.reached_by("native")
    services.frontend(NODE[4], 8088, (services.backend(WEB.ipv4),), flags=ServiceFlags.OWN_NODE)
    packet = from_network(API.ipv4, NODE[4], 4) / tcp(20000, 8088, "S")

    ran = services.node.run("from_netdev", "uplink", bytes(packet))

    there = turned(packet, dst=WEB.ipv4, dport=TARGET_PORT, esrc=WEB.host_mac, edst=WEB.mac, hops=1)
    assert (ran.verdict, ran.packet) == (Verdict.REDIRECT, there)


@FAMILIES
def test_the_nodes_own_packet_to_a_service_is_kube_proxys(services: Services, family: int) -> None:
    services.frontend(CLUSTER_IP[family], PORT)
    packet = Ether(src=UPLINK_MAC, dst=ROUTER_MAC) / from_network(NODE[family], CLUSTER_IP[family], family)[1]
    packet /= tcp(20000, PORT, "S")

    ran = services.node.run("to_netdev", "uplink", bytes(packet))

    assert (ran.verdict, ran.packet) == (Verdict.PASS, bytes(packet))

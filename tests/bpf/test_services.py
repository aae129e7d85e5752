"""Packets of pods to services: they get to a backend, and what comes back comes from the service."""

from __future__ import annotations

import pytest
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from tests.bpf.conftest import NodeWith
from tests.bpf.masquerade import NODE
from tests.bpf.node import DB, GATEWAY4, GATEWAY6, HOST_MAC, WEB, Node, Ran, Verdict
from tests.bpf.packets import address, from_host, from_network, from_pod, sctp, tcp, udp
from tests.bpf.services import (
    API,
    CLUSTER_IP,
    NODE2,
    NODE2_GATEWAY,
    NODE_PORT,
    PORT,
    TARGET_PORT,
    Services,
    assert_refused,
    small_world,
    turned,
)

pytestmark = pytest.mark.root

FAMILIES = pytest.mark.parametrize("family", [4, 6])
GATEWAY = {4: GATEWAY4, 6: GATEWAY6}
L4_OFFSET = {4: 34, 6: 54}
EPHEMERAL_PORTS = 32768
"""From here on the kernel gives ports to the node's own sockets, which have the gateway's address towards pods too."""
REQUESTS = {
    "tcp": lambda port: tcp(40000, port, "S"),
    "udp": lambda port: udp(40000, port),
    "sctp": lambda port: sctp(40000, port, "init"),
}
REPLIES = {"tcp": lambda port, to: tcp(port, to, "SA"), "udp": udp, "sctp": lambda port, to: sctp(port, to, "init ack")}
KINDS = pytest.mark.parametrize("kind", REQUESTS)


@pytest.fixture
def services(node_with: NodeWith) -> Services:
    return small_world(node_with())


def send(node: Node, packet: Packet) -> Ran:
    return node.run("from_container", "web", bytes(packet))


@FAMILIES
@KINDS
def test_a_backend_on_this_node_and_back(services: Services, family: int, kind: str) -> None:
    node = services.node
    service_id = services.cluster_ip(family, services.backend(address(DB, family), kind=kind), kind=kind)
    packet = from_pod(WEB, CLUSTER_IP[family], family) / REQUESTS[kind](PORT)

    ran = send(node, packet)

    there = turned(packet, dst=address(DB, family), dport=TARGET_PORT, esrc=DB.host_mac, edst=DB.mac)
    assert (ran.verdict, ran.packet) == (Verdict.REDIRECT, there)
    (event,) = ran.events
    assert (event.service_id, event.destination_port, event.destination_identity) == (
        service_id,
        TARGET_PORT,
        DB.identity,
    )

    reply = from_pod(DB, WEB, family) / REPLIES[kind](TARGET_PORT, 40000)
    ran = node.run("from_container", "db", bytes(reply))

    back = turned(reply, src=CLUSTER_IP[family], sport=PORT, esrc=WEB.host_mac, edst=WEB.mac)
    assert (ran.verdict, ran.packet) == (Verdict.REDIRECT, back)
    (event,) = ran.events
    assert (event.service_id, event.source_port, event.source_identity, event.is_reply) == (
        service_id,
        PORT,
        DB.identity,
        1,
    )


@FAMILIES
@KINDS
def test_the_client_itself_sees_the_gateway(services: Services, family: int, kind: str) -> None:
    node = services.node
    services.cluster_ip(family, services.backend(address(WEB, family), kind=kind), kind=kind)
    packet = from_pod(WEB, CLUSTER_IP[family], family) / REQUESTS[kind](PORT)

    ran = send(node, packet)

    port = int.from_bytes(ran.packet[L4_OFFSET[family] :][:2], "big")
    there = turned(
        packet,
        src=GATEWAY[family],
        dst=address(WEB, family),
        sport=port,
        dport=TARGET_PORT,
        esrc=WEB.host_mac,
        edst=WEB.mac,
    )
    assert (ran.verdict, ran.packet) == (Verdict.REDIRECT, there)
    assert port < EPHEMERAL_PORTS

    reply = from_pod(WEB, GATEWAY[family], family) / REPLIES[kind](TARGET_PORT, port)
    ran = send(node, reply)

    back = turned(
        reply,
        src=CLUSTER_IP[family],
        dst=address(WEB, family),
        sport=PORT,
        dport=40000,
        esrc=WEB.host_mac,
        edst=WEB.mac,
    )
    assert (ran.verdict, ran.packet) == (Verdict.REDIRECT, back)


@FAMILIES
def test_a_backend_in_the_network_of_the_node(services: Services, family: int) -> None:
    node = services.node
    services.cluster_ip(family, services.backend(NODE[family], 6443))
    packet = from_pod(WEB, CLUSTER_IP[family], family) / tcp(40000, PORT, "S")

    ran = send(node, packet)

    assert (ran.verdict, ran.packet) == (
        Verdict.REDIRECT,
        turned(packet, dst=NODE[family], dport=6443, edst=HOST_MAC),
    )

    reply = from_host(NODE[family], WEB, family) / tcp(6443, 40000, "SA")
    ran = node.run("from_host", "cilium_host", bytes(reply))

    back = turned(reply, src=CLUSTER_IP[family], sport=PORT, esrc=WEB.host_mac, edst=WEB.mac)
    assert (ran.verdict, ran.packet) == (Verdict.REDIRECT, back)


@FAMILIES
@pytest.mark.parametrize("mode", ["tunnel", "native"])
def test_a_backend_on_another_node(services: Services, family: int, mode: str) -> None:
    node = services.node
    services.reached_by(mode)
    services.cluster_ip(family, services.backend(address(API, family)))
    packet = from_pod(WEB, CLUSTER_IP[family], family) / tcp(40000, PORT, "S")

    ran = send(node, packet)

    by_stack = mode == "native" and family == 6  # no such next hop
    there = turned(
        packet,
        dst=address(API, family),
        dport=TARGET_PORT,
        hops=int(mode == "native" and not by_stack),
        **({"edst": HOST_MAC} if by_stack else {}),
    )
    assert (ran.verdict, ran.packet) == (Verdict.REDIRECT, there)


@FAMILIES
def test_the_node_port_of_another_node_leads_straight_to_a_backend(services: Services, family: int) -> None:
    any_node = "0.0.0.0" if family == 4 else "::"
    services.frontend(any_node, NODE_PORT, (services.backend(address(DB, family)),))
    packet = from_pod(WEB, NODE2[family], family) / tcp(40000, NODE_PORT, "S")

    ran = send(services.node, packet)

    assert ran.packet == turned(packet, dst=address(DB, family), dport=TARGET_PORT, esrc=DB.host_mac, edst=DB.mac)


@FAMILIES
@KINDS
def test_without_a_backend_the_client_is_told_at_once(services: Services, family: int, kind: str) -> None:
    service_id = services.cluster_ip(family, kind=kind)
    packet = from_pod(WEB, CLUSTER_IP[family], family) / REQUESTS[kind](PORT)

    ran = send(services.node, packet)

    assert_refused(ran, packet, family, service_id)


@FAMILIES
def test_an_answer_to_a_port_of_another_node_is_for_no_service(services: Services, family: int) -> None:
    """Its client came with a port of the gateway that is a NodePort, too."""
    node = services.node
    services.reached_by("native")
    any_node = "0.0.0.0" if family == 4 else "::"
    services.frontend(any_node, NODE_PORT, (services.backend(address(DB, family)),))
    opened = from_network(NODE2_GATEWAY[family], WEB, family) / tcp(NODE_PORT, TARGET_PORT, "S")
    assert node.run("from_netdev", "uplink", bytes(opened)).verdict == Verdict.REDIRECT

    ran = send(node, from_pod(WEB, NODE2_GATEWAY[family], family) / tcp(TARGET_PORT, NODE_PORT, "SA"))

    assert Ether(ran.packet)[1].dst == NODE2_GATEWAY[family]

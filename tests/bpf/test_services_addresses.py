"""What is sent to an address of services and taken by no frontend, or by one without backends: nobody waits for it."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP
from scapy.layers.inet6 import ICMPv6DestUnreach, IPv6ExtHdrFragment
from scapy.layers.l2 import Ether

from pycilium.datapath.layouts import DropReason, EventType
from tests.bpf.conftest import NodeWith
from tests.bpf.masquerade import arrive, leave, leaving
from tests.bpf.node import DB, IDENTITY_HOST, WEB, Verdict
from tests.bpf.packets import address, echo_request, from_network, from_pod, tcp, udp
from tests.bpf.services import (
    CLIENT,
    CLUSTER_IP,
    LOAD_BALANCER_IP,
    NODE2,
    NODE_ID,
    PORT,
    REMOTE_NODE,
    Services,
    assert_refused,
    small_world,
)

pytestmark = pytest.mark.root

FAMILIES = pytest.mark.parametrize("family", [4, 6])
OTHER_PORT = 81
REQUESTS = {
    "tcp": lambda _, port: tcp(40000, port, "S"),
    "tcp in between": lambda _, port: tcp(40000, port, "A"),
    "udp": lambda _, port: udp(40000, port),
    "ping": lambda family, _: echo_request(family),
}
KINDS = pytest.mark.parametrize("kind", REQUESTS)


@pytest.fixture
def services(node_with: NodeWith) -> Services:
    """With one cluster IP and one load balancer's address, at one port each."""
    services = small_world(node_with())
    for family in (4, 6):
        backend = services.backend(address(DB, family))
        services.cluster_ip(family, backend)
        services.frontend(LOAD_BALANCER_IP[family], PORT, (backend,), (backend,))
        services.address(CLUSTER_IP[family])
        services.address(LOAD_BALANCER_IP[family])
    return services


@FAMILIES
@KINDS
@pytest.mark.parametrize("addresses", [CLUSTER_IP, LOAD_BALANCER_IP], ids=["cluster IP", "load balancer"])
def test_a_pod_that_asks_for_a_port_that_no_frontend_has_is_refused_and_not_led_out_of_the_cluster(
    services: Services, family: int, kind: str, addresses: dict[int, str]
) -> None:
    packet = from_pod(WEB, addresses[family], family) / REQUESTS[kind](family, OTHER_PORT)

    assert_refused(services.node.run("from_container", "web", bytes(packet)), packet, family)


@FAMILIES
@KINDS
def test_a_client_outside_that_asks_for_such_a_port_is_refused(services: Services, family: int, kind: str) -> None:
    packet = from_network(CLIENT[family], LOAD_BALANCER_IP[family], family) / REQUESTS[kind](family, OTHER_PORT)

    assert_refused(arrive(services.node, packet), packet, family)


@FAMILIES
@KINDS
def test_the_node_itself_is_refused_too(services: Services, family: int, kind: str) -> None:
    packet = leaving("node", CLUSTER_IP[family], family) / REQUESTS[kind](family, OTHER_PORT)

    assert_refused(leave(services.node, packet), packet, family)


@FAMILIES
@pytest.mark.parametrize("kind", ["tcp", "udp"])
@pytest.mark.parametrize("alone", [True, False], ids=["cluster IP", "external IP"])
def test_the_nodes_own_connection_to_a_service_without_backends_does_not_time_out(
    services: Services, family: int, kind: str, alone: bool
) -> None:
    at = {4: "203.0.113.99", 6: "2001:db8:80::99"}[family]
    service_id = services.frontend(at, PORT, kind=kind)
    services.address(at, alone=alone)
    packet = leaving("node", at, family) / REQUESTS[kind](family, PORT)

    ran = leave(services.node, packet)

    assert_refused(ran, packet, family, service_id)


@FAMILIES
def test_the_nodes_own_connection_to_a_service_with_backends_is_for_its_socket_to_translate(
    services: Services, family: int
) -> None:
    packet = leaving("node", CLUSTER_IP[family], family) / tcp(40000, PORT, "S")

    ran = leave(services.node, packet)

    assert (ran.verdict, ran.packet) == (Verdict.PASS, bytes(packet))


@FAMILIES
@pytest.mark.parametrize("owner", ["this node", "another node", "somebody outside"])
def test_other_ports_of_an_address_that_a_machine_has_too_are_its_own(
    services: Services, family: int, owner: str
) -> None:
    at = {4: "203.0.113.99", 6: "2001:db8:80::99"}[family]
    services.address(at, alone=owner != "somebody outside")
    if owner == "this node":
        services.node.identity(at, IDENTITY_HOST)
    elif owner == "another node":
        services.node.identity(at, REMOTE_NODE, node_id=NODE_ID)

    for packet in (
        from_pod(WEB, at, family) / tcp(40000, OTHER_PORT, "S"),
        from_network(CLIENT[family], at, family) / tcp(40000, OTHER_PORT, "S"),
    ):
        program, device = ("from_container", "web") if packet.src == WEB.mac else ("from_netdev", "uplink")
        ran = services.node.run(program, device, bytes(packet))
        assert Ether(ran.packet)[1].dst == at
        assert [event.subtype for event in ran.events if event.type == EventType.DROP] == []


@FAMILIES
def test_what_is_for_other_ports_of_another_node_goes_there(services: Services, family: int) -> None:
    packet = leaving("node", NODE2[family], family) / tcp(40000, OTHER_PORT, "S")

    assert leave(services.node, packet).verdict == Verdict.PASS


@FAMILIES
def test_an_icmp_error_to_a_services_address_is_not_answered_with_another(services: Services, family: int) -> None:
    unreachable = ICMP(type=3, code=3) if family == 4 else ICMPv6DestUnreach(code=4)
    quoted = bytes((from_pod(DB, CLIENT[family], family) / tcp(1, 2, "A"))[1])
    packet = from_network(CLIENT[family], LOAD_BALANCER_IP[family], family) / unreachable / quoted

    assert arrive(services.node, packet).packet == bytes(packet)


@FAMILIES
def test_a_reset_for_nobody_is_dropped_in_silence(services: Services, family: int) -> None:
    packet = from_pod(WEB, CLUSTER_IP[family], family) / tcp(40000, OTHER_PORT, "R")

    ran = services.node.run("from_container", "web", bytes(packet))

    assert ran.verdict == Verdict.DROP


@FAMILIES
def test_what_is_left_of_a_fragmented_packet_for_nobody_is_dropped_in_silence(services: Services, family: int) -> None:
    rest = {"frag": 100} if family == 4 else {}
    extension = b"" if family == 4 else IPv6ExtHdrFragment(offset=100, nh=17)
    packet = from_network(CLIENT[family], LOAD_BALANCER_IP[family], family, **rest, **({"proto": 17} if rest else {}))

    ran = arrive(services.node, packet / extension / (b"x" * 64))

    (event,) = ran.events
    assert (ran.verdict, event.subtype) == (Verdict.DROP, DropReason.FRAGMENT_NOT_FOUND)

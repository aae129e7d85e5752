"""Direct server return: what leaves the node that a client has called, and what becomes of it at the backend's node."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from scapy.layers.inet import IP, IPOption
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from pycilium.datapath.layouts import CtState, Direction, DropReason, ServiceFlags, ServiceFlowFlags, TracePoint
from tests.bpf.conftest import NodeWith
from tests.bpf.masquerade import NODE, halves
from tests.bpf.node import WEB, Node, Ran, Verdict, packed
from tests.bpf.packets import address, from_network, from_pod, sctp, tcp, udp
from tests.bpf.services import (
    API,
    CLIENT,
    LOAD_BALANCER_IP,
    NODE2,
    NODE_PORT,
    PORT,
    TARGET_PORT,
    Services,
    small_world,
    told,
    turned,
)

pytestmark = pytest.mark.root

FAMILIES = pytest.mark.parametrize("family", [4, 6])
ANY = {4: "0.0.0.0", 6: "::"}
DIRECT = ServiceFlags.EXTERNAL | ServiceFlags.DSR
OPENED = {
    "tcp": (tcp(40000, NODE_PORT, "S"), tcp(40000, NODE_PORT, "A")),
    "sctp": (sctp(40000, NODE_PORT, "init"), sctp(40000, NODE_PORT)),
}
"""What opens a connection, and what comes next in it."""


@pytest.fixture
def services(node_with: NodeWith) -> Services:
    return small_world(node_with())


@pytest.fixture
def natively(node_with: NodeWith) -> Services:
    """Where there is no overlay, and options tell."""
    return small_world(node_with(overlay_ifindex=0))


def to_frontend(family: int, flags: str = "S") -> Packet:
    return from_network(CLIENT[family], NODE[family], family) / tcp(40000, NODE_PORT, flags)


def to_backend(packet: Packet, family: int, *, hops: int = 0) -> bytes:
    return turned(packet, dst=address(API, family), dport=TARGET_PORT, hops=hops)


def arrive(node: Node, packet: Packet | bytes, program: str = "from_netdev") -> Ran:
    return node.run(program, "uplink" if program == "from_netdev" else "cilium_vxlan", bytes(packet))


def reason(ran: Ran) -> tuple[Verdict, int]:
    (event,) = ran.events
    return ran.verdict, event.subtype


@FAMILIES
def test_a_backend_elsewhere_gets_the_client_and_what_it_called(services: Services, family: int) -> None:
    node = services.node
    service_id = services.node_port(family, services.backend(address(API, family)), flags=ServiceFlags.DSR)
    packet = to_frontend(family)

    ran = arrive(node, packet)

    assert ran.verdict == Verdict.REDIRECT
    assert ran.packet == told(to_backend(packet, family), NODE[family], NODE_PORT)
    (event,) = ran.events
    assert (event.subtype, event.service_id) == (TracePoint.TO_OVERLAY, service_id)
    assert not list(halves(node))


def test_natively_too(services: Services) -> None:
    services.reached_by("native")
    services.node_port(4, services.backend(API.ipv4), flags=ServiceFlags.DSR)
    packet = to_frontend(4)

    ran = arrive(services.node, packet)

    assert ran.packet == told(to_backend(packet, 4, hops=1), NODE[4], NODE_PORT)


@FAMILIES
@pytest.mark.parametrize("kind", OPENED)
def test_of_a_connection_only_what_opens_it_tells(services: Services, family: int, kind: str) -> None:
    node = services.node
    services.node_port(family, services.backend(address(API, family), kind=kind), kind=kind, flags=ServiceFlags.DSR)
    opening, packet = (from_network(CLIENT[family], NODE[family], family) / said for said in OPENED[kind])

    assert arrive(node, opening).packet == told(to_backend(opening, family), NODE[family], NODE_PORT)
    assert arrive(node, packet).packet == to_backend(packet, family)
    assert node.only_connection().state == CtState.ESTABLISHED


@FAMILIES
def test_every_datagram_tells(services: Services, family: int) -> None:
    backend = services.backend(address(API, family), kind="udp")
    services.node_port(family, backend, kind="udp", flags=ServiceFlags.DSR)
    packet = from_network(CLIENT[family], NODE[family], family) / udp(40000, NODE_PORT)

    first, second = (arrive(services.node, packet) for _ in range(2))

    assert first.packet == second.packet == told(to_backend(packet, family), NODE[family], NODE_PORT)


@FAMILIES
def test_a_datagram_must_leave_room_for_it(services: Services, family: int) -> None:
    """The client is told how much fits, of what it has sent itself."""
    backend = services.backend(address(API, family), kind="udp")
    services.node_port(family, backend, kind="udp", flags=ServiceFlags.DSR)
    room = 1450 - {4: 8, 6: 24}[family]
    headers = {4: 28, 6: 48}[family]
    fits, too_big = (
        from_network(CLIENT[family], NODE[family], family) / udp(40000, NODE_PORT, b"x" * (room - headers + more))
        for more in (0, 1)
    )

    assert arrive(services.node, fits).packet == told(to_backend(fits, family), NODE[family], NODE_PORT)
    ran = arrive(services.node, too_big)

    assert reason(ran) == (Verdict.REDIRECT, DropReason.FRAGMENTATION_NEEDED)
    answer = bytes(Ether(ran.packet)[1])
    stated = struct.unpack_from("!H", answer, 26)[0] if family == 4 else struct.unpack_from("!I", answer, 44)[0]
    assert stated == room


@FAMILIES
def test_clients_of_the_cluster_are_not_answered_directly(services: Services, family: int) -> None:
    services.node_port(family, services.backend(address(API, family)), flags=ServiceFlags.DSR)
    packet = from_network(NODE2[family], NODE[family], family) / tcp(40000, NODE_PORT, "S")

    arrive(services.node, packet)

    assert {int(entry.flags) & ServiceFlowFlags.DSR for entry in services.flows(family).values()} == {0}


@FAMILIES
def test_a_backend_in_the_network_of_another_node_sees_the_gateway(services: Services, family: int) -> None:
    services.node_port(family, services.backend(NODE2[family], 9100), flags=ServiceFlags.DSR)

    arrive(services.node, to_frontend(family))

    assert {int(entry.flags) & ServiceFlowFlags.DSR for entry in services.flows(family).values()} == {0}


def at_the_backend(family: int, flags: str = "S") -> Packet:
    return from_network(CLIENT[family], WEB, family) / tcp(40000, TARGET_PORT, flags)


@FAMILIES
def test_the_backends_node_takes_it_out_and_its_pod_answers_as_the_frontend(natively: Services, family: int) -> None:
    node = natively.node
    service_id = natively.frontend(LOAD_BALANCER_IP[family], PORT, flags=DIRECT)
    packet = at_the_backend(family)

    ran = arrive(node, told(packet, LOAD_BALANCER_IP[family], PORT))

    assert (ran.verdict, ran.packet) == (
        Verdict.REDIRECT,
        turned(packet, esrc=WEB.host_mac, edst=WEB.mac, hops=1),
    )
    (event,) = ran.events
    assert (event.subtype, event.service_id) == (TracePoint.TO_ENDPOINT, service_id)
    assert arrive(node, at_the_backend(family, "A")).packet == turned(
        at_the_backend(family, "A"), esrc=WEB.host_mac, edst=WEB.mac, hops=1
    )

    reply = from_pod(WEB, CLIENT[family], family) / tcp(TARGET_PORT, 40000, "SA")
    ran = node.run("from_container", "web", bytes(reply))

    event = ran.events[0]  # the test's namespace has no routes by which it could leave
    assert (event.subtype, event.service_id, event.is_reply) == (TracePoint.TO_NETWORK, service_id, 1)
    assert ran.packet == turned(reply, src=LOAD_BALANCER_IP[family], sport=PORT)


@FAMILIES
def test_what_was_called_may_be_the_port_of_another_node(natively: Services, family: int) -> None:
    natively.frontend(ANY[family], NODE_PORT, flags=DIRECT)
    packet = at_the_backend(family)

    ran = arrive(natively.node, told(packet, NODE2[family], NODE_PORT))

    assert ran.packet == turned(packet, esrc=WEB.host_mac, edst=WEB.mac, hops=1)


@FAMILIES
@pytest.mark.parametrize("flags", [None, ServiceFlags(0)])
def test_it_must_name_a_service_for_clients_outside(
    natively: Services, family: int, flags: ServiceFlags | None
) -> None:
    if flags is not None:
        natively.frontend(LOAD_BALANCER_IP[family], PORT, flags=flags)

    ran = arrive(natively.node, told(at_the_backend(family), LOAD_BALANCER_IP[family], PORT))

    assert reason(ran) == (Verdict.DROP, DropReason.INVALID_PACKET)


@FAMILIES
def test_a_connection_that_stands_keeps_its_name(natively: Services, family: int) -> None:
    """A client whose port two frontends lead to the same backend: the second is refused, as is a forged option."""
    node = natively.node
    natively.frontend(LOAD_BALANCER_IP[family], PORT, flags=DIRECT)
    natively.frontend(LOAD_BALANCER_IP[family], PORT + 1, flags=DIRECT)
    arrive(node, told(at_the_backend(family), LOAD_BALANCER_IP[family], PORT))
    flows = natively.flows(family)

    ran = arrive(node, told(at_the_backend(family), LOAD_BALANCER_IP[family], PORT + 1))

    assert reason(ran) == (Verdict.DROP, DropReason.NAT_NO_MAPPING)
    assert natively.flows(family) == flows


@FAMILIES
def test_an_option_of_another_kind_is_left_alone(natively: Services, family: int) -> None:
    packet = at_the_backend(family)
    if family == 4:
        packet[IP].options, packet[IP].ihl = [IPOption(b"\x94\x04\0\0")], None
    else:
        packet = packet[Ether].copy()
        rest = packet[IPv6].payload
        packet[IPv6].remove_payload()
        packet = packet / IPv6ExtHdrDestOpt() / rest
    packet = Ether(bytes(packet))

    ran = arrive(natively.node, packet)

    assert ran.packet == turned(packet, esrc=WEB.host_mac, edst=WEB.mac, hops=1)
    assert not natively.flows(family)


def wrapped(packet: Packet | bytes, family: int, sender: str, node: str, hops: int = 64) -> bytes:
    """The packet in an outer header from one node to the other."""
    frame = Ether(bytes(packet))
    if family == 4:
        outer: Packet = IP(src=sender, dst=node, id=0, flags="DF", ttl=hops, proto=4)
    else:
        outer = IPv6(src=sender, dst=node, hlim=hops, nh=41)
    return bytes(Ether(src=frame.src, dst=frame.dst, type=frame.type) / outer / frame[1])


Wrapping = Callable[[int], Services]


@pytest.fixture
def wrapping(node_with: NodeWith) -> Wrapping:
    """Where nodes tell each other in outer headers of a family."""
    return lambda family: small_world(node_with(dsr_outer_family=family))


def test_natively_an_outer_header_may_be_around_every_packet(wrapping: Wrapping) -> None:
    services = wrapping(4)
    services.reached_by("native")
    services.node_port(4, services.backend(API.ipv4), flags=ServiceFlags.DSR)

    opening, later = (arrive(services.node, to_frontend(4, flags)).packet for flags in ("S", "A"))

    inner = told(to_backend(to_frontend(4), 4), NODE[4], NODE_PORT)
    assert opening == wrapped(inner, 4, NODE[4], NODE2[4], hops=63)
    assert later == wrapped(to_backend(to_frontend(4, "A"), 4), 4, NODE[4], NODE2[4], hops=63)


@FAMILIES
def test_through_the_overlay_there_is_no_other_header(wrapping: Wrapping, family: int) -> None:
    services = wrapping(family)
    services.node_port(family, services.backend(address(API, family)), flags=ServiceFlags.DSR)
    packet = to_frontend(family)

    assert arrive(services.node, packet).packet == told(to_backend(packet, family), NODE[family], NODE_PORT)


@pytest.mark.parametrize(("kind", "bytes_over", "stated"), [("tcp", 1441, 1480), ("udp", 1445, 1472)])
def test_outer_headers_need_room(wrapping: Wrapping, kind: str, bytes_over: int, stated: int) -> None:
    """In every packet of TCP; of UDP with what is told besides."""
    services = wrapping(4)
    services.reached_by("native")
    services.node_port(4, services.backend(API.ipv4, kind=kind), kind=kind, flags=ServiceFlags.DSR)
    arrive(services.node, to_frontend(4))
    payload = b"x" * bytes_over
    large = to_frontend(4, "A") / payload
    if kind == "udp":
        large = from_network(CLIENT[4], NODE[4], 4) / udp(40000, NODE_PORT, payload)

    ran = arrive(services.node, large)

    assert reason(ran) == (Verdict.REDIRECT, DropReason.FRAGMENTATION_NEEDED)
    assert struct.unpack_from("!H", bytes(Ether(ran.packet)[1]), 26)[0] == stated


@FAMILIES
def test_the_backends_node_takes_the_outer_header_off(wrapping: Wrapping, family: int) -> None:
    services = wrapping(family)
    node = services.node
    service_id = services.frontend(LOAD_BALANCER_IP[family], PORT, flags=DIRECT)
    for flags in ("S", "A"):
        packet = at_the_backend(family, flags)
        inner = told(packet, LOAD_BALANCER_IP[family], PORT) if flags == "S" else packet

        ran = arrive(node, wrapped(inner, family, NODE2[family], NODE[family]))

        assert (ran.verdict, ran.packet) == (
            Verdict.REDIRECT,
            turned(packet, esrc=WEB.host_mac, edst=WEB.mac, hops=1),
        )
    reply = from_pod(WEB, CLIENT[family], family) / tcp(TARGET_PORT, 40000, "SA")
    ran = node.run("from_container", "web", bytes(reply))
    assert ran.packet == turned(reply, src=LOAD_BALANCER_IP[family], sport=PORT)
    assert ran.events[0].service_id == service_id


@FAMILIES
@pytest.mark.parametrize("sender", [CLIENT, {4: API.ipv4, 6: API.ipv6}, NODE], ids=["client", "pod", "this node"])
def test_an_outer_header_is_believed_of_nodes_alone(wrapping: Wrapping, family: int, sender: dict[int, str]) -> None:
    """Whoever reached the node could have had its pods answer with the address of any service."""
    services = wrapping(family)
    services.frontend(LOAD_BALANCER_IP[family], PORT, flags=DIRECT)
    forged = wrapped(told(at_the_backend(family), LOAD_BALANCER_IP[family], PORT), family, sender[family], NODE[family])

    ran = arrive(services.node, forged)

    assert reason(ran) == (Verdict.DROP, DropReason.UNKNOWN_SENDER)
    assert services.node.metrics()[Direction.INGRESS, DropReason.UNKNOWN_SENDER]
    assert (ran.events[0].source, ran.events[0].destination) == (packed(sender[family]), packed(NODE[family]))
    assert not services.flows(family)


@FAMILIES
@pytest.mark.parametrize("way", ["overlay", "outer headers"])
def test_an_option_is_believed_only_in_what_nodes_have_sent(node_with: NodeWith, family: int, way: str) -> None:
    """With an overlay, or with outer headers, a bare one is a client's own."""
    config = {} if way == "overlay" else {"dsr_outer_family": family, "overlay_ifindex": 0}
    services = small_world(node_with(**config))
    services.frontend(LOAD_BALANCER_IP[family], PORT, flags=DIRECT)

    ran = arrive(services.node, told(at_the_backend(family), LOAD_BALANCER_IP[family], PORT))

    assert reason(ran) == (Verdict.DROP, DropReason.UNKNOWN_SENDER)
    assert not services.flows(family)


def test_outer_headers_of_one_family_leave_the_other_to_options(node_with: NodeWith) -> None:
    """Clients of IPv6 heard nothing where nodes knew each other by IPv4."""
    services = small_world(node_with(dsr_outer_family=4, overlay_ifindex=0))
    services.frontend(LOAD_BALANCER_IP[6], PORT, flags=DIRECT)

    ran = arrive(services.node, told(at_the_backend(6), LOAD_BALANCER_IP[6], PORT))

    assert ran.packet == turned(at_the_backend(6), esrc=WEB.host_mac, edst=WEB.mac, hops=1)


@FAMILIES
@pytest.mark.parametrize("node", [NODE2, LOAD_BALANCER_IP])
def test_what_is_wrapped_for_others_is_left_alone(wrapping: Wrapping, family: int, node: dict[int, str]) -> None:
    services = wrapping(family)
    packet = wrapped(at_the_backend(family), family, NODE2[family], node[family])

    assert arrive(services.node, packet).verdict == Verdict.PASS

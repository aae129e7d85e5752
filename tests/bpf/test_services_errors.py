"""ICMP errors, fragments and what is not as it should be: through a translation and back."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, IPv6, IPv6ExtHdrFragment
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from pycilium.datapath.layouts import BackendState, DropReason, ServiceFlags
from tests.bpf.conftest import NodeWith
from tests.bpf.masquerade import NODE
from tests.bpf.node import DB, GATEWAY4, GATEWAY6, ROUTER_MAC, UPLINK_MAC, WEB, Node, Pod, Ran, Verdict
from tests.bpf.packets import address, from_network, from_pod, tcp, udp
from tests.bpf.services import (
    API,
    CLIENT,
    CLUSTER_IP,
    LOAD_BALANCER_IP,
    NODE_PORT,
    PORT,
    TARGET_PORT,
    Services,
    small_world,
    whole,
)

pytestmark = pytest.mark.root

FAMILIES = pytest.mark.parametrize("family", [4, 6])
GATEWAY = {4: GATEWAY4, 6: GATEWAY6}


@pytest.fixture
def services(node_with: NodeWith) -> Services:
    return small_world(node_with())


def unreachable(family: int) -> Packet:
    return ICMP(type=3, code=3) if family == 4 else ICMPv6DestUnreach(code=4)


def quoted(packet: bytes, family: int) -> Packet:
    """The packet that an error quotes."""
    frame = Ether(packet)
    raw = bytes(frame[ICMP].payload) if family == 4 else bytes(frame[ICMPv6DestUnreach].payload)
    return IP(raw) if family == 4 else IPv6(raw)


def ends(packet: Packet) -> tuple[str, int, str, int]:
    return packet.src, packet[UDP].sport, packet.dst, packet[UDP].dport


def bare(source: str, to: str, family: int) -> Packet:
    return IP(src=source, dst=to) if family == 4 else IPv6(src=source, dst=to)


def send(node: Node, packet: Packet) -> Ran:
    return node.run("from_container", "web", bytes(packet))


def arrive(node: Node, packet: Packet) -> Ran:
    return node.run("from_netdev", "uplink", bytes(packet))


# -- ICMP errors -----------------------------------------------------------------------------------------------------


@FAMILIES
def test_the_error_of_a_backend_is_about_what_the_client_has_sent(services: Services, family: int) -> None:
    node = services.node
    services.cluster_ip(family, services.backend(address(DB, family), kind="udp"), kind="udp")
    send(node, from_pod(WEB, CLUSTER_IP[family], family) / udp(40000, PORT))
    inner = bare(address(WEB, family), address(DB, family), family) / udp(40000, TARGET_PORT)

    ran = node.run("from_container", "db", bytes(from_pod(DB, WEB, family) / unreachable(family) / inner))

    assert ran.verdict == Verdict.REDIRECT
    assert Ether(ran.packet)[1].src == CLUSTER_IP[family]
    assert ends(quoted(ran.packet, family)) == (address(WEB, family), 40000, CLUSTER_IP[family], PORT)
    assert whole(Ether(ran.packet)) == ran.packet


@FAMILIES
def test_the_error_of_a_client_reaches_the_backend(services: Services, family: int) -> None:
    node = services.node
    services.cluster_ip(family, services.backend(address(DB, family), kind="udp"), kind="udp")
    send(node, from_pod(WEB, CLUSTER_IP[family], family) / udp(40000, PORT))
    inner = bare(CLUSTER_IP[family], address(WEB, family), family) / udp(PORT, 40000)

    ran = send(node, from_pod(WEB, CLUSTER_IP[family], family) / unreachable(family) / inner)

    assert ran.verdict == Verdict.REDIRECT
    assert Ether(ran.packet).dst == DB.mac
    assert ends(quoted(ran.packet, family)) == (address(DB, family), TARGET_PORT, address(WEB, family), 40000)
    assert whole(Ether(ran.packet)) == ran.packet


@FAMILIES
def test_the_error_of_a_client_outside_reaches_a_backend_here(services: Services, family: int) -> None:
    node = services.node
    services.node_port(family, services.backend(address(WEB, family), kind="udp"), kind="udp")
    arrive(node, from_network(CLIENT[family], NODE[family], family) / udp(40000, NODE_PORT))
    inner = bare(NODE[family], CLIENT[family], family) / udp(NODE_PORT, 40000)

    ran = arrive(node, from_network(CLIENT[family], NODE[family], family) / unreachable(family) / inner)

    assert ran.verdict == Verdict.REDIRECT
    assert Ether(ran.packet)[1].dst == address(WEB, family)
    assert ends(quoted(ran.packet, family)) == (address(WEB, family), TARGET_PORT, CLIENT[family], 40000)


@FAMILIES
def test_natively_the_error_of_a_backend_elsewhere_reaches_the_client(services: Services, family: int) -> None:
    node = services.node
    services.reached_by("native")
    services.node_port(family, services.backend(address(API, family), kind="udp"), kind="udp")
    arrive(node, from_network(CLIENT[family], NODE[family], family) / udp(20000, NODE_PORT))
    inner = bare(GATEWAY[family], address(API, family), family) / udp(20000, TARGET_PORT)

    ran = arrive(node, from_network(address(API, family), GATEWAY[family], family) / unreachable(family) / inner)

    assert ran.verdict == Verdict.REDIRECT
    assert (Ether(ran.packet)[1].src, Ether(ran.packet)[1].dst) == (NODE[family], CLIENT[family])
    assert ends(quoted(ran.packet, family)) == (CLIENT[family], 20000, NODE[family], NODE_PORT)
    assert whole(Ether(ran.packet)) == ran.packet


@FAMILIES
def test_the_error_of_the_node_about_a_backend_in_its_network(services: Services, family: int) -> None:
    node = services.node
    services.node_port(family, services.backend(NODE[family], 9100, kind="udp"), kind="udp")
    arrive(node, from_network(CLIENT[family], NODE[family], family) / udp(40000, NODE_PORT))
    inner = bare(CLIENT[family], NODE[family], family) / udp(40000, 9100)
    outer = bare(NODE[family], CLIENT[family], family) / unreachable(family) / inner

    ran = node.run("to_netdev", "uplink", bytes(Ether(src=UPLINK_MAC, dst=ROUTER_MAC) / outer))

    assert ends(quoted(ran.packet, family)) == (CLIENT[family], 40000, NODE[family], NODE_PORT)


# -- fragments -------------------------------------------------------------------------------------------------------


def fragments(to: str, family: int) -> list[Packet]:
    whole_packet = UDP(sport=40000, dport=PORT) / Raw(b"a" * 64)
    head = from_pod(WEB, to, family)
    data = bytes((bare(address(WEB, family), to, family) / whole_packet)[UDP])
    if family == 4:
        frame = Ether(src=WEB.mac, dst=WEB.host_mac)
        first = frame / IP(src=WEB.ipv4, dst=to, id=77, flags="MF", proto=17) / Raw(data[:32])
        later = frame / IP(src=WEB.ipv4, dst=to, id=77, frag=4, proto=17) / Raw(data[32:])
    else:
        first = head / IPv6ExtHdrFragment(nh=17, id=77, m=1, offset=0) / Raw(data[:32])
        later = head / IPv6ExtHdrFragment(nh=17, id=77, m=0, offset=4) / Raw(data[32:])
    return [first, later]


@FAMILIES
def test_later_fragments_go_with_the_first(services: Services, family: int) -> None:
    services.cluster_ip(family, services.backend(address(DB, family), kind="udp"), kind="udp")

    for packet in fragments(CLUSTER_IP[family], family):
        ran = send(services.node, packet)
        assert (ran.verdict, Ether(ran.packet)[1].dst) == (Verdict.REDIRECT, address(DB, family))


@FAMILIES
def test_a_later_fragment_without_its_first_is_dropped(services: Services, family: int) -> None:
    services.cluster_ip(family, services.backend(address(DB, family), kind="udp"), kind="udp")

    ran = send(services.node, fragments(CLUSTER_IP[family], family)[1])

    assert (ran.verdict, ran.events[0].subtype) == (Verdict.DROP, DropReason.FRAGMENT_NOT_FOUND)


# -- backends that come and go ---------------------------------------------------------------------------------------


def goes_to(ran: Ran) -> str:
    return str(Ether(ran.packet)[1].dst)


@FAMILIES
def test_a_connection_stays_with_a_terminating_backend_and_new_ones_go_elsewhere(
    services: Services, family: int
) -> None:
    node = services.node
    old, new = services.backend(address(DB, family)), services.backend(address(API, family))
    services.cluster_ip(family, old)
    send(node, from_pod(WEB, CLUSTER_IP[family], family) / tcp(40000, PORT, "S"))
    services.set_backend(old, address(DB, family), TARGET_PORT, state=BackendState.TERMINATING)
    services.cluster_ip(family, new)

    assert goes_to(send(node, from_pod(WEB, CLUSTER_IP[family], family) / tcp(40000, PORT, "A"))) == address(DB, family)
    for sport in (40000, 40001):
        packet = from_pod(WEB, CLUSTER_IP[family], family) / tcp(sport, PORT, "S")
        assert goes_to(send(node, packet)) == address(API, family)


@FAMILIES
def test_datagrams_go_on_to_another_backend_when_theirs_is_gone(services: Services, family: int) -> None:
    node = services.node
    old = services.backend(address(DB, family), kind="udp")
    services.cluster_ip(family, old, kind="udp")
    packet = from_pod(WEB, CLUSTER_IP[family], family) / udp(40000, PORT)
    assert goes_to(send(node, packet)) == address(DB, family)
    services.forget_backend(old)
    services.cluster_ip(family, services.backend(address(API, family), kind="udp"), kind="udp")

    assert goes_to(send(node, packet)) == address(API, family)


@FAMILIES
def test_what_was_forgotten_of_a_connection_is_made_anew(services: Services, family: int) -> None:
    node = services.node
    services.cluster_ip(family, services.backend(address(DB, family)))
    send(node, from_pod(WEB, CLUSTER_IP[family], family) / tcp(40000, PORT, "S"))
    services.forget_flows()

    assert goes_to(send(node, from_pod(WEB, CLUSTER_IP[family], family) / tcp(40000, PORT, "A"))) == address(DB, family)
    reply = from_pod(DB, WEB, family) / tcp(TARGET_PORT, 40000, "A")
    assert Ether(node.run("from_container", "db", bytes(reply)).packet)[1].src == CLUSTER_IP[family]


@FAMILIES
def test_an_answer_whose_flow_is_forgotten_is_dropped_rather_than_shown_from_the_backend(
    services: Services, family: int
) -> None:
    node = services.node
    services.cluster_ip(family, services.backend(address(DB, family)))
    send(node, from_pod(WEB, CLUSTER_IP[family], family) / tcp(40000, PORT, "S"))
    services.forget_flows()

    ran = node.run("from_container", "db", bytes(from_pod(DB, WEB, family) / tcp(TARGET_PORT, 40000, "SA")))

    assert (ran.verdict, ran.events[0].subtype) == (Verdict.DROP, DropReason.NAT_NO_MAPPING)


@FAMILIES
@pytest.mark.parametrize("first", ["the backend itself", "another frontend"])
def test_a_connection_whose_port_has_one_to_the_backend_already_gets_another_port(
    services: Services, family: int, first: str
) -> None:
    """The kernel gives one port to several connections, if what they call is different: here it is not."""
    node = services.node
    backend = services.backend(address(DB, family))
    services.cluster_ip(family, backend)
    services.frontend(LOAD_BALANCER_IP[family], PORT, (backend,))
    called = (DB, TARGET_PORT) if first == "the backend itself" else (LOAD_BALANCER_IP[family], PORT)
    send(node, from_pod(WEB, called[0], family) / tcp(40000, called[1], "S"))

    second = Ether(send(node, from_pod(WEB, CLUSTER_IP[family], family) / tcp(40000, PORT, "S")).packet)

    assert (second[1].src, second[1].dst) == (address(WEB, family), address(DB, family))
    assert second[TCP].sport != 40000
    answers = [Ether(answer_of_db(node, family, port).packet) for port in (40000, second[TCP].sport)]
    assert [(each[1].src, each[TCP].sport, each[1].dst, each[TCP].dport) for each in answers] == [
        (address(called[0], family), called[1], address(WEB, family), 40000),
        (CLUSTER_IP[family], PORT, address(WEB, family), 40000),
    ]
    assert [Ether(each).dst for each in map(bytes, answers)] == [WEB.mac, WEB.mac]
    again = Ether(send(node, from_pod(WEB, CLUSTER_IP[family], family) / tcp(40000, PORT, "A")).packet)
    assert again[TCP].sport == second[TCP].sport


@FAMILIES
def test_a_client_outside_may_call_two_frontends_of_a_backend_from_one_port(services: Services, family: int) -> None:
    node = services.node
    backend = services.backend(address(DB, family))
    services.node_port(family, backend)
    services.frontend(LOAD_BALANCER_IP[family], PORT, (backend,), (backend,), flags=ServiceFlags.EXTERNAL)
    calls = ((NODE[family], NODE_PORT), (LOAD_BALANCER_IP[family], PORT))
    made = [
        Ether(
            node.run(
                "from_netdev", "uplink", bytes(from_network(CLIENT[family], at, family) / tcp(2000, port, "S"))
            ).packet
        )
        for at, port in calls
    ]

    answers = [Ether(answer_of_db(node, family, each[TCP].sport, to=CLIENT[family]).packet) for each in made]

    assert [each[1].src for each in made] == [CLIENT[family]] * 2
    assert [(each[1].src, each[TCP].sport, each[1].dst, each[TCP].dport) for each in answers] == [
        (at, port, CLIENT[family], 2000) for at, port in calls
    ]


def answer_of_db(node: Node, family: int, port: int, to: Pod | str = WEB) -> Ran:
    return node.run("from_container", "db", bytes(from_pod(DB, to, family) / tcp(TARGET_PORT, port, "SA")))


# -- malformed -------------------------------------------------------------------------------------------------------


@FAMILIES
@pytest.mark.parametrize("program", ["from_container", "from_netdev"])
def test_garbage_is_dropped_or_left_as_it_was(services: Services, family: int, program: str) -> None:
    """Cut short or with a byte changed."""
    node = services.node
    services.cluster_ip(family, services.backend(address(DB, family)))
    services.node_port(family, services.backend(address(WEB, family)))
    outside = program == "from_netdev"
    good = bytes(
        from_network(CLIENT[family], NODE[family], family) / tcp(40000, NODE_PORT, "S")
        if outside
        else from_pod(WEB, CLUSTER_IP[family], family) / tcp(40000, PORT, "S")
    )
    shortest = 14 + (20 if family == 4 else 40)  # what the kernel takes for a packet

    @settings(max_examples=60, deadline=None)
    @given(length=st.integers(shortest, len(good)), at=st.integers(14, len(good) - 1), change=st.integers(0, 255))
    def agree(length: int, at: int, change: int) -> None:
        raw = bytearray(good[:length])
        raw[at % length] ^= change
        ran = node.run(program, "uplink" if outside else "web", bytes(raw))
        assert ran.verdict != Verdict.PASS or ran.packet == bytes(raw)

    agree()

"""ICMP errors pass because of the connection that they are about, and only then; else the policy judges them by type."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6PacketTooBig, ICMPv6TimeExceeded, IPv6, IPv6ExtHdrFragment
from scapy.packet import Packet, Raw

from pycilium.datapath.layouts import TracePoint, TraceReason
from tests.bpf.cases import Case, check, traced
from tests.bpf.node import DB, EGRESS, GATEWAY4, GATEWAY6, INGRESS, WEB, Node, Verdict
from tests.bpf.packets import delivered, echo_request, from_host, from_network, from_pod, tcp, udp

pytestmark = pytest.mark.root

FAMILIES = pytest.mark.parametrize("family", [4, 6])


@pytest.fixture
def node(node: Node) -> Node:
    """WEB is reached by replies and what relates to them alone; DB may open nothing."""
    node.row(WEB, INGRESS, 112)
    node.row(DB, EGRESS, 211)
    return node


def unreachable(family: int) -> Packet:
    return ICMP(type=3, code=3) if family == 4 else ICMPv6DestUnreach(code=4)


def time_exceeded(family: int) -> Packet:
    return ICMP(type=11) if family == 4 else ICMPv6TimeExceeded()


def too_big(family: int) -> Packet:
    return ICMP(type=3, code=4, nexthopmtu=1400) if family == 4 else ICMPv6PacketTooBig(mtu=1400)


def quote(packet: Packet, cut: int | None = None) -> Raw:
    """The network packet inside the frame, as an error carries it."""
    return Raw(bytes(packet.payload)[:cut])


def open_udp(node: Node, to: object, family: int) -> Packet:
    packet = from_pod(WEB, to, family) / udp(5000, 33434)
    assert node.run("from_container", "web", bytes(packet)).verdict == Verdict.REDIRECT
    return packet


@FAMILIES
@pytest.mark.parametrize("kind", [unreachable, time_exceeded, too_big])
def test_pod_about_the_connection_to_it(node: Node, family: int, kind: type[unreachable]) -> None:
    packet = from_pod(DB, WEB, family) / kind(family) / quote(open_udp(node, DB, family))
    fields = {
        "source_identity": DB.identity,
        "source_endpoint": 20,
        "destination_identity": WEB.identity,
        "destination_endpoint": 10,
        "egress_row": 101,
        "ingress_row": 202,
        "is_reply": 1,
        "egress_revision": 10,
        "ingress_revision": 20,
    }
    before = node.only_connection()

    check(
        node,
        Case(
            "",
            packet,
            Verdict.REDIRECT,
            lambda node: [
                traced(
                    node, packet, TracePoint.TO_ENDPOINT, TraceReason.RELATED, device="db", **ports(packet), **fields
                )
            ],
            delivered(packet, WEB),
            device="db",
        ),
    )
    assert node.only_connection() == before, "an error is no traffic of the connection"


def ports(_: Packet) -> dict[str, int]:
    """Scapy sees the quoted ports; the event of an ICMP packet has none."""
    return {"source_port": 0, "destination_port": 0}


@FAMILIES
def test_router_about_a_connection_to_the_world(node: Node, family: int) -> None:
    quoted = open_udp(node, "world", family)
    router = "192.0.2.1" if family == 4 else "2001:db8::1"
    packet = from_network(router, WEB, family) / time_exceeded(family) / quote(quoted)

    ran = node.run("from_netdev", "uplink", bytes(packet))

    assert (ran.verdict, [event.reason for event in ran.events]) == (Verdict.REDIRECT, [TraceReason.RELATED])


@FAMILIES
def test_node_as_router(node: Node, family: int) -> None:
    gateway = GATEWAY4 if family == 4 else GATEWAY6
    packet = from_host(gateway, WEB, family) / too_big(family) / quote(open_udp(node, "world", family))

    ran = node.run("from_host", "cilium_host", bytes(packet))

    assert (ran.verdict, [event.reason for event in ran.events]) == (Verdict.REDIRECT, [TraceReason.RELATED])


@FAMILIES
def test_origin_about_a_reply(node: Node, family: int) -> None:
    """WEB's port is closed again when DB's answer comes."""
    open_udp(node, DB, family)
    reply = from_pod(DB, WEB, family) / udp(33434, 5000)
    assert node.run("from_container", "db", bytes(reply)).verdict == Verdict.REDIRECT

    ran = node.run("from_container", "web", bytes(from_pod(WEB, DB, family) / unreachable(family) / quote(reply)))

    assert [(event.reason, event.is_reply) for event in ran.events] == [(TraceReason.RELATED, 0)]


@FAMILIES
@pytest.mark.parametrize("opened", [tcp(5000, 80, "S"), "echo"])
def test_about_tcp_and_echo(node: Node, family: int, opened: object) -> None:
    request = from_pod(WEB, DB, family) / (echo_request(family) if opened == "echo" else opened)
    node.run("from_container", "web", bytes(request))

    ran = node.run("from_container", "db", bytes(from_pod(DB, WEB, family) / unreachable(family) / quote(request)))

    assert [event.reason for event in ran.events] == [TraceReason.RELATED]


@FAMILIES
def test_quote_of_the_least_that_must_be_quoted(node: Node, family: int) -> None:
    """RFC 792: the IP header and 8 bytes."""
    cut = (20 if family == 4 else 40) + 8
    packet = from_pod(DB, WEB, family) / unreachable(family) / quote(open_udp(node, DB, family), cut)

    assert node.run("from_container", "db", bytes(packet)).verdict == Verdict.REDIRECT


@FAMILIES
class TestNotRelated:
    """Judged as any ICMP message by its type: denied here, since nobody may open anything to WEB."""

    def fate(self, node: Node, family: int, quoted: object, *, device: str = "db") -> tuple[int, int]:
        source = DB if device == "db" else "world"
        builder = from_pod if device == "db" else from_network
        packet = builder(source, WEB, family) / unreachable(family) / quoted
        program = "from_container" if device == "db" else "from_netdev"
        ran = node.run(program, device, bytes(packet))
        (event,) = ran.events
        assert event.is_reply == 2
        return ran.verdict, event.subtype

    def test_no_such_connection(self, node: Node, family: int) -> None:
        quoted = quote(from_pod(WEB, DB, family) / udp(5000, 33434))
        assert self.fate(node, family, quoted) == (Verdict.DROP, 133)

    def test_quote_cut_short(self, node: Node, family: int) -> None:
        open_udp(node, DB, family)
        for cut in (0, 10, (20 if family == 4 else 40) + 7):
            quoted = quote(from_pod(WEB, DB, family) / udp(5000, 33434), cut)
            assert self.fate(node, family, quoted) == (Verdict.DROP, 133)

    def test_pod_about_a_connection_of_others(self, node: Node, family: int) -> None:
        """A pod is no router: it may not tear down what WEB has with the world."""
        quoted = quote(open_udp(node, "world", family))
        assert self.fate(node, family, quoted) == (Verdict.DROP, 133)

    def test_quote_of_a_packet_that_its_receiver_never_sent(self, node: Node, family: int) -> None:
        open_udp(node, "world", family)
        quoted = quote(from_network("world", WEB, family) / udp(33434, 5000))
        assert self.fate(node, family, quoted, device="uplink") == (Verdict.DROP, 133)

    def test_connection_that_is_no_longer_allowed(self, node: Node, family: int) -> None:
        quoted = quote(open_udp(node, DB, family))
        node.policy(DB, revision=99)
        assert self.fate(node, family, quoted) == (Verdict.DROP, 133)

    def test_quote_of_a_later_fragment(self, node: Node, family: int) -> None:
        open_udp(node, DB, family)
        if family == 4:
            inner = IP(src=WEB.ipv4, dst=DB.ipv4, proto=17, frag=10) / Raw(bytes(UDP(sport=5000, dport=33434)))
        else:
            inner = IPv6(src=WEB.ipv6, dst=DB.ipv6) / IPv6ExtHdrFragment(nh=17, offset=10) / Raw(bytes(16))
        assert self.fate(node, family, Raw(bytes(inner))) == (Verdict.DROP, 133)


def test_first_fragment_is_quoted(node: Node) -> None:
    open_udp(node, DB, 6)
    inner = IPv6(src=WEB.ipv6, dst=DB.ipv6) / IPv6ExtHdrFragment(nh=17, offset=0, m=1) / UDP(sport=5000, dport=33434)
    packet = from_pod(DB, WEB, 6) / unreachable(6) / Raw(bytes(inner))

    assert node.run("from_container", "db", bytes(packet)).verdict == Verdict.REDIRECT


def test_errors_may_be_allowed_by_type(node: Node) -> None:
    node.row(DB, EGRESS, 212, allow={0}, protocol=1, port=3)
    node.row(WEB, INGRESS, 113, allow={0}, protocol=1, port=3)
    packet = from_pod(DB, WEB, 4) / unreachable(4) / quote(from_pod(WEB, DB, 4) / udp(1, 2))

    assert node.run("from_container", "db", bytes(packet)).verdict == Verdict.REDIRECT
    assert node.connections() == []

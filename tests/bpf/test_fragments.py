"""Fragments: the first one's ports speak for the later ones; none passes unjudged."""

from __future__ import annotations

import sys

import pytest
from scapy.layers.inet import UDP
from scapy.layers.inet6 import IPv6ExtHdrFragment
from scapy.packet import Packet, Raw

from pycilium.datapath import layouts
from pycilium.datapath.layouts import TracePoint, TraceReason
from tests.bpf.cases import Case, check, dropped, traced
from tests.bpf.node import DB, EGRESS, INGRESS, WEB, Node, Pod, Verdict, packed
from tests.bpf.packets import delivered, echo_reply, echo_request, from_host, from_network, from_pod

pytestmark = pytest.mark.root

FAMILIES = pytest.mark.parametrize("family", [4, 6])
BOTH = {
    "source_identity": WEB.identity,
    "source_endpoint": 10,
    "egress_revision": 10,
    "destination_identity": DB.identity,
    "destination_endpoint": 20,
    "ingress_revision": 20,
    "egress_row": 101,
    "ingress_row": 202,
}


def fragment(
    family: int,
    offset: int,
    payload: Packet,
    *,
    more: bool,
    identification: int = 7,
    protocol: int = 17,
    source: Pod = WEB,
    to: Pod = DB,
) -> Packet:
    """`offset` in units of 8 bytes."""
    if family == 4:
        fields = {"frag": offset, "flags": "MF" if more else 0, "id": identification, "proto": protocol}
        return from_pod(source, to, 4, **fields) / Raw(bytes(payload))
    header = IPv6ExtHdrFragment(nh=protocol, offset=offset, m=int(more), id=identification)
    return from_pod(source, to, 6) / header / Raw(bytes(payload))


def first(family: int, **fields: object) -> Packet:
    return fragment(family, 0, UDP(sport=5000, dport=53) / Raw(bytes(56)), more=True, **fields)


def later(family: int, **fields: object) -> Packet:
    return fragment(family, 8, Raw(bytes(40)), more=False, **fields)


# As the first fragment has them; scapy does not look for them in a fragment.
PORTS = {"protocol": 17, "source_port": 5000, "destination_port": 53, "icmp_type": 0, "icmp_code": 0}


@FAMILIES
@pytest.mark.parametrize("place", ["first", "later"])
def test_first_and_later(node: Node, family: int, place: str) -> None:
    if place == "later":
        node.run("from_container", "web", bytes(first(family)))
    packet = first(family) if place == "first" else later(family)
    reason = TraceReason.NEW if place == "first" else TraceReason.ESTABLISHED
    events = lambda node: [traced(node, packet, TracePoint.TO_ENDPOINT, reason, **BOTH, **PORTS)]  # noqa: E731

    check(node, Case("", packet, Verdict.REDIRECT, events, delivered(packet, DB)))

    identification = (7).to_bytes(2 if family == 4 else 4, "big")
    key = layouts.FragmentKey(
        source=packed(WEB.ipv4 if family == 4 else WEB.ipv6),
        destination=packed(DB.ipv4 if family == 4 else DB.ipv6),
        identification=int.from_bytes(identification, sys.byteorder),
        protocol=17,
    )
    assert dict(node.map(layouts.FRAGMENTS).items()) == {key: layouts.FragmentEntry(5000, 53)}


@FAMILIES
def test_later_without_first(node: Node, family: int) -> None:
    packet = later(family)
    fields = {"source_identity": WEB.identity, "source_endpoint": 10, "egress_revision": 10, "protocol": 17}

    check(
        node,
        Case("", packet, Verdict.DROP, lambda node: [dropped(node, packet, 175, EGRESS, **fields)]),
    )


@FAMILIES
@pytest.mark.parametrize("change", [{"identification": 8}, {"protocol": 6}, {"to": WEB}])
def test_first_of_another_packet(node: Node, family: int, change: dict[str, object]) -> None:
    node.run("from_container", "web", bytes(first(family)))
    assert node.run("from_container", "web", bytes(later(family, **change))).events[0].subtype == 175


@FAMILIES
def test_pod_leaves_no_ports_for_others(node: Node, family: int) -> None:
    """WEB sends first fragments in the name of DB: spoofed ones must not speak for DB's own."""
    forged = first(family, source=DB, to=WEB)
    forged.src = WEB.mac
    assert node.run("from_container", "web", bytes(forged)).events[0].subtype == 132
    genuine = later(family, source=DB, to=WEB)
    assert node.run("from_container", "db", bytes(genuine)).events[0].subtype == 175


@FAMILIES
def test_later_is_denied_with_its_first(node: Node, family: int) -> None:
    node.row(DB, INGRESS, 211)
    node.row(DB, INGRESS, 212, allow={0}, protocol=17, port=54)
    for packet in (first(family), later(family)):
        (event,) = node.run("from_container", "web", bytes(packet)).events
        assert (event.subtype, event.destination_port, event.ingress_row) == (133, 53, 211)


@FAMILIES
@pytest.mark.parametrize("kind", [echo_request, echo_reply])
def test_ping_larger_than_the_link(node: Node, family: int, kind: type[echo_request]) -> None:
    icmp = 1 if family == 4 else 58
    source, to, device = (WEB, DB, "web") if kind is echo_request else (DB, WEB, "db")
    node.run("from_container", "web", bytes(from_pod(WEB, DB, family) / echo_request(family, 9)))
    big = fragment(family, 0, kind(family, 9) / Raw(bytes(56)), more=True, protocol=icmp, source=source, to=to)
    rest = fragment(family, 8, Raw(bytes(40)), more=False, protocol=icmp, source=source, to=to)

    for packet in (big, rest):
        ran = node.run("from_container", device, bytes(packet))
        assert ran.verdict == Verdict.REDIRECT
        assert ran.events[0].reason == (TraceReason.ESTABLISHED if kind is echo_request else TraceReason.REPLY)
        assert ran.events[0].icmp_type == bytes(kind(family))[0]


def test_atomic_fragment_is_a_whole_packet(node: Node) -> None:
    packet = fragment(6, 0, UDP(sport=5000, dport=53) / Raw(b"x"), more=False)
    assert node.run("from_container", "web", bytes(packet)).events[0].destination_port == 53
    assert list(node.map(layouts.FRAGMENTS).items()) == []


@FAMILIES
@pytest.mark.parametrize(("program", "builder"), [("from_host", from_host), ("from_netdev", from_network)])
def test_from_host_and_network(node: Node, family: int, program: str, builder: type[from_host]) -> None:
    device = "cilium_host" if program == "from_host" else "uplink"
    for packet, verdict in (
        (later(family), Verdict.DROP),
        (first(family), Verdict.REDIRECT),
        (later(family), Verdict.REDIRECT),
    ):
        head = builder("world", DB, family)
        packet.src, packet.dst = head.src, head.dst
        packet[1].src = head[1].src
        if family == 4:
            packet[1].chksum = None
        assert node.run(program, device, bytes(packet)).verdict == verdict

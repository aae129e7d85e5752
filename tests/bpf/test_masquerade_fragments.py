"""Fragments of masqueraded flows: all of a packet's leave with one address, and all that come back reach the pod."""

from __future__ import annotations

import pytest
from scapy.layers.inet import UDP
from scapy.layers.inet6 import IPv6ExtHdrFragment
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from tests.bpf.conftest import NodeWith
from tests.bpf.masquerade import NODE, arrive, coming, leave, leaving
from tests.bpf.node import DB, IDENTITY_HOST, WEB, Node, Pod, Verdict
from tests.bpf.packets import address, udp

pytestmark = pytest.mark.root

FAMILIES = pytest.mark.parametrize("family", [4, 6])


@pytest.fixture
def node(node_with: NodeWith) -> Node:
    made = node_with()
    made.masquerade("uplink", ipv4=NODE[4], ipv6=NODE[6])
    for own in NODE.values():
        made.identity(own, IDENTITY_HOST)
    return made


def fragments(whole: Packet, family: int, identification: int = 7) -> list[Packet]:
    """The packet in two pieces, its UDP checksum that of the whole."""
    payload = bytes(Ether(bytes(whole))[1].payload)
    cut = 64
    parts = []
    for offset, part, more in ((0, payload[:cut], True), (cut // 8, payload[cut:], False)):
        head = whole.copy()
        head[1].remove_payload()
        if family == 4:
            head[1].frag, head[1].flags, head[1].id, head[1].proto = offset, int(more), identification, 17
            parts.append(head / Raw(part))
        else:
            parts.append(head / IPv6ExtHdrFragment(nh=17, offset=offset, m=int(more), id=identification) / Raw(part))
    return parts


def joined(raw: list[bytes], family: int) -> Packet:
    """What the receiver puts together."""
    start = 34 if family == 4 else 62
    header = Ether(raw[0])
    return UDP(b"".join(part[start:] for part in raw)), header[1].src, header[1].dst


def checksum_holds(datagram: Packet, source: str, destination: str, family: int) -> bool:
    again = leaving(source, destination, family) / UDP(bytes(datagram))
    del again[UDP].chksum
    return Ether(bytes(again))[UDP].chksum == datagram.chksum


@FAMILIES
@pytest.mark.parametrize("port_is_taken", [False, True])
def test_all_fragments_leave_as_of_the_node(node: Node, family: int, port_is_taken: bool) -> None:
    if port_is_taken:
        leave(node, leaving(DB, "world", family) / udp(40000, 53))
    parts = fragments(leaving(WEB, "world", family) / udp(40000, 53, bytes(range(100))), family)

    raw = []
    for part in parts:
        node.run("from_container", "web", bytes(Ether(src=WEB.mac, dst=WEB.host_mac) / part[1]))
        ran = leave(node, part)
        assert ran.verdict == Verdict.PASS
        raw.append(ran.packet)

    datagram, source, destination = joined(raw, family)
    assert all(Ether(each)[1].src == NODE[family] for each in raw)
    assert (datagram.sport == 40000) != port_is_taken
    assert checksum_holds(datagram, source, destination, family)


@FAMILIES
@pytest.mark.parametrize("port_is_taken", [False, True])
def test_all_fragments_that_come_back_reach_the_pod(node: Node, family: int, port_is_taken: bool) -> None:
    if port_is_taken:
        leave(node, leaving(DB, "world", family) / udp(40000, 53))
    request = leaving(WEB, "world", family) / udp(40000, 53)
    node.run("from_container", "web", bytes(Ether(src=WEB.mac, dst=WEB.host_mac) / request[1]))
    port = Ether(leave(node, request).packet)[UDP].sport

    ran = [
        arrive(node, part) for part in fragments(coming("world", "node", family) / udp(53, port, bytes(100)), family)
    ]

    assert [each.verdict for each in ran] == [Verdict.REDIRECT] * 2
    assert {(Ether(each.packet).dst, Ether(each.packet)[1].dst) for each in ran} == {(WEB.mac, address(WEB, family))}
    datagram, source, destination = joined([each.packet for each in ran], family)
    assert datagram.dport == 40000
    assert checksum_holds(datagram, source, destination, family)


@FAMILIES
def test_later_fragment_of_a_pod_without_its_first_is_not_let_out(node: Node, family: int) -> None:
    _, later = fragments(leaving(WEB, "world", family) / udp(40000, 53, bytes(100)), family)
    ran = leave(node, later)
    assert (ran.verdict, ran.events[0].subtype) == (Verdict.DROP, 175)


@FAMILIES
def test_fragments_of_the_node_are_left_alone(node: Node, family: int) -> None:
    leave(node, leaving(WEB, "world", family) / udp(40000, 53))
    for part in fragments(leaving("node", "world", family) / udp(40001, 53, bytes(100)), family):
        assert leave(node, part).packet == bytes(part)
    for part in fragments(coming("world", "node", family) / udp(53, 40001, bytes(100)), family):
        ran = arrive(node, part)
        assert (ran.verdict, ran.packet) == (Verdict.PASS, bytes(part))


@FAMILIES
def test_fragments_of_the_node_that_meet_the_port_of_a_pod(node: Node, family: int) -> None:
    leave(node, leaving(WEB, "world", family) / udp(40000, 53))
    parts = fragments(leaving("node", "world", family) / udp(40000, 53, bytes(100)), family)
    raw = [leave(node, part).packet for part in parts]
    datagram, source, destination = joined(raw, family)
    assert (datagram.sport != 40000, source) == (True, NODE[family])
    assert checksum_holds(datagram, source, destination, family)


@FAMILIES
def test_fragments_of_another_pod_do_not_mix(node: Node, family: int) -> None:
    """Both send under one identification, so only the pods' own addresses tell their later fragments apart."""
    ports: dict[Pod, int] = {}
    for pod in (WEB, DB):
        first, later = fragments(leaving(pod, "world", family) / udp(40000, 53, bytes(100)), family)
        raw = [leave(node, first).packet, leave(node, later).packet]
        ports[pod] = joined(raw, family)[0].sport
    assert len(set(ports.values())) == 2

"""Masquerade: what pods say to the outside leaves with the node's address, and what comes back finds its pod."""

from __future__ import annotations

import socket

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6PacketTooBig, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from pycilium.datapath import layouts
from pycilium.datapath.layouts import NatDirection, ReservedIdentity, TraceReason
from tests.bpf.cases import dropped, timeless
from tests.bpf.conftest import NodeWith
from tests.bpf.masquerade import (
    NODE,
    arrive,
    coming,
    halves,
    is_consistent,
    leave,
    leaving,
    sent,
    source_port,
    whole,
)
from tests.bpf.node import DB, EGRESS, IDENTITY_HOST, INGRESS, WEB, Node, Verdict, packed
from tests.bpf.packets import address, delivered, echo_reply, echo_request, from_network, sctp, tcp, udp

pytestmark = pytest.mark.root

FAMILIES = pytest.mark.parametrize("family", [4, 6])
REQUESTS = {
    "tcp": lambda _: tcp(40000, 443, "S"),
    "udp": lambda _: udp(40000, 53),
    "sctp": lambda _: sctp(40000, 36412, "init"),
    "ping": echo_request,
}
REPLIES = {
    "tcp": lambda port, _: tcp(443, port, "SA"),
    "udp": lambda port, _: udp(53, port),
    "sctp": lambda port, _: sctp(36412, port, "init ack"),
    "ping": lambda identifier, family: echo_reply(family, identifier),
}
KINDS = pytest.mark.parametrize("kind", REQUESTS)


@pytest.fixture
def node(node_with: NodeWith) -> Node:
    made = node_with()
    made.masquerade("uplink", ipv4=NODE[4], ipv6=NODE[6])
    for own in NODE.values():
        made.identity(own, IDENTITY_HOST)
    return made


def as_node(packet: Packet, family: int) -> Packet:
    """The same from the node's address."""
    out = Ether(bytes(packet))
    out[1].src = NODE[family]
    return out


# -- there and back --------------------------------------------------------------------------------------------------


@FAMILIES
@KINDS
def test_leaves_with_the_address_of_the_node_and_its_own_port(node: Node, family: int, kind: str) -> None:
    packet = leaving(WEB, "world", family) / REQUESTS[kind](family)

    assert bytes(sent(node, packet)) == whole(as_node(packet, family))
    assert {half.direction for half in halves(node)} == {NatDirection.OUT, NatDirection.IN}
    assert is_consistent(node)


@FAMILIES
@KINDS
def test_what_comes_back_finds_its_pod(node: Node, family: int, kind: str) -> None:
    request = leaving(WEB, "world", family) / REQUESTS[kind](family)
    node.run("from_container", "web", bytes(Ether(src=WEB.mac, dst=WEB.host_mac) / request[1]))
    port = source_port(sent(node, request))
    reply = coming("world", "node", family) / REPLIES[kind](port, family)

    ran = arrive(node, reply)

    to_pod = coming("world", WEB, family) / REPLIES[kind](port, family)
    assert ran.verdict == Verdict.REDIRECT
    assert ran.packet == whole(delivered(to_pod, WEB, hops=1))
    assert [event.reason for event in ran.events] == [TraceReason.REPLY]
    assert ran.events[0].destination == packed(address(WEB, family))


@FAMILIES
@KINDS
def test_the_same_port_of_two_pods_is_told_apart(node: Node, family: int, kind: str) -> None:
    ports = {}
    for pod in (WEB, DB):
        packet = leaving(pod, "world", family) / REQUESTS[kind](family)
        out = sent(node, packet)
        assert bytes(out) == whole(out)
        ports[pod] = source_port(out)
    assert len(set(ports.values())) == 2
    assert is_consistent(node)

    for pod, port in ports.items():
        ran = arrive(node, coming("world", "node", family) / REPLIES[kind](port, family))
        assert (ran.verdict, Ether(ran.packet).dst) == (Verdict.REDIRECT, pod.mac)
        assert ran.packet == whole(Ether(ran.packet))


@FAMILIES
def test_a_flow_keeps_its_mapping(node: Node, family: int) -> None:
    leave(node, leaving(WEB, "world", family) / tcp(40000, 443, "S"))
    ports = {
        source_port(sent(node, leaving(DB, "world", family) / tcp(40000, 443, flags))) for flags in ("S", "A", "A")
    }
    assert len(ports) == 1
    assert len(list(halves(node))) == 4


@FAMILIES
def test_one_port_serves_many_servers(node: Node, family: int) -> None:
    ports = {source_port(sent(node, leaving(WEB, "world", family) / tcp(40000, port, "S"))) for port in range(1, 50)}
    assert ports == {40000}


def test_ports_of_the_privileged_are_not_taken(node: Node) -> None:
    assert source_port(sent(node, leaving(WEB, "world", 4) / udp(53, 53))) >= 1024


def test_datagram_without_checksum_stays_without(node: Node) -> None:
    leave(node, leaving(WEB, "world", 4) / udp(40000, 53))
    out = sent(node, leaving(DB, "world", 4) / UDP(sport=40000, dport=53, chksum=0) / Raw(b"x"))
    assert (out[UDP].chksum, out[UDP].sport != 40000) == (0, True)


def test_options_and_extensions_are_stepped_over(node: Node) -> None:
    packet = leaving(WEB, "world", 4, options=[]) / tcp(40000, 80, "S")
    packet[IP].options = b"\x01\x01\x01\x00"
    again = Ether(bytes(packet))
    assert bytes(sent(node, again)) == whole(as_node(again, 4))


# -- whom it concerns ------------------------------------------------------------------------------------------------


@FAMILIES
@KINDS
def test_reply_to_who_came_from_outside_keeps_the_address_of_the_pod(node: Node, family: int, kind: str) -> None:
    """The world has opened it to that address; and what the pod opens itself is still masqueraded."""
    opening = {
        "tcp": tcp(443, 40000, "S"),
        "udp": udp(53, 40000),
        "sctp": sctp(36412, 40000, "init"),
        "ping": echo_request(family),
    }[kind]
    answer = {
        "tcp": tcp(40000, 443, "SA"),
        "udp": udp(40000, 53),
        "sctp": sctp(40000, 36412, "init ack"),
        "ping": echo_reply(family),
    }[kind]
    assert arrive(node, from_network("world", WEB, family) / opening).verdict == Verdict.REDIRECT
    packet = leaving(WEB, "world", family) / answer

    assert (leave(node, packet).packet, list(halves(node))) == (bytes(packet), [])


@FAMILIES
@pytest.mark.parametrize("identity", [1, 3, 4, 6, 1000, 70000])
def test_the_cluster_sees_pods(node: Node, family: int, identity: int) -> None:
    node.identity(address("world", family), identity)
    packet = leaving(WEB, "world", family) / tcp(40000, 443, "S")
    assert (leave(node, packet).packet, list(halves(node))) == (bytes(packet), [])


@FAMILIES
@pytest.mark.parametrize("identity", [2, 9, 10, (1 << 24) + 5])
def test_the_world_sees_the_node(node: Node, family: int, identity: int) -> None:
    node.identity(address("world", family), identity)
    assert sent(node, leaving(WEB, "world", family) / tcp(40000, 443, "S"))[1].src == NODE[family]


@FAMILIES
def test_an_api_server_outside_of_the_nodes_sees_the_node_for_it_has_no_way_back_to_a_pod(
    node: Node, family: int
) -> None:
    node.identity(address("world", family), ReservedIdentity.KUBE_APISERVER)
    assert sent(node, leaving(WEB, "world", family) / tcp(40000, 443, "S"))[1].src == NODE[family]


@FAMILIES
def test_an_api_server_on_a_node_sees_pods(node: Node, family: int) -> None:
    node.identity(address("world", family), ReservedIdentity.KUBE_APISERVER, node_id=7)
    packet = leaving(WEB, "world", family) / tcp(40000, 443, "S")
    assert (leave(node, packet).packet, list(halves(node))) == (bytes(packet), [])


@FAMILIES
def test_excepted_prefixes_see_pods(node: Node, family: int) -> None:
    node.no_masquerade("8.8.0.0/16" if family == 4 else "2606:4700::/32")
    packet = leaving(WEB, "world", family) / tcp(40000, 443, "S")
    assert (leave(node, packet).packet, list(halves(node))) == (bytes(packet), [])


@FAMILIES
@KINDS
def test_packets_of_the_node_are_left_alone(node: Node, family: int, kind: str) -> None:
    packet = leaving("node", "world", family) / REQUESTS[kind](family)
    assert (leave(node, packet).packet, list(halves(node))) == (bytes(packet), [])


@FAMILIES
def test_what_comes_for_the_node_itself_is_left_alone(node: Node, family: int) -> None:
    leave(node, leaving(WEB, "world", family) / tcp(40000, 443, "S"))
    for packet in (
        coming("world", "node", family) / tcp(443, 40001, "S"),
        coming("world", "node", family) / udp(443, 40000),
        coming("world", "node", family) / echo_request(family, 40000),
    ):
        ran = arrive(node, packet)
        assert (ran.verdict, ran.packet, ran.events) == (Verdict.PASS, bytes(packet), [])


@FAMILIES
def test_the_overlay_is_not_looked_at(node: Node, family: int) -> None:
    leave(node, leaving(WEB, "world", family) / udp(8472, 40000))
    packet = coming("world", "node", family) / udp(40000, 8472)
    assert arrive(node, packet).packet == bytes(packet)


@FAMILIES
def test_mapping_of_a_pod_that_is_gone_leads_nowhere(node: Node, family: int) -> None:
    leave(node, leaving(WEB, "world", family) / tcp(40000, 443, "S"))
    spec, key = (
        (layouts.ENDPOINTS4, layouts.Endpoint4Key(0x0A00000A))
        if family == 4
        else (layouts.ENDPOINTS6, layouts.Endpoint6Key(packed(WEB.ipv6)))
    )
    node.map(spec).delete(key)
    packet = coming("world", "node", family) / tcp(443, 40000, "SA")
    assert (arrive(node, packet).verdict, arrive(node, packet).packet) == (Verdict.PASS, bytes(packet))


@FAMILIES
def test_mapping_opens_nothing_to_others(node: Node, family: int) -> None:
    """The port is the flow's alone: another remote end that sends there meets the node."""
    leave(node, leaving(WEB, "world", family) / udp(40000, 53))
    stranger = "9.9.9.9" if family == 4 else "2620:fe::fe"
    packet = coming(stranger, "node", family) / udp(53, 40000)
    assert arrive(node, packet).packet == bytes(packet)


@FAMILIES
def test_last_hop_is_not_answered_for_the_pod(node: Node, family: int) -> None:
    node.run(
        "from_container",
        "web",
        bytes(Ether(src=WEB.mac, dst=WEB.host_mac) / (leaving(WEB, "world", family) / udp(40000, 53))[1]),
    )
    leave(node, leaving(WEB, "world", family) / udp(40000, 53))
    hops = {"ttl": 1} if family == 4 else {"hlim": 1}
    ran = arrive(node, coming("world", "node", family, **hops) / udp(53, 40000))
    assert (ran.verdict, ran.events[0].subtype) == (Verdict.DROP, 196)


def test_switched_off_nothing_is_turned(node_with: NodeWith) -> None:
    node = node_with(masquerade=0)
    node.map(layouts.NAT4).update(
        layouts.Nat4Key(0xC0000201, 0x08080808, 40000, 443, 6, NatDirection.IN),
        layouts.NatEntry(packed(WEB.ipv4), 40000),
    )
    packet = coming("world", "node", 4) / tcp(443, 40000, "SA")
    assert arrive(node, packet).packet == bytes(packet)


# -- what cannot be ---------------------------------------------------------------------------------------------------


@FAMILIES
def test_without_an_address_nothing_leaves(node: Node, family: int) -> None:
    node.masquerade("uplink", **({"ipv6": NODE[6]} if family == 4 else {"ipv4": NODE[4]}))
    packet = leaving(WEB, "world", family) / udp(40000, 53)

    ran = leave(node, packet)

    ends = {
        "source_identity": WEB.identity,
        "source_endpoint": 10,
        "egress_revision": 10,
        "destination_identity": 9 if family == 4 else 10,
    }
    assert ran.verdict == Verdict.DROP
    assert timeless(ran.events) == [dropped(node, packet, 167, EGRESS, device="uplink", **ends)]


@FAMILIES
def test_without_an_address_the_cluster_is_still_there(node: Node, family: int) -> None:
    node.masquerade("uplink")
    node.identity(address("world", family), 6)
    assert leave(node, leaving(WEB, "world", family) / udp(40000, 53)).verdict == Verdict.PASS


def test_other_protocols_are_refused_by_name(node: Node) -> None:
    for packet in (leaving(WEB, "world", 4, proto=47) / Raw(bytes(20)), leaving(WEB, "world", 4) / ICMP(type=13)):
        ran = leave(node, packet)
        assert (ran.verdict, ran.events[0].subtype) == (Verdict.DROP, 168)


# -- mappings come to harm --------------------------------------------------------------------------------------------


@FAMILIES
def test_a_new_address_of_the_device_is_taken_at_once(node: Node, family: int) -> None:
    packet = leaving(WEB, "world", family) / tcp(40000, 443, "S")
    leave(node, packet)
    fresh = {4: "192.0.2.9", 6: "2001:db8::9"}
    node.masquerade("uplink", ipv4=fresh[4], ipv6=fresh[6])

    assert sent(node, packet)[1].src == fresh[family]


@FAMILIES
@pytest.mark.parametrize("lost", list(NatDirection))
def test_half_a_mapping_is_never_used_for_another(node: Node, family: int, lost: NatDirection) -> None:
    """WEB's mapping loses a half, as a full map takes it; DB comes for the same port; WEB sends on."""
    ours, theirs = (leaving(pod, "world", family) / udp(40000, 53) for pod in (WEB, DB))
    leave(node, ours)
    for spec in (layouts.NAT4, layouts.NAT6):
        for key, _ in list(node.map(spec).items()):
            if key.direction == lost:
                node.map(spec).delete(key)

    ports = [source_port(sent(node, packet)) for packet in (theirs, ours, theirs, ours)]

    assert ports[:2] == ports[2:]
    assert ports[0] != ports[1]
    assert is_consistent(node)


@FAMILIES
def test_a_mapping_that_lost_its_out_half_is_taken_up_again(node: Node, family: int) -> None:
    packet = leaving(WEB, "world", family) / udp(40000, 53)
    leave(node, packet)
    spec = layouts.NAT4 if family == 4 else layouts.NAT6
    node.map(spec).delete_batch([key for key, _ in node.map(spec).items() if key.direction == NatDirection.OUT])

    assert source_port(sent(node, packet)) == 40000
    assert len(list(halves(node))) == 2


# -- the node itself ---------------------------------------------------------------------------------------------------


@FAMILIES
@KINDS
def test_the_node_meets_the_port_of_a_pod(node: Node, family: int, kind: str) -> None:
    """Both have the same port to the same server; replies go to whom they belong."""
    pods, own = (leaving(who, "world", family) / REQUESTS[kind](family) for who in (WEB, "node"))
    assert source_port(sent(node, pods)) == source_port(pods)
    out = sent(node, own)
    assert out[1].src == NODE[family]
    assert source_port(out) != source_port(own)
    assert bytes(out) == whole(out)
    assert bytes(sent(node, own)) == bytes(out), "and keeps it"

    back = coming("world", "node", family) / REPLIES[kind](source_port(out), family)
    ran = arrive(node, back)
    assert ran.verdict == Verdict.PASS
    assert ran.packet == whole(coming("world", "node", family) / REPLIES[kind](source_port(own), family))
    to_pod = arrive(node, coming("world", "node", family) / REPLIES[kind](source_port(pods), family))
    assert to_pod.verdict == Verdict.REDIRECT


@FAMILIES
def test_the_node_keeps_its_mapping_when_the_pod_is_gone(node: Node, family: int) -> None:
    own = leaving("node", "world", family) / tcp(40000, 443, "S")
    leave(node, leaving(WEB, "world", family) / tcp(40000, 443, "S"))
    port = source_port(sent(node, own))
    spec = layouts.NAT4 if family == 4 else layouts.NAT6
    theirs = [
        key
        for key, entry in node.map(spec).items()
        if packed(address(WEB, family)) in (entry.address, packed_key(key.local))
    ]
    assert not node.map(spec).delete_batch(theirs)

    assert source_port(sent(node, own)) == port


def packed_key(raw: int | bytes) -> bytes:
    return raw if isinstance(raw, bytes) else bytes(10) + b"\xff\xff" + raw.to_bytes(4, "big")


@FAMILIES
@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_port_of_a_socket_of_the_node_is_not_taken(node: Node, family: int, kind: str) -> None:
    holder = node.inside(lambda: _socket(family, kind))
    try:
        out = sent(node, leaving(WEB, "world", family) / REQUESTS[kind](family))
    finally:
        holder.close()
    assert source_port(out) != 40000


def _socket(family: int, kind: str) -> socket.socket:
    made = socket.socket(
        socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM
    )
    made.bind(("", 40000))
    if kind == "tcp":
        made.listen()
    return made


# -- ICMP errors --------------------------------------------------------------------------------------------------------


def unreachable(family: int) -> Packet:
    return ICMP(type=3, code=3) if family == 4 else ICMPv6DestUnreach(code=4)


def quote(packet: Packet, octets: int) -> Raw:
    """As routers quote: from the IP header on."""
    return Raw(bytes(packet[1])[:octets])


@FAMILIES
@KINDS
@pytest.mark.parametrize("port_is_taken", [False, True])
def test_error_about_a_masqueraded_flow_comes_to_its_pod(
    node: Node, family: int, kind: str, port_is_taken: bool
) -> None:
    if port_is_taken:
        leave(node, leaving(DB, "world", family) / REQUESTS[kind](family))
    node.row(WEB, INGRESS, 112)  # nobody may open anything to WEB
    node.policy(WEB, revision=11)
    packet = leaving(WEB, "world", family) / REQUESTS[kind](family)
    node.run("from_container", "web", bytes(Ether(src=WEB.mac, dst=WEB.host_mac) / packet[1]))
    router = "9.9.9.9" if family == 4 else "2620:fe::fe"
    seen = sent(node, packet)
    octets = 28 if family == 4 else 48

    ran = arrive(node, coming(router, "node", family) / unreachable(family) / quote(seen, octets))

    assert ran.verdict == Verdict.REDIRECT, ran
    assert [event.reason for event in ran.events] == [TraceReason.RELATED]
    found = Ether(ran.packet)
    assert (found.dst, found[1].dst) == (WEB.mac, address(WEB, family))
    start = 42 if family == 4 else 62
    quoted = (IP if family == 4 else IPv6)(ran.packet[start:])
    assert (quoted.src, quoted.dst) == (address(WEB, family), address("world", family))
    port_at = start + (20 if family == 4 else 40) + (4 if kind == "ping" else 0)
    assert int.from_bytes(ran.packet[port_at : port_at + 2], "big") == source_port(packet)
    assert checksums_hold(ran.packet, family)


@FAMILIES
def test_error_about_a_flow_of_the_node_is_left_alone(node: Node, family: int) -> None:
    own = leaving("node", "world", family) / udp(40000, 53)
    packet = coming("world", "node", family) / unreachable(family) / quote(own, 48)
    assert (arrive(node, packet).verdict, arrive(node, packet).packet) == (Verdict.PASS, bytes(packet))


@FAMILIES
def test_packet_too_big_comes_to_its_pod(node: Node, family: int) -> None:
    packet = leaving(WEB, "world", family) / udp(40000, 53, bytes(1000))
    node.run("from_container", "web", bytes(Ether(src=WEB.mac, dst=WEB.host_mac) / packet[1]))
    big = ICMP(type=3, code=4, nexthopmtu=900) if family == 4 else ICMPv6PacketTooBig(mtu=1300)
    ran = arrive(
        node, coming("9.9.9.9" if family == 4 else "2620:fe::fe", "node", family) / big / quote(sent(node, packet), 200)
    )
    assert (ran.verdict, Ether(ran.packet)[1].dst) == (Verdict.REDIRECT, address(WEB, family))
    assert checksums_hold(ran.packet, family)


@FAMILIES
@pytest.mark.parametrize("port_is_taken", [False, True])
def test_error_of_a_pod_about_what_came_back_leaves_as_of_the_node(
    node: Node, family: int, port_is_taken: bool
) -> None:
    """WEB's socket is closed when the answer comes."""
    if port_is_taken:
        leave(node, leaving(DB, "world", family) / udp(40000, 53))
    port = source_port(sent(node, leaving(WEB, "world", family) / udp(40000, 53)))
    answer = coming("world", WEB, family) / udp(53, 40000)

    ran = leave(node, leaving(WEB, "world", family) / unreachable(family) / quote(answer, 60))

    assert ran.verdict == Verdict.PASS
    start = 42 if family == 4 else 62
    assert Ether(ran.packet)[1].src == NODE[family]
    quoted = (IP if family == 4 else IPv6)(ran.packet[start:])
    assert (quoted.src, quoted.dst) == (address("world", family), NODE[family])
    port_at = start + (22 if family == 4 else 42)
    assert int.from_bytes(ran.packet[port_at : port_at + 2], "big") == port
    assert checksums_hold(ran.packet, family)


@FAMILIES
def test_error_of_a_pod_about_who_came_from_outside_keeps_its_address(node: Node, family: int) -> None:
    opening = from_network("world", WEB, family) / udp(53, 40000)
    arrive(node, opening)
    packet = leaving(WEB, "world", family) / unreachable(family) / quote(opening, 60)
    assert leave(node, packet).packet == bytes(packet)


@FAMILIES
def test_error_of_a_pod_about_nothing_that_we_know_is_not_let_out(node: Node, family: int) -> None:
    unknown = from_network("world", WEB, family) / udp(53, 40000)
    ran = leave(node, leaving(WEB, "world", family) / unreachable(family) / quote(unknown, 60))
    assert (ran.verdict, ran.events[0].subtype) == (Verdict.DROP, 167)


def checksums_hold(raw: bytes, family: int) -> bool:
    """Of the outer and the quoted IP header, and of the ICMP error."""
    start = 34 if family == 4 else 54
    if family == 4:
        return _sum(raw[14:34]) == _sum(raw[42:62]) == _sum(raw[start:]) == 0xFFFF
    pseudo = raw[22:54] + (len(raw) - start).to_bytes(4, "big") + b"\0\0\0\x3a"
    return _sum(pseudo + raw[start:]) == 0xFFFF


def _sum(octets: bytes) -> int:
    octets += b"\0" * (len(octets) % 2)
    total = sum(int.from_bytes(octets[at : at + 2], "big") for at in range(0, len(octets), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total

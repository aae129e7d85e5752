"""Headers that are cut short, long, odd or wrong: dropped for a reason or passed for what they are, never misread."""

from __future__ import annotations

import random

import pytest
from scapy.layers.inet import IP, TCP, UDP, IPOption_Router_Alert
from scapy.layers.inet6 import (
    ICMPv6ND_NS,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
)
from scapy.packet import Packet, Raw

from tests.bpf.node import DB, WEB, Node, Verdict
from tests.bpf.packets import delivered, echo_request, from_network, from_pod, tcp, udp

pytestmark = pytest.mark.root

INVALID, INVALID_L4, INVALID_EXTENSION = 134, 135, 156
SYN = {family: bytes(from_pod(WEB, DB, family) / tcp(40000, 80, "S")) for family in (4, 6)}
HEADERS = {4: 14 + 20, 6: 14 + 40}  # the kernel runs no test on less


def reason(node: Node, packet: bytes) -> int:
    ran = node.run("from_container", "web", packet)
    (event,) = ran.events
    assert (ran.verdict == Verdict.DROP) == (event.type == 1)
    return event.subtype if event.type == 1 else 0


@pytest.mark.parametrize("family", [4, 6])
def test_cut_at_every_length(node: Node, family: int) -> None:
    """The IP header states more than there is: whatever is cut, it shows."""
    for length in range(HEADERS[family], len(SYN[family])):
        assert reason(node, SYN[family][:length]) == INVALID, length


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(
    ("payload", "least"), [(tcp(1, 2, "S"), 20), (udp(1, 2, b""), 8), (echo_request, 8), (Raw(bytes(13)), 13)]
)
def test_transport_header_too_short(node: Node, family: int, payload: object, least: int) -> None:
    inner = payload(family) if callable(payload) else payload
    head = from_pod(WEB, DB, family)
    if isinstance(inner, Raw):
        head[1].proto, head[1].nh = 132, 132
    whole = bytes(head / inner)
    assert reason(node, whole) == 0
    for missing in range(1, least + 1):
        assert reason(node, restated(whole[: HEADERS[family] + least - missing], family)) == INVALID_L4


def restated(packet: bytes, family: int) -> bytes:
    """With the length in the IP header set to what there is."""
    raw = bytearray(packet)
    at, length = (16, len(raw) - 14) if family == 4 else (18, len(raw) - 54)
    raw[at : at + 2] = length.to_bytes(2, "big")
    return bytes(raw)


@pytest.mark.parametrize(("at", "value"), [(14, 0x65), (14, 0x44), (14, 0x40), (16, 0xFF), (14, 0x4F)])
def test_ipv4_header_that_cannot_be(node: Node, at: int, value: int) -> None:
    """Another version, a header of less than 20 bytes, more bytes than there are."""
    raw = bytearray(SYN[4])
    raw[at] = value
    assert reason(node, bytes(raw)) == INVALID


def test_ipv4_length_of_less_than_the_header(node: Node) -> None:
    raw = bytearray(SYN[4])
    raw[16:18] = (19).to_bytes(2, "big")
    assert reason(node, bytes(raw)) == INVALID


@pytest.mark.parametrize("version", [0x40, 0x70])
def test_ipv6_header_of_another_version(node: Node, version: int) -> None:
    raw = bytearray(SYN[6])
    raw[14] = version
    assert reason(node, bytes(raw)) == INVALID


def test_padding_behind_the_packet_does_no_harm(node: Node) -> None:
    packet = SYN[4] + bytes(6)
    ran = node.run("from_container", "web", packet)
    assert (ran.verdict, ran.packet) == (Verdict.REDIRECT, bytes(delivered(SYN[4], DB)) + bytes(6))


@pytest.mark.parametrize("words", range(1, 11))
def test_ipv4_options(node: Node, words: int) -> None:
    options = [IPOption_Router_Alert()] * words
    packet = from_pod(WEB, DB, 4, options=options) / tcp(40000, 80, "S")
    ran = node.run("from_container", "web", bytes(packet))
    assert (ran.verdict, ran.packet) == (Verdict.REDIRECT, bytes(delivered(packet, DB)))
    assert (ran.events[0].destination_port, ran.events[0].tcp_flags) == (80, 2)


EXTENSIONS = {
    "hop by hop": [IPv6ExtHdrHopByHop(options=[PadN(optdata=bytes(4))])],
    "destination options": [IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(4))])],
    "long destination options": [IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(250)), PadN(optdata=bytes(250))])],
    "routing": [IPv6ExtHdrRouting(addresses=["2001:db8::1", "2001:db8::2"])],
    "authentication": [Raw(bytes([6, 4]) + bytes(22))],
    "five": [IPv6ExtHdrHopByHop(), IPv6ExtHdrDestOpt(), IPv6ExtHdrRouting(), IPv6ExtHdrFragment(), IPv6ExtHdrDestOpt()],
    "six": [IPv6ExtHdrHopByHop(), *[IPv6ExtHdrDestOpt()] * 5],
}


def with_extensions(headers: list[Packet]) -> Packet:
    packet = from_pod(WEB, DB, 6)
    if isinstance(headers[0], Raw):
        packet[1].nh = 51
    for header in headers:
        packet = packet / header.copy()
    return packet / TCP(sport=40000, dport=80, flags="S")


@pytest.mark.parametrize("headers", EXTENSIONS.values(), ids=EXTENSIONS)
def test_ipv6_extensions(node: Node, headers: list[Packet]) -> None:
    packet = bytes(with_extensions(headers))
    ran = node.run("from_container", "web", packet)
    assert (ran.verdict, ran.packet) == (Verdict.REDIRECT, bytes(delivered(packet, DB)))
    assert (ran.events[0].protocol, ran.events[0].destination_port, ran.events[0].tcp_flags) == (6, 80, 2)


def test_too_many_ipv6_extensions(node: Node) -> None:
    assert reason(node, bytes(with_extensions([IPv6ExtHdrDestOpt()] * 7))) == INVALID_EXTENSION


def test_ipv6_extension_that_leads_out_of_the_packet(node: Node) -> None:
    for length, expected in ((1, INVALID_L4), (200, INVALID_L4)):
        raw = bytearray(bytes(with_extensions([IPv6ExtHdrDestOpt()])))
        raw[55] = length
        assert reason(node, bytes(raw)) == expected
    chained = bytearray(bytes(with_extensions([IPv6ExtHdrDestOpt(), IPv6ExtHdrDestOpt()])))
    chained[55] = 255
    assert reason(node, bytes(chained)) == INVALID_EXTENSION


def test_ipv6_extension_cut_short(node: Node) -> None:
    packet = bytes(with_extensions([IPv6ExtHdrDestOpt()]))
    assert reason(node, restated(packet[: 54 + 5], 6)) == INVALID_EXTENSION


def test_network_garbage_for_others_is_left_alone(node: Node) -> None:
    whole = bytes(from_network("world", "10.0.0.1", 4) / udp(1, 2))
    for length in range(HEADERS[4], len(whole)):
        ran = node.run("from_netdev", "uplink", whole[:length])
        assert (ran.verdict, ran.packet, ran.events) == (Verdict.PASS, whole[:length], [])


@pytest.mark.parametrize(
    ("program", "device"), [("from_container", "web"), ("from_host", "cilium_host"), ("from_netdev", "uplink")]
)
def test_noise_is_survived(node: Node, program: str, device: str) -> None:
    """Headers with random bytes turned over: some verdict, and an event for each drop that is not silent."""
    dice = random.Random(1)
    seeds = [*SYN.values(), bytes(with_extensions(EXTENSIONS["five"])), bytes(from_pod(WEB, DB, 4) / IP() / UDP())]
    seeds.append(bytes(from_pod(WEB, DB, 6) / ICMPv6ND_NS(tgt=DB.ipv6)))
    for _ in range(2000):
        raw = bytearray(dice.choice(seeds))
        for _ in range(dice.randint(1, 6)):
            raw[dice.randrange(12, min(len(raw), 90))] = dice.randrange(256)
        ran = node.run(program, device, bytes(raw[: dice.randint(HEADERS[6], len(raw))]))
        assert ran.verdict in set(Verdict)
        assert len(ran.events) <= 1

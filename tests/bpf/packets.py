"""Packets of the small world in node.py, built with scapy; `family` is 4 or 6 everywhere."""

from __future__ import annotations

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import Ether
from scapy.layers.sctp import (
    SCTP,
    SCTPChunkAbort,
    SCTPChunkData,
    SCTPChunkInit,
    SCTPChunkInitAck,
    SCTPChunkShutdownComplete,
)
from scapy.packet import Packet, Raw

from tests.bpf.node import HOST_MAC, ROUTER_MAC, UPLINK_MAC, WORLD4, WORLD6, Pod


def address(who: Pod | str, family: int) -> str:
    """`world` stands for an address outside, of either family."""
    if isinstance(who, Pod):
        return who.ipv4 if family == 4 else who.ipv6
    if who == "world":
        return WORLD4 if family == 4 else WORLD6
    return who


def from_pod(pod: Pod, to: Pod | str, family: int, **fields: object) -> Packet:
    """Link and network header as the pod's kernel writes them."""
    layer = IP if family == 4 else IPv6
    return Ether(src=pod.mac, dst=pod.host_mac) / layer(src=address(pod, family), dst=address(to, family), **fields)


def from_host(source: str, to: Pod, family: int, **fields: object) -> Packet:
    """As the node's stack sends on its gateway device, which has no neighbours."""
    layer = IP if family == 4 else IPv6
    return Ether(src=HOST_MAC, dst=HOST_MAC) / layer(src=address(source, family), dst=address(to, family), **fields)


def from_network(source: str, to: Pod | str, family: int, **fields: object) -> Packet:
    layer = IP if family == 4 else IPv6
    return Ether(src=ROUTER_MAC, dst=UPLINK_MAC) / layer(src=address(source, family), dst=address(to, family), **fields)


def delivered(packet: Packet, to: Pod, *, hops: int = 0) -> Packet:
    """The packet as the pod receives it."""
    out = Ether(bytes(packet))
    out.src, out.dst = to.host_mac, to.mac
    if hops and out.haslayer(IP):
        out[IP].ttl -= hops
        del out[IP].chksum
    elif hops:
        out[IPv6].hlim -= hops
    return out


def to_stack(packet: Packet) -> Packet:
    out = Ether(bytes(packet))
    out.dst = HOST_MAC
    return out


def tcp(sport: int, dport: int, flags: str, **fields: object) -> Packet:
    return TCP(sport=sport, dport=dport, flags=flags, **fields)


def udp(sport: int, dport: int, text: bytes = b"x") -> Packet:
    return UDP(sport=sport, dport=dport) / Raw(text)


def sctp(sport: int, dport: int, chunk: str = "data") -> Packet:
    return SCTP(sport=sport, dport=dport, tag=7) / CHUNKS[chunk].copy()


CHUNKS = {
    "init": SCTPChunkInit(),
    "init ack": SCTPChunkInitAck(),
    "data": SCTPChunkData(data=b"x" * 40),
    "abort": SCTPChunkAbort(),
    "shutdown complete": SCTPChunkShutdownComplete(),
}


def echo_request(family: int, identifier: int = 7) -> Packet:
    return ICMP(type=8, id=identifier) if family == 4 else ICMPv6EchoRequest(id=identifier)


def echo_reply(family: int, identifier: int = 7) -> Packet:
    return ICMP(type=0, id=identifier) if family == 4 else ICMPv6EchoReply(id=identifier)

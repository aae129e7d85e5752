"""Packets of the small world as they leave the node and come back to it; `NODE` are its addresses on the uplink."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import Ether
from scapy.layers.sctp import SCTP
from scapy.packet import Packet

from pycilium.datapath import layouts
from pycilium.datapath.layouts import NatDirection
from tests.bpf.node import ROUTER_MAC, UPLINK_MAC, Node, Pod, Ran, Verdict
from tests.bpf.packets import address

NODE = {4: "192.0.2.1", 6: "2001:db8::1"}


def leaving(source: Pod | str, to: str, family: int, **fields: object) -> Packet:
    layer = IP if family == 4 else IPv6
    source_address = NODE[family] if source == "node" else address(source, family)
    return Ether(src=UPLINK_MAC, dst=ROUTER_MAC) / layer(src=source_address, dst=address(to, family), **fields)


def coming(source: str, to: Pod | str, family: int, **fields: object) -> Packet:
    layer = IP if family == 4 else IPv6
    to_address = NODE[family] if to == "node" else address(to, family)
    return Ether(src=ROUTER_MAC, dst=UPLINK_MAC) / layer(src=address(source, family), dst=to_address, **fields)


def leave(node: Node, packet: Packet) -> Ran:
    return node.run("to_netdev", "uplink", bytes(packet))


def arrive(node: Node, packet: Packet) -> Ran:
    return node.run("from_netdev", "uplink", bytes(packet))


def sent(node: Node, packet: Packet) -> Packet:
    """The packet as the network sees it."""
    ran = leave(node, packet)
    assert ran.verdict == Verdict.PASS, ran
    return Ether(ran.packet)


def l4(packet: Packet) -> Packet:
    for layer in (TCP, UDP, SCTP, ICMP, ICMPv6EchoRequest, ICMPv6EchoReply):
        if packet.haslayer(layer):
            return packet[layer]
    raise AssertionError(packet)


def source_port(packet: Packet) -> int:
    header = l4(packet)
    return int(header.sport if hasattr(header, "sport") else header.id)


def whole(packet: Packet) -> bytes:
    """The packet's bytes with every checksum made anew."""
    again = packet.copy()
    for layer in (IP, TCP, UDP, SCTP, ICMP):
        if again.haslayer(layer):
            del again[layer].chksum
    for layer in (ICMPv6EchoRequest, ICMPv6EchoReply):
        if again.haslayer(layer):
            del again[layer].cksum
    return bytes(again)


@dataclass(frozen=True, slots=True)
class Half:
    """One entry of nat4 or nat6, addresses packed in 16 bytes."""

    direction: NatDirection
    local: bytes
    local_port: int
    remote: bytes
    remote_port: int
    protocol: int
    address: bytes
    port: int


def halves(node: Node) -> Iterator[Half]:
    """All entries of both maps."""
    for spec in (layouts.NAT4, layouts.NAT6):
        for key, entry in node.map(spec).items():
            ends = [_packed(key.local), _packed(key.remote)]
            yield Half(
                NatDirection(key.direction),
                *(ends[0], key.local_port, ends[1], key.remote_port, key.protocol, entry.address, entry.port),
            )


def _packed(raw: int | bytes) -> bytes:
    return raw if isinstance(raw, bytes) else bytes(10) + b"\xff\xff" + raw.to_bytes(4, "big")


def is_consistent(node: Node) -> bool:
    """Every mapping has both its halves, and they name each other."""
    found = {
        (half.direction, half.local, half.local_port, half.remote, half.remote_port, half.protocol): half
        for half in halves(node)
    }
    return all(
        (
            back := found.get(
                (
                    NatDirection(1 - half.direction),
                    half.address,
                    half.port,
                    half.remote,
                    half.remote_port,
                    half.protocol,
                )
            )
        )
        is not None
        and (back.address, back.port) == (half.local, half.local_port)
        for half in found.values()
    )

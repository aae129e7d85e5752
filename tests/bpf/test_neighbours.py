"""ARP and neighbour discovery of a pod: what is answered, what is passed over in silence, what is refused."""

from __future__ import annotations

import pytest
from scapy.layers.inet6 import (
    ICMPv6MLReport2,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6ND_RS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrHopByHop,
    RouterAlert,
)
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from tests.bpf.cases import Case, check, dropped
from tests.bpf.node import DB, EGRESS, GATEWAY4, GATEWAY6, HOST_MAC, WEB, Node, Verdict, packed
from tests.bpf.packets import from_pod

pytestmark = pytest.mark.root

BROADCAST, ALL_NODES, ALL_ROUTERS = "ff:ff:ff:ff:ff:ff", "33:33:00:00:00:01", "33:33:00:00:00:02"
SILENCE = 201
LINK_LOCAL = "fe80::808:ff:fe00:a"


def who_has(target: str, *, source: str = WEB.ipv4, sender_mac: str = WEB.mac, src: str = WEB.mac) -> Packet:
    return Ether(src=src, dst=BROADCAST) / ARP(
        op=1, hwsrc=sender_mac, psrc=source, hwdst="00:00:00:00:00:00", pdst=target
    )


def is_at(target: str) -> Packet:
    arp = ARP(op=2, hwsrc=WEB.host_mac, psrc=target, hwdst=WEB.mac, pdst=WEB.ipv4)
    return Ether(src=WEB.host_mac, dst=WEB.mac) / arp


def solicitation(
    target: str, *, source: str = WEB.ipv6, src: str = WEB.mac, dst: str = "33:33:ff:00:00:01", hlim: int = 255
) -> Packet:
    ip = IPv6(src=source, dst="ff02::1:ff00:1", hlim=hlim)
    return Ether(src=src, dst=dst) / ip / ICMPv6ND_NS(tgt=target) / ICMPv6NDOptSrcLLAddr(lladdr=WEB.mac)


def advertisement(target: str, *, to: str = WEB.ipv6, lladdr: str = WEB.host_mac) -> Packet:
    message = ICMPv6ND_NA(R=1, S=1, O=1, tgt=target) / ICMPv6NDOptDstLLAddr(lladdr=lladdr)
    return Ether(src=lladdr, dst=WEB.mac) / IPv6(src=target, dst=to, hlim=255) / message


def multicast(payload: Packet, *, source: str = LINK_LOCAL, dst: str = ALL_ROUTERS) -> Packet:
    return Ether(src=WEB.mac, dst=dst) / IPv6(src=source, dst="ff02::2", hlim=255) / payload


def answered(description: str, packet: Packet, out: Packet) -> Case:
    return Case(description, packet, Verdict.REDIRECT, packet_out=out)


def silent(description: str, packet: Packet) -> Case:
    return Case(description, packet, Verdict.DROP)


def refused(description: str, packet: Packet, reason: int, **fields: object) -> Case:
    return Case(description, packet, Verdict.DROP, lambda node: [dropped(node, packet, reason, EGRESS, **fields)])


bare = Ether(src=WEB.mac, dst=WEB.host_mac) / IPv6(src=WEB.ipv6, dst=GATEWAY6, hlim=255) / ICMPv6ND_NS(tgt=GATEWAY6)
mld = IPv6ExtHdrHopByHop(options=[RouterAlert()]) / ICMPv6MLReport2(records_number=0)
redirect = from_pod(WEB, DB, 6, hlim=255) / ICMPv6ND_Redirect(tgt=WEB.ipv6, dst="2001:db8::1")
spoofed_arp = who_has(GATEWAY4, source=DB.ipv4)

CASES = [
    answered("ARP for the gateway", who_has(GATEWAY4), is_at(GATEWAY4)),
    answered("ARP for anybody else: all lies behind the gateway", who_has(DB.ipv4), is_at(DB.ipv4)),
    silent("ARP probe for the pod's own address: nobody else has it", who_has(WEB.ipv4, source="0.0.0.0")),
    silent("ARP announcement of the pod's own address", who_has(WEB.ipv4)),
    silent("ARP reply that nobody asked for", is_at(GATEWAY4)),
    refused("ARP in the name of another pod", spoofed_arp, 132, source=packed(DB.ipv4)),
    refused(
        "ARP with another's MAC in the message", who_has(GATEWAY4, sender_mac=DB.mac), 130, source=packed(WEB.ipv4)
    ),
    refused("ARP with another's MAC on the frame", who_has(GATEWAY4, src=DB.mac), 130, source=packed(WEB.ipv4)),
    refused("ARP cut short", Ether(bytes(who_has(GATEWAY4))[:30]), 134),
    answered("solicitation for the gateway", solicitation(GATEWAY6), advertisement(GATEWAY6)),
    answered("solicitation for anybody else", solicitation(DB.ipv6), advertisement(DB.ipv6)),
    answered("solicitation without options", bare, advertisement(GATEWAY6)),
    answered(
        "probe from the pod's link-local address confirms the MAC that was asked",
        solicitation(GATEWAY6, source=LINK_LOCAL, dst=WEB.host_mac),
        advertisement(GATEWAY6, to=LINK_LOCAL),
    ),
    answered(
        "solicitation to all from the link-local address",
        solicitation(GATEWAY6, source=LINK_LOCAL),
        advertisement(GATEWAY6, to=LINK_LOCAL, lladdr=HOST_MAC),
    ),
    silent("duplicate address detection", solicitation(WEB.ipv6, source="::")),
    silent("solicitation for the pod's own address", solicitation(WEB.ipv6)),
    silent("router solicitation", multicast(ICMPv6ND_RS())),
    silent("router solicitation without an address", multicast(ICMPv6ND_RS(), source="::")),
    silent("MLD report", multicast(mld)),
    silent("MLD report without an address", multicast(mld, source="::")),
    silent("unasked advertisement", multicast(ICMPv6ND_NA(tgt=WEB.ipv6), source=WEB.ipv6, dst=ALL_NODES)),
    refused("solicitation in the name of another pod", solicitation(GATEWAY6, source=DB.ipv6), 132),
    refused("solicitation under another's MAC", solicitation(GATEWAY6, src=DB.mac), 130),
    refused("solicitation that was forwarded", solicitation(GATEWAY6, hlim=254), 134),
    refused("solicitation for a group", solicitation("ff02::1"), 134),
    refused("router advertisement", multicast(ICMPv6ND_RA(), dst=ALL_NODES), 176),
    refused("redirect", redirect, 176),
    silent("multicast of an application", from_pod(WEB, "224.0.0.251", 4) / Raw(b"x")),
    silent("multicast of an application, IPv6", from_pod(WEB, "ff02::fb", 6) / Raw(b"x")),
    silent("broadcast", from_pod(WEB, "255.255.255.255", 4) / Raw(b"x")),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_neighbours(node: Node, case: Case) -> None:
    check(node, case)


def test_silence_is_counted(node: Node) -> None:
    before = node.metrics().get((EGRESS, SILENCE), 0)

    node.run("from_container", "web", bytes(multicast(ICMPv6ND_RS())))

    assert node.metrics()[EGRESS, SILENCE] == before + 1

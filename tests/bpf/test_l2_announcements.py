"""Who asks on the node's link for an address that it announces is answered; all else is left to the stack."""

from __future__ import annotations

import pytest
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrHopByHop,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet

from tests.bpf.node import ROUTER_MAC, UPLINK_MAC, Node, Verdict

pytestmark = pytest.mark.root

VIP4, VIP6 = "172.18.1.1", "fd00:172:18:1::1"
CLIENT4, CLIENT6 = "172.18.0.1", "fe80::1"
BROADCAST, SOLICITED = "ff:ff:ff:ff:ff:ff", "33:33:ff:00:00:01"
STRANGER_MAC = "0a:00:00:00:0e:99"


def who_has(target: str = VIP4, *, source: str = CLIENT4, dst: str = BROADCAST, op: int = 1) -> Packet:
    arp = ARP(op=op, hwsrc=ROUTER_MAC, psrc=source, hwdst="00:00:00:00:00:00", pdst=target)
    return Ether(src=ROUTER_MAC, dst=dst) / arp


def is_at(*, to: str = CLIENT4) -> Packet:
    arp = ARP(op=2, hwsrc=UPLINK_MAC, psrc=VIP4, hwdst=ROUTER_MAC, pdst=to)
    return Ether(src=UPLINK_MAC, dst=ROUTER_MAC) / arp


def solicitation(
    target: str = VIP6, *, source: str = CLIENT6, dst: str = SOLICITED, hlim: int = 255, code: int = 0
) -> Packet:
    ip = IPv6(src=source, dst="ff02::1:ff00:1", hlim=hlim)
    option = ICMPv6NDOptSrcLLAddr(lladdr=ROUTER_MAC) if source != "::" else b""
    return Ether(src=ROUTER_MAC, dst=dst) / ip / ICMPv6ND_NS(tgt=target, code=code) / option


def advertisement(*, to: str = CLIENT6, solicited: int = 1) -> Packet:
    message = ICMPv6ND_NA(R=0, S=solicited, O=1, tgt=VIP6) / ICMPv6NDOptDstLLAddr(lladdr=UPLINK_MAC)
    return Ether(src=UPLINK_MAC, dst=ROUTER_MAC) / IPv6(src=VIP6, dst=to, hlim=255) / message


@pytest.fixture
def announcing(node: Node) -> Node:
    node.announce(VIP4)
    node.announce(VIP6)
    return node


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        pytest.param(who_has(), is_at(), id="a request"),
        pytest.param(who_has(dst=UPLINK_MAC), is_at(), id="a request to this node alone"),
        pytest.param(who_has(source="0.0.0.0"), is_at(to="0.0.0.0"), id="a probe of who would like to have it"),
        pytest.param(solicitation(), advertisement(), id="a solicitation"),
        pytest.param(solicitation(dst=UPLINK_MAC), advertisement(), id="a solicitation to this node alone"),
        pytest.param(solicitation(source="::"), advertisement(to="ff02::1", solicited=0), id="detection of duplicates"),
    ],
)
def test_who_asks_for_an_announced_address_gets_this_nodes_mac(announcing, asked, answer):
    ran = announcing.run("from_netdev", "uplink", bytes(asked))

    assert ran.verdict is Verdict.REDIRECT
    assert ran.packet[: len(bytes(answer))] == bytes(answer)
    assert not ran.events


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(who_has("172.18.1.2"), id="another address"),
        pytest.param(who_has(op=2), id="a reply"),
        pytest.param(who_has(source=VIP4), id="another node's announcement"),
        pytest.param(who_has(dst=STRANGER_MAC), id="a request to another machine"),
        pytest.param(Ether(src=ROUTER_MAC, dst=BROADCAST, type=0x806) / b"short", id="half of a request"),
        pytest.param(solicitation("fd00:172:18:1::2"), id="another IPv6 address"),
        pytest.param(solicitation(hlim=64), id="a solicitation from off the link"),
        pytest.param(solicitation(code=1), id="a solicitation of an unknown code"),
        pytest.param(
            Ether(src=ROUTER_MAC, dst=SOLICITED) / IPv6(src=CLIENT6, dst="ff02::1", hlim=255) / ICMPv6EchoRequest(),
            id="another message",
        ),
        pytest.param(
            Ether(src=ROUTER_MAC, dst=SOLICITED)
            / IPv6(src=CLIENT6, dst="ff02::1:ff00:1", hlim=255)
            / IPv6ExtHdrHopByHop()
            / ICMPv6ND_NS(tgt=VIP6),
            id="a solicitation behind another header",
        ),
        pytest.param(Ether(bytes(solicitation())[:70]), id="half of a solicitation"),
    ],
)
def test_everything_else_goes_on_untouched(announcing, packet):
    raw = bytes(packet)

    ran = announcing.run("from_netdev", "uplink", raw)

    assert ran.verdict is Verdict.PASS
    assert ran.packet == raw


def test_an_address_is_announced_on_its_own_link_alone(announcing):
    announcing.announce("172.18.1.9", device="cilium_vxlan")

    assert announcing.run("from_netdev", "uplink", bytes(who_has("172.18.1.9"))).verdict is Verdict.PASS
    assert announcing.run("from_netdev", "cilium_vxlan", bytes(who_has())).verdict is Verdict.PASS


def test_who_asks_in_another_vlan_is_not_answered(announcing):
    tagged = Ether(src=ROUTER_MAC, dst=BROADCAST) / Dot1Q(vlan=7) / who_has().payload

    assert announcing.run("from_netdev", "uplink", bytes(tagged)).verdict is Verdict.PASS


def test_an_announcement_that_nobody_prolonged_ends_by_itself(announcing):
    announcing.announce(VIP4, lasts_s=-1)

    assert announcing.run("from_netdev", "uplink", bytes(who_has())).verdict is Verdict.PASS

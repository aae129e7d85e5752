"""What tells a link at which MAC an address is, byte for byte as scapy writes it."""

from __future__ import annotations

from ipaddress import ip_address

from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether

from pycilium.datapath.neighbour_frames import frame

MAC = "02:ac:12:00:00:01"
RAW = bytes.fromhex(MAC.replace(":", ""))


def test_ipv4_is_told_by_a_gratuitous_request():
    arp = ARP(op=1, hwsrc=MAC, psrc="172.18.1.1", hwdst="00:00:00:00:00:00", pdst="172.18.1.1")

    assert frame(RAW, ip_address("172.18.1.1")) == bytes(Ether(src=MAC, dst="ff:ff:ff:ff:ff:ff") / arp)


def test_ipv6_is_told_by_an_unsolicited_advertisement_to_all_nodes():
    message = ICMPv6ND_NA(R=0, S=0, O=1, tgt="fd00::1") / ICMPv6NDOptDstLLAddr(lladdr=MAC)
    packet = Ether(src=MAC, dst="33:33:00:00:00:01") / IPv6(src="fd00::1", dst="ff02::1", hlim=255) / message

    assert frame(RAW, ip_address("fd00::1")) == bytes(packet)

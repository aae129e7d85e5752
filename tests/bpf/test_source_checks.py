"""What a pod may not send whatever the policy: others' addresses, and what is not for this network at all."""

from __future__ import annotations

import pytest
from scapy.layers.inet import UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1AD, Ether
from scapy.packet import Packet, Raw

from tests.bpf.cases import Case, check, dropped
from tests.bpf.conftest import NodeWith
from tests.bpf.node import DB, EGRESS, INGRESS, WEB, Node, Pod, Verdict
from tests.bpf.packets import address, from_host, from_network, from_pod, tcp, udp

pytestmark = pytest.mark.root

WEB_KNOWN = {"source_identity": WEB.identity, "source_endpoint": WEB.endpoint_id, "egress_revision": 10}


def refused(description: str, packet: Packet, reason: int, *, device: str = "web", **fields: object) -> Case:
    return Case(
        description,
        packet,
        Verdict.DROP,
        lambda node: [dropped(node, packet, reason, EGRESS, device=device, **fields)],
        device=device,
    )


def both(description: str, build: object, reason: int, **fields: object) -> list[Case]:
    return [refused(f"IPv{family}: {description}", build(family), reason, **fields) for family in (4, 6)]


def other_address(family: int) -> Packet:
    packet = from_pod(DB, WEB, family) / udp(1, 2)
    packet.src = WEB.mac
    return packet


def unknown_address(family: int) -> Packet:
    packet = from_pod(WEB, DB, family) / udp(1, 2)
    packet[1].src = "10.0.0.99" if family == 4 else "fd00:10::99"
    return packet


def other_mac(family: int) -> Packet:
    packet = from_pod(WEB, DB, family) / udp(1, 2)
    packet.src = DB.mac
    return packet


def loopback(family: int) -> Packet:
    return from_pod(WEB, "127.0.0.1" if family == 4 else "::1", family) / udp(1, 2)


def unspecified(family: int) -> Packet:
    return from_pod(WEB, "0.0.0.0" if family == 4 else "::", family) / udp(1, 2)


def ethernet(protocol: int) -> Packet:
    return Ether(src=WEB.mac, dst=WEB.host_mac, type=protocol) / Raw(bytes(50))


old_ethernet = ethernet(0x0100)
tagged = Ether(src=WEB.mac, dst=WEB.host_mac) / Dot1AD(vlan=5) / Raw(bytes(50))

CASES = [
    *both("the address of another pod", other_address, 132),
    *both("an address of nobody", unknown_address, 132),
    *both("another's MAC", other_mac, 130, **WEB_KNOWN),
    *both("to a loopback address", loopback, 151, **WEB_KNOWN),
    *both("to the unspecified address", unspecified, 151, **WEB_KNOWN),
    refused("a frame of an unknown protocol", ethernet(0x88CC), 139),
    refused("a frame of old Ethernet", old_ethernet, 166, ether_type=0x0004),
    refused("a frame with a tag that the device left in", tagged, 139),
]


def forwarded_under_a_pods_address(family: int, whose: Pod) -> Case:
    """The stack forwards it, from wherever it came; the pod itself would have reached the other without the stack."""
    packet = from_host(address(whose, family), DB, family) / tcp(40000, 80, "S")
    return Case(
        f"IPv{family}: what the stack forwards has not the address of {whose.name}",
        packet,
        Verdict.DROP,
        lambda node: [dropped(node, packet, 132, INGRESS, device="cilium_host")],
        program="from_host",
    )


CASES += [forwarded_under_a_pods_address(family, whose) for whose in (WEB, DB) for family in (4, 6)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_refused(node: Node, case: Case) -> None:
    check(node, case)


@pytest.mark.parametrize("family", [4, 6])
def test_family_that_is_off(node_with: NodeWith, family: int) -> None:
    off = {"gateway_ipv4": 0} if family == 4 else {"gateway_ipv6": bytes(16)}
    node = node_with(**off)
    out, back = from_pod(WEB, DB, family) / tcp(1, 2, "S"), from_host("world", DB, family) / tcp(1, 2, "S")
    bare = {"family": 0, "source": bytes(16), "destination": bytes(16), "source_port": 0, "destination_port": 0}
    bare |= {"protocol": 0, "tcp_flags": 0}

    check(node, refused("", out, 139, **bare))
    events = lambda node: [dropped(node, back, 139, INGRESS, device="cilium_host", **bare)]  # noqa: E731
    check(node, Case("", back, Verdict.DROP, events, program="from_host"))
    check(node, Case("", from_network("world", DB, family) / tcp(1, 2, "S"), Verdict.PASS, program="from_netdev"))


def test_arp_where_ipv4_is_off(node_with: NodeWith) -> None:
    node = node_with(gateway_ipv4=0)
    packet = Ether(src=WEB.mac, dst="ff:ff:ff:ff:ff:ff") / ARP(psrc=WEB.ipv4, hwsrc=WEB.mac, pdst="10.0.0.1")

    check(node, refused("", packet, 139))


def test_other_family_works_on_when_one_is_off(node_with: NodeWith) -> None:
    for off, family in (({"gateway_ipv4": 0}, 6), ({"gateway_ipv6": bytes(16)}, 4)):
        node = node_with(**off)

        ran = node.run("from_container", "web", bytes(from_pod(WEB, DB, family) / tcp(1, 2, "S")))

        assert ran.verdict == Verdict.REDIRECT


def test_source_check_sees_the_device(node: Node) -> None:
    """The right address and MAC, from the wrong interface."""
    packet = from_pod(DB, WEB, 4) / udp(1, 2)

    check(node, refused("", packet, 132, device="web"))


def test_no_endpoint_has_an_address_by_ipv6_header_alone(node: Node) -> None:
    packet = Ether(src=WEB.mac, dst=WEB.host_mac) / IPv6(src="fe80::1", dst=DB.ipv6) / UDP(sport=1, dport=2)

    check(node, refused("", packet, 132))

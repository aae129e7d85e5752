"""What goes to other nodes: by the overlay, to a neighbour, or through the stack; and what is too big for the way.

What the overlay adds and who receives it is seen in test_live_nodes.py: a test run has no device behind it.
"""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6PacketTooBig, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from pycilium.datapath.layouts import TracePoint, TraceReason
from tests.bpf.cases import Case, check, dropped, traced
from tests.bpf.node import DB, EGRESS, GATEWAY4, GATEWAY6, INGRESS, TUNNEL_PORT, WEB, Node, Verdict
from tests.bpf.packets import from_host, from_network, from_pod, tcp, to_stack, udp

pytestmark = pytest.mark.root

FAMILIES = pytest.mark.parametrize("family", [4, 6])
OUTER = pytest.mark.parametrize("outer", [4, 6])
REMOTE = {4: "10.0.1.10", 6: "fd00:10:0:1::a"}
REMOTE_IDENTITY, REMOTE_NODE = 3000, 6
NODE2 = {4: "192.0.2.2", 6: "2001:db8::2"}
OUR_ADDRESS = {4: "192.0.2.1", 6: "2001:db8::1"}
GATEWAY = {4: GATEWAY4, 6: GATEWAY6}
NEW = TraceReason.NEW
WEB_SIDE = {
    "source_identity": WEB.identity,
    "source_endpoint": WEB.endpoint_id,
    "egress_row": 101,
    "egress_revision": 10,
}


@pytest.fixture
def node(node: Node) -> Node:
    """Knows a pod of node 2, which each test places; pods alone are trusted to have the addresses they have."""
    for family in (4, 6):
        node.identity(REMOTE[family], REMOTE_IDENTITY, node_id=2)
        node.identity(OUR_ADDRESS[family], 1)
        node.identity(NODE2[family], REMOTE_NODE, node_id=2)
    return node


def payload(family: int, ip_bytes: int) -> Packet:
    """UDP that makes the IP packet this long."""
    return UDP(sport=1, dport=2) / Raw(bytes(ip_bytes - (20 if family == 4 else 40) - 8))


@FAMILIES
@OUTER
def test_pod_to_a_pod_of_another_node(node: Node, family: int, outer: int) -> None:
    """The packet is left as it is: the overlay is one link, and the hop limit stays."""
    node.other_node(2, NODE2[outer])
    packet = from_pod(WEB, REMOTE[family], family) / tcp(40000, 80, "S")
    fields = {**WEB_SIDE, "destination_identity": REMOTE_IDENTITY}
    events = lambda node: [traced(node, packet, TracePoint.TO_OVERLAY, NEW, **fields)]  # noqa: E731

    check(node, Case("", packet, Verdict.REDIRECT, events))


@FAMILIES
def test_pod_to_another_node_itself(node: Node, family: int) -> None:
    node.other_node(2, NODE2[4])
    packet = from_pod(WEB, NODE2[family], family) / tcp(40000, 80, "S")
    fields = {**WEB_SIDE, "destination_identity": REMOTE_NODE}
    events = lambda node: [traced(node, packet, TracePoint.TO_OVERLAY, NEW, **fields)]  # noqa: E731

    check(node, Case("", packet, Verdict.REDIRECT, events))


@FAMILIES
def test_pod_whose_node_is_not_known(node: Node, family: int) -> None:
    packet = from_pod(WEB, REMOTE[family], family) / tcp(40000, 80, "S")
    fields = {**WEB_SIDE, "destination_identity": REMOTE_IDENTITY, "is_reply": 0}
    events = lambda node: [dropped(node, packet, 160, EGRESS, **fields)]  # noqa: E731

    check(node, Case("", packet, Verdict.DROP, events))


@FAMILIES
def test_policy_decides_by_the_identity_behind_the_address(node: Node, family: int) -> None:
    node.other_node(2, NODE2[4])
    node.row(WEB, EGRESS, 111, allow={5})
    packet = from_pod(WEB, REMOTE[family], family) / tcp(40000, 80, "S")
    assert node.run("from_container", "web", bytes(packet)).verdict == Verdict.DROP

    node.bits(REMOTE_IDENTITY, {5})
    assert node.run("from_container", "web", bytes(packet)).verdict == Verdict.REDIRECT


@FAMILIES
@OUTER
def test_native_neighbour_is_one_hop(node: Node, family: int, outer: int) -> None:
    """Counted down, since no stack does it; IPv6 has no neighbours with an IPv4 address, so the stack takes that."""
    node.other_node(2, NODE2[outer], tunnel=False, device="uplink")
    packet = from_pod(WEB, REMOTE[family], family) / tcp(40000, 80, "S")
    out = Ether(bytes(packet))
    if (family, outer) == (6, 4):
        out.dst = to_stack(packet).dst
        point = TracePoint.TO_STACK
    else:
        point = TracePoint.TO_NETWORK
        if family == 4:
            out[IP].ttl -= 1
            del out[IP].chksum
        else:
            out[IPv6].hlim -= 1
    fields = {**WEB_SIDE, "destination_identity": REMOTE_IDENTITY}

    check(
        node, Case("", packet, Verdict.REDIRECT, lambda node: [traced(node, packet, point, NEW, **fields)], bytes(out))
    )


@FAMILIES
def test_native_node_behind_routers_is_the_stacks(node: Node, family: int) -> None:
    node.other_node(2, NODE2[family], tunnel=False)
    packet = from_pod(WEB, REMOTE[family], family) / tcp(40000, 80, "S")
    fields = {**WEB_SIDE, "destination_identity": REMOTE_IDENTITY}
    events = lambda node: [traced(node, packet, TracePoint.TO_STACK, NEW, **fields)]  # noqa: E731

    check(node, Case("", packet, Verdict.REDIRECT, events, to_stack(packet)))


@FAMILIES
def test_last_hop_to_a_neighbour_is_the_stacks_which_tells_the_pod(node: Node, family: int) -> None:
    node.other_node(2, NODE2[family], tunnel=False, device="uplink")
    hops = {"ttl": 1} if family == 4 else {"hlim": 1}
    packet = from_pod(WEB, REMOTE[family], family, **hops) / udp(1, 2)

    ran = node.run("from_container", "web", bytes(packet))

    assert (ran.verdict, ran.packet) == (Verdict.REDIRECT, bytes(to_stack(packet)))


@FAMILIES
def test_node_to_a_pod_of_another_node(node: Node, family: int) -> None:
    node.other_node(2, NODE2[4])
    packet = from_host(GATEWAY[family], REMOTE[family], family) / tcp(40000, 80, "S")
    fields = {"source_identity": 1, "destination_identity": REMOTE_IDENTITY, "device": "cilium_host"}
    events = lambda node: [traced(node, packet, TracePoint.TO_OVERLAY, NEW, **fields)]  # noqa: E731

    check(node, Case("", packet, Verdict.REDIRECT, events, program="from_host"))


@FAMILIES
def test_stack_to_a_node_that_routes_lead_to_is_no_loop(node: Node, family: int) -> None:
    node.other_node(2, NODE2[family], tunnel=False)
    packet = from_host(GATEWAY[family], REMOTE[family], family) / tcp(40000, 80, "S")

    ran = node.run("from_host", "cilium_host", bytes(packet))

    assert (ran.verdict, [event.subtype for event in ran.events]) == (Verdict.DROP, [150])


@FAMILIES
@pytest.mark.parametrize("source", ["pod", "node"])
def test_address_behind_the_tunnel_does_not_come_from_outside_of_it(node: Node, family: int, source: str) -> None:
    """Else whoever can send to the node would have any pod's identity; a node that still routes natively cuts itself."""
    node.other_node(2, NODE2[4])
    address = REMOTE[family] if source == "pod" else NODE2[family]
    inward = from_network(address, DB, family) / tcp(40000, 80, "S")
    onward = from_host(address, REMOTE[family], family) / tcp(40000, 80, "S")

    for program, device, packet in (("from_netdev", "uplink", inward), ("from_host", "cilium_host", onward)):
        ran = node.run(program, device, bytes(packet))
        assert (ran.verdict, [event.subtype for event in ran.events]) == (Verdict.DROP, [132])


@FAMILIES
def test_native_packet_has_the_identity_of_its_address(node: Node, family: int) -> None:
    node.other_node(2, NODE2[family], tunnel=False, device="uplink")
    packet = from_network(REMOTE[family], DB, family) / tcp(40000, 80, "S")

    (event,) = node.run("from_netdev", "uplink", bytes(packet)).events

    assert (event.subtype, event.source_identity) == (TracePoint.TO_ENDPOINT, REMOTE_IDENTITY)


@pytest.mark.parametrize("outer", [4, 6])
def test_overlay_is_left_to_the_stack(node: Node, outer: int) -> None:
    packet = from_network(NODE2[outer], OUR_ADDRESS[outer], outer) / UDP(sport=40000, dport=TUNNEL_PORT)

    check(node, Case("", packet, Verdict.PASS, program="from_netdev"))


def test_nothing_reaches_the_overlay_program_without_a_tunnel(node: Node) -> None:
    packet = from_network(REMOTE[4], DB, 4) / tcp(40000, 80, "S")
    events = lambda node: [dropped(node, packet, 183, INGRESS, device="cilium_vxlan")]  # noqa: E731

    check(node, Case("", packet, Verdict.DROP, events, program="from_overlay"))


# == too big ==


def too_big(packet: Packet, family: int, mtu: int) -> Packet:
    """The error that the sender gets: as from whom it wrote to."""
    frame = Ether(bytes(packet))
    quoted = bytes(frame.payload)
    link = Ether(src=frame.dst, dst=frame.src)
    if family == 4:
        ip = IP(src=frame[IP].dst, dst=frame[IP].src, ttl=64, id=0)
        return link / ip / ICMP(type=3, code=4, nexthopmtu=mtu) / Raw(quoted[:68])
    ip6 = IPv6(src=frame[IPv6].dst, dst=frame[IPv6].src, hlim=64)
    return link / ip6 / ICMPv6PacketTooBig(mtu=mtu) / Raw(quoted[:88])


@FAMILIES
def test_pod_is_told_what_fits(node: Node, family: int) -> None:
    node.other_node(2, NODE2[4], mtu_bytes=1400)
    fits = from_pod(WEB, REMOTE[family], family) / payload(family, 1400)
    larger = from_pod(WEB, REMOTE[family], family) / payload(family, 1401)
    assert node.run("from_container", "web", bytes(fits)).packet == bytes(fits)
    fields = {**WEB_SIDE, "destination_identity": REMOTE_IDENTITY, "is_reply": 0}
    events = lambda node: [dropped(node, larger, 157, EGRESS, **fields)]  # noqa: E731

    check(node, Case("", larger, Verdict.REDIRECT, events, too_big(larger, family, 1400)))


@FAMILIES
def test_stack_is_told_what_fits(node: Node, family: int) -> None:
    node.other_node(2, NODE2[4], mtu_bytes=1400)
    larger = from_host(GATEWAY[family], REMOTE[family], family) / payload(family, 1401)

    ran = node.run("from_host", "cilium_host", bytes(larger))

    assert (ran.verdict, ran.packet) == (Verdict.REDIRECT, bytes(too_big(larger, family, 1400)))


def test_nobody_is_told_to_send_ipv6_in_less_than_1280(node: Node) -> None:
    node.other_node(2, NODE2[4], mtu_bytes=1000)
    larger = from_pod(WEB, REMOTE[6], 6) / payload(6, 1281)
    fits = from_pod(WEB, REMOTE[6], 6) / payload(6, 1280)

    assert node.run("from_container", "web", bytes(larger)).packet == bytes(too_big(larger, 6, 1280))
    assert node.run("from_container", "web", bytes(fits)).packet == bytes(fits)


# == path MTU ==


def outer_error(outer: int, mtu: int, **changes: object) -> Packet:
    """A router tells this node that an encapsulated packet to node 2 was too big."""
    fields = {"source": OUR_ADDRESS[outer], "to": NODE2[outer], "port": TUNNEL_PORT, **changes}
    router = "203.0.113.9" if outer == 4 else "2001:db8:9::9"
    layer = IP if outer == 4 else IPv6
    quoted = layer(src=fields["source"], dst=fields["to"]) / UDP(sport=50000, dport=fields["port"]) / Raw(bytes(60))
    if outer == 4:
        error: Packet = ICMP(type=3, code=changes.get("code", 4), nexthopmtu=mtu)
    else:
        error = ICMPv6PacketTooBig(mtu=mtu) if "code" not in changes else ICMPv6DestUnreach(code=0)
    return from_network(router, OUR_ADDRESS[outer], outer) / error / Raw(bytes(quoted))


def learn(node: Node, packet: Packet) -> None:
    check(node, Case("", packet, Verdict.PASS, program="from_netdev"))


OVERHEAD = {4: 50, 6: 70}


@OUTER
@FAMILIES
def test_smaller_mtu_of_the_way_is_what_pods_are_told(node: Node, family: int, outer: int) -> None:
    node.other_node(2, NODE2[outer])

    learn(node, outer_error(outer, 1400))

    larger = from_pod(WEB, REMOTE[family], family) / payload(family, 1440)
    ran = node.run("from_container", "web", bytes(larger))
    assert ran.packet == bytes(too_big(larger, family, 1400 - OVERHEAD[outer]))


@OUTER
def test_smaller_word_counts_until_it_expires(node: Node, outer: int) -> None:
    node.other_node(2, NODE2[outer])
    for stated in (1400, 1350, 1380):
        learn(node, outer_error(outer, stated))
    assert node.path_mtu(2).mtu_bytes == 1350 - OVERHEAD[outer]
    packet = from_pod(WEB, REMOTE[4], 4) / payload(4, 1400)
    assert node.run("from_container", "web", bytes(packet)).packet != bytes(packet)

    node.expire_path_mtu(2)

    assert node.run("from_container", "web", bytes(packet)).packet == bytes(packet)
    learn(node, outer_error(outer, 1380))
    assert node.path_mtu(2).mtu_bytes == 1380 - OVERHEAD[outer]


@OUTER
@pytest.mark.parametrize(
    "changes",
    [{"port": 4789}, {"source": "other"}, {"to": "other"}, {"code": 1}, {"mtu": 500}, {"mtu": 0}],
    ids=["another port", "not our packet", "no node", "another error", "absurdly small", "no MTU"],
)
def test_other_errors_say_nothing_of_the_way(node: Node, outer: int, changes: dict[str, object]) -> None:
    node.other_node(2, NODE2[outer])
    stranger = "203.0.113.77" if outer == 4 else "2001:db8:9::77"
    fields = {key: stranger if value == "other" else value for key, value in changes.items() if key != "mtu"}

    learn(node, outer_error(outer, int(str(changes.get("mtu", 1400))), **fields))

    assert node.path_mtu(2).mtu_bytes == 0


def test_way_to_a_node_that_is_reached_natively_is_its_pods_own_business(node: Node) -> None:
    node.other_node(2, NODE2[4], tunnel=False)

    learn(node, outer_error(4, 1400))

    assert node.path_mtu(2).mtu_bytes == 0


@FAMILIES
def test_native_error_reaches_the_pod_that_it_is_about(node: Node, family: int) -> None:
    node.other_node(2, NODE2[family], tunnel=False)
    node.row(WEB, INGRESS, 112)
    sent = from_pod(WEB, REMOTE[family], family) / udp(5000, 33434)
    node.run("from_container", "web", bytes(sent))
    error = ICMP(type=3, code=4, nexthopmtu=1300) if family == 4 else ICMPv6PacketTooBig(mtu=1300)
    router = "203.0.113.9" if family == 4 else "2001:db8:9::9"

    ran = node.run("from_netdev", "uplink", bytes(from_network(router, WEB, family) / error / Raw(bytes(sent.payload))))

    assert (ran.verdict, [event.reason for event in ran.events]) == (Verdict.REDIRECT, [TraceReason.RELATED])

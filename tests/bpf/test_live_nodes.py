"""Two nodes: packets of pods and of the nodes themselves, by overlay and by the link that both share."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from pycilium.datapath.layouts import DropReason, EventType, ServiceFlags, TracePoint
from tests.bpf.conftest import new_namespace
from tests.bpf.live_nodes import API, MTU_BYTES, NODE1, NODE2, LiveNodes, deny_all_ingress
from tests.bpf.node import INGRESS, TUNNEL_PORT, WEB, Node
from tests.bpf.services import CLIENT, LOAD_BALANCER_IP, PORT, Services, told

pytestmark = pytest.mark.root

FAMILIES = pytest.mark.parametrize("family", [4, 6])
Way = tuple[str, int]
"""Routing mode, and the outer family or that of the next hop."""
ALL_WAYS = (("tunnel", 4), ("tunnel", 6), ("native", 4), ("native", 6))


def is_by_programs(way: Way, family: int, *ends: str) -> bool:
    """Whether the programs alone find the way: natively what the stack sends needs routes, which agents make."""
    return way[0] == "tunnel" or ((family, way[1]) != (6, 4) and not any("node" in end for end in ends))


def between(*pairs: tuple[str, str]) -> pytest.MarkDecorator:
    """Every way from one end to the other."""
    cases = [(way, family, *ends) for ends in pairs for way in ALL_WAYS for family in (4, 6)]
    return pytest.mark.parametrize(
        ("way", "family", "source", "to"),
        [
            pytest.param(*case, id=f"{case[2]} to {case[3]}, IPv{case[1]}, {case[0][0]} over IPv{case[0][1]}")
            for case in cases
            if is_by_programs(*case)
        ],
    )


OUTER = pytest.mark.parametrize("outer", [4, 6])
PLACES = {
    "web": (WEB.ipv4, WEB.ipv6),
    "api": (API.ipv4, API.ipv6),
    "node1": (NODE1.gateway4, NODE1.gateway6),
    "node2": (NODE2.gateway4, NODE2.gateway6),
    "node2's uplink": (NODE2.ipv4, NODE2.ipv6),
}
SPEECH = 4_000_000


def address(place: str, family: int) -> str:
    return PLACES[place][0 if family == 4 else 1]


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveNodes]:
    namespaces = {name: new_namespace() for name in ("node1", "node2", "router", "web", "api")}
    with ExitStack() as stack:
        for fd in namespaces.values():
            stack.callback(os.close, fd)
        yield LiveNodes(namespaces, stack, tmp_path_factory.mktemp("nodes"))


def ping(live: LiveNodes, source: str, to: str, *options: str) -> str:
    done = live.run(source, "ping", "-n", "-c", "1", "-W", "2", *options, to)
    return done.stdout + done.stderr


@contextmanager
def connected(live: LiveNodes, source: str, to: str, family: int) -> Iterator[tuple[socket.socket, socket.socket]]:
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    with ExitStack() as stack:
        server = stack.enter_context(
            live.within(to, lambda: socket.create_server((address(to, family), 0), family=kind))
        )
        client = live.within(source, lambda: socket.create_connection(server.getsockname()[:2], timeout=5))
        stack.enter_context(client)
        peer, _ = server.accept()
        peer.settimeout(10)
        yield client, stack.enter_context(peer)


def stream(live: LiveNodes, source: str, to: str, family: int) -> None:
    """A few megabytes, so that the kernel hands over far more than one packet's worth at a time."""
    with connected(live, source, to, family) as (client, peer):
        talker = threading.Thread(target=lambda: client.sendall(bytes(SPEECH)))
        talker.start()
        left = SPEECH
        while left:
            part = peer.recv(1 << 16)
            assert part, f"closed, {left} bytes early"
            left -= len(part)
        talker.join()


@between(("web", "api"), ("api", "web"), ("web", "node2"), ("web", "node2's uplink"), ("node1", "api"))
def test_ping(live: LiveNodes, way: Way, family: int, source: str, to: str) -> None:
    live.route(*way)
    answer = ping(live, source, address(to, family))
    assert " 0% packet loss" in answer, (answer, [node.reader.read() for node in live.nodes.values()])


@between(("web", "api"), ("web", "node2"), ("node1", "api"))
def test_stream_without_a_fragment(live: LiveNodes, way: Way, family: int, source: str, to: str) -> None:
    live.route(*way)
    before = live.fragments()

    stream(live, source, to, family)

    assert live.fragments() == before


@between(("web", "api"))
def test_fragments_of_the_pods_own_arrive(live: LiveNodes, way: Way, family: int, source: str, to: str) -> None:
    live.route(*way)
    answer = ping(live, "web", address("api", family), "-s", "4000")
    assert " 0% packet loss" in answer


@between(("web", "api"))
def test_refusal_is_heard_of(live: LiveNodes, way: Way, family: int, source: str, to: str) -> None:
    """The error is related to the datagram, though nobody may open anything to WEB."""
    live.route(*way)
    live.nodes["node1"].row(WEB, INGRESS, 112)
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    with live.within("web", lambda: socket.socket(kind, socket.SOCK_DGRAM)) as client:
        client.settimeout(5)
        client.connect((address("api", family), 9))
        client.send(b"x")
        with pytest.raises(ConnectionRefusedError):
            client.recv(1)


@OUTER
@FAMILIES
def test_identity_travels_with_the_packet(live: LiveNodes, outer: int, family: int) -> None:
    """Node 2 has not heard of the pod yet, only of its node."""
    live.route("tunnel", outer)
    node2 = live.nodes["node2"]
    node2.identity(address("web", family), 3, node_id=2)
    node2.reader.read()

    ping(live, "web", address("api", family))

    arrived = [event for event in node2.reader.read() if event["subtype"] == TracePoint.TO_ENDPOINT]
    assert [(event["source_identity"], event["destination_identity"]) for event in arrived] == [
        (WEB.identity, API.identity)
    ]


@FAMILIES
@pytest.mark.parametrize(("place", "identity"), [("web", 3), ("node1", 6)])
def test_identities_of_one_node_alone_do_not_travel(live: LiveNodes, family: int, place: str, identity: int) -> None:
    live.route("tunnel", 4)
    live.nodes["node1"].endpoint(WEB, identity=(1 << 24) + 7)
    node2 = live.nodes["node2"]
    node2.reader.read()

    assert " 0% packet loss" in ping(live, place, address("api", family))

    arrived = [event for event in node2.reader.read() if event["subtype"] == TracePoint.TO_ENDPOINT]
    assert [event["source_identity"] for event in arrived] == [identity]


@between(("web", "api"))
def test_ingress_policy_judges_the_other_nodes_pod(
    live: LiveNodes, way: Way, family: int, source: str, to: str
) -> None:
    live.route(*way)
    node2 = live.nodes["node2"]
    deny_all_ingress(node2, API)
    assert " 100% packet loss" in ping(live, "web", address("api", family), "-W", "0.3")

    node2.row(API, INGRESS, 313, allow={WEB.identity // 100})
    node2.policy(API, revision=32)
    assert " 0% packet loss" in ping(live, "web", address("api", family))


@FAMILIES
@pytest.mark.parametrize("known", [(WEB.identity, (1 << 24) + 1), ((1 << 24) + 1, 0)], ids=["a pod", "a CIDR's"])
def test_cidr_rules_know_pods_of_other_nodes_by_address(live: LiveNodes, family: int, known: tuple[int, int]) -> None:
    """Whether this node knows already that a pod has the address, or only the rule's CIDR around it."""
    live.route("tunnel", 4)
    node2 = live.nodes["node2"]
    node2.identity(address("web", family), known[0], cidr=known[1], node_id=2)
    node2.bits((1 << 24) + 1, {77})
    node2.row(API, INGRESS, 313, allow={77})
    node2.policy(API, revision=32)

    assert " 0% packet loss" in ping(live, "web", address("api", family))


@FAMILIES
def test_revoking_cuts_a_connection_between_nodes(live: LiveNodes, family: int) -> None:
    live.route("tunnel", 4)
    with connected(live, "web", "api", family) as (client, peer):
        peer.settimeout(0.3)
        client.send(b"1")
        assert peer.recv(1) == b"1"

        deny_all_ingress(live.nodes["node2"], API)
        client.send(b"2")
        with pytest.raises(TimeoutError):
            peer.recv(1)


# == what may not come through the overlay ==


def through_overlay(live: LiveNodes, vni: int, inner: Packet, sender: str = "router") -> list[dict[str, int]]:
    """A frame as somebody on the underlay could send it to node 2; the drops there."""
    node2 = live.nodes["node2"]
    node2.reader.read()
    frame = struct.pack("!II", 0x08000000, vni << 8) + bytes(Ether(src="02:00:00:00:00:99", dst=API.host_mac) / inner)
    with live.within(sender, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as opened:
        opened.sendto(frame, (NODE2.ipv4, TUNNEL_PORT))
    return [event for event in node2.wait_for_events() if event["type"] == EventType.DROP]


def inner(source: str, to: str, family: int) -> Packet:
    layer = IP if family == 4 else IPv6
    return layer(src=source, dst=to) / UDP(sport=1, dport=2)


@FAMILIES
@pytest.mark.parametrize("vni", [0, 6, 11, 255])
def test_vni_that_is_no_identity(live: LiveNodes, family: int, vni: int) -> None:
    live.route("tunnel", 4)

    events = through_overlay(live, vni, inner(address("web", family), address("api", family), family))

    assert [(event["subtype"], event["direction"]) for event in events] == [(183, INGRESS)]


@FAMILIES
@pytest.mark.parametrize("source", ["api", "node2"])
def test_address_of_the_receiving_node(live: LiveNodes, family: int, source: str) -> None:
    live.route("tunnel", 4)
    to = "api" if source == "node2" else "node2"

    for target in {to, "api"}:
        events = through_overlay(live, 1000, inner(address(source, family), address(target, family), family))
        assert [event["subtype"] for event in events] == [132]


@FAMILIES
def test_nothing_is_forwarded(live: LiveNodes, family: int) -> None:
    live.route("tunnel", 4)
    stranger = "10.0.1.99" if family == 4 else "fd00:10:0:1::99"
    for to in (stranger, address("web", family), "8.8.8.8" if family == 4 else "2606:4700::1"):
        events = through_overlay(live, 1000, inner(address("web", family), to, family))
        assert [event["subtype"] for event in events] == [150]


@FAMILIES
def test_what_a_client_has_called_is_believed_of_nodes_alone(live: LiveNodes, family: int) -> None:
    live.route("tunnel", 4)
    services = Services(live.nodes["node2"])
    services.frontend(LOAD_BALANCER_IP[family], PORT, kind="udp", flags=ServiceFlags.EXTERNAL | ServiceFlags.DSR)
    opening = Ether() / inner(CLIENT[family], address("api", family), family)
    packet = Ether(told(opening, LOAD_BALANCER_IP[family], PORT))[1]

    drops = through_overlay(live, 2, packet, "router")
    assert [drop["subtype"] for drop in drops] == [DropReason.UNKNOWN_SENDER]
    assert not services.flows(family)

    assert through_overlay(live, 2, packet, "node1") == []
    assert services.flows(family)


# == too big ==


@between(("web", "api"))
def test_pod_learns_what_fits(live: LiveNodes, way: Way, family: int, source: str, to: str) -> None:
    live.route(*way)
    live.pod_mtu(WEB, 1500)
    answer = ping(live, "web", address("api", family), "-M", "do", "-s", "1472" if family == 4 else "1452")
    assert ("mtu = {}" if family == 4 else "mtu={}").format(MTU_BYTES[way]) in answer


@between(("web", "api"))
def test_stream_of_pods_whose_interfaces_take_more(
    live: LiveNodes, way: Way, family: int, source: str, to: str
) -> None:
    """The kernel hands over many segments at once: each of them is too big, and the answer is to the one packet."""
    live.route(*way)
    live.pod_mtu(WEB, 1500)
    live.pod_mtu(API, 1500)
    before = live.fragments()

    stream(live, source, to, family)

    assert live.fragments() == before


@FAMILIES
def test_datagrams_that_may_be_fragmented_are_so_by_their_sender_alone(live: LiveNodes, family: int) -> None:
    """IPv4 without "don't fragment" gets the same answer: the pod's kernel learns of it, and makes what fits."""
    live.route("tunnel", 4)
    live.pod_mtu(WEB, 1500)
    before = live.fragments()
    options = ("-M", "dont", "-s", "1472" if family == 4 else "1452")

    ping(live, "web", address("api", family), *options, "-W", "0.3")

    assert " 0% packet loss" in ping(live, "web", address("api", family), *options)
    assert live.fragments() == before


@FAMILIES
def test_node_learns_what_fits(live: LiveNodes, family: int) -> None:
    live.route("tunnel", 4, mtu_bytes=1400)
    answer = ping(live, "node1", address("api", family), "-M", "do", "-s", "1400")
    assert ("mtu = 1400" if family == 4 else "mtu=1400") in answer


@OUTER
@FAMILIES
def test_smaller_link_in_the_middle_is_learned(live: LiveNodes, outer: int, family: int) -> None:
    live.route("tunnel", outer)
    overhead = 50 if outer == 4 else 70
    node1, node2 = live.nodes["node1"], live.nodes["node2"]
    node2.other_node(2, NODE1.ipv4 if outer == 4 else NODE1.ipv6, mtu_bytes=1400 - overhead)
    before = live.fragments()
    live.run("router", "ip", "link", "set", "to2", "mtu", "1400")
    live.run("node2", "ip", "link", "set", "uplink", "mtu", "1400")
    try:
        stream(live, "web", "api", family)
        assert node1.path_mtu(2).mtu_bytes == 1400 - overhead
        stream(live, "api", "web", family)
        assert live.fragments() == before
    finally:
        live.run("router", "ip", "link", "set", "to2", "mtu", "1500")
        live.run("node2", "ip", "link", "set", "uplink", "mtu", "1500")


def test_events_are_of_the_two_ends(live: LiveNodes) -> None:
    live.route("tunnel", 4)
    for node in live.nodes.values():
        node.reader.read()

    ping(live, "web", API.ipv4)

    assert [points(live.nodes[name]) for name in ("node1", "node2")] == [
        [TracePoint.TO_OVERLAY, TracePoint.TO_ENDPOINT],
        [TracePoint.TO_ENDPOINT, TracePoint.TO_OVERLAY],
    ]


def points(node: Node) -> list[int]:
    return [event["subtype"] for event in node.reader.read()]

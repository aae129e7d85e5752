"""A pod's connection to a backend itself beside one to a Service that has led to that backend, both from one port."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6PacketTooBig, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from pycilium.datapath import conntrack, layouts, nat, service_flows
from pycilium.datapath.layouts import CtState
from tests.bpf.conftest import NodeWith
from tests.bpf.masquerade import NODE
from tests.bpf.node import DB, WEB, Node, Pod, Ran, Verdict
from tests.bpf.packets import address, from_host, from_network, from_pod, sctp, tcp, udp
from tests.bpf.services import (
    API,
    CLUSTER_IP,
    LOAD_BALANCER_IP,
    PORT,
    TARGET_PORT,
    Services,
    small_world,
    whole,
)

pytestmark = pytest.mark.root

FAMILIES = pytest.mark.parametrize("family", [4, 6])
KINDS = pytest.mark.parametrize("kind", ["tcp", "udp", "sctp"])
CLIENT_PORT = 40000
CONNECTIONS = {4: layouts.CT4, 6: layouts.CT6}
MAPPINGS = {4: layouts.NAT4, 6: layouts.NAT6}
FLOWS = {4: layouts.SERVICE_FLOWS4, 6: layouts.SERVICE_FLOWS6}
End = tuple[str, int]
Ends = tuple[End, End]


@pytest.fixture
def services(node_with: NodeWith) -> Services:
    return small_world(node_with())


SCTP_CHUNKS = {"S": "init", "SA": "init ack", "A": "data"}
"""By the TCP flags that mean the same."""


def transport(kind: str, source: int, destination: int, flags: str) -> Packet:
    if kind == "sctp":
        return sctp(source, destination, SCTP_CHUNKS[flags])
    return tcp(source, destination, flags) if kind == "tcp" else udp(source, destination)


def say(node: Node, family: int, to: End, kind: str = "tcp", flags: str = "A") -> Ran:
    """WEB, always from the same port."""
    packet = from_pod(WEB, to[0], family) / transport(kind, CLIENT_PORT, to[1], flags)
    return node.run("from_container", "web", bytes(packet))


def said(node: Node, family: int, to: End, kind: str = "tcp", flags: str = "A") -> Ends:
    """What becomes of it."""
    ran = say(node, family, to, kind, flags)
    assert ran.verdict == Verdict.REDIRECT
    assert whole(Ether(ran.packet)) == ran.packet
    return ends(ran)


def ends(ran: Ran) -> Ends:
    frame = Ether(ran.packet)
    return (frame[1].src, frame[2].sport), (frame[1].dst, frame[2].dport)


def answered(node: Node, family: int, pod: Pod, to: End, kind: str = "tcp", flags: str = "SA") -> Ends:
    """What becomes of the answer of a pod of this node."""
    reply = from_pod(pod, to[0], family) / transport(kind, TARGET_PORT, to[1], flags)
    ran = node.run("from_container", pod.name, bytes(reply))
    assert (ran.verdict, Ether(ran.packet).dst) == (Verdict.REDIRECT, WEB.mac)
    assert whole(Ether(ran.packet)) == ran.packet
    return ends(ran)


def service_to(services: Services, family: int, at: Pod | str, kind: str = "tcp") -> tuple[End, End]:
    """A Service with that backend: where it is called, and where the backend is."""
    services.cluster_ip(family, services.backend(address(at, family), kind=kind), kind=kind)
    return (CLUSTER_IP[family], PORT), (address(at, family), TARGET_PORT)


# -- both are answered -----------------------------------------------------------------------------------------------


@FAMILIES
@KINDS
def test_a_pods_direct_connection_from_the_port_of_one_to_a_service_of_the_same_backend_hung(
    services: Services, family: int, kind: str
) -> None:
    """The backend took it for the other one, and its answers came from the Service."""
    node = services.node
    service, backend = service_to(services, family, DB, kind)
    client = (address(WEB, family), CLIENT_PORT)
    assert said(node, family, service, kind, "S") == (client, backend)

    seen, to = said(node, family, backend, kind, "S")

    assert (seen[0], to) == (client[0], backend)
    assert seen[1] != CLIENT_PORT
    assert answered(node, family, DB, client, kind) == (service, client)
    assert answered(node, family, DB, seen, kind) == (backend, client)
    assert said(node, family, backend, kind) == (seen, backend)
    assert said(node, family, service, kind) == (client, backend)


@FAMILIES
def test_the_end_of_one_is_not_the_end_of_the_other(services: Services, family: int) -> None:
    node = services.node
    service, backend = service_to(services, family, DB)
    said(node, family, service, flags="S")
    answered(node, family, DB, (address(WEB, family), CLIENT_PORT))
    seen, _ = said(node, family, backend, flags="S")
    answered(node, family, DB, seen)

    said(node, family, backend, flags="FA")

    assert sorted(entry.state for entry in node.connections()) == [CtState.ESTABLISHED, CtState.CLOSING]


@FAMILIES
@pytest.mark.parametrize("kind", ["tcp", "sctp"])
def test_it_keeps_its_port_when_the_connection_to_the_service_is_over_and_forgotten(
    services: Services, family: int, kind: str
) -> None:
    node = services.node
    service, backend = service_to(services, family, DB, kind)
    said(node, family, service, kind, "S")
    seen, _ = said(node, family, backend, kind, "S")
    forget_connection(node, family, CLIENT_PORT)

    assert said(node, family, backend, kind) == (seen, backend)
    assert answered(node, family, DB, seen, kind, "A") == (backend, (address(WEB, family), CLIENT_PORT))


def forget_connection(node: Node, family: int, port: int) -> None:
    """That of WEB's port, as the collector does."""
    connections = node.map(CONNECTIONS[family])
    (key,) = (key for key, _ in connections.items() if port in (key.port_low, key.port_high))
    assert not connections.delete_batch([key])


@FAMILIES
def test_datagrams_keep_their_other_port_as_long_as_they_flow(services: Services, family: int) -> None:
    """Those to the Service have ceased long ago."""
    node = services.node
    service, backend = service_to(services, family, DB, "udp")
    said(node, family, service, "udp")
    seen, _ = said(node, family, backend, "udp")
    node.change_connection(expires_s=int(time.monotonic()) + 5)
    age_flows(node, family, by_s=1)

    said(node, family, backend, "udp")

    assert min(entry.expires_s for entry in node.connections()) > time.monotonic() + 50
    assert said(node, family, backend, "udp") == (seen, backend)


def age_flows(node: Node, family: int, by_s: int) -> None:
    flows = node.map(FLOWS[family])
    for key, entry in list(flows.items()):
        flows.update(key, replace(entry, used_s=entry.used_s - by_s))


@FAMILIES
def test_the_middle_of_a_connection_of_which_nothing_is_known_goes_on_as_it_is(services: Services, family: int) -> None:
    _, backend = service_to(services, family, DB)

    assert said(services.node, family, backend) == ((address(WEB, family), CLIENT_PORT), backend)


@FAMILIES
def test_datagrams_to_a_service_after_some_to_its_backend_from_the_same_port_were_dropped(
    services: Services, family: int
) -> None:
    node = services.node
    service, backend = service_to(services, family, DB, "udp")
    client = (address(WEB, family), CLIENT_PORT)
    assert said(node, family, backend, "udp") == (client, backend)

    seen, to = said(node, family, service, "udp")

    assert to == backend
    assert answered(node, family, DB, seen, "udp") == (service, client)
    assert answered(node, family, DB, client, "udp") == (backend, client)


@FAMILIES
def test_questions_of_one_port_to_two_frontends_of_a_backend_may_be_under_way_at_once(
    services: Services, family: int
) -> None:
    """The answer to the first came from the second."""
    node = services.node
    service, _ = service_to(services, family, DB, "udp")
    other = (LOAD_BALANCER_IP[family], PORT)
    services.frontend(*other, (services.backend(address(DB, family), kind="udp"),), kind="udp")

    asked = [(called, said(node, family, called, "udp")[0]) for called in (service, other)]

    client = (address(WEB, family), CLIENT_PORT)
    for called, seen in asked:
        assert answered(node, family, DB, seen, "udp") == (called, client)


# -- wherever the backend is -----------------------------------------------------------------------------------------


@FAMILIES
def test_beside_one_to_a_backend_on_another_node(services: Services, family: int) -> None:
    node = services.node
    services.reached_by("native")
    service, backend = service_to(services, family, API)
    said(node, family, service, flags="S")
    seen, _ = said(node, family, backend, flags="S")

    reply = from_network(address(API, family), WEB, family) / tcp(TARGET_PORT, seen[1], "SA")
    ran = node.run("from_netdev", "uplink", bytes(reply))

    assert (ran.verdict, ends(ran)) == (Verdict.REDIRECT, (backend, (address(WEB, family), CLIENT_PORT)))
    assert Ether(ran.packet).dst == WEB.mac


@FAMILIES
def test_beside_one_to_a_backend_in_the_network_of_the_node(services: Services, family: int) -> None:
    node = services.node
    service, backend = service_to(services, family, NODE[family])
    said(node, family, service, flags="S")
    seen, _ = said(node, family, backend, flags="S")

    reply = from_host(NODE[family], WEB, family) / tcp(TARGET_PORT, seen[1], "SA")
    ran = node.run("from_host", "cilium_host", bytes(reply))

    assert (ran.verdict, ends(ran)) == (Verdict.REDIRECT, (backend, (address(WEB, family), CLIENT_PORT)))


@FAMILIES
@KINDS
def test_a_backend_that_speaks_first_once_its_connection_is_forgotten_still_answers_as_the_service(
    services: Services, family: int, kind: str
) -> None:
    """By conntrack it is the one that opened the connection."""
    node = services.node
    service, backend = service_to(services, family, DB, kind)
    client = (address(WEB, family), CLIENT_PORT)
    said(node, family, service, kind, "S")
    answered(node, family, DB, client, kind)
    forget_connection(node, family, CLIENT_PORT)
    assert node.run("from_container", "db", bytes(reply_of_db(family, kind))).verdict == Verdict.REDIRECT

    assert said(node, family, service, kind) == (client, backend)
    assert answered(node, family, DB, client, kind, "A") == (service, client)


def reply_of_db(family: int, kind: str) -> Packet:
    return from_pod(DB, WEB, family) / transport(kind, TARGET_PORT, CLIENT_PORT, "A")


# -- what is said about it -------------------------------------------------------------------------------------------


def quoted(ran: Ran, family: int) -> Packet:
    frame = Ether(ran.packet)
    if family == 4:
        return IP(bytes(frame[ICMP].payload))
    error = ICMPv6DestUnreach if frame.haslayer(ICMPv6DestUnreach) else ICMPv6PacketTooBig
    return IPv6(bytes(frame[error].payload))


def quoted_ends(ran: Ran, family: int) -> Ends:
    packet = quoted(ran, family)
    return (packet.src, packet[1].sport), (packet.dst, packet[1].dport)


def unreachable(family: int) -> Packet:
    return ICMP(type=3, code=3) if family == 4 else ICMPv6DestUnreach(code=4)


def bare(source: str, to: str, family: int) -> Packet:
    return IP(src=source, dst=to) if family == 4 else IPv6(src=source, dst=to)


@FAMILIES
@pytest.mark.parametrize("at", [DB, API], ids=["here", "elsewhere"])
def test_errors_tell_each_end_of_what_it_has_sent(services: Services, family: int, at: Pod) -> None:
    node = services.node
    services.reached_by("native")
    service, backend = service_to(services, family, at, "udp")
    client = (address(WEB, family), CLIENT_PORT)
    said(node, family, service, "udp")
    seen, _ = said(node, family, backend, "udp")
    asked = bare(client[0], backend[0], family) / udp(seen[1], TARGET_PORT)
    answer = bare(backend[0], client[0], family) / udp(TARGET_PORT, CLIENT_PORT)
    program, device, head = (
        ("from_container", "db", from_pod(DB, WEB, family))
        if at is DB
        else ("from_netdev", "uplink", from_network(address(API, family), WEB, family))
    )

    of_backend = node.run(program, device, bytes(head / unreachable(family) / asked))
    of_client = node.run("from_container", "web", bytes(from_pod(WEB, at, family) / unreachable(family) / answer))

    assert quoted_ends(of_backend, family) == (client, backend)
    assert quoted_ends(of_client, family) == (backend, seen)
    for ran, source, to in ((of_backend, backend[0], client[0]), (of_client, client[0], backend[0])):
        frame = Ether(ran.packet)
        assert (ran.verdict, frame[1].src, frame[1].dst) == (Verdict.REDIRECT, source, to)
        assert whole(frame) == ran.packet


@FAMILIES
def test_a_packet_that_is_too_big_is_told_of_as_it_was_sent(services: Services, family: int) -> None:
    node = services.node
    service, backend = service_to(services, family, API)
    said(node, family, service, flags="S")
    said(node, family, backend, flags="S")
    big = from_pod(WEB, API, family) / tcp(CLIENT_PORT, TARGET_PORT, "A") / Raw(b"x" * 1420)

    ran = node.run("from_container", "web", bytes(big))

    assert Ether(ran.packet).dst == WEB.mac
    assert quoted_ends(ran, family) == ((address(WEB, family), CLIENT_PORT), backend)


@FAMILIES
def test_flows_name_no_service_for_it(services: Services, family: int) -> None:
    node = services.node
    service, backend = service_to(services, family, DB)
    say(node, family, service, flags="S")

    (event,) = say(node, family, backend, flags="S").events

    assert (event.service_id, event.source_identity, event.destination_identity) == (0, WEB.identity, DB.identity)


@FAMILIES
@KINDS
def test_a_direct_connection_left_with_the_source_of_the_packet_before(
    services: Services, family: int, kind: str
) -> None:
    """That one was another pod's, to the same Service on the same CPU."""
    node = services.node
    service, backend = service_to(services, family, DB, kind)
    said(node, family, service, kind, "S")
    other = from_pod(DB, service[0], family) / transport(kind, 4000, service[1], "S")
    assert node.run("from_container", "db", bytes(other)).verdict == Verdict.REDIRECT

    seen, to = said(node, family, backend, kind, "S")

    assert (seen[0], to) == (address(WEB, family), backend)


# -- what is over ----------------------------------------------------------------------------------------------------


@FAMILIES
def test_its_port_and_its_flows_are_collected_with_it(services: Services, family: int) -> None:
    node = services.node
    service, backend = service_to(services, family, DB)
    said(node, family, service, flags="S")
    said(node, family, backend, flags="S")

    def collected(later_s: int) -> tuple[int, int]:
        """What is left of mappings and flows, at that time."""
        connections, mappings, flows = (node.map(each[family]).raw for each in (CONNECTIONS, MAPPINGS, FLOWS))
        now_s = int(time.monotonic()) + later_s
        conntrack.collect(connections, now_s)
        left = nat.collect(mappings, connections, now_s).alive
        return left, service_flows.collect(flows, connections, now_s).alive

    assert collected(30) == (1, 4)
    assert collected(100) == (0, 0)

"""Maps that are full: what stands stays, what is half-open or over gives way, and who finds no room is dropped by name."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from scapy.layers.inet import TCP
from scapy.layers.l2 import Ether

from pycilium.datapath import layouts
from pycilium.datapath.codec import MapSpec
from pycilium.datapath.layouts import CtFlags, CtLifetimeS, CtState, DropReason, NatDirection
from tests.bpf.conftest import SMALL_MAPS, NodeWith
from tests.bpf.masquerade import NODE, coming, leaving, sent, source_port
from tests.bpf.node import DB, INGRESS, WEB, Node, Ran, Verdict
from tests.bpf.packets import address, from_network, from_pod, tcp, udp
from tests.bpf.services import API, CLIENT, NODE2, NODE_ID, NODE_PORT, TARGET_PORT, Services, small_world

pytestmark = pytest.mark.root

FAMILIES = pytest.mark.parametrize("family", [4, 6])
CT = {4: layouts.CT4, 6: layouts.CT6}
NAT = {4: layouts.NAT4, 6: layouts.NAT6}
FLOWS = {4: layouts.SERVICE_FLOWS4, 6: layouts.SERVICE_FLOWS6}
SIZE, TRANSIENTS = SMALL_MAPS["ct4"], SMALL_MAPS["ct_transients"]
FLOOD = 2 * SIZE


@pytest.fixture
def services(node_with: NodeWith) -> Services:
    services = small_world(node_with())
    services.node.masquerade("uplink", ipv4=NODE[4], ipv6=NODE[6])
    return services


@pytest.fixture
def node(services: Services) -> Node:
    services.node.allow_all(WEB)
    return services.node


def out(node: Node, flags: str, family: int = 4, *, port: int = 40000) -> Ran:
    return node.run("from_container", "web", bytes(from_pod(WEB, DB, family) / tcp(port, 80, flags)))


def back(node: Node, flags: str, family: int = 4, *, port: int = 40000) -> Ran:
    return node.run("from_container", "db", bytes(from_pod(DB, WEB, family) / tcp(80, port, flags)))


def shake_hands(node: Node, family: int = 4) -> None:
    out(node, "S", family), back(node, "SA", family), out(node, "A", family)


def flood(node: Node, family: int = 4, count: int = FLOOD) -> set[Verdict]:
    """Half-open connections from outside, one a port; what became of them."""
    made = bytes(from_network(CLIENT[family], DB, family) / tcp(1, 80, "S"))
    verdicts = {verdict for verdict, _ in node.run_all("from_netdev", "uplink", with_ports(made, family, count))}
    forget_events(node)
    return verdicts


def forget_events(node: Node) -> None:
    while len(node.reader.read()):
        pass


def with_ports(made: bytes, family: int, count: int, *, offset: int = 0) -> Iterator[bytes]:
    """The packet from as many source ports (`offset` 2: to as many ports); nobody here looks at the checksum."""
    at = 14 + (20 if family == 4 else 40) + offset
    return (made[:at] + port.to_bytes(2, "big") + made[at + 2 :] for port in range(1024, 1024 + count))


def count(node: Node, spec: MapSpec) -> int:
    return sum(1 for _ in node.map(spec).items())


def fill(node: Node, spec: MapSpec, key: object, value: object, field: str) -> None:
    """Up to the last entry, with what belongs to nobody."""
    room = SMALL_MAPS[spec.name] - count(node, spec)
    written = node.map(spec).update_batch(
        {replace(key, **{field: number + 1}): value for number in range(room)}  # type: ignore[type-var]
    )
    assert written == {}


@FAMILIES
def test_a_flood_of_half_open_connections_ends_none_that_stands(node: Node, family: int) -> None:
    node.allow_all(DB)
    shake_hands(node, family)

    assert flood(node, family) == {Verdict.REDIRECT}

    assert count(node, CT[family]) <= TRANSIENTS + 1
    assert back(node, "A", family).events[0].is_reply


@FAMILIES
def test_a_flood_of_half_open_connections_leaves_a_client_outside_its_backend(services: Services, family: int) -> None:
    services.node.other_node(NODE_ID, NODE2[family], tunnel=False, device="uplink", mtu_bytes=1500)
    services.node_port(family, *(services.backend(address(API, family), TARGET_PORT + each) for each in range(8)))
    node, packet = services.node, from_network(CLIENT[family], NODE[family], family)
    ask = bytes(packet / tcp(500, NODE_PORT, "S"))
    first = Ether(node.run("from_netdev", "uplink", ask).packet)
    answer = from_network(address(API, family), first.payload.src, family) / tcp(
        first[TCP].dport, first[TCP].sport, "SA"
    )
    node.run("from_netdev", "uplink", bytes(answer))
    node.run("from_netdev", "uplink", bytes(packet / tcp(500, NODE_PORT, "A")))

    verdicts = {verdict for verdict, _ in node.run_all("from_netdev", "uplink", with_ports(ask, family, FLOOD))}

    assert Verdict.DROP not in verdicts
    assert count(node, FLOWS[family]) <= 2 * (TRANSIENTS + 1)
    assert count(node, NAT[family]) <= TRANSIENTS + 1
    later = Ether(node.run("from_netdev", "uplink", bytes(packet / tcp(500, NODE_PORT, "A"))).packet)
    assert (later[TCP].sport, later[TCP].dport) == (first[TCP].sport, first[TCP].dport)


@FAMILIES
def test_a_flood_of_half_open_connections_takes_no_port_from_one_that_stands(node: Node, family: int) -> None:
    world = CLIENT[family]
    ask = from_pod(WEB, world, family)
    leave = leaving(WEB, world, family)
    node.run("from_container", "web", bytes(ask / tcp(500, 443, "S")))
    port = source_port(sent(node, leave / tcp(500, 443, "S")))
    node.run("from_netdev", "uplink", bytes(coming(world, "node", family) / tcp(443, port, "SA")))
    node.run("from_container", "web", bytes(ask / tcp(500, 443, "A")))

    asked, left = bytes(ask / tcp(1, 443, "S")), bytes(leave / tcp(1, 443, "S"))
    for one, other in zip(with_ports(asked, family, FLOOD), with_ports(left, family, FLOOD), strict=True):
        node.run_all("from_container", "web", [one])
        ((verdict, _),) = node.run_all("to_netdev", "uplink", [other])
        assert verdict == Verdict.PASS

    assert count(node, NAT[family]) <= 2 * (TRANSIENTS + 1)
    assert source_port(sent(node, leave / tcp(500, 443, "A"))) == port


@FAMILIES
def test_connections_that_have_ended_give_way(node: Node, family: int) -> None:
    node.allow_all(DB)
    there, here = from_pod(WEB, DB, family), from_pod(DB, WEB, family)
    exchange = [
        with_ports(bytes(there / tcp(1, 80, flags)), family, 2 * SIZE)
        if device == "web"
        else with_ports(bytes(here / tcp(80, 1, flags)), family, 2 * SIZE, offset=2)
        for device, flags in (("web", "S"), ("db", "SA"), ("web", "A"), ("web", "FA"), ("db", "FA"), ("web", "A"))
    ]
    for syn, answer, *rest in zip(*exchange, strict=True):
        ask, end, farewell, last = rest
        for device, packets in (
            ("web", [syn]),
            ("db", [answer]),
            ("web", [ask, end]),
            ("db", [farewell]),
            ("web", [last]),
        ):
            ran = node.run_all("from_container", device, packets)
            assert {verdict for verdict, _ in ran} == {Verdict.REDIRECT}
    forget_events(node)

    assert count(node, CT[family]) <= TRANSIENTS + 1


@FAMILIES
def test_when_all_that_conntrack_holds_stands_a_new_connection_is_dropped_and_counted(node: Node, family: int) -> None:
    node.allow_all(DB)
    shake_hands(node, family)
    now_s = int(time.monotonic())
    standing = layouts.CtEntry(
        expires_s=now_s + 1000, created_s=now_s - 60, state=CtState.ESTABLISHED, flags=CtFlags.ASSURED
    )
    key = layouts.Ct4Key(protocol=6) if family == 4 else layouts.Ct6Key(protocol=6)
    fill(node, CT[family], key, standing, "port_low")

    before = node.metrics().get((INGRESS, DropReason.CT_INSERT_FAILED), 0)

    ran = node.run("from_netdev", "uplink", bytes(from_network(CLIENT[family], DB, family) / tcp(40000, 80, "S")))

    assert ran.verdict == Verdict.DROP
    assert [event.subtype for event in ran.events] == [DropReason.CT_INSERT_FAILED]
    assert node.metrics()[INGRESS, DropReason.CT_INSERT_FAILED] == before + 1
    assert out(node, "PA", family).verdict == back(node, "A", family).verdict == Verdict.REDIRECT


@FAMILIES
def test_a_new_connection_takes_the_room_of_half_open_ones_before_their_turn(node: Node, family: int) -> None:
    node.allow_all(DB)
    assert flood(node, family, TRANSIENTS) == {Verdict.REDIRECT}
    now_s = int(time.monotonic())
    standing = layouts.CtEntry(expires_s=now_s + 1000, state=CtState.ESTABLISHED, flags=CtFlags.ASSURED)
    key = layouts.Ct4Key(protocol=6) if family == 4 else layouts.Ct6Key(protocol=6)
    fill(node, CT[family], key, standing, "port_low")

    assert {out(node, "S", family, port=40000 + each).verdict for each in range(32)} == {Verdict.REDIRECT}


@FAMILIES
def test_when_all_mappings_are_in_use_a_new_flow_is_dropped_and_those_that_are_there_stay(
    node: Node, family: int
) -> None:
    world, leave = CLIENT[family], leaving(WEB, CLIENT[family], family)
    node.run("from_container", "web", bytes(from_pod(WEB, world, family) / tcp(500, 443, "S")))
    port = source_port(sent(node, leave / tcp(500, 443, "S")))
    key = layouts.Nat4Key(local_port=1) if family == 4 else layouts.Nat6Key(local_port=1)
    fill(node, NAT[family], replace(key, direction=NatDirection.IN), layouts.NatEntry(), "remote_port")

    ran = node.run("to_netdev", "uplink", bytes(leave / tcp(501, 443, "S")))

    assert ran.verdict == Verdict.DROP
    assert [event.subtype for event in ran.events] == [DropReason.NAT_NO_MAPPING]
    assert source_port(sent(node, leave / tcp(500, 443, "A"))) == port


@FAMILIES
def test_when_all_translations_are_in_use_a_new_connection_is_dropped_and_leaves_nothing(
    services: Services, family: int
) -> None:
    node = services.node
    services.node_port(family, services.backend(address(WEB, family)))
    packet = from_network(CLIENT[family], NODE[family], family)
    first = node.run("from_netdev", "uplink", bytes(packet / tcp(500, NODE_PORT, "S")))
    key = layouts.ServiceFlow4Key(protocol=6) if family == 4 else layouts.ServiceFlow6Key(protocol=6)
    fill(node, FLOWS[family], key, layouts.ServiceFlowEntry(), "source_port")
    node.map(FLOWS[family]).delete(replace(key, source_port=1))  # room for one of two

    ran = node.run("from_netdev", "uplink", bytes(packet / tcp(501, NODE_PORT, "S")))

    assert first.verdict == Verdict.REDIRECT
    assert ran.verdict == Verdict.DROP
    assert [event.subtype for event in ran.events] == [DropReason.NAT_NO_MAPPING]
    assert count(node, FLOWS[family]) == SMALL_MAPS[FLOWS[family].name] - 1
    assert node.run("from_netdev", "uplink", bytes(packet / tcp(500, NODE_PORT, "A"))).verdict == Verdict.REDIRECT


class TestAssured:
    def test_by_the_third_packet_of_a_handshake(self, node: Node) -> None:
        node.allow_all(DB)
        flags = []
        for step in (lambda: out(node, "S"), lambda: back(node, "SA"), lambda: out(node, "A")):
            step()
            flags.append(node.only_connection().flags)

        assert flags == [0, 0, CtFlags.ASSURED]

    def test_a_handshake_that_nobody_completes_lasts_no_longer_than_one_that_nobody_answers(self, node: Node) -> None:
        node.allow_all(DB)
        out(node, "S"), back(node, "SA")

        lasts_s = node.only_connection().expires_s - int(time.monotonic())

        assert abs(lasts_s - CtLifetimeS.OPENING_S) <= 1

    def test_of_datagrams_one_exchange_is_not_enough(self, node: Node) -> None:
        node.allow_all(DB)
        ask = bytes(from_pod(WEB, DB, 4) / udp(40000, 53))
        answer = bytes(from_pod(DB, WEB, 4) / udp(53, 40000))
        node.run_all("from_container", "web", [ask])
        node.run_all("from_container", "db", [answer])
        assert not node.only_connection().flags & CtFlags.ASSURED

        node.change_connection(created_s=int(time.monotonic()) - 3)
        node.run_all("from_container", "web", [ask])

        assert node.only_connection().flags & CtFlags.ASSURED

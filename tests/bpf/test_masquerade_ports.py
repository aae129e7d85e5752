"""Which port a masqueraded flow gets when very many flows go to few servers: never another's, and what is left is found."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable, Iterator

import pytest

from pycilium.datapath import layouts
from pycilium.datapath.layouts import NatDirection, NatLimits
from tests.bpf.conftest import NodeWith
from tests.bpf.masquerade import NODE, leaving
from tests.bpf.node import DB, IDENTITY_HOST, WEB, Node, Pod, Verdict, packed
from tests.bpf.packets import address, tcp

pytestmark = pytest.mark.root

FAMILIES = pytest.mark.parametrize("family", [4, 6])
ROOM = 1 << 19
PORTS = range(NatLimits.PORT_MIN, NatLimits.PORT_MIN + NatLimits.PORTS)


@pytest.fixture
def node(node_with: NodeWith) -> Node:
    made = node_with(sizes={"nat4": ROOM, "nat6": ROOM})
    made.masquerade("uplink", ipv4=NODE[4], ipv6=NODE[6])
    for own in NODE.values():
        made.identity(own, IDENTITY_HOST)
    return made


def syns(pod: Pod | str, family: int, server_port: int, ports: Iterable[int]) -> Iterator[bytes]:
    """One packet per source port; checksums are those of the first, for nobody looks."""
    template = bytearray(bytes(leaving(pod, "world", family) / tcp(1024, server_port, "S")))
    at = 34 if family == 4 else 54
    for port in ports:
        struct.pack_into(">H", template, at, port)
        yield bytes(template)


def sent_ports(node: Node, family: int, packets: Iterable[bytes]) -> list[int | None]:
    """The source port with which each left; None if it was dropped."""
    at = 34 if family == 4 else 54
    ran = node.run_all("to_netdev", "uplink", packets)
    return [struct.unpack_from(">H", out, at)[0] if verdict == Verdict.PASS else None for verdict, out in ran]


@FAMILIES
def test_hundred_thousand_flows_to_one_server_all_have_ports_of_their_own(node: Node, family: int) -> None:
    """Two pods use the same 25,000 source ports, to two ports of one server."""
    own = range(20000, 45000)
    for server_port in (80, 443):
        seen: Counter[int | None] = Counter()
        for pod in (WEB, DB):
            seen.update(sent_ports(node, family, syns(pod, family, server_port, own)))
        assert (len(seen), seen[None], max(seen.values())) == (2 * len(own), 0, 1)
        assert set(own) < seen.keys() <= set(PORTS), "the first comer keeps its own"


def take_ports(node: Node, family: int, outside: str, ports: Iterable[int], server_port: int) -> None:
    """These ports of the node are others' already."""
    ends = (address("world", family), outside)
    if family == 4:
        remote, local = (int.from_bytes(packed(end)[12:], "big") for end in ends)
        entries = {
            layouts.Nat4Key(local, remote, port, server_port, 6, NatDirection.IN): layouts.NatEntry(
                packed("10.0.0.99"), port
            )
            for port in ports
        }
        assert not node.map(layouts.NAT4).update_batch(entries)
    else:
        remote6, local6 = (packed(end) for end in ends)
        entries6 = {
            layouts.Nat6Key(local6, remote6, port, server_port, 6, NatDirection.IN): layouts.NatEntry(
                packed("fd00:10::63"), port
            )
            for port in ports
        }
        assert not node.map(layouts.NAT6).update_batch(entries6)


@FAMILIES
def test_the_last_ports_are_found(node: Node, family: int) -> None:
    """Of 64512 ports 500 are left, in one run and apart: 150 flows nearly all get one, each its own."""
    left = {*range(30000, 30250), *range(1024, 64024, 252)}
    take_ports(node, family, NODE[family], (port for port in PORTS if port not in left), 443)

    found = sent_ports(node, family, syns(WEB, family, 443, range(40001, 40151)))

    ports = [port for port in found if port is not None]
    assert len(ports) > 130
    assert len(set(ports)) == len(ports)
    assert set(ports) <= left


@FAMILIES
def test_when_none_is_left_the_packet_is_dropped_by_name(node: Node, family: int) -> None:
    take_ports(node, family, NODE[family], PORTS, 443)
    before = node.metrics().get((2, 167), 0)

    ran = node.run("to_netdev", "uplink", next(iter(syns(WEB, family, 443, [40000]))))

    assert (ran.verdict, ran.events[0].subtype, ran.events[0].source_port) == (Verdict.DROP, 167, 40000)
    assert node.metrics()[2, 167] == before + 1
    assert sent_ports(node, family, syns(WEB, family, 80, [40000])) == [40000], "other servers are reached as before"


@FAMILIES
def test_the_node_is_not_let_out_with_the_port_of_a_pod(node: Node, family: int) -> None:
    take_ports(node, family, NODE[family], PORTS, 443)
    assert sent_ports(node, family, syns("node", family, 443, [40000])) == [None]


@FAMILIES
def test_a_full_map_gives_no_port_twice(node_with: NodeWith, family: int) -> None:
    node = node_with(sizes={"nat4": 256, "nat6": 256})
    node.masquerade("uplink", ipv4=NODE[4], ipv6=NODE[6])
    given = {pod: sent_ports(node, family, syns(pod, family, 443, range(20000, 20100))) for pod in (WEB, DB)}

    again = {pod: sent_ports(node, family, syns(pod, family, 443, range(20000, 20100))) for pod in (WEB, DB)}

    assert again == given
    ports = [port for pod in (WEB, DB) for port in given[pod] if port is not None]
    assert len(set(ports)) == len(ports) == 128

"""Mappings live as long as their connections: what the agent's collector takes, and what it leaves."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from pycilium.datapath import conntrack, layouts, nat
from tests.bpf.conftest import NodeWith
from tests.bpf.masquerade import NODE, leave, leaving
from tests.bpf.node import DB, IDENTITY_HOST, WEB, Node, Pod
from tests.bpf.packets import address, echo_request, tcp, udp

pytestmark = pytest.mark.root

FAMILIES = pytest.mark.parametrize("family", [4, 6])
SPECS = {4: (layouts.CT4, layouts.NAT4), 6: (layouts.CT6, layouts.NAT6)}
KINDS = {"tcp": lambda _: tcp(40000, 443, "S"), "udp": lambda _: udp(40000, 53), "ping": echo_request}


@pytest.fixture
def node(node_with: NodeWith) -> Node:
    made = node_with()
    made.masquerade("uplink", ipv4=NODE[4], ipv6=NODE[6])
    for own in NODE.values():
        made.identity(own, IDENTITY_HOST)
    return made


def send(node: Node, pod: Pod, to: str, family: int, l4: Packet) -> None:
    packet = leaving(pod, to, family) / l4
    node.run("from_container", pod.name, bytes(Ether(src=pod.mac, dst=pod.host_mac) / packet[1]))
    leave(node, packet)


def collect(node: Node, family: int, later_s: int) -> tuple[int, int]:
    """(alive, removed) mappings' entries, at that time."""
    connections, mappings = (node.map(spec).raw for spec in SPECS[family])
    now_s = int(time.monotonic()) + later_s
    conntrack.collect(connections, now_s)
    done = nat.collect(mappings, connections, now_s)
    return done.alive, done.removed


@FAMILIES
@pytest.mark.parametrize("kind", KINDS)
def test_a_mapping_goes_with_its_connection(node: Node, family: int, kind: str) -> None:
    """Of ends in every order, for conntrack's keys are sorted."""
    remotes = ["world", "1.1.1.1", "9.9.9.9"] if family == 4 else ["world", "2001:db8:ffff::1", "fd00::1"]
    for pod in (WEB, DB):
        for remote in remotes:
            send(node, pod, remote, family, KINDS[kind](family))

    assert collect(node, family, 30) == (12, 0)
    assert collect(node, family, 100) == (0, 12)


@FAMILIES
def test_a_long_connection_keeps_its_mapping(node: Node, family: int) -> None:
    send(node, WEB, "world", family, tcp(40000, 443, "S"))
    send(node, DB, "world", family, tcp(40000, 443, "S"))
    connections = node.map(SPECS[family][0])
    key, entry = min(connections.items(), key=lambda item: item[0].to_bytes())
    connections.update(key, replace(entry, expires_s=entry.expires_s + 5000))

    assert collect(node, family, 1000) == (2, 2)


@FAMILIES
def test_what_was_used_just_now_stays_though_its_connection_is_not_listed(node: Node, family: int) -> None:
    leave(node, leaving(WEB, "world", family) / udp(40000, 53))
    assert collect(node, family, 5) == (2, 0)
    assert collect(node, family, 20) == (0, 2)


@FAMILIES
def test_a_mapping_of_the_node_itself_lives_by_its_use(node: Node, family: int) -> None:
    for l4 in (tcp(40000, 443, "S"), udp(40000, 53)):
        leave(node, leaving(WEB, "world", family) / l4)
        leave(node, leaving("node", "world", family) / l4)

    assert collect(node, family, 50) == (4, 4)
    assert collect(node, family, 70) == (2, 2), "that of UDP"
    assert collect(node, family, 8010) == (0, 2)


@FAMILIES
def test_mappings_are_listed_for_people(node: Node, family: int) -> None:
    leave(node, leaving(WEB, "world", family) / udp(40000, 53))

    (listed,) = nat.mappings(node.map(SPECS[family][1]))

    assert (listed.inside, listed.inside_port) == (address(WEB, family), 40000)
    assert (listed.outside, listed.outside_port) == (NODE[family], 40000)
    assert (listed.remote, listed.remote_port, listed.protocol) == (address("world", family), 53, 17)

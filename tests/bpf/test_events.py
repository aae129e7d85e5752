"""How much is told of a connection (aggregation), what is lost, and that policy verdicts ride along once."""

from __future__ import annotations

import select
import time

import pytest
from scapy.packet import Raw

from pycilium.datapath.layouts import Aggregation, EventType, TraceReason, VerdictFlags
from tests.bpf.conftest import NodeWith
from tests.bpf.node import DB, INGRESS, WEB, Node
from tests.bpf.packets import from_pod, tcp, udp
from tests.bpf.test_icmp_errors import quote, unreachable

pytestmark = pytest.mark.root

CONVERSATION = [
    *(("web", "S"), ("db", "SA"), ("web", "A"), ("web", "PA"), ("db", "A"), ("db", "PA"), ("web", "A")),
    *(("web", "FA"), ("web", "FA"), ("db", "FA"), ("web", "A")),
]


def play(node: Node, steps: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The steps whose packets were reported."""
    reported = []
    for device, flags in steps:
        source, to, sport, dport = (WEB, DB, 40000, 80) if device == "web" else (DB, WEB, 80, 40000)
        ran = node.run("from_container", device, bytes(from_pod(source, to, 4) / tcp(sport, dport, flags)))
        reported += [(device, flags)] * len(ran.events)
    return reported


@pytest.mark.parametrize("level", [Aggregation.NONE, Aggregation.LOW])
def test_every_packet(node_with: NodeWith, level: Aggregation) -> None:
    assert play(node_with(aggregation=level), CONVERSATION) == CONVERSATION


def test_medium_tells_beginning_flags_and_end(node_with: NodeWith) -> None:
    node = node_with(aggregation=Aggregation.MEDIUM)
    assert play(node, CONVERSATION) == [("web", "S"), ("db", "SA"), ("web", "FA"), ("db", "FA")]


def test_medium_tells_of_a_reset(node_with: NodeWith) -> None:
    node = node_with(aggregation=Aggregation.MEDIUM)
    play(node, CONVERSATION[:3])
    assert play(node, [("db", "R"), ("db", "R")]) == [("db", "R")]


def test_medium_tells_of_each_direction_once_per_interval(node_with: NodeWith) -> None:
    node = node_with(aggregation=Aggregation.MEDIUM, report_interval_s=100)
    play(node, CONVERSATION[:3])
    assert play(node, [("web", "A"), ("db", "A")]) == []
    long_ago = int(time.clock_gettime(time.CLOCK_MONOTONIC)) - 101
    node.change_connection(reported_origin_s=long_ago & 0xFFFFFFFF)
    assert play(node, [("db", "A"), ("web", "A"), ("web", "A")]) == [("web", "A")]
    node.change_connection(reported_reply_s=long_ago & 0xFFFFFFFF)
    assert play(node, [("web", "A"), ("db", "A"), ("db", "A")]) == [("db", "A")]


def test_medium_tells_of_every_datagram_exchange_both_ways(node_with: NodeWith) -> None:
    node = node_with(aggregation=Aggregation.MEDIUM)
    out, back = bytes(from_pod(WEB, DB, 4) / udp(5000, 53)), bytes(from_pod(DB, WEB, 4) / udp(53, 5000))
    counts = [
        len(node.run("from_container", *run).events) for run in [("web", out), ("db", back), ("web", out), ("db", back)]
    ]
    assert counts == [1, 1, 0, 0]


def test_maximum_tells_new_connections_alone(node_with: NodeWith) -> None:
    node = node_with(aggregation=Aggregation.MAXIMUM)
    assert play(node, CONVERSATION) == [("web", "S")]


@pytest.mark.parametrize("level", [Aggregation.MEDIUM, Aggregation.MAXIMUM])
def test_every_drop_is_told(node_with: NodeWith, level: Aggregation) -> None:
    node = node_with(aggregation=level)
    node.row(DB, INGRESS, 211)
    assert play(node, [("web", "S"), ("web", "S")]) == [("web", "S"), ("web", "S")]


@pytest.mark.parametrize(("level", "told"), [(Aggregation.MEDIUM, 1), (Aggregation.MAXIMUM, 0)])
def test_related_errors(node_with: NodeWith, level: Aggregation, told: int) -> None:
    node = node_with(aggregation=level)
    packet = from_pod(WEB, DB, 4) / udp(5000, 53)
    node.run("from_container", "web", bytes(packet))
    error = from_pod(DB, WEB, 4) / unreachable(4) / quote(packet)
    assert len(node.run("from_container", "db", bytes(error)).events) == told


def test_verdict_rides_on_the_packet_that_was_judged(node: Node) -> None:
    node.row(DB, INGRESS, 211, allow={0})
    syn = bytes(from_pod(WEB, DB, 4) / tcp(40000, 80, "S"))
    first, second = (node.run("from_container", "web", syn).events[0] for _ in range(2))
    assert (first.reason, first.verdict_flags) == (TraceReason.NEW, VerdictFlags.INGRESS)
    assert (second.reason, second.verdict_flags) == (TraceReason.ESTABLISHED, 0)
    assert (second.ingress_row, second.egress_row) == (211, 101)


def test_losses_are_counted_exactly(node_with: NodeWith) -> None:
    node = node_with(aggregation=Aggregation.NONE)
    packet = bytes(from_pod(WEB, DB, 4) / udp(5000, 53))
    lost_before = node.reader.lost()

    node.nanoseconds("from_container", "web", packet, repeat=5000)  # the second sees its own MACs: drops are told too

    assert len(node.reader.read()) == node.reader.capacity - 1
    assert node.reader.lost() - lost_before == 5000 - (node.reader.capacity - 1)
    assert len(node.run("from_container", "web", packet).events) == 1


def test_time_is_that_of_the_monotonic_clock(node: Node) -> None:
    before = time.monotonic_ns()
    (event,) = node.run("from_container", "web", bytes(from_pod(WEB, DB, 4) / udp(5000, 53))).events
    assert before < event.time_ns < time.monotonic_ns()


def test_whole_length_is_told(node: Node) -> None:
    packet = from_pod(WEB, DB, 4) / udp(5000, 53, b"") / Raw(bytes(1000))
    (event,) = node.run("from_container", "web", bytes(packet)).events
    assert (event.type, event.packet_bytes) == (EventType.TRACE, len(packet))


class TestWakingTheReader:
    def woken(self, node: Node) -> bool:
        with select.epoll() as poll:
            poll.register(node.reader.fileno(), select.EPOLLIN | select.EPOLLET)
            poll.poll(0)
            node.nanoseconds("from_container", "web", bytes(from_pod(WEB, DB, 4) / udp(5000, 53)), repeat=1)
            return bool(poll.poll(0.05))

    def test_at_once_after_a_pause(self, node_with: NodeWith) -> None:
        assert self.woken(node_with(event_wakeup_ns=0))

    def test_not_again_for_a_while(self, node_with: NodeWith) -> None:
        node = node_with(event_wakeup_ns=3600 * 10**9)
        for _ in range(50):  # some CPU may still owe its first
            node.run("from_container", "web", bytes(from_pod(WEB, DB, 4) / udp(5000, 53)))
        assert not self.woken(node)

    def test_when_the_ring_fills(self, node_with: NodeWith) -> None:
        node = node_with(event_wakeup_ns=3600 * 10**9)
        packet = bytes(from_pod(WEB, DB, 4) / udp(5000, 53))
        node.nanoseconds("from_container", "web", packet, repeat=node.reader.capacity // 4 + 10)
        assert self.woken(node)

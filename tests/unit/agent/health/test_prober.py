"""The prober with probes that answer when the test says so."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from ipaddress import ip_address

from pycilium.agent.health.prober import AT_ONCE, NODES_AT_ONCE, Prober
from pycilium.health import Answer, Connectivity, NodeReport, PathReport, ProbedNode, ProbeKind

ADDRESS = ip_address("172.18.0.12")


class Asked:
    """Notes what is asked at once; answers when `gate` is open."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.now, self.most, self.all = 0, 0, 0

    async def __call__(self, address, kind):
        self.now += 1
        self.all += 1
        self.most = max(self.most, self.now)
        await self.gate.wait()
        self.now -= 1
        return Answer(7) if kind is ProbeKind.ICMP else Answer(status="connection refused")


def prober(nodes: Iterable[ProbedNode], probe: Asked, clock=lambda: 0.0) -> Prober:
    return Prober(lambda: nodes, probe, 60, clock=clock, wall=lambda: 1000.0)


def many(count: int) -> list[ProbedNode]:
    return [ProbedNode(f"node{number:04}", (ip_address(0x0A000000 + number),)) for number in range(count)]


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_asking_for_a_probe_waits_for_every_answer():
    probe = Asked()
    probe.gate.set()
    tested = prober([ProbedNode("node2", (ADDRESS,))], probe)

    await tested.probe_all()

    answered, refused = Connectivity(Answer(7), 1000.0), Connectivity(Answer(status="connection refused"), 1000.0)
    assert tested.report() == [NodeReport("node2", (PathReport(ADDRESS, answered, refused),), ())]
    assert tested.probed_at_s == 1000.0


async def test_a_thousand_nodes_that_do_not_answer_are_asked_a_few_at_a_time():
    probe = Asked()
    tested = prober(many(1000), probe)
    probing = asyncio.create_task(tested.probe_all())
    await settle()

    assert probe.most == AT_ONCE

    probe.gate.set()
    await probing
    assert (probe.most, probe.all) == (AT_ONCE, 2000)


async def test_the_schedule_starts_no_more_nodes_than_there_is_room_for():
    probe = Asked()
    now = 0.0
    tested = prober(many(1000), probe, clock=lambda: now)
    tested.start_due()
    now = 59.0

    tested.start_due()
    tested.start_due()
    await settle()

    assert probe.all == 2 * NODES_AT_ONCE
    probe.gate.set()
    await settle()


async def test_results_go_with_the_node_that_had_the_address():
    probe = Asked()
    probe.gate.set()
    nodes = [ProbedNode("node2", (ADDRESS,))]
    tested = prober(nodes, probe)
    await tested.probe_all()

    nodes[:] = []
    tested.nodes_changed()
    assert tested.report() == []
    nodes[:] = [ProbedNode("node3", (ADDRESS,))]
    tested.nodes_changed()

    assert tested.report() == [NodeReport("node3", (PathReport(ADDRESS),), ())]


async def test_an_address_that_a_node_has_only_now_is_probed_soon_and_not_an_interval_later():
    """A node's health endpoint comes a moment after the node itself: it was called unreachable for a minute."""
    probe, nodes = Asked(), [ProbedNode("node2", (ADDRESS,))]
    probe.gate.set()
    tested = Prober(lambda: nodes, probe, 60, clock=lambda: 0.0, wall=lambda: 1000.0)
    tested.start_due()
    await settle()

    nodes[:] = [ProbedNode("node2", (ADDRESS,), (ip_address("10.0.2.254"),))]
    tested.nodes_changed()
    tested.start_due()
    await settle()

    (node,) = tested.report()
    assert [path.icmp for path in node.endpoint] == [Connectivity(Answer(7), 1000.0)]


async def test_a_node_that_only_lost_an_address_keeps_its_turn():
    probe, nodes = Asked(), [ProbedNode("node2", (ADDRESS, ip_address("172.18.0.13")))]
    probe.gate.set()
    tested = Prober(lambda: nodes, probe, 60, clock=lambda: 0.0, wall=lambda: 1000.0)
    tested.start_due()
    await settle()
    asked = probe.all

    nodes[:] = [ProbedNode("node2", (ADDRESS,))]
    tested.nodes_changed()
    tested.start_due()
    await settle()

    assert probe.all == asked

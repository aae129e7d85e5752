"""Keeps a report of which nodes answer: each is probed once per interval, all of them when somebody asks.

Who is next is `health.Schedule`'s; sending is `probing`'s. At most AT_ONCE probes are under way, so that a thousand
nodes that do not answer cost sockets and time, not the agent.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable

from pycilium.health import Answer, Connectivity, NodeReport, ProbedNode, ProbeKind, Schedule
from pycilium.health.probes import Address, report_of

AT_ONCE = 64
NODES_AT_ONCE = 32
Probe = Callable[[Address, ProbeKind], Awaitable[Answer]]


class Prober:
    """`nodes` is asked for the nodes whenever `nodes_changed` was called; `clock` is monotonic, `wall` Unix time."""

    def __init__(
        self,
        nodes: Callable[[], Iterable[ProbedNode]],
        probe: Probe,
        interval_s: float,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._source, self._probe, self._clock, self._wall = nodes, probe, clock, wall
        self._schedule = Schedule(interval_s)
        self._nodes: dict[str, ProbedNode] = {}
        self._results: dict[tuple[Address, ProbeKind], Connectivity] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._places = asyncio.Semaphore(AT_ONCE)
        self._wake = asyncio.Event()
        self._stale = True
        self.probed_at_s = 0.0
        """When the latest probe ended; 0: none has."""

    def nodes_changed(self) -> None:
        """Look at the nodes again; cheap, may be called at any time."""
        self._stale = True
        self._wake.set()

    def report(self) -> list[NodeReport]:
        """All nodes by name, with what is known of them."""
        self._take_in_nodes()
        return [report_of(node, self._results) for _, node in sorted(self._nodes.items())]

    async def probe_all(self) -> None:
        """Probe every node now; returns when all have answered or not."""
        self._take_in_nodes()
        await asyncio.gather(*(self._probe_node(node) for node in self._nodes.values()))

    async def run(self) -> None:
        """Probe by the schedule until cancelled."""
        try:
            while True:
                self._wake.clear()
                self.start_due()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), self._pause_s())
        finally:
            for task in self._running:
                task.cancel()

    def start_due(self) -> None:
        """Begin the probes whose turn it is, as far as there is room."""
        self._take_in_nodes()
        room = NODES_AT_ONCE - len(self._running)
        for name in self._schedule.take_due(self._clock(), room):
            task = asyncio.create_task(self._probe_node(self._nodes[name]), name=f"probe {name}")
            self._running.add(task)
            task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._wake.set()

    def _pause_s(self) -> float | None:
        due = self._schedule.next_due()
        if due is None or len(self._running) >= NODES_AT_ONCE:
            return None  # until a node comes, or a place is free
        return max(0.0, due - self._clock())

    def _take_in_nodes(self) -> None:
        if not self._stale:
            return
        self._stale = False
        before, now = self._nodes, self._clock()
        self._nodes = {node.name: node for node in self._source()}
        self._schedule.set_nodes(self._nodes, now)
        self._schedule.bring_forward(
            [name for name, node in self._nodes.items() if name in before and _has_more(node, before[name])], now
        )
        addresses = {address for node in self._nodes.values() for address in node.all_addresses}
        self._results = {key: found for key, found in self._results.items() if key[0] in addresses}

    async def _probe_node(self, node: ProbedNode) -> None:
        await asyncio.gather(*(self._ask(address, kind) for address in node.all_addresses for kind in ProbeKind))

    async def _ask(self, address: Address, kind: ProbeKind) -> None:
        async with self._places:
            answer = await self._probe(address, kind)
        self.probed_at_s = self._wall()
        self._results[address, kind] = Connectivity(answer, self.probed_at_s)


def _has_more(node: ProbedNode, before: ProbedNode) -> bool:
    """Whether the node has an address that it did not have."""
    return not {*node.all_addresses} <= {*before.all_addresses}

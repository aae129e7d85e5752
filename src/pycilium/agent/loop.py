"""The control loop: a round whenever an intent table changed, and again when a failed write is due.

Rounds run in the event loop's thread and never await, so two never overlap and nothing needs a lock. Commits that
happen while the loop is busy are taken in together by the next round: that is the batching.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from itertools import islice

import structlog

from pycilium.agent.controller import Controller
from pycilium.agent.intent import Intent
from pycilium.endpoint import EndpointEvent, advance
from pycilium.model.endpoint import Endpoint, EndpointState
from pycilium.reconcile import RoundResult

log = structlog.get_logger()

NAMED_FAILURES = 3
"""Of each target in the log; a map that is full refuses thousands of entries for one reason."""


@dataclass(slots=True)
class RoundStats:
    """What status and metrics say about the rounds."""

    rounds: int = 0
    updated: int = 0
    deleted: int = 0
    failed: int = 0
    last_s: float = 0.0


class ControlLoop:
    """Runs the controller's rounds; holds none back before `open` was called."""

    def __init__(self, intent: Intent, controller: Controller, clock: Callable[[], float] = time.monotonic) -> None:
        self._intent, self._controller, self._clock = intent, controller, clock
        self._open = False
        self._scheduled: asyncio.Handle | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._reported: dict[str, frozenset[Hashable]] = {}
        self.stats = RoundStats()
        self.before_round: Callable[[], None] = lambda: None
        self.after_round: Callable[[], None] = lambda: None
        """Called after each round, before anybody is told of its outcome."""
        intent.db.on_commit(self._committed)

    def open(self) -> RoundResult:
        """From now on the kernel follows the intent; call once every source is synced."""
        self._open = True
        return self.run_now()

    @property
    def is_open(self) -> bool:
        """Whether the intent is complete, so that the kernel follows it."""
        return self._open

    def run_now(self) -> RoundResult:
        """One round, at once. Endpoints that it realizes are ready when it returns."""
        if not self._open:
            return RoundResult(updated=0, deleted=0, failed=0, next_due=None)
        if self._scheduled is not None:
            self._scheduled.cancel()
            self._scheduled = None
        started = self._clock()
        self._advance_all(EndpointEvent.REALIZE_STARTED)
        self.before_round()
        result = self._controller.run(started)
        self.after_round()
        self._settle()
        self._count(result, self._clock() - started)
        self._plan_retry(result)
        return result

    def reread_routes(self) -> None:
        """Take in what became of the node's routes, and set right what is missing."""
        if self._open and not self._controller.reread_routes():
            self.run_now()

    def differences(self, endpoint: Endpoint) -> list[str]:
        """What the kernel does not hold yet of what `endpoint` needs, in words; empty when it is all there."""
        return self._controller.differences(endpoint)

    def _committed(self, _: frozenset[str]) -> None:
        if self._open and self._scheduled is None:
            self._scheduled = asyncio.get_running_loop().call_soon(self._run_scheduled)

    def _run_scheduled(self) -> None:
        self._scheduled = None
        self.run_now()

    def _plan_retry(self, result: RoundResult) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if result.next_due is not None:
            delay = max(0.0, result.next_due - self._clock())
            self._retry = asyncio.get_running_loop().call_later(delay, self.run_now)

    def _settle(self) -> None:
        """Endpoints that this round meant to realize are ready, or not, and then the next round tries again."""
        if not self._controller.in_sync:
            self._mark_unrealized()
        with self._intent.db.write() as txn:
            for endpoint in list(txn.by(self._intent.endpoints, "state", EndpointState.REGENERATING)):
                failed = self._controller.differences(endpoint)
                event = EndpointEvent.REALIZE_FAILED if failed else EndpointEvent.REALIZED
                txn.insert(self._intent.endpoints, advance(endpoint, event))
        if self._scheduled is not None:  # our own commit: nothing in it asks for a round
            self._scheduled.cancel()
            self._scheduled = None

    def _mark_unrealized(self) -> None:
        """Endpoints that were ready and of which the kernel refused something new are no longer."""
        with self._intent.db.write() as txn:
            for endpoint in list(txn.by(self._intent.endpoints, "state", EndpointState.READY)):
                if self._controller.differences(endpoint):
                    changed = advance(endpoint, EndpointEvent.POLICY_CHANGED)
                    txn.insert(self._intent.endpoints, advance(changed, EndpointEvent.REALIZE_STARTED))

    def _advance_all(self, event: EndpointEvent) -> None:
        waiting = (EndpointState.WAITING_TO_REGENERATE, EndpointState.NOT_READY)
        with self._intent.db.write() as txn:
            for state in waiting:
                for endpoint in list(txn.by(self._intent.endpoints, "state", state)):
                    txn.insert(self._intent.endpoints, advance(endpoint, event))

    def _count(self, result: RoundResult, took_s: float) -> None:
        stats = self.stats
        stats.rounds += 1
        stats.updated += result.updated
        stats.deleted += result.deleted
        stats.failed += result.failed
        stats.last_s = took_s
        self._report_failing()

    def _report_failing(self) -> None:
        """Log which entries the kernel refuses, a few of each target, when they are others than the last time."""
        failing: dict[str, dict[Hashable, str]] = {}
        for name, key, status in self._controller.failing():
            failing.setdefault(name, {})[key] = str(status.error)
        keys = {name: frozenset(errors) for name, errors in failing.items()}
        if keys == self._reported:
            return
        for name, errors in failing.items():
            if keys[name] == self._reported.get(name):
                continue
            for key, error in islice(errors.items(), NAMED_FAILURES):
                log.error("kernel refused an entry", target=name, key=str(key), error=error)
            if len(errors) > NAMED_FAILURES:
                log.error("kernel refused more entries", target=name, number=len(errors) - NAMED_FAILURES)
        self._reported = keys

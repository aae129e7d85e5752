"""Which kinds changed: one look at the log of changes for all watches of a process.

An agent watches a dozen kinds, and a write is a change of one. So a wake-up costs one look, and then wakes the watches
of the kinds that changed; the others learn up to which version nothing concerned them.

Invariant: a watch that sleeps has seen every change of its kind up to its position, or is about to be woken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from pycilium.errors import StoreError
from pycilium.store.wakeups import Wakeups


@dataclass(frozen=True, slots=True)
class Newest:
    """The log as it is: its version, up to which version it is forgotten, and kinds' newest changes after another."""

    version: int
    compacted: int
    of_kinds: Mapping[str, int]


@dataclass(slots=True, eq=False)
class Sleeper:
    """One watch, between its looks."""

    kind: str
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    position: int | None = None
    """The version up to which it knows of every change, while it sleeps."""

    async def sleep(self, position: int) -> int:
        """Wait until there may be a change of its kind after `position`; returns what is known by then."""
        self.position = position
        try:
            await self.wake.wait()
            return self.position
        finally:
            self.position = None


class KindNews:
    """Wakes this process's watches."""

    def __init__(self, wakeups: Wakeups, look: Callable[[int], Awaitable[Newest]]) -> None:
        """`look` finds the kinds' newest changes after a version."""
        self._wakeups, self._look = wakeups, look
        self._sleepers: set[Sleeper] = set()
        self._listening: ExitStack | None = None

    @contextmanager
    def subscribed(self, kind: str, after: int) -> Iterator[Sleeper]:
        """For one watch, of changes after a version; clear its `wake` before looking."""
        sleeper = Sleeper(kind)
        self._listening = self._listening or self._listen(after)
        self._sleepers.add(sleeper)
        try:
            yield sleeper
        finally:
            self._sleepers.discard(sleeper)
            if not self._sleepers:
                self._listening.close()
                self._listening = None

    def wake_all(self) -> None:
        for sleeper in self._sleepers:
            sleeper.wake.set()

    def _listen(self, after: int) -> ExitStack:
        """Begin to look, at what comes after a version; closing ends it. StoreUnavailable if nothing would wake us."""
        listening = ExitStack()
        woken = listening.enter_context(self._wakeups.subscribed())
        looking = asyncio.create_task(self._keep_looking(woken, after), name="kinds that changed")
        listening.callback(looking.cancel)
        return listening

    async def _keep_looking(self, woken: asyncio.Event, looked: int) -> None:
        while True:
            await woken.wait()
            woken.clear()
            try:
                newest = await self._look(looked)
            except StoreError:
                self.wake_all()  # each finds out by itself
                continue
            self._tell(looked, newest)
            looked = newest.version

    def _tell(self, looked: int, newest: Newest) -> None:
        whole = newest.compacted <= looked <= newest.version
        for sleeper in self._sleepers:
            position, changed = sleeper.position, newest.of_kinds.get(sleeper.kind, 0)
            if position is None and whole and not changed:
                continue  # it is looking just now; it might have looked before a change, but there is none
            if position is None or position < looked or changed > position or not whole:
                sleeper.wake.set()
            else:
                sleeper.position = max(position, newest.version)

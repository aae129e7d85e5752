"""Which kinds changed: one look at the log of changes for all watches of a process.

An agent watches a dozen kinds, and a write is a change of one. So a wake-up costs one look, which brings the changes
along if they are few: the watches of their kinds need not look themselves. Of many it wakes those watches, and the
others learn up to which version nothing concerned them.

Invariant: a watch that sleeps has seen every change of its kind up to its position, or is about to be woken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from pycilium.errors import StoreError
from pycilium.store.wakeups import Wakeups


@dataclass(frozen=True, slots=True)
class Newest:
    """The log as it is: its version, up to which version it is forgotten, and kinds' newest changes after another."""

    version: int
    compacted: int
    of_kinds: Mapping[str, int]
    events: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """All events after that other version, of kinds that have few."""


@dataclass(slots=True, eq=False)
class Sleeper:
    """One watch, between its looks."""

    kind: str
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    position: int | None = None
    """The version up to which it knows of every change, or has been told, while it sleeps."""
    _fell_asleep: int = 0
    _told: list[Any] | None = None

    async def sleep(self, position: int) -> tuple[int, Sequence[Any] | None]:
        """Wait until there may be a change of its kind after `position`.

        Returns what is known by then and the events until then; None: look yourself, from there on.
        """
        self.position = self._fell_asleep = position
        try:
            await self.wake.wait()
            if self._told is not None:
                self.wake.clear()
            return self.position, self._told
        finally:
            self.position = self._told = None

    def tell(self, events: Sequence[Any], version: int) -> None:
        """These are all its changes since its position up to a version."""
        self._told = [*(self._told or ()), *events]
        self.position = version
        self.wake.set()

    def let_look(self) -> None:
        """Something may have changed; what it was told and has not taken in yet is there to be seen too."""
        if self._told is not None:
            self.position, self._told = self._fell_asleep, None
        self.wake.set()


class KindNews:
    """Wakes this process's watches."""

    def __init__(self, wakeups: Wakeups, look: Callable[[int, Sequence[str]], Awaitable[Newest]]) -> None:
        """`look` finds these kinds' newest changes after a version."""
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
            sleeper.let_look()

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
            kinds = sorted({sleeper.kind for sleeper in self._sleepers})
            try:
                newest = await self._look(looked, kinds)
            except StoreError:
                self.wake_all()  # each finds out by itself
                continue
            for sleeper in self._sleepers:
                self._tell(sleeper, looked, newest, asked=sleeper.kind in kinds)
            looked = newest.version

    def _tell(self, sleeper: Sleeper, looked: int, newest: Newest, *, asked: bool) -> None:
        position, changed = sleeper.position, newest.of_kinds.get(sleeper.kind, 0)
        whole = asked and newest.compacted <= looked <= newest.version
        if position is None:
            if not whole or changed:
                sleeper.let_look()  # it is looking just now, and might have looked before the change
        elif not whole or position < looked:
            sleeper.let_look()
        elif changed <= position:
            sleeper.position = max(position, newest.version)
        elif position == looked and sleeper.kind in newest.events:
            sleeper.tell(newest.events[sleeper.kind], newest.version)
        else:
            sleeper.let_look()

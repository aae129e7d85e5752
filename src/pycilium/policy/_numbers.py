"""Numbers that mean something in the kernel: who has which, and when a freed one may be given out again.

Invariant: a number that the kernel may still know by an old meaning is never given out. So freed numbers, and all that
an earlier agent left behind, rest until `realized()` says that the kernel has caught up.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pycilium.model.peer import Network

Words = tuple[int, int, int, int, int, int, int, int]
"""The 512 bits of a bank, as the kernel has them."""


class NumbersExhaustedError(Exception):
    """No number of this kind is left; some may come free once the kernel has caught up."""


@dataclass(frozen=True, slots=True)
class NumbersInUse:
    """What the pinned maps of an earlier agent use."""

    policy_ids: frozenset[int] = frozenset()
    banks: frozenset[int] = frozenset()
    local_identities: frozenset[int] = frozenset()
    """All of them, wherever they stand."""
    cidrs: Mapping[Network, int] = field(default_factory=dict)
    """Prefixes of the ipcache whose identity is local or a world. They keep their numbers, and stay until the kernel
    has caught up: the old policies, in force until the endpoints flip, go on recognising what lies behind them."""
    bits: Mapping[tuple[int, int], Words] = field(default_factory=dict)
    """identity_bits, at least those of local identities and the worlds. A new prefix takes over, for the old policies,
    what they thought of the one that it lies in."""
    max_revision: int = 0
    max_row_id: int = 0


class NumberPool:
    """Gives out the lowest number of a range that is free and rested."""

    def __init__(self, numbers: range, in_use: Iterable[int] = ()) -> None:
        self._next = numbers.start
        self._end = numbers.stop
        self._resting = set(in_use)
        self._claimed: set[int] = set()
        self._rested: list[int] = []

    def take(self) -> int:
        """A number that nobody has. Raises NumbersExhaustedError."""
        if self._rested:
            return heapq.heappop(self._rested)
        while self._next in self._resting or self._next in self._claimed:
            self._next += 1
        if self._next >= self._end:
            raise NumbersExhaustedError
        self._next += 1
        return self._next - 1

    def claim(self, number: int) -> None:
        """Take this one, which was in use from the start and keeps its meaning."""
        self._resting.remove(number)
        self._claimed.add(number)

    def release(self, number: int) -> None:
        """Nobody wants it any more; it rests now."""
        self._claimed.discard(number)
        self._resting.add(number)

    def realized(self) -> None:
        """What rests has rested enough."""
        for number in self._resting:
            if number < self._next:
                heapq.heappush(self._rested, number)
        self._resting.clear()

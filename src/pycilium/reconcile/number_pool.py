"""Numbers that mean something in the kernel: who has which, and when a freed one may be given out again.

Invariant: a number that the kernel may still know by an old meaning is never given out. So freed numbers, and all that
an earlier agent left behind, rest until `realized()` says that the kernel has caught up.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable


class NumbersExhaustedError(Exception):
    """No number of this kind is left; some may come free once the kernel has caught up."""


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

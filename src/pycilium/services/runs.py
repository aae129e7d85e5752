"""Runs of service_slots: which are free, and which to give out.

Best fit: the smallest free run that is large enough, of equal ones the first; neighbours that are free join. Whether
programs may still read a run that is given back is for the caller to know (`backend_sets`).
Invariant: free runs and given ones are disjoint, together they are all slots, and no two free runs touch.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable
from typing import NamedTuple


class Run(NamedTuple):
    """`slots` slots from `first` on; none at all is a set without backends."""

    first: int = 0
    slots: int = 0

    @property
    def end(self) -> int:
        return self.first + self.slots


NO_RUN = Run()


class FreeRuns:
    """The free runs among `capacity` slots."""

    def __init__(self, capacity: int, in_use: Iterable[Run] = ()) -> None:
        """`in_use` must be disjoint and within the capacity."""
        self.capacity = capacity
        self._by_size: list[tuple[int, int]] = []
        self._ends: dict[int, int] = {}  # first → end
        self._firsts: dict[int, int] = {}  # end → first
        at = 0
        for run in sorted(in_use):
            self._add(at, run.first)
            at = run.end
        self._add(at, capacity)

    @property
    def free(self) -> int:
        """How many slots are free, in all runs together."""
        return sum(size for size, _ in self._by_size)

    def take(self, slots: int) -> Run | None:
        """A run of so many slots, None if no free one is large enough."""
        index = bisect_left(self._by_size, (slots, 0))
        if index == len(self._by_size):
            return None
        _, first = self._by_size[index]
        end = self._ends[first]
        self._remove(first, end)
        self._add(first + slots, end)
        return Run(first, slots)

    def give_back(self, run: Run) -> None:
        """Nobody reads it any more."""
        first, end = run.first, run.end
        if (before := self._firsts.get(first)) is not None:
            self._remove(before, first)
            first = before
        if (after := self._ends.get(end)) is not None:
            self._remove(end, after)
            end = after
        self._add(first, end)

    def _add(self, first: int, end: int) -> None:
        if first < end:
            insort(self._by_size, (end - first, first))
            self._ends[first], self._firsts[end] = end, first

    def _remove(self, first: int, end: int) -> None:
        del self._by_size[bisect_left(self._by_size, (end - first, first))]
        del self._ends[first], self._firsts[end]

"""When each node is probed: once per interval, a little apart from the others, for as long as it is there.

Time is a value. Invariant: between two turns of one node lies an interval, however late the first of them came, unless
it was brought forward; and a node is never forgotten: what is not taken now is due still.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable

FIRST_GAP_S = 0.05
"""Between the first turns of nodes that came at once: a thousand are through within a minute, two at once."""


class Schedule:
    """Turns of nodes, by name."""

    def __init__(self, interval_s: float) -> None:
        self.interval_s = interval_s
        self._due: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []

    def set_nodes(self, names: Iterable[str], now: float) -> None:
        """From now on these. Those that were there keep their turns; new ones come soon, one after the other."""
        wanted = set(names)
        self._due = {name: due for name, due in self._due.items() if name in wanted}
        self.bring_forward(wanted - self._due.keys(), now)

    def bring_forward(self, names: Iterable[str], now: float) -> None:
        """These come soon, one after the other, for there is something of them that nobody has probed."""
        soon = sorted(names)
        gap = min(FIRST_GAP_S, self.interval_s / max(1, len(soon)))
        for position, name in enumerate(soon):
            self._plan(name, min(now + position * gap, self._due.get(name, math.inf)))

    def take_due(self, now: float, room: int) -> list[str]:
        """Up to `room` nodes whose turn it is, the longest waiting first; each is planned anew."""
        taken: list[str] = []
        while len(taken) < room and self._next() is not None and self._heap[0][0] <= now:
            _, name = heapq.heappop(self._heap)
            taken.append(name)
            self._plan(name, now + self.interval_s)
        return taken

    def next_due(self) -> float | None:
        """When the next turn is; None if there is no node."""
        return self._next()

    def _next(self) -> float | None:
        while self._heap and self._due.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)  # of a node that went, or went and came again
        return self._heap[0][0] if self._heap else None

    def _plan(self, name: str, due: float) -> None:
        self._due[name] = due
        heapq.heappush(self._heap, (due, name))

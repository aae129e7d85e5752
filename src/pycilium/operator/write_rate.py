"""When slices may be written: no faster than allowed, and what is not urgent later. Pure; time comes in as a value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from pycilium.endpoint.slices import SliceWrite

PATIENCE_S = 30.0
"""How long a slice that something only leaves waits for more: nobody misses what is gone."""
LONG_PATIENCE_S = 300.0
"""The same, while less has left it than one of `WORTH`: what a CiliumEndpoint says of an end would be fewer bytes."""
WORTH = 10
NOT_URGENT = 2


class RateLimit(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Cilium's words for it."""

    nodes: Annotated[int, Meta(ge=0)]
    """From so many nodes on."""
    limit: Annotated[int, Meta(ge=1)]
    """Writes per second."""
    burst: Annotated[int, Meta(ge=1)]
    """So many at once after a time of quiet."""


def limit_for(limits: Sequence[RateLimit], nodes: int) -> RateLimit:
    """The one for the largest number of nodes that the cluster has, or else for the smallest."""
    by_nodes = sorted(limits, key=lambda each: each.nodes)
    return next((each for each in reversed(by_nodes) if each.nodes <= nodes), by_nodes[0])


class WriteRate:
    """Begins with a full burst."""

    def __init__(self) -> None:
        self._spent = 0.0
        self._counted_s = 0.0

    def wait_s(self, limit: RateLimit, now: float) -> float:
        """How long to wait before the next write; 0 if it may be made, and is then counted."""
        self._spent = max(0.0, self._spent - (now - self._counted_s) * limit.limit)
        self._counted_s = now
        if self._spent + 1 > limit.burst:
            return (self._spent + 1 - limit.burst) / limit.limit
        self._spent += 1
        return 0.0


class Deferral:
    """Which of the planned writes are due. What only leaves a slice goes along with what is new in it, or later."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}

    def due(self, writes: Sequence[SliceWrite], now: float) -> tuple[list[SliceWrite], float | None]:
        """Those to be made now; and in how many seconds the next is due, None if there is none."""
        waiting = {write.name: _patience_s(write) for write in writes if write.urgency >= NOT_URGENT}
        self._since = {name: self._since.get(name, now) for name in waiting}
        left_s = {name: self._since[name] + patience_s - now for name, patience_s in waiting.items()}
        later_s = [seconds for seconds in left_s.values() if seconds > 0]
        return [write for write in writes if left_s.get(write.name, 0) <= 0], min(later_s, default=None)


def _patience_s(write: SliceWrite) -> float:
    is_worth_it = write.left * WORTH >= len(write.slice.entries) + write.left
    return PATIENCE_S if is_worth_it else LONG_PATIENCE_S

"""How fast slices may be written: a bucket of tokens, by how many nodes there are. Pure; time comes in as a value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta


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

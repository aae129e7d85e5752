"""Which states were intended when. Pure: times are given.

Invariant: while an action is under way both the state before it and the one after it count.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from tests.e2e.chaos.model import PodName, State

SETTLE_S = 10.0
"""For how long an old state may be in force when nothing is broken. It takes milliseconds; machines are busy."""


@dataclass
class Stay:
    """A state, from the beginning of the action that led to it to the end of the one that led away."""

    begin: float
    state: State
    end: float = math.inf


@dataclass
class History:
    """Every state there was, and who had which address."""

    stays: list[Stay] = field(default_factory=list)
    holders: dict[str, set[tuple[PodName, int]]] = field(default_factory=dict)
    """By address: pods, each with the life in which it had it."""

    @property
    def now(self) -> State:
        return self.stays[-1].state

    def begin(self, at: float, state: State) -> None:
        """An action begins that leads to this state."""
        self.stays.append(Stay(at, state))

    def end(self, at: float) -> None:
        """It has ended: the state before counts no more."""
        if len(self.stays) > 1:
            self.stays[-2].end = at

    def hold(self, address: str, pod: PodName) -> None:
        self.holders.setdefault(address, set()).add((pod, self.now.pods[pod].life))

    def in_force(self, at: float) -> list[State]:
        """Those that some node may go by: of the last seconds, and of the whole time that something was broken."""
        found: list[State] = []
        since = at - SETTLE_S
        for stay in reversed(self.stays):
            if stay.begin > at:
                continue
            if stay.end < since:
                break
            found.append(stay.state)
            if not stay.state.healthy:
                since = min(since, stay.begin - SETTLE_S)
        return found

    def since(self, at: float) -> list[State]:
        """Those that were intended at some time from then on."""
        return [stay.state for stay in self.stays if stay.end >= at]

"""Which identities of the cluster are used no more: marked first, deleted later. Decisions only.

An agent that gives an identity it knows to another endpoint writes nothing at once, so that nobody uses it is never
certain. Therefore two steps, with a grace time before each, counted by this observer's own clock:

    unused for the grace time             -> marked in the store, for all agents to see
    marked and unused for the grace time  -> deleted, if it is still at the version that was seen then

An agent that uses or wants to use a marked identity takes the mark off first, which is a new version: so of mark's end
and deletion only one can happen, and an agent that comes too late finds it gone and creates it anew.

Invariant: what is deleted bore its mark, unchanged, for the whole grace time in which the store could be read.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass

MARK = "io.cilium.heartbeat"
"""The annotation; its value, a time, is for people."""


@dataclass(frozen=True, slots=True)
class IdentityState:
    """One identity as the store has it."""

    version: str
    is_marked: bool


@dataclass(frozen=True, slots=True)
class Decision:
    """Numbers of identities, each at the version that was observed."""

    mark: tuple[int, ...] = ()
    unmark: tuple[int, ...] = ()
    delete: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class _Unused:
    version: str
    since_s: float


class IdentityCollection:
    """What this observer knows of unused identities; see the module."""

    def __init__(self, grace_s: float) -> None:
        self._grace_s = grace_s
        self._unused: dict[int, _Unused] = {}

    def interrupted(self) -> None:
        """Something may have happened unseen: every grace time begins anew."""
        self._unused.clear()

    def observe(self, identities: Mapping[int, IdentityState], used: Container[int], now: float) -> Decision:
        """What to do. `used` must have been read after `identities`."""
        for number in [number for number in self._unused if number not in identities or number in used]:
            del self._unused[number]
        mark: list[int] = []
        unmark: list[int] = []
        delete: list[int] = []
        for number, state in identities.items():
            if number in used:
                if state.is_marked:
                    unmark.append(number)
                continue
            known = self._unused.get(number)
            if known is None or known.version != state.version:
                known = self._unused[number] = _Unused(state.version, now)
            if now - known.since_s >= self._grace_s:
                (delete if state.is_marked else mark).append(number)
        return Decision(tuple(mark), tuple(unmark), tuple(delete))

"""Where connectivity tests run: what a ground can do, whichever it is.

A ground makes pods, applies policies and starts probes; it decides nothing. Invariant: `clear` takes away everything
that `claim`, `prepare` and `apply` made, also what an earlier run left, and may be called at any stage and again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from pycilium.connectivity.agents import Question
from pycilium.connectivity.arena import Arena, Peer
from pycilium.connectivity.flows import Flow
from pycilium.connectivity.policies import Plain
from pycilium.connectivity.probes import Probe, ProbeResult

Tell = Callable[[str], None]
"""Told what happens next, for progress."""


class Ground(Protocol):
    """A lab or a cluster."""

    @property
    def name(self) -> str:
        """For people: `lab demo`, `the API server at …`."""
        ...

    @property
    def nodes(self) -> Sequence[str]:
        """Those that have an agent."""
        ...

    async def claim(self) -> None:
        """Before all else; CiliumError if another run is under way here, or this one has not the rights."""
        ...

    async def prepare(self, tell: Tell) -> Arena:
        """Pods that run and serve, Services before them. What cannot be made here, the arena is lacking."""
        ...

    async def clear(self, tell: Tell) -> None:
        """Take everything away that a run made; nothing left is a success."""
        ...

    async def apply(self, policies: Sequence[Plain]) -> None:
        """Whether they are in force, the agents tell."""
        ...

    async def withdraw(self, policies: Sequence[Plain]) -> None:
        """Those that are not there are no fault."""
        ...

    async def ask(self, node: str, question: Question) -> Any:
        """What the node's agent answers, as its API gives it."""
        ...

    async def probe(self, source: Peer, probes: Sequence[Probe]) -> list[ProbeResult]:
        """What came of each, all of them tried at once from inside the peer."""
        ...

    async def flows(self, since_s: float) -> list[Flow]:
        """What all nodes saw of the test's pods since that moment (seconds since 1970)."""
        ...

    async def log_errors(self) -> list[str]:
        """What agents logged as an error since `prepare`, each line with its node."""
        ...

"""Several reconcilers in order: what is referred to is written before what refers to it, and removed after it.

       updates    stage 1 ──► stage 2 ──► stage 3
       deletions  stage 1 ◄── stage 2 ◄── stage 3

A stage's deletions wait until nothing is pending in the stages after it: until then something there may still refer to
what is to be deleted. A failing key holds back no update of another; an entry that must not be written before another
one is there says so itself (`ready`).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pycilium.reconcile.reconciler import Reconciler, Status


@dataclass(frozen=True, slots=True)
class RoundResult:
    """What one round did. `next_due` is when a failed key is to be tried again; None if there is none."""

    updated: int
    deleted: int
    failed: int
    next_due: float | None


class Stages:
    """The reconcilers of an agent in the order of their stages."""

    def __init__(self, reconcilers: Sequence[Reconciler[Any, Any]]) -> None:
        self._reconcilers = tuple(reconcilers)

    @property
    def reconcilers(self) -> tuple[Reconciler[Any, Any], ...]:
        return self._reconcilers

    @property
    def in_sync(self) -> bool:
        """Whether every target holds exactly what is desired, as far as we know."""
        return all(reconciler.in_sync for reconciler in self._reconcilers)

    def failing(self) -> Iterator[tuple[str, Hashable, Status]]:
        """Every failing key with its reconciler's name: what health reports show."""
        for reconciler in self._reconcilers:
            for key in reconciler.errors:
                status = reconciler.status(key)
                if status is not None:
                    yield reconciler.name, key, status

    def resync(self) -> None:
        """Reads what all targets hold; the errors of those that cannot be read come together as an ExceptionGroup."""
        errors = []
        for reconciler in self._reconcilers:
            try:
                reconciler.resync()
            except Exception as error:  # noqa: BLE001  one target's fault must not keep the others from being read
                error.add_note(f"while reading {reconciler.name}")
                errors.append(error)
        if errors:
            raise ExceptionGroup("some targets could not be read", errors)

    def run_round(self, now: float) -> RoundResult:
        """One round: updates in order, then deletions in reverse order."""
        updates = [reconciler.run_updates(now) for reconciler in self._reconcilers]
        deletions = []
        for reconciler in reversed(self._reconcilers):
            deletions.append(reconciler.run_deletes(now))
            if not reconciler.in_sync:
                break
        due = [due for reconciler in self._reconcilers if (due := reconciler.next_due()) is not None]
        return RoundResult(
            updated=sum(outcome.succeeded for outcome in updates),
            deleted=sum(outcome.succeeded for outcome in deletions),
            failed=sum(outcome.failed for outcome in (*updates, *deletions)),
            next_due=min(due, default=None),
        )

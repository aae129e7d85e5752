"""Several reconcilers in order: what is referred to is written before what refers to it, and removed after it.

       updates    stage 1 ──► stage 2 ──► stage 3
       deletions  stage 1 ◄── stage 2 ◄── stage 3

A stage's deletions wait until nothing is pending in the stages after it: until then something there may still refer to
what is to be deleted. A failing key holds back no update of another; an entry that must not be written before another
one is there says so itself (`ready`).

A stage may be stages of its own: what is outside refers to nothing in them and they to nothing outside, only the order
counts. Whatever is pending in them holds back nothing outside, and they are not what `in_sync` speaks of.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pycilium.reconcile.reconciler import Outcome, Reconciler, Status


@dataclass(frozen=True, slots=True)
class RoundResult:
    """What one round did. `next_due` is when a failed key is to be tried again; None if there is none."""

    updated: int
    deleted: int
    failed: int
    next_due: float | None


class Stages:
    """The reconcilers of an agent in the order of their stages."""

    def __init__(self, stages: Sequence[Reconciler[Any, Any] | Stages]) -> None:
        self._stages = tuple(stages)

    @property
    def reconcilers(self) -> tuple[Reconciler[Any, Any], ...]:
        """All, those of stages within stages too."""
        found: list[Reconciler[Any, Any]] = []
        for stage in self._stages:
            found += stage.reconcilers if isinstance(stage, Stages) else (stage,)
        return tuple(found)

    @property
    def in_sync(self) -> bool:
        """Whether every target holds exactly what is desired, as far as we know."""
        return all(stage.in_sync for stage in self._own)

    def failing(self) -> Iterator[tuple[str, Hashable, Status]]:
        """Every failing key with its reconciler's name: what health reports show."""
        for reconciler in self.reconcilers:
            for key in reconciler.errors:
                status = reconciler.status(key)
                if status is not None:
                    yield reconciler.name, key, status

    def resync(self) -> None:
        """Reads what all targets hold; the errors of those that cannot be read come together as an ExceptionGroup."""
        errors = []
        for reconciler in self.reconcilers:
            try:
                reconciler.resync()
            except Exception as error:  # noqa: BLE001  one target's fault must not keep the others from being read
                error.add_note(f"while reading {reconciler.name}")
                errors.append(error)
        if errors:
            raise ExceptionGroup("some targets could not be read", errors)

    def run_round(self, now: float) -> RoundResult:
        """One round: updates in order, then deletions in reverse order."""
        updated, deleted = self.run_updates(now), self.run_deletes(now)
        due = [due for reconciler in self.reconcilers if (due := reconciler.next_due()) is not None]
        return RoundResult(
            updated=updated.succeeded,
            deleted=deleted.succeeded,
            failed=updated.failed + deleted.failed,
            next_due=min(due, default=None),
        )

    def run_updates(self, now: float) -> Outcome:
        """Of all stages, in order."""
        return _sum([stage.run_updates(now) for stage in self._stages])

    def run_deletes(self, now: float) -> Outcome:
        """In reverse order, as far as nothing later is pending."""
        outcomes, settled = [], True
        for stage in reversed(self._stages):
            if isinstance(stage, Stages):
                outcomes.append(stage.run_deletes(now))
            elif settled:
                outcomes.append(stage.run_deletes(now))
                settled = stage.in_sync
        return _sum(outcomes)

    @property
    def _own(self) -> tuple[Reconciler[Any, Any], ...]:
        return tuple(stage for stage in self._stages if isinstance(stage, Reconciler))


def _sum(outcomes: Sequence[Outcome]) -> Outcome:
    return Outcome(sum(each.succeeded for each in outcomes), sum(each.failed for each in outcomes))

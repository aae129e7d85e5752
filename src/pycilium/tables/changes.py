"""Following a table: what changed since one looked last, one change for each key.

Invariant: applying all drained changes to what was there at the start gives what is there now. How often one drains,
and how many commits lay between, does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Change(Generic[T]):
    """One key's change: added if `old` is None, removed if `new` is None, else replaced."""

    key: Hashable
    old: T | None
    new: T | None


class Changes(Generic[T]):
    """A reader of one table's changes; its backlog is at most one entry for each key. Drop it and it is forgotten."""

    def __init__(self, get: Callable[[Hashable], T | None], backlog: dict[Hashable, T | None]) -> None:
        self._get = get
        self._backlog = backlog  # key → the object when last drained

    def drain(self) -> list[Change[T]]:
        """The changes since the last call, in the order in which their keys first changed.

        An object that is equal to what it was is no change.
        """
        backlog, self._backlog = self._backlog, {}
        changes = (Change(key, old, self._get(key)) for key, old in backlog.items())
        return [change for change in changes if change.old != change.new]

    def drain_keys(self) -> list[Hashable]:
        """The keys that were touched since the last call, also of objects that came and went meanwhile."""
        backlog, self._backlog = self._backlog, {}
        return list(backlog)

    def __bool__(self) -> bool:
        """Whether there may be something to drain."""
        return bool(self._backlog)

    def note(self, replaced: dict[Hashable, Any]) -> None:
        """Tells of a commit: each changed key and what was there before. For the database alone."""
        for key, old in replaced.items():
            self._backlog.setdefault(key, old)

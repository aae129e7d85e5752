"""Desired against realized: a pure data structure that does no I/O and knows no time.

           desired                    realized
        ┌─────────────────┬──────────────────────────┐
        │ not there yet   │  equal     │  nobody     │
        │ or different    │  on both   │  wants it   │
        └─────────────────┴────────────┴─────────────┘
          pending_updates   in sync     pending_deletions

Realized is what we believe of the target. A failed write leaves its key *uncertain*: the target may hold the old value
or the new one, so the key counts as there and as different from every value (it is to be written, or else deleted).

Invariant: after writing all pending updates and deleting all pending deletions, the target holds exactly `desired`,
provided that realized said truly which keys it held.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, KeysView, Mapping
from types import MappingProxyType
from typing import Final, Generic, TypeVar, cast, final

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@final
class Uncertain:
    """Stands for a value that is not known; equal to nothing but itself."""

    def __repr__(self) -> str:
        return "uncertain"


UNCERTAIN: Final = Uncertain()
_ABSENT: Final = object()


class DeltaTracker(Generic[K, V]):
    """What is wanted, what is there, and the difference, kept up with every change. Values are compared with `==`."""

    def __init__(self) -> None:
        self._desired: dict[K, V] = {}
        self._realized: dict[K, V | Uncertain] = {}
        self._pending_updates: dict[K, V] = {}
        self._pending_deletions: dict[K, None] = {}  # a set that remembers its order

    @property
    def desired(self) -> Mapping[K, V]:
        return MappingProxyType(self._desired)

    @property
    def realized(self) -> Mapping[K, V | Uncertain]:
        return MappingProxyType(self._realized)

    @property
    def pending_updates(self) -> Mapping[K, V]:
        """What is to be written, in the order in which it became due."""
        return MappingProxyType(self._pending_updates)

    @property
    def pending_deletions(self) -> KeysView[K]:
        return self._pending_deletions.keys()

    @property
    def in_sync(self) -> bool:
        return not self._pending_updates and not self._pending_deletions

    def set_desired(self, key: K, value: V) -> None:
        self._desired[key] = value
        self._compare(key)

    def delete_desired(self, key: K) -> None:
        """Wanted no longer; absent is fine."""
        self._desired.pop(key, None)
        self._compare(key)

    def set_realized(self, key: K, value: V) -> None:
        """The target holds `value` under `key`."""
        self._realized[key] = value
        self._compare(key)

    def set_uncertain(self, key: K) -> None:
        """The target may hold something under `key`; what, is not known."""
        self._realized[key] = UNCERTAIN
        self._compare(key)

    def delete_realized(self, key: K) -> None:
        """The target holds nothing under `key`."""
        self._realized.pop(key, None)
        self._compare(key)

    def replace_realized(self, entries: Iterable[tuple[K, V]]) -> None:
        """Makes `entries`, a dump of the target, all that is realized.

        If the iterator raises, what it gave is taken over, what it had not come to stays as it was, and the error goes
        to the caller. An entry given twice counts as given last.
        """
        unseen = dict.fromkeys(self._realized)
        for key, value in entries:
            unseen.pop(key, None)
            self.set_realized(key, value)
        for key in unseen:
            self.delete_realized(key)

    def _compare(self, key: K) -> None:
        # One look at each: the keys of big tables are addresses, whose hashes are Python's work each time.
        wanted, there = self._desired.get(key, _ABSENT), self._realized.get(key, _ABSENT)
        if wanted is not _ABSENT and there != wanted:
            self._pending_updates[key] = cast("V", wanted)
        elif self._pending_updates:
            self._pending_updates.pop(key, None)
        if wanted is _ABSENT and there is not _ABSENT:
            self._pending_deletions[key] = None
        elif self._pending_deletions:
            self._pending_deletions.pop(key, None)

    def __repr__(self) -> str:
        return (
            f"<desired {len(self._desired)}, realized {len(self._realized)}, "
            f"to update {len(self._pending_updates)}, to delete {len(self._pending_deletions)}>"
        )

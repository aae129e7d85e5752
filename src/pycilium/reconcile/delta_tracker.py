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

from collections.abc import Hashable, Iterable, Iterator, KeysView, Mapping
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
    """What is wanted, what is there, and the difference, kept up with every change. Values are compared with `==`.

    What is in sync is kept once: big targets have 100,000 entries, and nearly all are.
    """

    def __init__(self) -> None:
        self._desired: dict[K, V] = {}
        self._other: dict[K, V | Uncertain] = {}
        """What is realized of the pending keys, as far as they are there; of all others it is what is desired."""
        self._pending_updates: dict[K, V] = {}
        self._pending_deletions: dict[K, None] = {}  # a set that remembers its order

    @property
    def desired(self) -> Mapping[K, V]:
        return MappingProxyType(self._desired)

    @property
    def realized(self) -> Mapping[K, V | Uncertain]:
        return _Realized(self._desired, self._other, self._pending_updates)

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
        there = self._there(key)
        self._desired[key] = value
        self._compare(key, value, there)

    def delete_desired(self, key: K) -> None:
        """Wanted no longer; absent is fine."""
        there = self._there(key)
        self._desired.pop(key, None)
        self._compare(key, _ABSENT, there)

    def set_realized(self, key: K, value: V) -> None:
        """The target holds `value` under `key`."""
        self._compare(key, self._desired.get(key, _ABSENT), value)

    def set_uncertain(self, key: K) -> None:
        """The target may hold something under `key`; what, is not known."""
        self._compare(key, self._desired.get(key, _ABSENT), UNCERTAIN)

    def delete_realized(self, key: K) -> None:
        """The target holds nothing under `key`."""
        self._compare(key, self._desired.get(key, _ABSENT), _ABSENT)

    def replace_realized(self, entries: Iterable[tuple[K, V]]) -> None:
        """Makes `entries`, a dump of the target, all that is realized.

        If the iterator raises, what it gave is taken over, what it had not come to stays as it was, and the error goes
        to the caller. An entry given twice counts as given last.
        """
        unseen = dict.fromkeys(self.realized)
        for key, value in entries:
            if unseen:
                unseen.pop(key, None)
            self.set_realized(key, value)
        for key in unseen:
            self.delete_realized(key)

    def _there(self, key: K) -> object:
        if (self._pending_updates and key in self._pending_updates) or (
            self._pending_deletions and key in self._pending_deletions
        ):
            return self._other.get(key, _ABSENT)
        return self._desired.get(key, _ABSENT)

    def _compare(self, key: K, wanted: object, there: object) -> None:
        """Put `key` where it belongs. One look at each: hashes of addresses are Python's work each time."""
        pending = there != wanted
        if pending and wanted is not _ABSENT:
            self._pending_updates[key] = cast("V", wanted)
        elif self._pending_updates:
            self._pending_updates.pop(key, None)
            self._pending_updates = self._pending_updates or {}  # a dict that was big is slow to look through
        if pending and wanted is _ABSENT:
            self._pending_deletions[key] = None
        elif self._pending_deletions:
            self._pending_deletions.pop(key, None)
            self._pending_deletions = self._pending_deletions or {}
        if pending and there is not _ABSENT:
            self._other[key] = cast("V | Uncertain", there)
        elif self._other:
            self._other.pop(key, None)
            self._other = self._other or {}

    def __repr__(self) -> str:
        return (
            f"<desired {len(self._desired)}, realized {len(self.realized)}, "
            f"to update {len(self._pending_updates)}, to delete {len(self._pending_deletions)}>"
        )


class _Realized(Mapping[K, V | Uncertain]):
    """What is there, from what is kept of it; see DeltaTracker. Good until the tracker's next change."""

    def __init__(self, desired: Mapping[K, V], other: Mapping[K, V | Uncertain], absent: Mapping[K, V]) -> None:
        """`absent` are the desired keys that are not there unless they are in `other`."""
        self._desired, self._other, self._absent = desired, other, absent

    def __getitem__(self, key: K) -> V | Uncertain:
        if self._other and key in self._other:
            return self._other[key]
        if self._absent and key in self._absent:
            raise KeyError(key)
        return self._desired[key]

    def __iter__(self) -> Iterator[K]:
        yield from self._other
        if not self._absent and not self._other:
            yield from self._desired
            return
        for key in self._desired:
            if key not in self._absent and key not in self._other:
                yield key

    def __len__(self) -> int:
        return len(self._desired) - len(self._absent) + len(self._other)

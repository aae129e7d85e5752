"""A BPF map in memory, as typed as the real one: needs no root and no kernel.

Entries go through the layouts' bytes, so what does not survive a real map does not survive here. LRU types evict the
entry used longest ago, arrays have zeros where nothing was written, the others are full when they are full.
`fail(key, error)` makes every write of one key fail until `heal()`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Generic, TypeVar

import numpy as np

from pycilium.datapath.codec import MapSpec, MapType
from pycilium.datapath.maps import Columns, Fill
from pycilium.errors import DatapathError, MapFull

K = TypeVar("K")
V = TypeVar("V")

_LRU = frozenset((MapType.LRU_HASH, MapType.LRU_PERCPU_HASH))


class FakeMap(Generic[K, V]):
    """Stands for pycilium.datapath.maps.Map."""

    def __init__(self, spec: MapSpec[K, V], max_entries: int | None = None) -> None:
        self.spec = spec
        self.max_entries = max_entries or spec.max_entries
        self.writes = 0
        """How many entries were written or deleted, for tests that count."""
        self._entries: dict[bytes, bytes] = {}
        self._failing: dict[bytes, Exception] = {}

    @property
    def name(self) -> str:
        return self.spec.name

    def fail(self, key: K, error: Exception) -> None:
        self._failing[self.spec.key.encode(key)] = error

    def heal(self) -> None:
        self._failing.clear()

    def lookup(self, key: K) -> V | None:
        raw = self.spec.key.encode(key)
        found = self._entries.get(raw)
        if found is None:
            return None
        if self.spec.type in _LRU:
            self._entries[raw] = self._entries.pop(raw)
        return self.spec.value.decode(found)

    def update(self, key: K, value: V) -> None:
        raw = self.spec.key.encode(key)
        self._before_write(raw)
        if self.spec.type.is_array:
            self._update_array(raw, self.spec.value.encode(value))
            return
        if raw not in self._entries and len(self._entries) >= self.max_entries:
            if self.spec.type not in _LRU:
                raise MapFull(self.name, self.max_entries)
            del self._entries[next(iter(self._entries))]
        self._entries.pop(raw, None)
        self._entries[raw] = self.spec.value.encode(value)

    def _update_array(self, raw: bytes, value: bytes) -> None:
        if int.from_bytes(raw, sys.byteorder) >= self.max_entries:
            raise DatapathError(f"map {self.name}: there is no entry past {self.max_entries - 1}")
        if any(value):
            self._entries[raw] = value
        else:
            self._entries.pop(raw, None)

    def delete(self, key: K) -> bool:
        raw = self.spec.key.encode(key)
        self._before_write(raw)
        return self._entries.pop(raw, None) is not None

    def _before_write(self, raw: bytes) -> None:
        self.writes += 1
        if raw in self._failing:
            raise self._failing[raw]

    def items(self) -> Iterator[tuple[K, V]]:
        for raw_key, raw_value in list(self._entries.items()):
            yield self.spec.key.decode(raw_key), self.spec.value.decode(raw_value)

    def update_batch(self, entries: Mapping[K, V]) -> dict[K, Exception]:
        failures: dict[K, Exception] = {}
        for key, value in entries.items():
            try:
                self.update(key, value)
            except DatapathError as error:
                failures[key] = error
        return failures

    def delete_batch(self, keys: Iterable[K]) -> dict[K, Exception]:
        failures: dict[K, Exception] = {}
        for key in keys:
            try:
                self.delete(key)
            except DatapathError as error:
                failures[key] = error
        return failures

    def dump(self) -> tuple[Columns, Columns]:
        keys = np.frombuffer(b"".join(self._entries), self.spec.key.dtype)
        return keys, np.frombuffer(b"".join(self._entries.values()), self.spec.value.dtype)

    def count(self) -> int:
        return len(self._entries)

    def fill(self) -> Fill:
        return Fill(self.count(), self.max_entries)

"""Typed BPF maps: lookups, batches and bulk dumps over the layouts generated from the programs.

A `Map` owns one file descriptor. Batches use the kernel's batch commands and fall back to single calls where a map
type or kernel has none; either way each failure is told per key and never stops the others. Arrays have no absent
entries: one that is all zero counts as absent, and deleting writes zeros.

The one invariant: what `items` gives back equals what `update` was given, whatever the byte order in the kernel.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar, cast

import numpy as np
import numpy.typing as npt

from pycilium.datapath import bpf_syscall as bpf
from pycilium.datapath.codec import MapSpec
from pycilium.errors import DatapathError, LayoutMismatch, MapFull, PermissionRequired

K = TypeVar("K")
V = TypeVar("V")
DomainK = TypeVar("DomainK")
DomainV = TypeVar("DomainV")

_CHUNK = 4096
_NO_BATCH = frozenset((bpf.ENOTSUPP, errno.EOPNOTSUPP, errno.EINVAL))
_FULL = frozenset((errno.E2BIG, errno.ENOSPC))

Columns = npt.NDArray[np.void]


class AnyMap(Protocol[K, V]):
    """What a map can do, in the kernel (`Map`) or in memory (`pycilium.testing.FakeMap`)."""

    @property
    def name(self) -> str: ...
    @property
    def max_entries(self) -> int: ...
    def lookup(self, key: K) -> V | None: ...
    def update(self, key: K, value: V) -> None: ...
    def delete(self, key: K) -> bool: ...
    def items(self) -> Iterator[tuple[K, V]]: ...
    def update_batch(self, entries: Mapping[K, V]) -> dict[K, Exception]: ...
    def delete_batch(self, keys: Iterable[K]) -> dict[K, Exception]: ...
    def dump(self) -> tuple[Columns, Columns]: ...
    def count(self) -> int: ...
    def fill(self) -> Fill: ...


@dataclass(frozen=True, slots=True)
class Fill:
    """How full a map is."""

    entries: int
    capacity: int

    @property
    def ratio(self) -> float:
        return self.entries / self.capacity


class RawMap:
    """A map as bytes in, bytes out; owns `fd`. Values of per-CPU maps are all CPUs' side by side."""

    def __init__(self, fd: int, name: str | None = None) -> None:
        self.fd = fd
        info = bpf.map_info(fd)
        self.name = name or info.name
        self.type, self.max_entries = info.type, info.max_entries
        self.key_size = info.key_size
        self.percpu = info.type in _PERCPU
        self.array = info.type in _ARRAYS
        self.value_size = -(-info.value_size // 8) * 8 * possible_cpus() if self.percpu else info.value_size

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def lookup(self, key: bytes) -> bytes | None:
        try:
            found = bpf.map_lookup(self.fd, key, self.value_size)
        except OSError as error:
            raise self.failure(error.errno, "look up") from error
        return None if found is not None and self.array and not any(found) else found

    def update(self, key: bytes, value: bytes) -> None:
        try:
            bpf.map_update(self.fd, key, value)
        except OSError as error:
            raise self.failure(error.errno, "update") from error

    def delete(self, key: bytes) -> bool:
        """False if there was no such key."""
        if self.array:
            had = self.lookup(key) is not None
            self.update(key, bytes(self.value_size))
            return had
        try:
            return bpf.map_delete(self.fd, key)
        except OSError as error:
            raise self.failure(error.errno, "delete from") from error

    def update_batch(self, entries: Sequence[tuple[bytes, bytes]]) -> dict[int, DatapathError]:
        """Write all; the failures by index in `entries`."""
        keys = _columns(b"".join(key for key, _ in entries), self.key_size)
        return self.update_rows(keys, _columns(b"".join(value for _, value in entries), self.value_size))

    def update_rows(self, keys: Columns, values: Columns) -> dict[int, DatapathError]:
        """The same of entries as `chunks` gives them."""
        failures: dict[int, DatapathError] = {}
        at = 0
        while at < len(keys):
            part = keys[at : at + _CHUNK]
            done, code = bpf.map_update_batch(self.fd, part.tobytes(), values[at : at + _CHUNK].tobytes(), len(part))
            at += done
            if code and done == 0 and code in _NO_BATCH:
                one = range(at, len(keys))
                failures |= self._each(one, lambda index: self.update(keys[index].tobytes(), values[index].tobytes()))
                break
            if code:
                failures[at] = self.failure(code, "update")
                at += 1
        return failures

    def delete_batch(self, keys: Sequence[bytes]) -> dict[int, DatapathError]:
        """Delete all, absent ones too; the failures by index in `keys`."""
        if self.array:
            return self.update_batch([(key, bytes(self.value_size)) for key in keys])
        failures: dict[int, DatapathError] = {}
        at = 0
        while at < len(keys):
            part = keys[at : at + _CHUNK]
            done, code = bpf.map_delete_batch(self.fd, b"".join(part), len(part))
            at += done
            if code and done == 0 and code in _NO_BATCH:
                return failures | self._each(range(at, len(keys)), lambda index: self.delete(keys[index]))
            if code and code != errno.ENOENT:
                failures[at] = self.failure(code, "delete from")
            at += bool(code)
        return failures

    def _each(self, indexes: Iterable[int], act: Callable[[int], object]) -> dict[int, DatapathError]:
        failures: dict[int, DatapathError] = {}
        for index in indexes:
            try:
                act(index)
            except DatapathError as error:
                failures[index] = error
        return failures

    def chunks(self) -> Iterator[tuple[Columns, Columns]]:
        """All entries as byte rows (keys, values), some thousands at a time; one that moves may come twice or never."""
        room = min(_CHUNK, self.max_entries) or 1
        cursor: bytes | None = None
        while True:
            keys = np.empty((room, self.key_size), np.uint8)
            values = np.empty((room, self.value_size), np.uint8)
            try:
                count, cursor = bpf.map_lookup_batch(self.fd, cursor, keys.ctypes.data, values.ctypes.data, room)
            except OSError as error:
                if error.errno == errno.ENOSPC and room < self.max_entries:
                    room = min(room * 4, self.max_entries)  # one hash bucket holds more than that
                    continue
                if error.errno not in _NO_BATCH or cursor is not None:
                    raise self.failure(error.errno, "dump") from error
                yield from self._chunks_one_by_one()
                return
            yield self._present(keys[:count], values[:count])
            if cursor is None:
                return

    def _present(self, keys: npt.NDArray[Any], values: npt.NDArray[Any]) -> tuple[Columns, Columns]:
        if self.array:
            present = values.any(axis=1)
            keys, values = keys[present], values[present]
        return keys, values

    def _chunks_one_by_one(self) -> Iterator[tuple[Columns, Columns]]:
        entries = self._walk()
        while part := list(islice(entries, _CHUNK)):
            yield (
                _columns(b"".join(key for key, _ in part), self.key_size),
                _columns(b"".join(value for _, value in part), self.value_size),
            )

    def _walk(self) -> Iterator[tuple[bytes, bytes]]:
        """By next-key calls. Bounded: a key deleted under the walk makes the kernel start again from the first."""
        key: bytes | None = None
        for _ in range(2 * self.max_entries + 1):
            key = bpf.map_next_key(self.fd, key, self.key_size)
            if key is None:
                return
            value = self.lookup(key)
            if value is not None:
                yield key, value

    def failure(self, code: int | None, doing: str) -> DatapathError:
        """What `code` means for this map."""
        if code in _FULL and not self.array:
            return MapFull(self.name, self.max_entries)
        if code == errno.E2BIG:
            return DatapathError(f"map {self.name}: there is no entry past {self.max_entries - 1}")
        return DatapathError(f"map {self.name}: cannot {doing} it: {os.strerror(code or errno.EIO)}")


def _columns(raw: bytes, width: int) -> Columns:
    """Entries one behind the other as rows of bytes."""
    return cast("Columns", np.frombuffer(raw, np.uint8).reshape(-1, width))


_PERCPU = frozenset((5, 6, 10))
_ARRAYS = frozenset((2, 6))


class Map(Generic[K, V]):
    """A map whose keys and values are those of `spec`. A context manager that closes the descriptor, not the map."""

    def __init__(self, fd: int, spec: MapSpec[K, V]) -> None:
        """Takes `fd` over; LayoutMismatch, with `fd` closed, if the map is not what `spec` says."""
        self.spec = spec
        self.raw = RawMap(fd, spec.name)
        info = bpf.map_info(fd)
        if (info.type, info.key_size, info.value_size) != (spec.type, spec.key.size, spec.value.size):
            self.raw.close()
            raise LayoutMismatch(
                f"map {spec.name} in the kernel has type {info.type}, key {info.key_size} and value {info.value_size}"
                f" bytes; this version has type {int(spec.type)}, {spec.key.size} and {spec.value.size}"
            )

    @classmethod
    def open(cls, path: str | os.PathLike[str], spec: MapSpec[K, V]) -> Self:
        """The map pinned at `path`."""
        return cls(open_pin(path), spec)

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def fd(self) -> int:
        return self.raw.fd

    @property
    def max_entries(self) -> int:
        return self.raw.max_entries

    def close(self) -> None:
        self.raw.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Map({self.name}, {self.spec.type.name.lower()}, {self.max_entries})"

    def lookup(self, key: K) -> V | None:
        found = self.raw.lookup(self.spec.key.encode(key))
        return None if found is None else self.spec.value.decode(found)

    def update(self, key: K, value: V) -> None:
        """Write one entry, new or not; MapFull if there is no room."""
        self.raw.update(self.spec.key.encode(key), self.spec.value.encode(value))

    def delete(self, key: K) -> bool:
        """False if there was no such key, which is success."""
        return self.raw.delete(self.spec.key.encode(key))

    def update_batch(self, entries: Mapping[K, V]) -> dict[K, Exception]:
        """Write all entries; those that failed, with why."""
        keys, (encode_key, encode_value) = list(entries), (self.spec.key.encode, self.spec.value.encode)
        raw = [(encode_key(key), encode_value(value)) for key, value in entries.items()]
        return {keys[index]: error for index, error in self.raw.update_batch(raw).items()}

    def delete_batch(self, keys: Iterable[K]) -> dict[K, Exception]:
        """Delete all keys; those that failed, with why. An absent key is success."""
        ordered, encode = list(keys), self.spec.key.encode
        failures = self.raw.delete_batch([encode(key) for key in ordered])
        return {ordered[index]: error for index, error in failures.items()}

    def items(self) -> Iterator[tuple[K, V]]:
        """All entries once, also while others write; an entry that comes or goes meanwhile may be missed."""
        seen: set[bytes] = set()
        decode_key, decode_value = self.spec.key.decode, self.spec.value.decode
        for keys, values in self.raw.chunks():
            for raw_key, raw_value in zip(rows_of(keys), rows_of(values), strict=True):
                if raw_key not in seen:
                    seen.add(raw_key)
                    yield decode_key(raw_key), decode_value(raw_value)

    def dump(self) -> tuple[Columns, Columns]:
        """All entries as two structured arrays of `spec.key.dtype` and `spec.value.dtype`; quick for many."""
        parts = list(self.raw.chunks())
        keys = np.concatenate([np.empty((0, self.spec.key.size), np.uint8), *(part[0] for part in parts)])
        values = np.concatenate([np.empty((0, self.spec.value.size), np.uint8), *(part[1] for part in parts)])
        return (
            keys.view(self.spec.key.dtype).reshape(-1),
            values.view(self.spec.value.dtype).reshape(-1),
        )

    def count(self) -> int:
        """How many entries there are, counted by a scan: the kernel keeps no number."""
        return sum(len(keys) for keys, _ in self.raw.chunks())

    def fill(self) -> Fill:
        """How full it is; a scan, see `count`."""
        return Fill(self.count(), self.max_entries)


class PerCpuArray(Generic[V]):
    """An array with one value per CPU, such as counters; read and summed, never written from here."""

    def __init__(self, fd: int, spec: MapSpec[int, V]) -> None:
        self.spec = spec
        self.raw = RawMap(fd, spec.name)

    @classmethod
    def open(cls, path: str | os.PathLike[str], spec: MapSpec[int, V]) -> Self:
        return cls(open_pin(path), spec)

    @property
    def fd(self) -> int:
        return self.raw.fd

    def close(self) -> None:
        self.raw.close()

    def lookup(self, index: int) -> list[V]:
        """The values of all possible CPUs."""
        found = bpf.map_lookup(self.raw.fd, self.spec.key.encode(index), self.raw.value_size)
        if found is None:
            raise DatapathError(f"map {self.spec.name}: there is no entry {index}")
        stride = self.raw.value_size // possible_cpus()
        return [self.spec.value.decode(found[at : at + self.spec.value.size]) for at in range(0, len(found), stride)]

    def sums(self) -> dict[int, tuple[int, ...]]:
        """The sum over all CPUs of each 64-bit word of the value, by index; only entries that are not all zero."""
        totals: dict[int, tuple[int, ...]] = {}
        for keys, values in self.raw.chunks():
            words = np.ascontiguousarray(values).view(np.uint64)
            words = words.reshape(len(values), possible_cpus(), self.raw.value_size // possible_cpus() // 8).sum(axis=1)
            for raw_key, total in zip(rows_of(keys), words.tolist(), strict=True):
                totals[self.spec.key.decode(raw_key)] = tuple(total)
        return totals


def rows_of(array: npt.NDArray[Any]) -> Iterator[bytes]:
    """Each row of a column that `chunks` gives."""
    raw, width = array.tobytes(), array.shape[1]
    return (raw[at : at + width] for at in range(0, len(raw), width))


def possible_cpus() -> int:
    """How many CPUs the kernel keeps per-CPU values for; more than are online."""
    global _possible  # noqa: PLW0603 - asked for on every per-CPU lookup, and it never changes
    if not _possible:
        with open("/sys/devices/system/cpu/possible", encoding="ascii") as file:
            _possible = int(file.read().strip().replace(",", "-").rsplit("-", 1)[-1]) + 1
    return _possible


_possible = 0


def open_pin(path: str | os.PathLike[str]) -> int:
    """A descriptor of what is pinned at `path`."""
    try:
        return bpf.object_get(os.fspath(path))
    except FileNotFoundError as error:
        raise DatapathError(f"{os.fspath(path)}: nothing is pinned there; is the agent running?") from error
    except PermissionError as error:
        raise PermissionRequired(f"{os.fspath(path)}: only root may use BPF maps and programs") from error
    except OSError as error:
        raise DatapathError(f"{os.fspath(path)}: cannot be opened: {error.strerror}") from error


@dataclass(frozen=True, slots=True)
class Translation(Generic[DomainK, DomainV, K, V]):
    """Between the values that the rest of the agent speaks of and a map's keys and values; exact inverses."""

    to_key: Callable[[DomainK], K]
    to_value: Callable[[DomainV], V]
    from_key: Callable[[K], DomainK]
    from_value: Callable[[V], DomainV]


def _parts(keys: Iterable[DomainK]) -> Iterator[list[DomainK]]:
    """Translated are only so many at a time: 100,000 entries in all their forms take more memory than the rest."""
    each = iter(keys)
    while part := list(islice(each, _CHUNK)):
        yield part


class MapOperations(Generic[DomainK, DomainV]):
    """reconcile.Operations over one map: idempotent, batched, failures told per key."""

    def __init__(
        self, target: AnyMap[Any, Any], translation: Translation[DomainK, DomainV, Any, Any] | None = None
    ) -> None:
        self._map = target
        self._translation = translation

    @property
    def name(self) -> str:
        return self._map.name

    def update(self, entries: Mapping[DomainK, DomainV]) -> dict[DomainK, Exception]:
        if self._translation is None:
            return self._map.update_batch(entries)
        to_key, to_value = self._translation.to_key, self._translation.to_value
        failures: dict[DomainK, Exception] = {}
        for part in _parts(entries):
            keys = {to_key(key): key for key in part}
            failed = self._map.update_batch({raw: to_value(entries[key]) for raw, key in keys.items()})
            failures |= {keys[raw]: error for raw, error in failed.items()}
        return failures

    def delete(self, keys: Iterable[DomainK]) -> dict[DomainK, Exception]:
        if self._translation is None:
            return self._map.delete_batch(keys)
        failures: dict[DomainK, Exception] = {}
        for part in _parts(keys):
            raw_keys = {self._translation.to_key(key): key for key in part}
            failures |= {raw_keys[raw]: error for raw, error in self._map.delete_batch(raw_keys).items()}
        return failures

    def dump(self) -> Iterator[tuple[DomainK, DomainV]]:
        if self._translation is None:
            yield from self._map.items()
            return
        from_key, from_value = self._translation.from_key, self._translation.from_value
        for key, value in self._map.items():
            yield from_key(key), from_value(value)

"""The flow store: the last `capacity` flows of this node, as columns in a ring.

One writer ingests batches of kernel events; any number of readers go by sequence number and never hold it up. A reader
that falls behind finds that `oldest` has moved past it, so it knows exactly how many it missed. Who an endpoint was is
settled when its flow is ingested, since endpoint ids are reused. Not thread-safe: writer and readers share one thread.
"""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from pycilium.hubble.columns import Columns, Events, Indices, allocate, pieces, rows_of
from pycilium.hubble.directories import EndpointDirectory, EndpointName

BATCH_ROWS = 8192
"""Events taken at once: as many as the CPU's caches hold."""
MAX_LOSSES = 4096
NAME_SLACK = 4096
"""Endpoint names taken in before those out of use are looked for."""
MAX_RECENT = 1024
"""Addresses whose names changed, looked up apart until all are put in order anew, which is slow for very many."""
_MIX = np.uint64(0x9E3779B97F4A7C15)
_NOT_YET = 0xFFFFFFFF
"""Instead of a name's number: no flow had the address since the names were put in order."""


class LossSource(IntEnum):
    """Numbers of flow.LostEventSource."""

    UNKNOWN = 0
    KERNEL_RING = 1
    OBSERVER_QUEUE = 2
    FLOW_STORE = 3


@dataclass(frozen=True, slots=True)
class Loss:
    """Flows that never reached the store, or a reader; told between the flows around the gap."""

    before: int
    """Sequence number of the first flow after the gap."""
    count: int
    total: int
    """Of all losses up to and including this one: what a reader remembers to know which it was told."""
    time_ns: int
    source: LossSource
    cpu: int | None = None


class FlowStore:
    """Flows by sequence number: `oldest` ≤ kept < `next`."""

    def __init__(self, capacity: int, endpoints: EndpointDirectory) -> None:
        if capacity < 1:
            raise ValueError(f"a flow store needs room for at least one flow, not {capacity}")
        self.capacity = capacity
        self.store_id = int.from_bytes(os.urandom(8), "big")
        """Tells this store's flows from those of other stores and earlier runs."""
        self.next = 0
        self.lost_total = 0
        self._losses: list[Loss] = []
        self._columns = allocate(capacity)
        self._names = _NameIndex(endpoints)

    @property
    def oldest(self) -> int:
        return max(0, self.next - self.capacity)

    def __len__(self) -> int:
        return self.next - self.oldest

    @property
    def names(self) -> list[EndpointName | None]:
        """What source_name and destination_name index; only grows, unless `names_generation` changes."""
        return self._names.names

    @property
    def names_generation(self) -> int:
        return self._names.generation

    def ingest(self, events: Events, clock_offset_ns: int) -> int:
        """Takes a batch of kernel events and returns how many flows that made.

        `events` has the fields of struct flow_event; `clock_offset_ns` is what takes its monotonic times to wall clock.
        """
        before = self.next
        self._names.refresh()
        for start in range(0, len(events), BATCH_ROWS):
            self._append(rows_of(events[start : start + BATCH_ROWS], clock_offset_ns))
        if self._names.is_crowded():
            kept = self._columns.rows(slice(0, min(self.next, self.capacity)))
            self._names.compact([kept.source_name, kept.destination_name])
        self._forget_losses()
        return self.next - before

    def lose(
        self, count: int, time_ns: int, source: LossSource = LossSource.KERNEL_RING, cpu: int | None = None
    ) -> None:
        """Records that `count` events were lost before whatever is ingested next."""
        if count <= 0:
            return
        self.lost_total += count
        self._losses.append(Loss(self.next, count, self.lost_total, time_ns, source, cpu))
        self._forget_losses()

    def segments(self, start: int, stop: int) -> Iterator[tuple[int, Columns]]:
        """Views of the flows start..stop, oldest first: (sequence number of the first row, columns).

        Valid until the next ingest.
        """
        start = max(start, self.oldest)
        for sequence, slots in pieces(start, min(stop, self.next), self.capacity):
            yield sequence, self._columns.rows(slots)

    def take(self, sequences: Indices) -> Columns:
        """Copies of the flows with these sequence numbers, all of which must still be kept."""
        return self._columns.rows(sequences % self.capacity)

    def losses_after(self, told: int, sequence: int) -> list[Loss]:
        """Losses up to the flow `sequence` that are not among the first `told` lost events.

        Losses that are no longer kept apart come as one, so the sum of the counts is exact.
        """
        first = bisect_right(self._losses, told, key=lambda loss: loss.total)
        losses = [loss for loss in self._losses[first:] if loss.before <= sequence]
        forgotten = losses[0].total - losses[0].count - told if losses else 0
        if forgotten > 0:
            head = losses[0]
            losses.insert(0, Loss(head.before, forgotten, told + forgotten, head.time_ns, LossSource.KERNEL_RING))
        return losses

    def lost_before(self, sequence: int) -> int:
        """How many events were lost before the flow `sequence`: what a reader that starts there need not be told."""
        first = bisect_left(self._losses, sequence, key=lambda loss: loss.before)
        return self._losses[first].total - self._losses[first].count if first < len(self._losses) else self.lost_total

    def rate(self, now_ns: int, window_ns: int) -> float:
        """Flows per second over the window that ends now, or over as much of it as is kept."""
        times = self._columns.time_ns[: len(self)]
        count = int(np.count_nonzero(times > now_ns - window_ns))
        if count == self.capacity < self.next:
            window_ns = now_ns - int(times.min())
        return count * 1e9 / max(1, window_ns)

    def _append(self, rows: Columns) -> None:
        self._names.resolve(rows)
        count = len(rows.time_ns)
        skipped = max(0, count - self.capacity)
        for sequence, slots in pieces(self.next + skipped, self.next + count, self.capacity):
            offset = sequence - self.next
            size = slots.stop - slots.start
            for name in Columns._fields:
                getattr(self._columns, name)[slots] = getattr(rows, name)[offset : offset + size]
        self.next += count

    def _forget_losses(self) -> None:
        """Drops losses that lie before everything kept, and the oldest when there are too many."""
        gone = bisect_left(self._losses, self.oldest, key=lambda loss: loss.before) if self.oldest else 0
        del self._losses[: max(gone, len(self._losses) - MAX_LOSSES, 0)]


class _NameIndex:
    """Endpoint names by number, and the tables that find them for whole columns."""

    def __init__(self, directory: EndpointDirectory) -> None:
        self.names: list[EndpointName | None] = [None]
        self.generation = 0
        self._directory = directory
        self._revision: int | None = None
        self._numbers: dict[EndpointName, int] = {}
        self._limit = NAME_SLACK
        self._by_endpoint = np.zeros(65536, dtype=np.uint32)
        self._all, self._recent = _AddressIndex(), _AddressIndex()
        self._looked_at = -1
        self._changed: dict[bytes, int] = {}
        """What `_recent` knows: the addresses that changed since `_all` was made."""

    def refresh(self) -> None:
        """Follows the directory if it has changed."""
        revision = self._directory.revision
        if revision == self._revision:
            return
        self._revision = revision
        endpoints, addresses = self._directory.endpoints(), self._directory.addresses()
        self._by_endpoint[:] = 0
        for endpoint_id, name in endpoints.items():
            self._by_endpoint[endpoint_id] = self._number(name)
        self._looked_at, changed = self._directory.addresses_changed(self._looked_at)
        if changed is None or len(self._changed) + len(changed) > MAX_RECENT:
            self._all = _AddressIndex(addresses)
            self._changed = {}
        else:
            self._changed |= {address: self._number(addresses.get(address)) for address in changed}
        self._recent = _AddressIndex(self._changed, self._changed.values())

    def resolve(self, rows: Columns) -> None:
        """Fills source_name and destination_name."""
        self._resolve(rows.source_endpoint, rows.source_high, rows.source_low, rows.source_name)
        self._resolve(rows.destination_endpoint, rows.destination_high, rows.destination_low, rows.destination_name)

    def _resolve(
        self,
        endpoint: NDArray[np.uint16],
        high: NDArray[np.uint64],
        low: NDArray[np.uint64],
        name: NDArray[np.uint32],
    ) -> None:
        np.take(self._by_endpoint, endpoint, out=name)
        unknown = np.flatnonzero(name == 0)
        if len(unknown):
            for index in (self._all, self._recent):  # the later one is right where both know
                index.fill(high, low, name, unknown, self._number_of)

    def is_crowded(self) -> bool:
        return len(self.names) > self._limit

    def compact(self, columns: list[NDArray[np.uint32]]) -> None:
        """Drops the names that neither the columns nor the directory use, and renumbers the columns in place."""
        used = np.zeros(len(self.names), dtype=np.bool_)
        used[0] = True
        self._all.forget_numbers()  # those that flows still have are found again
        for column in (*columns, self._by_endpoint, self._recent.numbers):
            used[column] = True
        renumbered = (np.cumsum(used) - 1).astype(np.uint32)
        for column in (*columns, self._by_endpoint, self._recent.numbers):
            column[:] = renumbered[column]
        self.names = [name for name, keep in zip(self.names, used, strict=True) if keep]
        self._numbers = {name: number for number, name in enumerate(self.names) if name is not None}
        self._changed = {address: int(renumbered[number]) for address, number in self._changed.items()}
        self.generation += 1
        self._limit = 2 * len(self.names) + NAME_SLACK

    def _number_of(self, address: bytes) -> int:
        return self._number(self._directory.addresses().get(address))

    def _number(self, name: EndpointName | None) -> int:
        if name is None:
            return 0
        number = self._numbers.get(name)
        if number is None:
            number = self._numbers[name] = len(self.names)
            self.names.append(name)
        return number


class _AddressIndex:
    """The number of an endpoint's name by its address, for whole columns.

    Flows know few of the addresses that a big cluster has. So a name is looked for when the first flow has its address.
    """

    def __init__(self, addresses: Iterable[bytes] = (), numbers: Iterable[int] | None = None) -> None:
        words = np.frombuffer(b"".join(addresses), dtype=">u8").reshape(-1, 2).astype(np.uint64)
        hashes = _hash(words[:, 0], words[:, 1])
        order = np.argsort(hashes)
        self._hashes, self._highs, self._lows = hashes[order], words[order, 0], words[order, 1]
        self.numbers: NDArray[np.uint32] = np.full(len(order), _NOT_YET, dtype=np.uint32)
        if numbers is not None:
            self.numbers[:] = np.array(list(numbers), dtype=np.uint32)[order]

    def forget_numbers(self) -> None:
        self.numbers[:] = _NOT_YET

    def fill(
        self,
        high: NDArray[np.uint64],
        low: NDArray[np.uint64],
        name: NDArray[np.uint32],
        rows: NDArray[np.intp],
        number_of: Callable[[bytes], int],
    ) -> None:
        """Sets `name` of those of `rows` whose address is known here."""
        if not len(self._hashes):
            return
        high, low = high[rows], low[rows]
        position = np.searchsorted(self._hashes, _hash(high, low))
        position[position == len(self._hashes)] = 0
        same = (self._highs[position] == high) & (self._lows[position] == low)
        found = position[same]
        for at in np.unique(found[self.numbers[found] == _NOT_YET]).tolist():
            self.numbers[at] = number_of(
                b"".join(int(word[at]).to_bytes(8, "big") for word in (self._highs, self._lows))
            )
        name[rows[same]] = self.numbers[found]


def _hash(high: NDArray[np.uint64], low: NDArray[np.uint64]) -> NDArray[np.uint64]:
    mixed: NDArray[np.uint64] = (high * _MIX) ^ low
    return mixed

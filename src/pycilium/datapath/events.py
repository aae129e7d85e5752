"""Flow events out of the ring buffer, thousands at a time.

The ring is mapped, not read: every record is an 8-byte header and one `flow_event`, 128 bytes in all, so the ring
is an array of 128-byte rows that never wrap inside a row, and the kernel's double mapping makes any stretch of it
contiguous. One `read` is one look at the headers, one copy and one store of the consumer's position.

    consumer page (ours)    how far we have read, in bytes since the ring was made
    producer page (theirs)  how far records are reserved
    header                  length | busy bit (reserved, not yet submitted) | discard bit (to be skipped)

There is one reader per ring. What found no room never was in the ring: the programs count it (`lost`).
"""

from __future__ import annotations

import mmap
import os
import threading
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from pycilium.datapath import bpf_syscall as bpf
from pycilium.datapath import layouts
from pycilium.datapath.codec import MapType
from pycilium.datapath.loader import Datapath
from pycilium.datapath.maps import PerCpuArray, open_pin
from pycilium.errors import DatapathError, LayoutMismatch

ROW_BYTES = 128
_HEADER_BYTES = 8
_BUSY, _DISCARD = np.uint32(1 << 31), np.uint32(1 << 30)
_WHOLE = np.uint32(layouts.FlowEvent.SIZE)

Events = npt.NDArray[np.void]


class RingView:
    """The ring as arrays: pure but for the memory it is given, so that tests can play the kernel.

    `consumer` and `producer` are one-element u64 arrays, `rows` is the data, mapped twice, as u64 [2n, 16].
    """

    def __init__(
        self, consumer: npt.NDArray[np.uint64], producer: npt.NDArray[np.uint64], rows: npt.NDArray[np.uint64]
    ) -> None:
        self._consumer, self._producer, self._rows = consumer, producer, rows
        self._capacity = len(rows) // 2
        self._headers = rows.view(np.uint32)[:, 0]
        self._fence = threading.Lock()

    @property
    def capacity(self) -> int:
        """In events."""
        return self._capacity

    @property
    def waiting(self) -> int:
        """How many records are reserved and not yet read."""
        return (int(self._producer[0]) - int(self._consumer[0])) // ROW_BYTES

    def read(self, limit: int | None = None) -> Events:
        """The submitted events, oldest first, at most `limit`, as a copy; empty if there are none.

        Stops before the first record that is still being written: the kernel gives them in order or not at all.
        """
        position = int(self._consumer[0])
        start = position // ROW_BYTES % self._capacity
        waiting = (int(self._producer[0]) - position) // ROW_BYTES
        self._barrier()
        headers = self._headers[start : start + min(waiting, limit or waiting)]
        count, kept = _finished(headers)
        self._barrier()
        rows = self._rows[start : start + count, _HEADER_BYTES // 8 :]
        copy = rows.copy() if kept is None else rows[kept]
        self._barrier()
        self._consumer[0] = position + count * ROW_BYTES
        return copy.view(layouts.FlowEvent.DTYPE).reshape(-1)

    def _barrier(self) -> None:
        """Order memory accesses on every architecture: release, then acquire, is a full barrier. 50 ns."""
        with self._fence:
            pass
        with self._fence:
            pass


def _finished(headers: npt.NDArray[np.uint32]) -> tuple[int, npt.NDArray[np.intp] | None]:
    """(records that are finished, which of them to keep or None for all)."""
    plain = headers == _WHOLE
    if plain.all():
        return len(headers), None
    first = int(plain.argmin())
    busy = (headers[first:] & _BUSY) != 0
    count = first + int(busy.argmax()) if busy.any() else len(headers)
    if count == first:
        return count, None
    lengths = headers[:count] & ~_DISCARD
    if (lengths != _WHOLE).any():
        raise LayoutMismatch(
            f"the event ring holds a record of {int(lengths[lengths != _WHOLE][0])} bytes, not {_WHOLE}"
        )
    return count, np.flatnonzero(plain[:count])


class EventReader:
    """The one reader of the programs' event ring. A context manager that unmaps it."""

    def __init__(self, ring_fd: int, lost: PerCpuArray[int]) -> None:
        """Takes over both; PermissionRequired, DatapathError or LayoutMismatch if the map is no such ring."""
        self._fd, self._lost = ring_fd, lost
        info = bpf.map_info(ring_fd)
        if info.type != MapType.RINGBUF:
            raise LayoutMismatch(f"map {info.name} is no ring buffer")
        page, size = mmap.PAGESIZE, info.max_entries
        try:
            self._consumer_page = mmap.mmap(ring_fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
            self._producer_pages = mmap.mmap(ring_fd, page + 2 * size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        except OSError as error:
            raise DatapathError(f"the event ring cannot be mapped: {error.strerror}") from error
        consumer = np.frombuffer(self._consumer_page, np.uint64, 1)
        producer = np.frombuffer(self._producer_pages, np.uint64, 1)
        rows = np.frombuffer(self._producer_pages, np.uint64, 2 * size // 8, offset=page).reshape(-1, ROW_BYTES // 8)
        self._view: RingView | None = RingView(consumer, producer, rows)

    @classmethod
    def of(cls, datapath: Datapath) -> Self:
        """The reader of a loaded datapath."""
        return cls(os.dup(datapath.map_fd(layouts.EVENTS.name)), datapath.percpu(layouts.EVENTS_LOST))

    @classmethod
    def open(cls, bpf_root: str) -> Self:
        """The reader of the datapath pinned under `bpf_root`."""
        ring = open_pin(f"{bpf_root}/maps/{layouts.EVENTS.name}")
        return cls(ring, PerCpuArray.open(f"{bpf_root}/maps/{layouts.EVENTS_LOST.name}", layouts.EVENTS_LOST))

    @property
    def _ring(self) -> RingView:
        if self._view is None:
            raise DatapathError("the event reader is closed")
        return self._view

    def read(self, limit: int | None = None) -> Events:
        """What has been submitted since the last call; see RingView.read. Never blocks."""
        return self._ring.read(limit)

    @property
    def waiting(self) -> int:
        return self._ring.waiting

    @property
    def capacity(self) -> int:
        return self._ring.capacity

    def fileno(self) -> int:
        """For epoll and asyncio: readable when there are events and the programs chose to wake us.

        The programs wake the reader only so often: a reader that wants events sooner also looks on a timer.
        """
        return self._fd

    def lost(self) -> int:
        """How many events found no room since the ring was made, over all CPUs; exact."""
        return sum(self._lost.lookup(0))

    def close(self) -> None:
        if self._view is None:
            return
        self._view = None
        for mapped in (self._consumer_page, self._producer_pages):
            mapped.close()
        os.close(self._fd)
        self._lost.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def ring_memory(records: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    """Memory as the kernel lays it out, for playing the kernel: (consumer, producer, rows)."""
    return np.zeros(1, np.uint64), np.zeros(1, np.uint64), np.zeros((2 * records, ROW_BYTES // 8), np.uint64)

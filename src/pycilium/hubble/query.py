"""Which flows a request is answered with: how many, from when, from which end of the store, and then whatever follows.

Scanning goes in chunks, and between chunks the caller may let others run; what was overwritten meanwhile is not skipped
in silence but comes out as a Loss with the exact count.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pycilium.hubble.columns import Columns, Indices, Mask
from pycilium.hubble.predicates import Predicate
from pycilium.hubble.store import FlowStore, Loss, LossSource

CHUNK_ROWS = 65536
"""Rows scanned without a break."""
TAKEN_ROWS = 256
"""Rows handed out at once."""


@dataclass(frozen=True, slots=True)
class FlowQuery:
    predicate: Predicate
    number: int = 0
    """At most so many of what is kept; 0: all of it."""
    first: bool = False
    """Count from the oldest flow instead of the newest."""
    follow: bool = False
    since_ns: int | None = None
    until_ns: int | None = None

    @property
    def starts_now(self) -> bool:
        """A follower that asked for nothing of the past."""
        return self.follow and not self.number and not self.first and self.since_ns is None


@dataclass(frozen=True, slots=True)
class Found:
    """Matching flows: their sequence numbers and a copy of their rows."""

    sequences: list[int]
    columns: Columns


class Reader:
    """One request's way through the store."""

    def __init__(self, store: FlowStore, query: FlowQuery, now_ns: int) -> None:
        self._store = store
        self._query = query
        self._now_ns = now_ns
        self._cursor = store.next
        self._told = store.lost_total if query.starts_now else 0

    def history(self) -> Iterator[Found | Loss | None]:
        """What is kept and matches, oldest first; None between chunks, when others may run."""
        if self._query.starts_now:
            return
        store, query, end = self._store, self._query, self._store.next
        forward = query.first or not query.number or query.number >= len(store)
        chosen: list[Indices] = []
        count = 0
        for sequences in self._forward(store.oldest, end) if forward else self._backward(end):
            wanted = query.number - count if query.number else len(sequences)
            part = sequences[:wanted] if forward else sequences[max(0, len(sequences) - wanted) :]
            chosen.append(part)
            count += len(part)
            if query.number and count >= query.number:
                break
            yield None
        if not forward:
            chosen.reverse()
        found = np.concatenate(chosen) if chosen else np.zeros(0, dtype=np.intp)
        limited = query.number and count >= query.number
        start = int(found[0]) if limited and not forward else store.oldest
        stop = int(found[-1]) + 1 if limited and forward else end
        self._told = store.lost_before(start)
        yield from self._hand_out(found, stop)

    def news(self) -> Iterator[Found | Loss]:
        """What came since the last call (or the history) and matches."""
        store = self._store
        while (missed := store.oldest - self._cursor) > 0:
            self._cursor = store.oldest
            yield self._overrun(missed)
        stop = min(store.next, self._cursor + CHUNK_ROWS)
        found = [sequences for sequences in self._forward(self._cursor, stop) if len(sequences)]
        self._cursor = stop
        yield from self._hand_out(np.concatenate(found) if found else np.zeros(0, dtype=np.intp), stop)

    @property
    def has_news(self) -> bool:
        return self._cursor < self._store.next or self._store.lost_total > self._told

    def _hand_out(self, found: Indices, stop: int) -> Iterator[Found | Loss]:
        """The rows in small parts, with losses where they happened. The store may move on at every yield."""
        while len(found):
            kept = found[np.searchsorted(found, self._store.oldest) :]
            if len(kept) < len(found):
                missed, found = len(found) - len(kept), kept
                yield self._overrun(missed)
            elif losses := self._losses(int(found[0])):
                yield from losses
            else:
                part = found[:TAKEN_ROWS]
                if upcoming := self._store.losses_after(self._told, int(part[-1])):
                    part = part[: np.searchsorted(part, upcoming[0].before)]
                found = found[len(part) :]
                yield Found(part.tolist(), self._store.take(part))
        yield from self._losses(stop)

    def _losses(self, sequence: int) -> list[Loss]:
        losses = self._store.losses_after(self._told, sequence)
        if losses:
            self._told = losses[-1].total
        query = self._query
        return [
            loss
            for loss in losses
            if (query.since_ns is None or loss.time_ns >= query.since_ns)
            and (query.until_ns is None or loss.time_ns <= query.until_ns)
        ]

    def _overrun(self, count: int) -> Loss:
        return Loss(self._store.oldest, count, 0, self._now_ns, LossSource.FLOW_STORE)

    def _forward(self, start: int, stop: int) -> Iterator[Indices]:
        while start < stop:
            chunk_stop = min(start + CHUNK_ROWS, stop)
            yield self._matching(start, chunk_stop)
            start = chunk_stop

    def _backward(self, stop: int) -> Iterator[Indices]:
        while stop > self._store.oldest:
            start = max(stop - CHUNK_ROWS, self._store.oldest)
            yield self._matching(start, stop)
            stop = start

    def _matching(self, start: int, stop: int) -> Indices:
        parts = []
        for first, rows in self._store.segments(start, stop):
            mask = self._query.predicate(rows, first) & self._in_time(rows)
            parts.append(np.flatnonzero(mask) + first)
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.intp)

    def _in_time(self, rows: Columns) -> Mask | bool:
        query = self._query
        mask: Mask | bool = True
        if query.since_ns is not None:
            mask = rows.time_ns >= query.since_ns
        if query.until_ns is not None:
            mask = mask & (rows.time_ns <= query.until_ns)
        return mask

"""One reconciler drives one target (a BPF map, the attached links, ...) towards what is desired.

It never sleeps, reads no clock and does no I/O but through its Operations: `run_updates(now)` and `run_deletes(now)`
are plain calls. Restart needs no code of its own: `resync()` reads what the target holds, and the difference is worked
off.

A key that fails is retried with a growing delay, keeps its last error as its status and never stops other keys. A new
desired value for it is tried at once.

Invariant: a key is believed to be realized only if the target said so, by a write that succeeded or in a dump.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

from pycilium.reconcile.delta_tracker import DeltaTracker

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Operations(Protocol[K, V]):
    """How one kind of entry is made real. Every method is idempotent.

    `update` and `delete` return the keys that failed, each with its error; they may also raise, which counts as the
    failure of every key they were given. A key that failed may have been written or not.
    """

    def update(self, entries: Mapping[K, V]) -> Mapping[K, Exception]:
        """Writes the entries, over whatever is there."""
        ...

    def delete(self, keys: Iterable[K]) -> Mapping[K, Exception]:
        """Removes the keys; one that is absent is a success."""
        ...

    def dump(self) -> Iterable[tuple[K, V]]:
        """All that the target holds."""
        ...


@dataclass(frozen=True, slots=True)
class Backoff:
    """The delay before a failed key is tried again: `first_s`, doubled with each failure up to `longest_s`."""

    first_s: float = 0.1
    longest_s: float = 30.0

    def delay_s(self, attempts: int) -> float:
        return min(self.longest_s, self.first_s * 2.0 ** min(attempts - 1, 60))


@dataclass(frozen=True, slots=True)
class Status:
    """How far a key has come. `since` is when it began to fail, if it does."""

    kind: Literal["pending", "done", "error"]
    since: float | None = None
    error: Exception | None = None
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class _Failure:
    error: Exception
    since: float
    attempts: int
    retry_at: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one call of run_updates or run_deletes did: how many keys succeeded and failed."""

    succeeded: int = 0
    failed: int = 0


_NOTHING = Outcome()


class Reconciler(Generic[K, V]):
    """Follows what is desired and drives one target there.

    Args:
        name: what the target is called in messages and metrics.
        operations: how entries are made real.
        ready: says whether an entry may be written yet, for what other targets must hold before; asked in each round,
            an entry that is not ready stays pending.
        backoff: the delays between attempts.
    """

    def __init__(
        self,
        name: str,
        operations: Operations[K, V],
        *,
        ready: Callable[[K, V], bool] | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        self.name = name
        self._operations = operations
        self._ready = ready
        self._backoff = backoff or Backoff()
        self._tracker: DeltaTracker[K, V] = DeltaTracker()
        self._failures: dict[K, _Failure] = {}

    @property
    def tracker(self) -> DeltaTracker[K, V]:
        """For reading only."""
        return self._tracker

    @property
    def in_sync(self) -> bool:
        return self._tracker.in_sync

    @property
    def errors(self) -> Mapping[K, Exception]:
        """The last error of every key that is failing."""
        return {key: failure.error for key, failure in self._failures.items()}

    def desired_set(self, key: K, value: V) -> None:
        if key not in self._tracker.desired or self._tracker.desired[key] != value:
            self._failures.pop(key, None)  # a new intent is tried at once
            self._tracker.set_desired(key, value)

    def desired_delete(self, key: K) -> None:
        if key in self._tracker.desired:
            self._failures.pop(key, None)
            self._tracker.delete_desired(key)

    def desired_replace(self, entries: Mapping[K, V]) -> None:
        """Makes `entries` all that is desired."""
        for key in [key for key in self._tracker.desired if key not in entries]:
            self.desired_delete(key)
        for key, value in entries.items():
            self.desired_set(key, value)

    def resync(self) -> None:
        """Reads what the target holds. If the dump raises, what it had not come to is believed as before."""
        try:
            self._tracker.replace_realized(self._operations.dump())
        finally:
            self._failures = {key: failure for key, failure in self._failures.items() if self._is_pending(key)}

    def run_updates(self, now: float, among: Collection[K] | None = None) -> Outcome:
        """Writes what is pending and due; only `among` these keys if they are given."""
        pending = self._tracker.pending_updates
        chosen = pending.items() if among is None else [(key, pending[key]) for key in among if key in pending]
        entries = {key: value for key, value in chosen if self._due(key, now) and self._is_ready(key, value)}
        if not entries:
            return _NOTHING
        failures = _attempt(lambda: self._operations.update(entries), entries)
        for key, value in entries.items():
            if key in failures:
                self._failed(key, failures[key], now)
            else:
                self._tracker.set_realized(key, value)
                self._failures.pop(key, None)
        return Outcome(len(entries) - len(failures), len(failures))

    def run_deletes(self, now: float) -> Outcome:
        """Deletes what is pending and due."""
        keys = [key for key in self._tracker.pending_deletions if self._due(key, now)]
        if not keys:
            return _NOTHING
        failures = _attempt(lambda: self._operations.delete(keys), keys)
        for key in keys:
            if key in failures:
                self._failed(key, failures[key], now)
            else:
                self._tracker.delete_realized(key)
                self._failures.pop(key, None)
        return Outcome(len(keys) - len(failures), len(failures))

    def is_done(self, key: K) -> bool:
        """Whether the target holds what is desired for `key`; what another reconciler's `ready` asks."""
        return key in self._tracker.desired and key not in self._tracker.pending_updates

    def next_due(self) -> float | None:
        """When the first failed key is to be tried again; None if no key fails."""
        return min((failure.retry_at for failure in self._failures.values()), default=None)

    def status(self, key: K) -> Status | None:
        """How far `key` has come; None if it is neither desired nor in the target."""
        failure = self._failures.get(key)
        if failure is not None:
            return Status("error", failure.since, failure.error, failure.attempts)
        if self._is_pending(key):
            return Status("pending")
        return Status("done") if self.is_done(key) else None

    def _is_pending(self, key: K) -> bool:
        return key in self._tracker.pending_updates or key in self._tracker.pending_deletions

    def _due(self, key: K, now: float) -> bool:
        failure = self._failures.get(key)
        return failure is None or failure.retry_at <= now

    def _is_ready(self, key: K, value: V) -> bool:
        return self._ready is None or self._ready(key, value)

    def _failed(self, key: K, error: Exception, now: float) -> None:
        before = self._failures.get(key)
        attempts = before.attempts + 1 if before else 1
        since = before.since if before else now
        self._failures[key] = _Failure(error, since, attempts, now + self._backoff.delay_s(attempts))
        self._tracker.set_uncertain(key)

    def __repr__(self) -> str:
        return f"<reconciler {self.name}: {self._tracker!r}, failing {len(self._failures)}>"


def _attempt(operation: Callable[[], Mapping[K, Exception]], keys: Iterable[K]) -> Mapping[K, Exception]:
    """The failures of `operation`; if it raises, every key failed with that error."""
    try:
        return operation()
    except Exception as error:  # noqa: BLE001  kept as the status of each key and retried
        return dict.fromkeys(keys, error)

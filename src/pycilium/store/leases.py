"""Leases: who may do something alone, for a time. Works over any Store, by its checks of versions alone.

No two clocks are ever compared. Somebody else's lease is free once *this observer* has seen it unchanged for its
duration, on a clock of its own that no one sets (and that runs on while the machine is suspended). A holder counts
from before it asked, an observer from after it saw: so a holder that stops being one in less than the duration has
stopped before anybody else begins, whatever became of the requests between them and of the wall clocks.

The times in a lease are for people who read it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import msgspec

from pycilium.errors import AlreadyExists, Conflict, NotFound
from pycilium.model.resources import Lease, LeaseSpec, ObjectMeta
from pycilium.store.protocol import Store

LEASE_NAMESPACE = "kube-system"
OPERATOR_LEASE = "cilium-operator-resource-lock"
"""By which operators elect their leader, unless they are configured otherwise."""
ANNOUNCEMENT_LEASES = "cilium-l2announce-"
"""How the names of those begin by which agents agree who announces a Service's addresses."""
ATTEMPTS = 3
_ABSENT = ""


def elapsed_s() -> float:
    """Seconds since the machine booted, also those that it slept through."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class _Sighting:
    """A version of a lease and its holder, the last one if it is gone; and when this observer first saw that."""

    version: str
    holder: str
    since_s: float


class Leases:
    """Acquires, renews and releases leases of one store, and remembers when it saw which version of each."""

    def __init__(
        self,
        store: Store,
        *,
        namespace: str = LEASE_NAMESPACE,
        elapsed: Callable[[], float] = elapsed_s,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = store
        self._namespace = namespace
        self._elapsed = elapsed
        self._clock = clock
        self._sightings: dict[str, _Sighting] = {}

    async def acquire(self, name: str, holder: str, duration_s: int) -> Lease | None:
        """Takes a lease that is free, has run out or is `holder`'s already; None if somebody else has it.

        A holder's name must be its alone: two processes of one name would both have the lease.
        """
        try:
            present = await self._store.get(Lease, name, self._namespace)
        except NotFound:
            return await self._acquire_absent(name, holder, duration_s)
        unchanged_s = self._unchanged_s(name, present.metadata.resource_version, present.spec.holder_identity)
        lasts = unchanged_s < (present.spec.lease_duration_seconds or duration_s)
        if lasts and present.spec.holder_identity not in ("", holder):
            return None
        return await self._replace(present, _held(present.spec, holder, duration_s, self._clock()))

    async def renew(self, name: str, holder: str) -> Lease | None:
        """Makes `holder`'s lease last for its duration from now on; None if it is `holder`'s no longer."""
        for _ in range(ATTEMPTS):
            try:
                present = await self._store.get(Lease, name, self._namespace)
            except NotFound:
                return None
            if present.spec.holder_identity != holder:
                return None
            renewed = await self._replace(present, _renewed(present.spec, self._clock()))
            if renewed is not None:
                return renewed
        return None

    async def release(self, name: str, holder: str) -> None:
        """Lets others have the lease at once; nothing happens if it is not `holder`'s."""
        try:
            present = await self._store.get(Lease, name, self._namespace)
        except NotFound:
            return
        if present.spec.holder_identity == holder:
            await self._replace(present, msgspec.structs.replace(present.spec, holder_identity=""))

    async def _acquire_absent(self, name: str, holder: str, duration_s: int) -> Lease | None:
        """A lease that was another's and was deleted may still be lived by, so it is waited out like any other."""
        seen = self._sightings.get(name)
        if seen and seen.holder != holder and self._unchanged_s(name, _ABSENT, seen.holder) < duration_s:
            return None
        spec = _held(LeaseSpec(), holder, duration_s, self._clock())
        try:
            return await self._store.create(Lease(metadata=ObjectMeta(name=name, namespace=self._namespace), spec=spec))
        except AlreadyExists:
            return None

    def _unchanged_s(self, name: str, version: str, holder: str) -> float:
        now = self._elapsed()
        seen = self._sightings.get(name)
        if seen is None or seen.version != version:
            seen = self._sightings[name] = _Sighting(version, holder, now)
        return now - seen.since_s

    async def _replace(self, present: Lease, spec: LeaseSpec) -> Lease | None:
        try:
            return await self._store.replace(msgspec.structs.replace(present, spec=spec))
        except (Conflict, NotFound):
            return None


def _renewed(before: LeaseSpec, now: datetime) -> LeaseSpec:
    """Always another value: a write that changes nothing gives no version, and others would see no life in it."""
    return msgspec.structs.replace(before, renew_time=_other_than(before.renew_time, now))


def _held(before: LeaseSpec, holder: str, duration_s: int, now: datetime) -> LeaseSpec:
    changed_hands = before.holder_identity != holder
    return msgspec.structs.replace(
        before,
        holder_identity=holder,
        lease_duration_seconds=duration_s,
        acquire_time=now if changed_hands else before.acquire_time,
        renew_time=_other_than(before.renew_time, now),
        lease_transitions=before.lease_transitions + (changed_hands and before.acquire_time is not None),
    )


def _other_than(before: datetime | None, now: datetime) -> datetime:
    return now + timedelta(microseconds=1) if now == before else now

"""Leases: who may do something alone, for a time. Works over any Store, by its checks of versions alone.

The time comes from a clock that all holders share, as they do on one machine; between machines it must run within a
small part of a lease's duration.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import msgspec

from pycilium.errors import AlreadyExists, Conflict, NotFound
from pycilium.model.resources import Lease, LeaseSpec, ObjectMeta
from pycilium.store.protocol import Store

LEASE_NAMESPACE = "kube-system"


class Leases:
    """Acquires, renews and releases leases of one store."""

    def __init__(
        self,
        store: Store,
        *,
        namespace: str = LEASE_NAMESPACE,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = store
        self._namespace = namespace
        self._clock = clock

    async def acquire(self, name: str, holder: str, duration_s: int) -> Lease | None:
        """Takes a lease that is free, has run out or is `holder`'s already; None if somebody else has it."""
        now = self._clock()
        try:
            present = await self._store.get(Lease, name, self._namespace)
        except NotFound:
            return await self._create(name, _held(LeaseSpec(), holder, duration_s, now))
        if present.spec.holder_identity not in ("", holder) and not _has_run_out(present.spec, now):
            return None
        return await self._replace(present, _held(present.spec, holder, duration_s, now))

    async def renew(self, name: str, holder: str) -> Lease | None:
        """Makes `holder`'s lease last for its duration from now on; None if it is `holder`'s no longer."""
        try:
            present = await self._store.get(Lease, name, self._namespace)
        except NotFound:
            return None
        if present.spec.holder_identity != holder:
            return None
        return await self._replace(present, msgspec.structs.replace(present.spec, renew_time=self._clock()))

    async def release(self, name: str, holder: str) -> None:
        """Lets others have the lease at once; nothing happens if it is not `holder`'s."""
        try:
            present = await self._store.get(Lease, name, self._namespace)
        except NotFound:
            return
        if present.spec.holder_identity == holder:
            await self._replace(present, msgspec.structs.replace(present.spec, holder_identity=""))

    async def _create(self, name: str, spec: LeaseSpec) -> Lease | None:
        try:
            return await self._store.create(Lease(metadata=ObjectMeta(name=name, namespace=self._namespace), spec=spec))
        except AlreadyExists:
            return None

    async def _replace(self, present: Lease, spec: LeaseSpec) -> Lease | None:
        try:
            return await self._store.replace(msgspec.structs.replace(present, spec=spec))
        except (Conflict, NotFound):
            return None


def _held(before: LeaseSpec, holder: str, duration_s: int, now: datetime) -> LeaseSpec:
    changed_hands = before.holder_identity != holder
    return msgspec.structs.replace(
        before,
        holder_identity=holder,
        lease_duration_seconds=duration_s,
        acquire_time=now if changed_hands else before.acquire_time,
        renew_time=now,
        lease_transitions=before.lease_transitions + (changed_hands and before.acquire_time is not None),
    )


def _has_run_out(spec: LeaseSpec, now: datetime) -> bool:
    if spec.renew_time is None or spec.lease_duration_seconds is None:
        return True
    return spec.renew_time + timedelta(seconds=spec.lease_duration_seconds) <= now

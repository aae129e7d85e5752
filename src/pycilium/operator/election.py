"""Which operator leads: a lease in the store, and a term that ends before anybody else's can begin.

Invariant: `Leadership.check` passes for at most one operator at any moment. The leader counts its right to lead from
before each renewal that succeeded, for less time than others wait (`store.leases`), on a clock that nobody sets.
What a leader had begun when its time ran out may still reach the store: so everything it writes names the version
that it was decided on, and loses against whatever its successor wrote meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import structlog

from pycilium.errors import LeadershipLost, StoreError
from pycilium.model.resources import Lease, Resource
from pycilium.store import Leases, ResourceList, Store
from pycilium.store.leases import elapsed_s

R = TypeVar("R", bound=Resource)
log = structlog.get_logger()

Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class ElectionTimes:
    """In seconds, with client-go's proportions: a leader that cannot renew stops well before the lease runs out."""

    lease_duration_s: int = 15
    renew_deadline_s: float = 10.0
    retry_period_s: float = 2.0


class Leadership:
    """The right to lead: held until a moment on the holder's own clock."""

    def __init__(self, elapsed: Callable[[], float]) -> None:
        self._elapsed = elapsed
        self._until_s: float | None = None

    @property
    def left_s(self) -> float:
        """How long it lasts if nothing renews it; 0 when it is not held."""
        return 0.0 if self._until_s is None else max(0.0, self._until_s - self._elapsed())

    def check(self) -> None:
        """LeadershipLost unless it is held right now. To be called before every write."""
        if not self.left_s:
            raise LeadershipLost("this operator leads no longer: another one may, so nothing is written any more")

    def extend(self, until_s: float) -> None:
        self._until_s = until_s

    def end(self) -> None:
        self._until_s = None


class Election:
    """One operator's part in the election of `name`; `holder` must be no other process's name."""

    def __init__(
        self,
        leases: Leases,
        name: str,
        holder: str,
        times: ElectionTimes,
        *,
        elapsed: Callable[[], float] = elapsed_s,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._leases, self._name, self._holder, self._times = leases, name, holder, times
        self._elapsed, self._sleep = elapsed, sleep
        self.leadership = Leadership(elapsed)
        self.error = ""
        """Why the store could not be asked the last time; empty while it can."""

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Run `lead` whenever this operator leads, cancelled when it does no longer; until cancelled itself."""
        while True:
            if await self._asked(self._leases.acquire(self._name, self._holder, self._times.lease_duration_s)):
                log.info("leading", holder=self._holder)
                await self._term(lead)
                log.warning("leading no longer", holder=self._holder)
            await self._sleep(self._times.retry_period_s)

    async def _term(self, lead: Callable[[], Awaitable[None]]) -> None:
        work = asyncio.ensure_future(lead())
        keeping = asyncio.create_task(self._keep())
        try:
            await asyncio.wait({work, keeping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # The work ends first, and only then may another operator have the lease.
            if not work.done():
                work.cancel()
            keeping.cancel()
            await asyncio.gather(work, keeping, return_exceptions=True)
            self.leadership.end()
            await self._release()
        if not work.cancelled() and (error := work.exception()) and not isinstance(error, LeadershipLost):
            raise error

    async def _keep(self) -> None:
        """Renew until that fails for too long or somebody else has the lease."""
        times = self._times
        while self.leadership.left_s:
            await self._sleep(min(times.retry_period_s, self.leadership.left_s))
            if not self.leadership.left_s:
                break
            renewed = await self._asked(self._leases.renew(self._name, self._holder))
            if renewed is None and not self.error:
                break

    async def _asked(self, call: Awaitable[Lease | None]) -> Lease | None:
        """The lease if it is ours now, counted from before we asked."""
        before_s = self._elapsed()
        patience_s = self.leadership.left_s or self._times.renew_deadline_s
        try:
            async with asyncio.timeout(patience_s):
                lease = await call
        except (StoreError, TimeoutError) as error:
            reason = str(error) or f"the store did not answer within {patience_s:.0f} s"
            if reason != self.error:
                log.warning("lease cannot be read or written", lease=self._name, error=reason)
            self.error = reason
            return None
        self.error = ""
        until_s = before_s + self._times.renew_deadline_s
        if lease is None or until_s <= self._elapsed():
            return None
        self.leadership.extend(until_s)
        return lease

    async def _release(self) -> None:
        with contextlib.suppress(StoreError, TimeoutError):
            async with asyncio.timeout(self._times.retry_period_s):
                await self._leases.release(self._name, self._holder)


class Lists(Protocol):
    """What can be looked at."""

    async def list(self, kind: type[R], namespace: str | None = None) -> ResourceList[R]: ...


class LeaderStore:
    """What a leader's work may ask of the store: it looks at what `mirror` knows, and writes only while it leads."""

    def __init__(self, store: Store, leadership: Leadership, mirror: Lists | None = None) -> None:
        self._store, self._leadership = store, leadership
        self._lists: Lists = mirror or store

    async def list(self, kind: type[R], namespace: str | None = None) -> ResourceList[R]:
        return await self._lists.list(kind, namespace)

    async def create(self, resource: R) -> R:
        """Only under a name that a successor would take for the same: of two that make it, one finds it made."""
        self._leadership.check()
        return await self._store.create(resource)

    async def replace(self, resource: R) -> R:
        """Only for a resource that was read: what it was decided on must still stand."""
        assert resource.metadata.resource_version
        self._leadership.check()
        return await self._store.replace(resource)

    async def delete(self, resource: Resource) -> None:
        """The same."""
        assert resource.metadata.resource_version
        self._leadership.check()
        metadata = resource.metadata
        await self._store.delete(
            type(resource), metadata.name, metadata.namespace, resource_version=metadata.resource_version
        )

    async def discard(self, kind: type[Resource], name: str, namespace: str = "") -> None:
        """One that cannot be read, so that nobody decides anything on it."""
        self._leadership.check()
        await self._store.delete(kind, name, namespace)

    async def patch_status(self, kind: type[R], name: str, namespace: str, patch: Mapping[str, Any]) -> R:
        """Not held against a version: what is decided on a status must bear a late write of a leader before."""
        self._leadership.check()
        return await self._store.patch_status(kind, name, namespace, patch)

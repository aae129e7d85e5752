"""Whether an operator leads: the lease by which operators elect their leader, looked at when somebody asks.

Judged as every lease is, by whether it changes while we look and never by the times in it: so what was there before
this agent looked counts as alive until it was seen unchanged for its duration. So each look that somebody asked for is
followed by one more, past the duration; nothing is looked at while nobody asks, for a thousand nodes would be a load.
Owns nothing; nothing hangs on it but what status says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from pycilium.api.messages import OperatorStatus
from pycilium.errors import NotFound, StoreError
from pycilium.model.resources import Lease
from pycilium.store import Store
from pycilium.store.leases import LEASE_NAMESPACE, elapsed_s

FRESH_S = 1.0
"""What was seen so lately is not looked at again for one who asks."""
PATIENCE_S = 1.0
DURATION_S = 15
"""Of a lease that does not say."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """What the lease said: who held it, nobody if empty, and since when it has said so in this version."""

    leader: str
    version: str
    since_s: float
    duration_s: int


class OperatorLease:
    """`needed`: whether this node's pod CIDRs come from an operator, so that it is a fault if none leads."""

    def __init__(self, store: Store, name: str, *, needed: bool, elapsed: Callable[[], float] = elapsed_s) -> None:
        self._store, self._name, self._needed, self._elapsed = store, name, needed, elapsed
        self._seen: Sighting | None = None
        self._looked_s = float("-inf")
        self._asked = asyncio.Event()

    async def run(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Look again after whoever asked, until cancelled."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            await sleep((self._seen.duration_s if self._seen else DURATION_S) + FRESH_S)
            await self._look()

    async def look(self) -> None:
        """For one who asks: bring up to date what is known, unless it is or the store is away."""
        self._asked.set()
        await self._look()

    async def _look(self) -> None:
        now = self._elapsed()
        if now - self._looked_s < FRESH_S:
            return
        self._looked_s = now
        try:
            async with asyncio.timeout(PATIENCE_S):
                lease = await self._store.get(Lease, self._name, LEASE_NAMESPACE)
        except NotFound:
            self._seen = Sighting("", "", now, 0)
            return
        except (StoreError, TimeoutError):
            return  # status says so of the store already
        version = lease.metadata.resource_version
        if self._seen is None or self._seen.version != version:
            leader = lease.spec.holder_identity.partition("_")[0]
            self._seen = Sighting(leader, version, now, lease.spec.lease_duration_seconds or DURATION_S)

    def status(self) -> OperatorStatus:
        """As far as is known."""
        seen = self._seen
        if seen is None:
            return OperatorStatus(state="Warning" if self._needed else "Disabled", msg="not known yet")
        if not seen.leader:
            if not self._needed:
                return OperatorStatus(state="Disabled")
            return OperatorStatus(state="Warning", msg="none leads, so nodes get no pod CIDRs: start cilium-operator")
        silent_s = self._looked_s - seen.since_s
        if silent_s > seen.duration_s:
            return OperatorStatus(
                state="Warning",
                msg=f"{seen.leader} led and gives no sign of life for {silent_s:.0f} s: start cilium-operator",
            )
        return OperatorStatus(state="Ok", msg=f"leader {seen.leader}", leader=seen.leader)

"""Keeps CiliumEndpointSlices true: every CiliumEndpoint in one, changes gathered and written no faster than allowed.

A term begins with the slices as they are, so that another leader changes nothing. What to write is decided by
`endpoint.slices` from all that is known at that moment; what could not be written yet is decided anew. Once nothing is
left to write for the first time, `complete` is made; from then on agents take slices for the truth. A leader that is to
keep no slices removes that first, and then the others: agents go back to CiliumEndpoints as soon as they see it gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import structlog

from pycilium.endpoint.slice_entries import SliceEntries, name_of
from pycilium.endpoint.slices import COMPLETE, EndpointName, Slice, SliceWrite, planned
from pycilium.errors import AlreadyExists, Conflict, InvalidResource, NotFound, StoreError
from pycilium.model.resources import CiliumEndpoint, CiliumEndpointSlice, ObjectMeta
from pycilium.operator.election import LeaderStore
from pycilium.operator.following import keep_following
from pycilium.operator.kept_slices import KeptSlices
from pycilium.operator.write_rate import Deferral, RateLimit, WriteRate, limit_for
from pycilium.store import ResourceList, Store, Unreadable, WatchEvent

log = structlog.get_logger()

RETRY_S = 1.0
REFUSED_RETRY_S = 30.0
"""A slice that the store refuses holds back no other, and is the same again until one of its endpoints changes."""
GATHER_S = 0.5
"""How long changes are gathered before they are written: what starts together goes out together."""


class Attempt(enum.Enum):
    """What became of a write."""

    DONE = "done"
    AGAIN = "again"
    """Everything is decided anew first."""
    REFUSED = "refused"


class EndpointSlices:
    """One leader's term. Whoever follows CiliumEndpoints tells it of them: `endpoints_told`."""

    def __init__(
        self,
        store: Store,
        leader: LeaderStore,
        limits: Sequence[RateLimit],
        most: int,
        nodes: Callable[[], int],
        elapsed: Callable[[], float],
    ) -> None:
        self._store, self._leader, self._limits, self._most = store, leader, limits, most
        self._nodes, self._elapsed = nodes, elapsed
        self._rate, self._deferral = WriteRate(), Deferral()
        self._entries = SliceEntries()
        self._kept = KeptSlices()
        self._endpoints_read = False
        self._changed = asyncio.Event()

    def endpoints_told(self, step: ResourceList[CiliumEndpoint] | WatchEvent[CiliumEndpoint] | Unreadable) -> None:
        """What the store said of CiliumEndpoints."""
        if isinstance(step, ResourceList):
            unreadable = [EndpointName(each.key.namespace, each.key.name) for each in step.unreadable]
            problems = self._entries.replace(step.items, unreadable)
            self._endpoints_read = True
        else:
            problems = [self._changed_endpoint(step)]
        for problem in filter(None, problems):
            log.warning("endpoint is in no slice", problem=problem)
        self._changed.set()

    async def run(self) -> None:
        """Until cancelled, or until this operator leads no longer."""
        wait_s: float | None = None
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(keep_following(self._store, CiliumEndpointSlice, self._slices_told), name="slices")
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self._changed.wait()
                await asyncio.sleep(GATHER_S)
                self._changed.clear()
                wait_s = await self._settle() if self._endpoints_read and self._kept.read else None

    def _changed_endpoint(self, step: WatchEvent[CiliumEndpoint] | Unreadable) -> str:
        if isinstance(step, Unreadable):
            self._entries.lose_sight_of(EndpointName(step.key.namespace, step.key.name))
            return str(step)
        if step.type == "DELETED":
            self._entries.remove(name_of(step.object))
            return ""
        return self._entries.change(step.object)

    def _slices_told(
        self, step: ResourceList[CiliumEndpointSlice] | WatchEvent[CiliumEndpointSlice] | Unreadable
    ) -> None:
        self._kept.take_in(step)
        self._changed.set()

    async def _settle(self) -> float | None:
        """Write what follows from everything as it is known; in how many seconds to go on if nothing changes before."""
        refused = False
        for name in self._kept.unreadable:
            if await self._attempt(name, self._discard(name)) is not Attempt.DONE:
                return RETRY_S
        writes = planned(self._kept.slices, self._entries.wanted, self._most, self._entries.unknown)
        due, later_s = self._deferral.due(writes, self._elapsed()) if self._kept.complete else (writes, None)
        limit = limit_for(self._limits, self._nodes())
        for write in due:
            wait_s = self._rate.wait_s(limit, self._elapsed())
            if wait_s:
                return wait_s  # much may have changed by then
            outcome = await self._write(write)
            if outcome is Attempt.AGAIN:
                return RETRY_S
            refused |= outcome is Attempt.REFUSED
        if refused:
            return REFUSED_RETRY_S
        if not self._kept.complete:
            marked = await self._attempt(COMPLETE, self._create(COMPLETE, Slice("", {})))
            return later_s if marked is Attempt.DONE else RETRY_S
        return later_s

    async def _write(self, write: SliceWrite) -> Attempt:
        present = self._kept.resource(write.name)
        if present is None:
            return await self._attempt(write.name, self._create(write.name, write.slice))
        if write.slice.entries:
            return await self._attempt(write.name, self._replace(present, write.slice))
        return await self._attempt(write.name, self._delete(present))

    async def _create(self, name: str, slice_: Slice) -> None:
        written = await self._leader.create(_resource(ObjectMeta(name=name), slice_))
        self._kept.wrote(written, slice_)

    async def _replace(self, present: CiliumEndpointSlice, slice_: Slice) -> None:
        written = await self._leader.replace(_resource(present.metadata, slice_))
        self._kept.wrote(written, slice_)

    async def _delete(self, present: CiliumEndpointSlice) -> None:
        await self._leader.delete(present)
        self._kept.deleted(present.metadata.name)

    async def _discard(self, name: str) -> None:
        await self._leader.discard(CiliumEndpointSlice, name)
        self._kept.deleted(name)

    async def _attempt(self, name: str, write: Awaitable[None]) -> Attempt:
        try:
            await write
        except (AlreadyExists, Conflict, NotFound) as error:
            log.debug("slice is another by now", slice=name, error=str(error))  # the watch says which
            return Attempt.AGAIN
        except InvalidResource as error:
            log.warning("slice of endpoints is refused", slice=name, error=str(error))
            return Attempt.REFUSED
        except StoreError as error:
            log.warning("slice of endpoints not written yet", slice=name, error=str(error))
            return Attempt.AGAIN
        return Attempt.DONE


class NoEndpointSlices:
    """One leader's term, of an operator that keeps no slices: whatever there are go."""

    def __init__(self, leader: LeaderStore) -> None:
        self._leader = leader

    async def run(self) -> None:
        """Return when there are none, or when this operator leads no longer."""
        while True:
            if await self.once():
                return
            await asyncio.sleep(RETRY_S)

    async def once(self) -> bool:
        """Whether none is left."""
        try:
            listed = (await self._leader.list(CiliumEndpointSlice)).items
            for each in sorted(listed, key=lambda each: each.metadata.name != COMPLETE):
                await self._leader.delete(each)
        except NotFound:
            return False
        except StoreError as error:
            log.warning("slices of endpoints not removed yet", error=str(error))
            return False
        if listed:
            log.info("slices of endpoints removed", slices=len(listed))
        return True


def _resource(metadata: ObjectMeta, slice_: Slice) -> CiliumEndpointSlice:
    endpoints: Any = tuple(slice_.entries.values())
    return CiliumEndpointSlice(metadata=metadata, namespace=slice_.namespace, endpoints=endpoints)

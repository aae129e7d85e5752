"""From the store into the table of all pods' endpoints, where operators gather them in slices.

Two sources fill one table: the slices, and the CiliumEndpoints, which are followed only while slices are not the truth.
Which of them is believed is decided by `sliced_endpoints`; it is read from a store that both are written to, so whoever
switches slices on or off in a running cluster need not mind in which order operators and agents come.
"""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

import structlog

from pycilium.agent.nodes.sliced_endpoints import Known, SlicedEndpoints
from pycilium.agent.sources import Converted, Source
from pycilium.endpoint.slices import COMPLETE
from pycilium.errors import InvalidResource
from pycilium.model.remote_endpoint import RemoteEndpoint, remote_endpoint_in_slice, remote_endpoint_of
from pycilium.model.resources import CiliumEndpoint, CiliumEndpointSlice
from pycilium.store import ResourceList, Store, Unreadable, WatchEvent
from pycilium.tables import Database, Table

log = structlog.get_logger()


class Contents(NamedTuple):
    """What a slice says, and what it says in vain."""

    endpoints: Known
    problems: tuple[str, ...] = ()


def slice_sources(table: Table[RemoteEndpoint]) -> list[Source[Any, Any]]:
    """Both; the table is theirs."""
    state = SlicedEndpoints()
    endpoints = _EndpointSource(table, state)
    return [_SliceSource(table, state, endpoints), endpoints]


class _EndpointSource(Source[CiliumEndpoint, RemoteEndpoint]):
    """CiliumEndpoints, while they are needed."""

    def __init__(self, table: Table[RemoteEndpoint], state: SlicedEndpoints) -> None:
        super().__init__(CiliumEndpoint, table, remote_endpoint_of)
        self._state = state
        self._needed, self._spare = asyncio.Event(), asyncio.Event()

    async def run(self, store: Store, db: Database) -> None:
        """Until cancelled."""
        while True:
            await self._needed.wait()
            log.info("endpoints are not all in slices: CiliumEndpoints are followed")
            async with asyncio.TaskGroup() as tasks:
                following = tasks.create_task(super().run(store, db), name="CiliumEndpoints")
                await self._spare.wait()
                following.cancel()
            log.info("endpoints are followed in slices")
            self.error, self.rejected = "", {}

    def take_in(
        self, db: Database, step: ResourceList[tuple[Converted, ...]] | WatchEvent[CiliumEndpoint] | Unreadable
    ) -> None:
        """What the store told of CiliumEndpoints."""
        if isinstance(step, ResourceList):
            found = [converted for (converted,) in step.items]
            doubtful: dict[Any, str] = {each.key: each.problem for each in found if each.problem}
            doubtful |= {each.key: str(each) for each in step.unreadable}
            self.rejected = {key: why for key, why in self.rejected.items() if key in doubtful}
            for key, why in doubtful.items():
                self._set_aside(key, why)
            said: Any = {each.key: each.object for each in found if each.object is not None}
            self._state.endpoints_listed(said, list(doubtful))
        elif isinstance(step, Unreadable):
            self._set_aside(step.key, str(step))
        elif step.type == "DELETED":
            self.rejected.pop(step.object.key, None)
            self._state.endpoint_changed(step.object.key, None)
        else:
            converted = self.converted(step.object)
            if converted.problem:
                self._set_aside(converted.key, converted.problem)
            else:
                self.rejected.pop(converted.key, None)
                self._state.endpoint_changed(step.object.key, converted.object)
        self.settle(db)

    def settle(self, db: Database) -> None:
        """Make the table what follows, and follow what is needed from now on."""
        with db.write() as txn:
            for key, endpoint in self._state.take_changed():
                if endpoint is None:
                    txn.delete(self.table, key)
                else:
                    txn.insert(self.table, endpoint)
        if self._state.known:
            self.synced.set()
        needed = self._state.needs_endpoints
        for event, on in ((self._needed, needed), (self._spare, not needed)):
            if on:
                event.set()
            else:
                event.clear()


class _SliceSource(Source[CiliumEndpointSlice, Any]):
    """Slices, always."""

    def __init__(self, table: Table[RemoteEndpoint], state: SlicedEndpoints, endpoints: _EndpointSource) -> None:
        super().__init__(CiliumEndpointSlice, table, contents_of, key=lambda key: key.name)
        self._state, self._endpoints = state, endpoints

    def take_in(
        self, db: Database, step: ResourceList[tuple[Converted, ...]] | WatchEvent[CiliumEndpointSlice] | Unreadable
    ) -> None:
        """What the store told of slices."""
        if isinstance(step, ResourceList):
            found: dict[str, Contents] = {str(each.key): each.object for (each,) in step.items if each.object}
            unreadable = {each.key.name: str(each) for each in step.unreadable}
            self.rejected = {key: why for key, why in self.rejected.items() if key in found or key in unreadable}
            for name, why in unreadable.items():
                self._set_aside(name, why)
            for name, contents in found.items():
                self._judge(name, contents)
            complete = found.pop(COMPLETE, None) is not None
            said = {name: contents.endpoints for name, contents in found.items()}
            self._state.slices_listed(said, complete, unreadable.keys())
        elif isinstance(step, Unreadable):
            self._set_aside(step.key.name, str(step))
        else:
            name = step.object.metadata.name
            contents = Contents({}) if step.type == "DELETED" else contents_of(step.object)
            self._judge(name, contents)
            if name == COMPLETE:
                self._state.mark_changed(step.type != "DELETED")
            else:
                self._state.slice_changed(name, contents.endpoints)
        self._endpoints.settle(db)

    def _judge(self, name: str, contents: Contents) -> None:
        if contents.problems:
            self._set_aside(name, "; ".join(contents.problems))
        else:
            self.rejected.pop(name, None)


def contents_of(resource: CiliumEndpointSlice) -> Contents:
    """Each entry by itself: one that cannot be must not hide the others. Of two with one name, the first."""
    endpoints: dict[Any, RemoteEndpoint] = {}
    problems = []
    for core in resource.endpoints:
        try:
            endpoint = remote_endpoint_in_slice(resource.namespace, core)
        except InvalidResource as error:
            problems.append(f"{resource.namespace}/{core.name}: {error}")
            continue
        if endpoint is not None:
            endpoints.setdefault(endpoint.key, endpoint)
    return Contents(endpoints, tuple(problems))

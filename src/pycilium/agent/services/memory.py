"""Forgets what clients had of backends that left their Service, so that they choose another.

Of affinity everything is forgotten, of connections and sockets only UDP's: a TCP connection belongs to its backend for
as long as that answers, a datagram does not. It is done at once, and again a little later: a program that had read the
frontend before it was switched may have written meanwhile. Of one that has come back nothing is forgotten: what clients
have of it is right again, and an answer may be on its way.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection, Iterable
from typing import Any

import structlog

from pycilium.agent.intent import Intent
from pycilium.agent.services.controller import Left
from pycilium.datapath import layouts, service_memory, socket_diag
from pycilium.datapath.codec import MapSpec
from pycilium.datapath.loader import Datapath
from pycilium.errors import DatapathError
from pycilium.model.l4 import Protocol

log = structlog.get_logger()
AGAIN_AFTER_S = 1.0
GATHER_S = 0.05
"""Backends that leave together are forgotten together."""
ALL = (layouts.AFFINITY,)
OF_DATAGRAMS = (layouts.SERVICE_FLOWS4, layouts.SERVICE_FLOWS6, layouts.SOCKET_FLOWS)

Forget = Callable[[MapSpec[Any, Any], service_memory.Pairs], object]
"""Removes from one map what it remembers of pairs; blocks."""


def forget_in(datapath: Datapath) -> Forget:
    """From the maps of a loaded datapath."""

    def forget(spec: MapSpec[Any, Any], left: service_memory.Pairs) -> None:
        with datapath.map(spec) as opened:
            service_memory.forget(opened.raw, spec, left)

    return forget


def end_sockets_in(datapath: Datapath, intent: Intent) -> Callable[[Collection[Left]], None]:
    """Ends UDP sockets of the node and of its pods that a Service had connected to backends that left it."""
    told = False

    def end(left: Collection[Left]) -> None:
        nonlocal told
        paths = [each.netns for each in intent.db.snapshot().all(intent.endpoints) if each.netns]
        gone = [
            socket_diag.Gone(each.backend.address, each.backend.port, each.service_id, each.backend_id) for each in left
        ]
        try:
            with datapath.map(layouts.SOCKET_FLOWS) as flows:
                socket_diag.end_sockets((socket_diag.HOST, *paths), gone, flows)
        except DatapathError as error:
            if not told:
                log.warning("UDP sockets to backends that are gone stay open", error=str(error))
            told = True

    return end


class ServiceMemory:
    """Takes backends that left and has the maps forget them; call `run`."""

    def __init__(
        self,
        forget: Forget,
        *,
        end_sockets: Callable[[Collection[Left]], object] = lambda _: None,
        still_gone: Callable[[Iterable[Left]], list[Left]] = list,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`end_sockets` ends the UDP sockets that these Services had connected to these backends; it blocks.

        `still_gone` leaves out who has come back.
        """
        self._forget, self._end_sockets, self._still_gone, self._clock = forget, end_sockets, still_gone, clock
        self._new: list[Left] = []
        self._again: list[tuple[float, list[Left]]] = []
        self._changed = asyncio.Event()

    def left(self, left: list[Left]) -> None:
        """These are to be forgotten."""
        self._new += left
        self._changed.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._wait()
            await self.forget_due()

    async def forget_due(self) -> None:
        """What came since the last time, and what is due again."""
        new, self._new = self._still_gone(self._new), []
        now = self._clock()
        due = [each for at, batch in self._again if at <= now for each in batch]
        self._again = [(at, batch) for at, batch in self._again if at > now]
        if new:
            self._again.append((now + AGAIN_AFTER_S, new))
        await asyncio.to_thread(self._forget_all, new + self._still_gone(due), new)

    def _forget_all(self, left: list[Left], new: list[Left]) -> None:
        gone = [each for each in new if each.frontend.protocol is Protocol.UDP]
        if gone:
            self._end_sockets(gone)  # first: what a socket was connected through is about to be forgotten
        datagrams = service_memory.pairs_of(
            (each.service_id, each.backend_id) for each in left if each.frontend.protocol is Protocol.UDP
        )
        affine = service_memory.pairs_of((each.affinity_id, each.backend_id) for each in left if each.affinity_id)
        for specs, pairs in ((OF_DATAGRAMS, datagrams), (ALL, affine)):
            if len(pairs):
                for spec in specs:
                    self._forget(spec, pairs)

    async def _wait(self) -> None:
        self._changed.clear()
        if self._new:
            return
        due = min((at for at, _ in self._again), default=None)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if due is None else max(0.0, due - self._clock())):
                await self._changed.wait()
                await asyncio.sleep(GATHER_S)

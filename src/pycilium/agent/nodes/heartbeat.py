"""The node's sign of life: a Lease named as the node, renewed again and again while the agent runs.

The operator removes a node whose lease nobody renewed for long. So with each sign of life the node looks whether it is
still there, and publishes itself anew if not. It looks at what the store told by itself, and asks nothing: a thousand
nodes that ask a few times a minute would be most of what an API server has to answer. What was published just now may
not have been told yet, so a node is gone that is missing at two looks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from pycilium.errors import CiliumError
from pycilium.store import Leases, Store

log = structlog.get_logger()

NODE_LEASES = "kube-node-lease"
BEATS_PER_DURATION = 4


class Heartbeat:
    """Call `run` once the node is published."""

    def __init__(
        self,
        store: Store,
        node_name: str,
        duration_s: int,
        is_told: Callable[[], bool],
        removed: Callable[[], Awaitable[None]],
        *,
        renew: bool = True,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._leases = Leases(store, namespace=NODE_LEASES)
        self._node_name, self._duration_s, self._removed, self._sleep = node_name, duration_s, removed, sleep
        self._is_told = is_told
        """Whether the node is among those that the store told of."""
        self._was_missing = False
        self._renew = renew
        """False where kubelet gives the node's sign of life: only whether the node was removed is looked at."""

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self._beat()
            except CiliumError as error:  # also that the store does not take such a lease
                log.warning("no sign of life can be given", error=str(error))
            await self._sleep(self._duration_s / BEATS_PER_DURATION)

    async def _beat(self) -> None:
        name = self._node_name
        if self._renew:
            await self._leases.acquire(name, name, self._duration_s)
        if self._is_told():
            self._was_missing = False
        elif not self._was_missing:
            self._was_missing = True
        else:
            self._was_missing = False
            log.warning("this node was removed from the store: publishing it again", node=name)
            await self._removed()

"""Labels that come after an endpoint: of sandboxes that a runtime attaches before it knows them itself.

Beside everything else, since the runtime waits for us before it can say them. Until then the endpoint has the labels of
where it is, and nothing but the sandbox's own process runs in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from pycilium.agent.endpoints.labelling import PodLabelling
from pycilium.errors import CiliumError
from pycilium.model.endpoint import Endpoint
from pycilium.model.labels import Labels

log = structlog.get_logger()


class LateLabels:
    """`relabel` gives an endpoint other labels, if it is still there."""

    def __init__(self, labelling: PodLabelling, relabel: Callable[[Endpoint, Labels], Awaitable[None]]) -> None:
        self._labelling, self._relabel = labelling, relabel
        self._awaited: set[asyncio.Task[None]] = set()

    def expect(self, endpoint: Endpoint) -> asyncio.Task[None]:
        """Relabel the endpoint when its runtime knows it; gives up, saying so in the log, if that takes too long."""
        task = asyncio.get_running_loop().create_task(self._learn(endpoint), name=f"labels of {endpoint}")
        self._awaited.add(task)
        task.add_done_callback(self._awaited.discard)
        return task

    async def _learn(self, endpoint: Endpoint) -> None:
        labels = await self._labelling.late_labels(endpoint)
        if labels is None:
            return
        try:
            await self._relabel(endpoint, labels)
        except CiliumError as error:
            log.error("endpoint has not got its labels", endpoint=str(endpoint), reason=str(error))  # noqa: TRY400  foreseen

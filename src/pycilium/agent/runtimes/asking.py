"""The runtimes of a machine as one: who knows this container? Owns no state but what went wrong last."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import structlog

from pycilium.agent.runtimes.container import Container, Runtime
from pycilium.errors import RuntimeUnreadable

log = structlog.get_logger()
_PATIENCE_S = 3.0
_LATE_S = 10.0
"""How long after ADD a runtime may take to know the container that it asked for."""
_PAUSE_S = 0.02


class Runtimes:
    """Asked one after the other; a runtime that is broken or slow costs the others nothing but that time."""

    def __init__(self, runtimes: Sequence[Runtime] = ()) -> None:
        self._runtimes = runtimes
        self.problems: dict[str, str] = {}
        """By runtime: why it could not be asked when it was asked last."""

    async def container(self, container_id: str) -> Container | None:
        """The container as the first runtime that knows it says; None, and a line in the log, if none does."""
        there = [runtime for runtime in self._runtimes if runtime.is_there]
        for runtime in there:
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    found = await runtime.container(container_id)
            except RuntimeUnreadable as error:
                self._failed(runtime, container_id, str(error))
            except TimeoutError:
                self._failed(runtime, container_id, f"no answer within {_PATIENCE_S:g} s")
            else:
                self.problems.pop(runtime.name, None)
                if found is not None:
                    return found
        return None

    @property
    def some_tell_late(self) -> bool:
        """Whether a container that nobody knows may yet be told of: `late`."""
        return any(runtime.tells_late and runtime.is_there for runtime in self._runtimes)

    async def late(self, container_id: str) -> Container | None:
        """The container as soon as a runtime knows it; None if that takes too long."""
        runtimes = Runtimes([runtime for runtime in self._runtimes if runtime.tells_late])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LATE_S):
                while (found := await runtimes.container(container_id)) is None:  # noqa: ASYNC110  not ours to signal
                    await asyncio.sleep(_PAUSE_S)
                return found
        log.warning("no runtime tells the labels of a container", container=container_id)
        return None

    async def close(self) -> None:
        for runtime in self._runtimes:
            await runtime.close()

    def _failed(self, runtime: Runtime, container_id: str, why: str) -> None:
        self.problems[runtime.name] = why
        log.warning("a runtime does not tell labels", runtime=runtime.name, container=container_id, reason=why)

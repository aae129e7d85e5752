"""The container runtime's folder of CNI configurations, kept as it should be for as long as the agent runs.

Ours is there, and where it is to be the only one, others' are set aside as they appear: `install.cni_configuration`
says how. The kernel tells of changes. What cannot be written is said once and tried again: a full disk becomes free,
and until then the runtime goes on with what it has.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import structlog
from inotify_simple import INotify, flags

from pycilium.agent.config import AgentConfig
from pycilium.errors import ConfigError
from pycilium.install import cni_configuration

log = structlog.get_logger()

RETRY_S = 5.0
SETTLE_S = 0.5
"""Another plugin that insists on its configuration is set aside so often at the most."""
_CHANGES = (
    flags.CREATE | flags.CLOSE_WRITE | flags.MOVED_TO | flags.MOVED_FROM | flags.DELETE | flags.DELETE_SELF
) | flags.MOVE_SELF


class CniFolder:
    """Our configuration at `path`, by which the plugin finds the agent at `socket`."""

    def __init__(
        self,
        path: str,
        socket: str,
        *,
        exclusive: bool,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._path, self._socket, self._exclusive, self._sleep = path, socket, exclusive, sleep
        self.in_place = asyncio.Event()
        """Set once ours has been written."""
        self.problem = ""
        """Why it is not as it should be; for status."""

    async def run(self) -> None:
        """Keep it so until cancelled."""
        while True:
            if not self._settle():
                await self._sleep(RETRY_S)
                continue
            try:
                with _news_of(os.path.dirname(self._path)) as changed:
                    if self._settle():  # for what changed before the kernel was asked to tell
                        await changed.wait()
            except OSError as error:
                log.warning("CNI folder cannot be watched", path=self._path, error=error.strerror)
                await self._sleep(RETRY_S)
            await self._sleep(SETTLE_S)

    def _settle(self) -> bool:
        """Whether all is as it should be now."""
        try:
            was_there = self.in_place.is_set()
            wrote, aside = cni_configuration.install(self._path, self._socket, exclusive=self._exclusive)
        except ConfigError as error:
            if str(error) != self.problem:
                log.error("CNI configuration is not in place", reason=str(error))  # noqa: TRY400  foreseen
            self.problem = str(error)
            return False
        self.problem = ""
        if wrote and was_there:
            log.warning("CNI configuration was changed or removed by somebody: put back", path=self._path)
        elif wrote or not was_there:
            log.info("CNI configuration is in place", path=self._path)
        if aside:
            log.warning("configurations of other CNI plugins are set aside", files=" ".join(aside))
        self.in_place.set()
        return True


def make_cni_folder(config: AgentConfig) -> CniFolder | None:
    """None if somebody else writes the configuration."""
    if config.cni_configuration is None:
        return None
    socket = os.path.join(config.run_dir, "cilium.sock")
    return CniFolder(config.cni_configuration, socket, exclusive=config.cni_exclusive)


@contextmanager
def _news_of(folder: str) -> Iterator[asyncio.Event]:
    """An event that is set when something changes in the folder; OSError if it cannot be watched."""
    loop = asyncio.get_running_loop()
    changed = asyncio.Event()
    with INotify(nonblocking=True) as inotify:
        inotify.add_watch(folder, _CHANGES)
        loop.add_reader(inotify.fileno(), changed.set)
        try:
            yield changed
        finally:
            loop.remove_reader(inotify.fileno())

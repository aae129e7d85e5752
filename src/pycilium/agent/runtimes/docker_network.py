"""Docker's containers that ask for our network have it while they run: attached when they start, detached at their end.

A container asks by the label `io.cilium.network=true` and has no network of Docker's (`--network none`). What should be
attached follows from what runs, and events say only that it is to be looked at again, so none that is missed is missed.
Invariant: an endpoint is attached by this module, and taken away by it, only under the network's name `docker`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Protocol

import structlog

from pycilium.agent.runtimes.docker import NO_NETWORK, Docker, Running
from pycilium.api.cni_messages import CniRequest
from pycilium.errors import CiliumError, RuntimeUnreadable
from pycilium.model.endpoint import Endpoint

log = structlog.get_logger()
NETWORK, IFNAME = "docker", "eth0"
RETRY_S = 5.0


class Attaching(Protocol):
    """What an agent's endpoints can do."""

    async def add(self, request: CniRequest) -> object: ...
    async def delete(self, container_id: str, ifname: str) -> None: ...
    def all(self) -> list[Endpoint]: ...


class DockerNetwork:
    """Of one Docker."""

    def __init__(
        self,
        docker: Docker,
        endpoints: Attaching,
        problems: dict[str, str],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`problems`: by runtime, why it cannot be asked; for status."""
        self._docker, self._endpoints, self._problems, self._sleep = docker, endpoints, problems, sleep
        self._said: dict[str, str] = {}
        """By container: why it has no network; said once."""

    async def run(self) -> None:
        """Keep it so until cancelled."""
        while True:
            if self._docker.is_there:
                try:
                    await self._follow()
                except RuntimeUnreadable as error:
                    if self._problems.get(self._docker.name) != str(error):
                        log.warning("Docker cannot be followed", reason=str(error))
                    self._problems[self._docker.name] = str(error)
            else:
                self._problems.pop(self._docker.name, None)
            await self._sleep(RETRY_S)

    async def _follow(self) -> None:
        """Until Docker ends."""
        async for _ in self._docker.changes():
            await self.settle()
            self._problems.pop(self._docker.name, None)

    async def settle(self) -> None:
        """Make what is attached what should be. One that cannot be is said, and costs the others nothing."""
        running = await self._docker.running()
        gone, new = differences(running, self._endpoints.all())
        for container_id in gone:
            await self._endpoints.delete(container_id, IFNAME)
        self._said = {each: why for each, why in self._said.items() if each in {one.container_id for one in running}}
        for each in new:
            try:
                await self._attach(each)
            except CiliumError as error:
                self._tell(each.container_id, str(error))

    async def _attach(self, container: Running) -> None:
        if container.network_mode != NO_NETWORK:
            self._tell(
                container.container_id,
                f"it has a network of Docker's, {container.network_mode}: run it with --network none",
            )
            return
        request = CniRequest(
            container_id=container.container_id, ifname=IFNAME, netns=container.netns, config={"name": NETWORK}
        )
        await self._endpoints.add(request)

    def _tell(self, container_id: str, why: str) -> None:
        if self._said.get(container_id) != why:
            log.warning("a container of Docker's has no network of ours", container=container_id, reason=why)
        self._said[container_id] = why


def differences(running: Sequence[Running], endpoints: Iterable[Endpoint]) -> tuple[list[str], list[Running]]:
    """Containers to detach, and those to attach. One that was started again has another namespace than before."""
    attached = {each.container_id: each.netns for each in endpoints if each.network == NETWORK}
    there = {each.container_id: each for each in running}
    gone = [each for each, netns in attached.items() if each not in there or there[each].netns != netns]
    return gone, [each for each in running if attached.get(each.container_id) != each.netns]

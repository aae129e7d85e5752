"""What load balancers outside ask a node: whether it has backends of a Service with externalTrafficPolicy Local.

Each such Service of type LoadBalancer has a healthCheckNodePort. On it every path is answered, with 200 while this node
has backends of the Service that take connections and 503 while not, in kube-proxy's words.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping

import structlog
from aiohttp import web

from pycilium.agent.health.responder import open_listener
from pycilium.errors import ConfigError
from pycilium.model.resources import Service

log = structlog.get_logger()

RETRY_S = 5.0
WEIGHT_HEADER = "X-Load-Balancing-Endpoint-Weight"
Name = tuple[str, str]
"""Namespace and name."""


def health_check_ports(services: Iterable[Service]) -> dict[int, Name]:
    """Which Service is asked about at which port; of two that have one, the first by name."""
    found: dict[int, Name] = {}
    for service in sorted(services, key=lambda each: each.key):
        spec, metadata = service.spec, service.metadata
        if spec.type == "LoadBalancer" and spec.external_local and spec.health_check_node_port:
            found.setdefault(spec.health_check_node_port, (metadata.namespace, metadata.name))
    return found


class ServiceHealth:
    """Call `changed` whenever `ports` may give something else; `backends` is asked with each question."""

    def __init__(self, ports: Callable[[], Mapping[int, Name]], backends: Callable[[Name], int]) -> None:
        self._ports, self._backends = ports, backends
        self._servers: dict[int, tuple[Name, web.ServerRunner]] = {}
        self._changed = asyncio.Event()
        self._problems: dict[int, str] = {}

    @property
    def problems(self) -> list[str]:
        """Ports that cannot be served, in words."""
        return list(self._problems.values())

    @property
    def served(self) -> dict[int, Name]:
        return {port: name for port, (name, _) in self._servers.items()}

    def changed(self) -> None:
        self._changed.set()

    async def run(self) -> None:
        """Until cancelled; then no port is served any more."""
        try:
            while True:
                self._changed.clear()
                wait_s = RETRY_S if await self._follow() else None
                try:
                    async with asyncio.timeout(wait_s):
                        await self._changed.wait()
                except TimeoutError:
                    continue
        finally:
            for port in list(self._servers):
                await self._stop(port)

    async def _follow(self) -> bool:
        """Serve what is wanted and nothing else; whether something could not be."""
        wanted = dict(self._ports())
        for port, (name, _) in list(self._servers.items()):
            if wanted.get(port) != name:
                await self._stop(port)
        self._problems = {port: text for port, text in self._problems.items() if port in wanted}
        for port, name in wanted.items():
            if port not in self._servers:
                await self._start(port, name)
        return bool(self._problems)

    async def _start(self, port: int, name: Name) -> None:
        what = f"health check of service {'/'.join(name)}"
        runner = web.ServerRunner(web.Server(lambda _: self._answer(name), access_log=None))
        await runner.setup()
        try:
            await web.SockSite(runner, open_listener(port, what)).start()
        except ConfigError as error:
            await runner.cleanup()
            if self._problems.get(port) != str(error):
                log.warning("health check not served", reason=str(error))
            self._problems[port] = str(error)
            return
        self._problems.pop(port, None)
        self._servers[port] = name, runner

    async def _stop(self, port: int) -> None:
        _, runner = self._servers.pop(port)
        await runner.cleanup()

    async def _answer(self, name: Name) -> web.Response:
        count = self._backends(name)
        answer = {
            "service": {"namespace": name[0], "name": name[1]},
            "localEndpoints": count,
            "serviceProxyHealthy": True,
        }
        headers = {WEIGHT_HEADER: str(count), "X-Content-Type-Options": "nosniff"}
        return web.json_response(answer, status=200 if count else 503, headers=headers)

"""kube-proxy's own health check: `GET /healthz` on one port of the node, for load balancers that ask whether a node
forwards at all. Served once the kernel leads packets to backends; an agent that is gone does not answer.
"""

from __future__ import annotations

import asyncio
import socket
from datetime import UTC, datetime

import structlog
from aiohttp import web

from pycilium.agent.health.responder import open_listener
from pycilium.errors import ConfigError

log = structlog.get_logger()
RETRY_S = 5.0


class ProxyHealth:
    """Owns the port; 0: none is served."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.problems: list[str] = []
        self.served = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled. A port that somebody else has is tried again."""
        if not self._port:
            return
        runner = web.ServerRunner(web.Server(_answer, access_log=None))
        await runner.setup()
        try:
            await web.SockSite(runner, await self._listener()).start()
            self.served.set()
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    async def _listener(self) -> socket.socket:
        while True:
            try:
                listener = open_listener(self._port, "kube_proxy_healthz_port")
            except ConfigError as error:
                if self.problems != [str(error)]:
                    log.warning("health of the proxy not served", reason=str(error))
                self.problems = [str(error)]
                await asyncio.sleep(RETRY_S)
            else:
                self.problems = []
                return listener


async def _answer(request: web.BaseRequest) -> web.StreamResponse:
    if request.path != "/healthz":
        return web.Response(status=404)
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    return web.json_response({"lastUpdated": now, "currentTime": now, "nodeEligible": True})

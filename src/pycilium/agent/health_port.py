"""`GET /healthz` on loopback, for kubelet: whether the agent has read the store once and its loop runs.

A store that is away since then, or a device that had to be given up, is no reason to restart the agent: the kernel goes
on, and `cilium status` tells of it.
"""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from pycilium.errors import ConfigError


class HealthPort:
    """Listens on 127.0.0.1, or ::1 where there is no IPv4."""

    def __init__(self, port: int, ready: Callable[[], bool], *, ipv4: bool = True) -> None:
        self._host, self._port, self._ready = "127.0.0.1" if ipv4 else "::1", port, ready
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """ConfigError if the port is another's."""
        application = web.Application()
        application.router.add_get("/healthz", self._healthz)
        runner = web.AppRunner(application, access_log=None, handle_signals=False)
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, self._port).start()
        except OSError as error:
            await runner.cleanup()
            why = error.strerror or error
            raise ConfigError(f"health_port: cannot listen on {self._host}:{self._port}: {why}") from error
        self._runner = runner

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok") if self._ready() else web.Response(text="not ready", status=503)

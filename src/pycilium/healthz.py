"""`GET /healthz` of a long-running command, for who restarts it when it hangs."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from pycilium.errors import ConfigError


class HealthEndpoint:
    """Listens on one address; `field` is the configuration's, for the error. What is answered is the command's word."""

    def __init__(self, field: str, address: tuple[str, int], answer: Callable[[], web.Response]) -> None:
        self._field, self._address, self._answer = field, address, answer
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """ConfigError if the address cannot be had."""
        application = web.Application()
        application.router.add_get("/healthz", self._healthz)
        runner = web.AppRunner(application, access_log=None, handle_signals=False)
        await runner.setup()
        try:
            await web.TCPSite(runner, *self._address).start()
        except OSError as error:
            await runner.cleanup()
            host, port = self._address
            raise ConfigError(f"{self._field}: cannot listen on {host}:{port}: {error.strerror or error}") from error
        self._runner = runner

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        return self._answer()

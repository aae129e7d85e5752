"""The operator's health over HTTP: `GET /healthz` gives 200 while the store answers, 503 and the reason while not."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from pycilium.errors import ConfigError
from pycilium.operator.election import Election


class HealthServer:
    """Listens on one address; a leader and one that waits are equally healthy."""

    def __init__(self, name: str, election: Election, address: tuple[str, int]) -> None:
        self._name, self._election, self._address = name, election, address
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
            raise ConfigError(f"health_listen: cannot listen on {host}:{port}: {error.strerror or error}") from error
        self._runner = runner

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        election = self._election
        answer: dict[str, Any] = {
            "name": self._name,
            "leading": election.leadership.left_s > 0,
            "error": election.error,
        }
        return web.json_response(answer, status=503 if election.error else 200)

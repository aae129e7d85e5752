"""The operator's health over HTTP: `GET /healthz` gives 200 while the store answers, 503 and the reason while not."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from pycilium.healthz import HealthEndpoint
from pycilium.operator.election import Election


def health_endpoint(name: str, election: Election, address: tuple[str, int]) -> HealthEndpoint:
    """A leader and one that waits are equally healthy. Not started."""

    def answer() -> web.Response:
        said: dict[str, Any] = {
            "name": name,
            "leading": election.leadership.left_s > 0,
            "error": election.error,
        }
        return web.json_response(said, status=503 if election.error else 200)

    return HealthEndpoint("health_listen", address, answer)

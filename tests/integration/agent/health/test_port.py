"""What kubelet hears of an agent, over real HTTP."""

from __future__ import annotations

import socket

import aiohttp
import pytest

from pycilium.agent.health.port import health_port
from pycilium.errors import ConfigError


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


async def test_it_is_not_ready_until_it_is():
    port, ready = free_port(), False
    healthz = health_port(port, lambda: ready)
    await healthz.start()
    try:
        async with aiohttp.ClientSession() as kubelet:
            before = (await kubelet.get(f"http://127.0.0.1:{port}/healthz")).status
            ready = True
            after = (await kubelet.get(f"http://127.0.0.1:{port}/healthz")).status
    finally:
        await healthz.stop()

    assert (before, after) == (503, 200)


async def test_a_port_that_somebody_has_is_named_with_its_field():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(ConfigError, match=rf"health_port: cannot listen on 127\.0\.0\.1:{port}"):
            await health_port(port, lambda: True).start()

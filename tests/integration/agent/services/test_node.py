"""Health checks of Services and their node ports, in a network namespace of the test's own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess

import aiohttp
import pytest

from pycilium.agent.services.health_ports import WEIGHT_HEADER, ServiceHealth
from pycilium.agent.services.proxy_health import ProxyHealth
from pycilium.datapath import netns
from pycilium.datapath.bound_ports import bound_ports
from pycilium.model.l4 import Protocol

pytestmark = pytest.mark.root


@pytest.fixture
def inside():
    """Runs a function in a namespace that ends with the test."""
    fd = netns.nameless()
    netns.run_in(fd, lambda: subprocess.run(["ip", "link", "set", "lo", "up"], check=True))
    yield lambda act: netns.run_in(fd, act)
    os.close(fd)


async def asked(port: int, host: str) -> tuple[int, dict, str]:
    async with aiohttp.ClientSession() as session, session.get(f"http://{host}:{port}/any/path") as answer:
        return answer.status, await answer.json(), answer.headers[WEIGHT_HEADER]


def served(health: ServiceHealth, *ports: int):
    return lambda: set(health.served) == set(ports)


async def until(condition) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110  a condition of sockets
            await asyncio.sleep(0.01)


def test_load_balancers_hear_whether_the_node_has_backends(inside):
    async def scenario() -> None:
        ports, backends = {30999: ("default", "web")}, {("default", "web"): 2}
        health = ServiceHealth(lambda: ports, lambda name: backends.get(name, 0))
        task = asyncio.create_task(health.run())
        await until(served(health, 30999))

        body = {"service": {"namespace": "default", "name": "web"}, "serviceProxyHealthy": True}
        for host in ("127.0.0.1", "[::1]"):
            assert await asked(30999, host) == (200, body | {"localEndpoints": 2}, "2")
        backends.clear()
        assert await asked(30999, "127.0.0.1") == (503, body | {"localEndpoints": 0}, "0")

        taken = socket.create_server(("", 31000))
        del ports[30999]
        ports[31000] = ("default", "other")
        health.changed()
        await until(lambda: health.problems)
        assert health.problems == [
            "health check of service default/other: port 31000 cannot be used: Address already in use"
        ]
        assert served(health)()
        taken.close()
        health.changed()
        await until(served(health, 31000))
        assert not health.problems
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    inside(lambda: asyncio.run(scenario()))


def test_who_asks_for_kube_proxys_health_is_answered_in_its_words(inside):
    async def scenario() -> None:
        health = ProxyHealth(10256)
        task = asyncio.create_task(health.run())
        async with asyncio.timeout(30):
            await health.served.wait()

        async with aiohttp.ClientSession() as session:
            async with session.get("http://127.0.0.1:10256/healthz") as answer:
                said = answer.status, set(await answer.json())
            async with session.get("http://[::1]:10256/other") as answer:
                other = answer.status

        assert (said, other) == ((200, {"lastUpdated", "currentTime", "nodeEligible"}), 404)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    inside(lambda: asyncio.run(scenario()))


def test_sockets_that_wait_for_anybody_are_found(inside):
    def scenario() -> None:
        with (
            socket.create_server(("127.0.0.1", 30080)),
            socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as udp,
            socket.socket() as idle,
        ):
            udp.bind(("::", 30053))
            idle.bind(("127.0.0.1", 30099))

            assert bound_ports() == {(30080, Protocol.TCP), (30053, Protocol.UDP)}

    inside(scenario)

"""What kubelet hears on loopback: whether the agent has read the store once and its loop runs.

A store that is away since then, or a device that had to be given up, is no reason to restart the agent: the kernel goes
on, and `cilium status` tells of it.
"""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from pycilium.healthz import HealthEndpoint


def health_port(port: int, ready: Callable[[], bool], *, ipv4: bool = True) -> HealthEndpoint:
    """On 127.0.0.1, or ::1 where there is no IPv4; not started."""

    def answer() -> web.Response:
        return web.Response(text="ok") if ready() else web.Response(text="not ready", status=503)

    return HealthEndpoint("health_port", ("127.0.0.1" if ipv4 else "::1", port), answer)

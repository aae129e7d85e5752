"""Answers `GET /hello` and `GET /healthz` on port 4240: on the node, and in its health endpoint's namespace.

A socket answers in the namespace in which it was opened, whichever that is; so one server in the agent serves both.
"""

from __future__ import annotations

import socket

from aiohttp import web

from pycilium.errors import ConfigError
from pycilium.health.probes import PORT

_BACKLOG = 128


class Responder:
    """Serves any number of sockets until `stop`."""

    def __init__(self) -> None:
        application = web.Application()
        application.router.add_get("/hello", _hello)
        application.router.add_get("/healthz", _hello)
        self._runner = web.AppRunner(application, access_log=None, handle_signals=False)
        self._started = False

    async def serve(self, listener: socket.socket) -> None:
        """Answer on this socket too, which is the responder's from now on."""
        if not self._started:
            await self._runner.setup()
            self._started = True
        await web.SockSite(self._runner, listener).start()

    async def stop(self) -> None:
        """Idempotent; closes the sockets."""
        if self._started:
            self._started = False
            await self._runner.cleanup()


def open_listener(port: int = PORT, what: str = "health responder") -> socket.socket:
    """A socket on every address of the calling thread's namespace, of both families where the kernel has both.

    ConfigError says for what the port cannot be had.
    """
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(("", port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(f"{what}: port {port} cannot be used: {error.strerror}") from error
    return listener


async def _hello(_: web.Request) -> web.Response:
    return web.Response(text="ok\n")

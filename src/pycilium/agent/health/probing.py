"""Asking an address whether it is well: an ICMP echo, or `GET /hello` of the responder on port 4240.

A failure is an Answer with the reason, never an exception: who asks goes on with the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time

from pycilium.datapath.echo import Echo
from pycilium.health.probes import PORT, Address, Answer, ProbeKind

TIMEOUT_S = 3.0


class Probes:
    """Sends probes from the agent's own namespace."""

    def __init__(self, echo: Echo, timeout_s: float = TIMEOUT_S, port: int = PORT) -> None:
        self._echo, self._timeout_s, self._port = echo, timeout_s, port

    async def __call__(self, address: Address, kind: ProbeKind) -> Answer:
        try:
            if kind is ProbeKind.ICMP:
                return Answer(await self._echo.ping(address, self._timeout_s))
            async with asyncio.timeout(self._timeout_s):
                return await self._hello(address)
        except TimeoutError:
            return Answer(status=f"no answer within {self._timeout_s:g} s")
        except OSError as error:
            return Answer(status=_reason(error))

    async def _hello(self, address: Address) -> Answer:
        started = time.monotonic_ns()
        reader, writer = await asyncio.open_connection(str(address), self._port)
        try:
            host = f"[{address}]" if address.version == 6 else str(address)
            writer.write(f"GET /hello HTTP/1.1\r\nHost: {host}:{self._port}\r\nConnection: close\r\n\r\n".encode())
            words = (await reader.readline()).split()
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        if len(words) < 2 or not words[0].startswith(b"HTTP/"):
            return Answer(status="the answer is not HTTP")
        if words[1] != b"200":
            return Answer(status=f"HTTP status {words[1].decode('ascii', 'replace')}")
        return Answer(time.monotonic_ns() - started)


def _reason(error: OSError) -> str:
    """What is wrong in the words of the kernel; those of asyncio name the call."""
    return os.strerror(error.errno).lower() if error.errno else str(error)

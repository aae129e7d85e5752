"""Commands in containers, through the API server: `pods/exec` over a WebSocket.

A message begins with its channel: 1 is the command's output, 2 its complaints, 3 how it ended, as a Status object.
Invariant: what is given back has ended by itself; whatever else became of it is PodUnreachable, or the API server's no.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec

from pycilium.errors import PodUnreachable
from pycilium.install.kubernetes_cluster import POD, Cluster
from pycilium.store.kubernetes.failures import Call

PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
_OUTPUT, _COMPLAINTS, _END = 1, 2, 3


@dataclass(frozen=True, slots=True)
class Executed:
    """What a command came to."""

    exit_code: int
    output: bytes
    complaints: bytes
    """Its standard error."""


async def execute(
    cluster: Cluster, namespace: str, pod: str, container: str, command: Sequence[str], *, timeout_s: float = 60.0
) -> Executed:
    """Runs `command`, without a shell; PodUnreachable if it could not be run or did not end in time."""
    query = [("container", container), ("stdout", "true"), ("stderr", "true"), *(("command", word) for word in command)]
    call, what = Call("get", POD, namespace, pod, "exec"), f"`{' '.join(command)}` in pod {namespace}/{pod}"
    try:
        async with asyncio.timeout(timeout_s), await cluster.client.upgraded(call, query, PROTOCOLS) as socket:
            return await _outcome(socket, what)
    except TimeoutError as error:
        raise PodUnreachable(f"{what} did not end within {timeout_s:g} s") from error


async def _outcome(socket: aiohttp.ClientWebSocketResponse, what: str) -> Executed:
    said: dict[int, bytearray] = {_OUTPUT: bytearray(), _COMPLAINTS: bytearray(), _END: bytearray()}
    async for message in socket:
        if message.type is aiohttp.WSMsgType.BINARY and message.data and message.data[0] in said:
            said[message.data[0]] += message.data[1:]
    if not said[_END]:
        raise PodUnreachable(f"{what}: the connection ended before the command did")
    return Executed(_exit_code(bytes(said[_END]), what), bytes(said[_OUTPUT]), bytes(said[_COMPLAINTS]))


def _exit_code(end: bytes, what: str) -> int:
    """By the Status object that is the last word."""
    try:
        status: Any = msgspec.json.decode(end)
        if status["status"] == "Success":
            return 0
        causes = (status.get("details") or {}).get("causes") or ()
        codes = [int(cause["message"]) for cause in causes if cause.get("reason") == "ExitCode"]
        if codes:
            return codes[0]
        reason = str(status.get("message") or status.get("reason"))
    except (msgspec.DecodeError, KeyError, TypeError, ValueError, AttributeError):
        reason = end.decode(errors="replace")
    raise PodUnreachable(f"{what} could not be run: {reason}")

"""What one asks of pods through an API server: commands in them, logs, ports. Played, as a kubelet would behind it.

Tests say what a command comes to (`on_command`), what was logged and where a port leads.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
from aiohttp import WSMsgType, web

SUBRESOURCES = ("exec", "log", "portforward")
_PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
_CHUNK = 16_384
Plain = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Command:
    """What is to be run, and where."""

    namespace: str
    pod: str
    container: str
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of it. `refusal`: it was not run, and why; `hangs`: it never ends; `breaks`: the connection does."""

    output: bytes = b""
    complaints: bytes = b""
    exit_code: int = 0
    refusal: str = ""
    hangs: bool = False
    breaks: bool = False


@dataclass(slots=True)
class PodsDouble:
    """The pods of a cluster.

    Attributes:
        on_command: what a command comes to.
        commands: all that were asked for.
        logs: by namespace, pod, container, and whether the container before is meant.
        ports: where a pod's port leads: by namespace, pod and port, an address.
    """

    on_command: Callable[[Command], Outcome] = lambda _: Outcome()
    commands: list[Command] = field(default_factory=list)
    logs: dict[tuple[str, str, str, bool], str] = field(default_factory=dict)
    ports: dict[tuple[str, str, int], tuple[str, int]] = field(default_factory=dict)

    async def answer(self, request: web.Request, namespace: str, pod: str, subresource: str) -> web.StreamResponse:
        if subresource == "log":
            return self._log(request, namespace, pod)
        socket = web.WebSocketResponse(protocols=_PROTOCOLS)
        if not socket.can_prepare(request).ok:
            return _failed(400, "Upgrade request required")
        await socket.prepare(request)
        with contextlib.suppress(ConnectionError):
            if subresource == "exec":
                await self._execute(request, socket, namespace, pod)
            else:
                await self._forward(request, socket, namespace, pod)
        await socket.close()
        return socket

    def _log(self, request: web.Request, namespace: str, pod: str) -> web.Response:
        container, previous = request.query.get("container", ""), request.query.get("previous") == "true"
        text = self.logs.get((namespace, pod, container, previous))
        if text is None:
            return _failed(
                400, f'{"previous terminated " if previous else ""}container "{container}" in pod "{pod}" not found'
            )
        return web.Response(text=text)

    async def _execute(self, request: web.Request, socket: web.WebSocketResponse, namespace: str, pod: str) -> None:
        words = tuple(request.query.getall("command"))
        command = Command(namespace, pod, request.query.get("container", ""), words)
        self.commands.append(command)
        outcome = await asyncio.to_thread(self.on_command, command)
        for channel, text in ((1, outcome.output), (2, outcome.complaints)):
            for start in range(0, len(text), _CHUNK):
                await socket.send_bytes(bytes([channel]) + text[start : start + _CHUNK])
        if outcome.hangs:
            await socket.receive()
        elif not outcome.breaks:
            await socket.send_bytes(b"\x03" + msgspec.json.encode(_end(outcome)))

    async def _forward(self, request: web.Request, socket: web.WebSocketResponse, namespace: str, pod: str) -> None:
        port = int(request.query.get("ports", "0"))
        place = self.ports.get((namespace, pod, port))
        for channel in (0, 1):
            await socket.send_bytes(bytes([channel]) + port.to_bytes(2, "little"))
        try:
            reader, writer = await asyncio.open_connection(*place) if place else (None, None)
        except OSError:
            reader, writer = None, None
        if reader is None or writer is None:
            await socket.send_bytes(b"\x01" + f"error forwarding port {port} to pod {pod}: refused".encode())
            return
        back = asyncio.create_task(_send_back(reader, socket))
        async for message in socket:
            if message.type is WSMsgType.BINARY:
                writer.write(message.data[1:])
        writer.close()
        back.cancel()


async def _send_back(reader: asyncio.StreamReader, socket: web.WebSocketResponse) -> None:
    while chunk := await reader.read(_CHUNK):
        await socket.send_bytes(b"\x00" + chunk)
    await socket.close()


def _end(outcome: Outcome) -> Plain:
    if outcome.refusal:
        return {"status": "Failure", "message": outcome.refusal, "reason": "InternalError", "code": 500}
    if not outcome.exit_code:
        return {"metadata": {}, "status": "Success"}
    return {
        "metadata": {},
        "status": "Failure",
        "message": f"command terminated with non-zero exit code: exit status {outcome.exit_code}",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(outcome.exit_code)}]},
    }


def _failed(code: int, message: str) -> web.Response:
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code}
    return web.json_response({**status, "reason": "BadRequest"}, status=code)

"""A port of a pod as a port of this machine, through the API server: `pods/portforward` over WebSockets.

A WebSocket for each connection. A message begins with its channel: 0 is the connection's bytes, 1 what is wrong with
it; the first of each names the port.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import aiohttp

from pycilium.errors import CiliumError, ConfigError
from pycilium.install.kubernetes_cluster import POD, Cluster
from pycilium.store.kubernetes.failures import Call

PROTOCOLS = ("v4.channel.k8s.io",)
_BYTES, _WRONG = 0, 1
_CHUNK = 65_536


@asynccontextmanager
async def forwarded(
    cluster: Cluster, namespace: str, pod: str, port: int, local_port: int, tell: Callable[[str], None]
) -> AsyncIterator[int]:
    """Takes connections on loopback, on the port that it gives, for as long as the block runs.

    ConfigError if it cannot; `tell` gets what goes wrong with a connection.
    """
    call = Call("get", POD, namespace, pod, "portforward")
    at_work: set[asyncio.Task[None]] = set()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with await cluster.client.upgraded(call, [("ports", str(port))], PROTOCOLS) as socket:
                await _both_ways(socket, reader, writer, tell)
        except (CiliumError, OSError) as error:
            tell(str(error))
        finally:
            writer.close()

    def taken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(forward(reader, writer))
        at_work.add(task)
        task.add_done_callback(at_work.discard)

    try:
        server = await asyncio.start_server(taken, "127.0.0.1", local_port)
    except OSError as error:
        raise ConfigError(
            f"127.0.0.1:{local_port} cannot be listened on: {error.strerror}; name another port"
        ) from error
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        ending = list(at_work)
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        await server.wait_closed()


async def _both_ways(
    socket: aiohttp.ClientWebSocketResponse,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    tell: Callable[[str], None],
) -> None:
    """Until either side ends: the protocol has no word for one that has only ended to send."""
    async with asyncio.TaskGroup() as ways:
        ends = [ways.create_task(_outward(reader, socket)), ways.create_task(_inward(socket, writer, tell))]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()


async def _outward(reader: asyncio.StreamReader, socket: aiohttp.ClientWebSocketResponse) -> None:
    with suppress(ConnectionError):  # whoever asked is gone, or the socket is
        while chunk := await reader.read(_CHUNK):
            await socket.send_bytes(bytes([_BYTES]) + chunk)


async def _inward(
    socket: aiohttp.ClientWebSocketResponse, writer: asyncio.StreamWriter, tell: Callable[[str], None]
) -> None:
    named: set[int] = set()
    async for message in socket:
        if message.type is not aiohttp.WSMsgType.BINARY or not message.data:
            continue
        channel, content = message.data[0], message.data[1:]
        if channel not in named:
            named.add(channel)  # and the content is the port
        elif channel == _BYTES:
            writer.write(content)
            with suppress(ConnectionError):
                await writer.drain()
        elif channel == _WRONG:
            tell(content.decode(errors="replace"))

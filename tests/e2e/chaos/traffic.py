"""Echo servers in every pod, connections that last, and probes of many connections at once.

One thread has all servers and lasting connections; sockets are opened inside the pods' namespaces.
Invariant: what is sent is counted, so an echo that is lost, doubled or out of order is an error of its connection.
"""

from __future__ import annotations

import asyncio
import select
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any

from tests.e2e.chaos.verdicts import Connection
from tests.e2e.lab import _answer_from, _listener, inside

_TCP_RTO_MAX_MS = 44
"""Since Linux 6.15: a connection whose cable was cut tries again every second, not ever more seldom."""
_PATIENT_MS = 600_000
"""It is for us to say that a connection is dead."""
_EVERY_S = 0.1
_PKTINFO_BYTES = 20


class Lasting:
    """A connection that says a number and hears it, again and again."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.echoes = 0
        self.error = ""
        self.task: asyncio.Task[None] | None = None

    def __str__(self) -> str:
        return f"{self.connection} ({self.echoes} echoes)"

    async def run(self, client: socket.socket) -> None:
        """Until it is cancelled or something is wrong."""
        with client:
            loop = asyncio.get_running_loop()
            try:
                while True:
                    said = self.echoes.to_bytes(8, "big")
                    await loop.sock_sendall(client, said)
                    heard = b""
                    while len(heard) < len(said) and (part := await loop.sock_recv(client, len(said) - len(heard))):
                        heard += part
                    if heard != said:
                        self.error = f"said {said!r}, heard {heard!r}"
                        return
                    self.echoes += 1
                    await asyncio.sleep(_EVERY_S)
            except OSError as error:
                self.error = str(error)


class Traffic:
    """The thread, and what runs in it."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._servers: dict[str, list[asyncio.Task[None]]] = {}
        self._thread.start()

    def close(self) -> None:
        for netns in list(self._servers):
            self.stop_serving(netns)
        self._call(self._cancel_all)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def serve(self, netns: str, ports: Iterable[int]) -> None:
        """Echoes TCP and UDP on the ports of the namespace."""
        listeners, datagrams = inside(
            netns,
            lambda: (
                [_listener(port, socket.SOCK_STREAM) for port in ports],
                [_listener(port, socket.SOCK_DGRAM) for port in ports],
            ),
        )

        async def start() -> list[asyncio.Task[None]]:
            tasks = [asyncio.create_task(_accept(listener)) for listener in listeners]
            return tasks + [asyncio.create_task(_echo_datagrams(receiver)) for receiver in datagrams]

        self._servers[netns] = self._call(start)

    def stop_serving(self, netns: str) -> None:
        """Also what was accepted ends, so that nothing holds the namespace."""
        tasks = self._servers.pop(netns, [])
        self._call(lambda: _cancelled(tasks))

    def open(self, netns: str, connection: Connection) -> Lasting:
        """A lasting connection. AssertionError if it does not come about."""
        lasting = Lasting(connection)

        def connected() -> socket.socket:
            client = socket.create_connection((connection.address, connection.port), timeout=5)
            _try_often(client)
            client.setblocking(False)
            return client

        client = inside(netns, connected)

        async def start() -> asyncio.Task[None]:
            return asyncio.create_task(lasting.run(client))

        lasting.task = self._call(start)
        return lasting

    def end(self, lasting: Lasting) -> None:
        self._call(lambda: _cancelled([lasting.task]))

    async def _cancel_all(self) -> None:
        await _cancelled([task for task in asyncio.all_tasks() if task is not asyncio.current_task()])

    def _call(self, function: Callable[[], Awaitable[Any]]) -> Any:
        async def body() -> Any:
            return await function()

        return asyncio.run_coroutine_threadsafe(body(), self._loop).result(timeout=60)


def reached(connections: Iterable[Connection], netns_of: Callable[[Any], str], timeout_s: float) -> set[Connection]:
    """Which of these come about: all are tried at once."""
    by_source = defaultdict(list)
    for connection in connections:
        by_source[connection.source].append(connection)
    trying: dict[int, tuple[socket.socket, Connection]] = {}
    for source, those in by_source.items():
        for client, connection in inside(netns_of(source), lambda those=those: [(_begun(c), c) for c in those]):
            trying[client.fileno()] = (client, connection)
    try:
        return set(_those_that_answer(trying, timeout_s))
    finally:
        for client, _ in trying.values():
            client.close()


def _begun(connection: Connection) -> socket.socket:
    family = socket.AF_INET6 if ":" in connection.address else socket.AF_INET
    kind = socket.SOCK_STREAM if connection.protocol == "TCP" else socket.SOCK_DGRAM
    client = socket.socket(family, kind)
    client.setblocking(False)
    with suppress(OSError):
        client.connect((connection.address, connection.port))
        client.send(b"ping")
    return client


def _those_that_answer(trying: dict[int, tuple[socket.socket, Connection]], timeout_s: float) -> Iterable[Connection]:
    poll = select.poll()
    for number, (_, connection) in trying.items():
        poll.register(number, select.POLLOUT if connection.protocol == "TCP" else select.POLLIN)
    deadline, waiting = time.monotonic() + timeout_s, len(trying)
    while waiting and (left_s := deadline - time.monotonic()) > 0:
        for number, _ in poll.poll(left_s * 1000):
            poll.unregister(number)
            waiting -= 1
            client, connection = trying[number]
            if client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                yield connection


async def _accept(listener: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    listener.setblocking(False)
    with listener:
        async with asyncio.TaskGroup() as accepted:
            while True:
                connection, _ = await loop.sock_accept(listener)
                _try_often(connection)
                accepted.create_task(_echo(connection))


async def _echo(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    with connection, suppress(OSError):
        connection.setblocking(False)
        while message := await loop.sock_recv(connection, 65536):
            await loop.sock_sendall(connection, message)


async def _echo_datagrams(receiver: socket.socket) -> None:
    """From the address that was asked; asyncio has no recvmsg of its own."""
    loop, came = asyncio.get_running_loop(), asyncio.Event()
    receiver.setblocking(False)
    loop.add_reader(receiver, came.set)
    try:
        while True:
            await came.wait()
            came.clear()
            with suppress(OSError):
                message, asked, _, sender = receiver.recvmsg(2048, socket.CMSG_SPACE(_PKTINFO_BYTES))
                came.set()
                receiver.sendmsg([message], [_answer_from(asked)], 0, sender)
    finally:
        loop.remove_reader(receiver)
        receiver.close()


async def _cancelled(tasks: Iterable[asyncio.Task[None] | None]) -> None:
    there = [task for task in tasks if task is not None]
    for task in there:
        task.cancel()
    await asyncio.gather(*there, return_exceptions=True)


def _try_often(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _PATIENT_MS)
    with suppress(OSError):
        connection.setsockopt(socket.IPPROTO_TCP, _TCP_RTO_MAX_MS, 1000)

"""A gRPC server on asyncio for answers that are long streams of small messages.

It serves calls that take one message and answer with any number. A handler yields *lists* of messages, and a list goes
out as one write: grpcio's server takes a system call, a thread switch and some 100 µs for each message, so that 10,000
flows a second would keep a CPU busy; here they cost what their encoding costs. HTTP/2 itself is the h2 library's.

    Connection   one client: bytes in, h2 events, bytes out; knows when the socket or the client's window is full
    _Call        one call on it: its request, its task, its answers
    GrpcServer   the methods by path, the listening sockets, the open connections

Invariant: a call's task ends with the call, and whoever reads slowly holds up only their own call.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol
from urllib.parse import quote

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import structlog

log = structlog.get_logger()

MAX_REQUEST_BYTES = 4 << 20
MAX_CALLS_PER_CONNECTION = 128
MAX_BUFFERED_BYTES = 256 << 10
"""Answers waiting in a connection's socket buffer before its calls wait."""
_PREFIX = struct.Struct(">?I")
_TIMEOUT = re.compile(r"(\d{1,8})([HMSmun])")
_TIMEOUT_UNITS_S = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}


class Status(IntEnum):
    """gRPC's status codes, as far as they are given here."""

    OK = 0
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13


class CallError(Exception):
    """A call cannot be answered; ends it with a status and a message for its caller."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status


class Message(Protocol):
    """What handlers yield: a protobuf message."""

    def SerializeToString(self) -> bytes: ...  # noqa: N802


Handler = Callable[[Any], AsyncGenerator[Sequence[Message], None]]


@dataclass(frozen=True, slots=True)
class Method:
    """What is done at a path: how its request is read, and who answers."""

    parse: Callable[[bytes], Any]
    handler: Handler


class GrpcServer:
    """Methods by path (`/package.Service/Method`). `headers` are sent with every answer."""

    def __init__(self, methods: Mapping[str, Method], headers: Iterable[tuple[str, str]] = ()) -> None:
        self.methods = methods
        self.headers = (":status", "200"), ("content-type", "application/grpc"), *headers
        self._servers: list[asyncio.Server] = []
        self._connections: set[Connection] = set()

    async def listen_unix(self, path: str) -> None:
        """OSError if the path cannot be listened on."""
        server = await asyncio.get_running_loop().create_unix_server(self._connection, path)
        self._servers.append(server)

    async def listen_tcp(self, host: str | None, port: int) -> int:
        """Listens on all addresses if the host is None, and returns the port. OSError if that cannot be done."""
        server = await asyncio.get_running_loop().create_server(self._connection, host, port)
        self._servers.append(server)
        listening: int = server.sockets[0].getsockname()[1]
        return listening

    async def close(self, grace_s: float) -> None:
        """Takes no more calls, gives those that run a while to end, and ends the rest."""
        for server in self._servers:
            server.close()
        tasks = [task for connection in self._connections for task in connection.tasks()]
        if tasks:
            await asyncio.wait(tasks, timeout=grace_s)
        for connection in list(self._connections):
            connection.close()
        for server in self._servers:
            await server.wait_closed()

    def _connection(self) -> Connection:
        return Connection(self.methods, self.headers, self._connections)


class Connection(asyncio.Protocol):
    """One client's connection; adds itself to `open_connections` while it lasts."""

    def __init__(
        self,
        methods: Mapping[str, Method],
        headers: Iterable[tuple[str, str]],
        open_connections: set[Connection],
    ) -> None:
        self._methods, self._headers, self._open = methods, headers, open_connections
        config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        self._h2 = h2.connection.H2Connection(config)
        self._h2.local_settings = h2.settings.Settings(
            client=False,
            initial_values={
                h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: MAX_CALLS_PER_CONNECTION,
                h2.settings.SettingCodes.MAX_HEADER_LIST_SIZE: 16384,
            },
        )
        self._transport: asyncio.Transport | None = None
        self._calls: dict[int, _Call] = {}
        self._writable = asyncio.Event()
        self._writable.set()
        self._window_opened = asyncio.Event()

    def tasks(self) -> list[asyncio.Task[None]]:
        return [call.task for call in self._calls.values() if call.task is not None]

    def close(self) -> None:
        """Ends all calls and says goodbye."""
        for call in list(self._calls.values()):
            call.cancel()
        if self._transport is not None and not self._transport.is_closing():
            with suppress(h2.exceptions.ProtocolError):
                self._h2.close_connection()
                self._flush()
            self._transport.close()

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=MAX_BUFFERED_BYTES)
        if (sock := transport.get_extra_info("socket")) is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._open.add(self)
        self._h2.initiate_connection()
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._open.discard(self)
        self._transport = None
        for call in list(self._calls.values()):
            call.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        try:
            for event in self._h2.receive_data(data):
                self._take(event)
        except h2.exceptions.ProtocolError as error:
            log.info("a Hubble client broke HTTP/2", error=str(error))
            self._flush()
            self.close()
            return
        self._flush()

    # What the client does

    def _take(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.RequestReceived(stream_id=int(number), headers=list(headers)):
                self._request(number, {str(name): str(value) for name, value in headers})
            case h2.events.DataReceived(stream_id=int(number), data=bytes(data)):
                if event.flow_controlled_length:
                    self._h2.acknowledge_received_data(event.flow_controlled_length, number)
                if (call := self._calls.get(number)) is not None and not call.add(data):
                    self.end(number, Status.RESOURCE_EXHAUSTED, f"requests may have {MAX_REQUEST_BYTES} bytes at most")
            case h2.events.StreamEnded(stream_id=int(number)):
                if (call := self._calls.get(number)) is not None:
                    call.start()
            case h2.events.StreamReset(stream_id=int(number)):
                if (call := self._calls.pop(number, None)) is not None:
                    call.cancel()
                self._wake()
            case h2.events.WindowUpdated() | h2.events.RemoteSettingsChanged():
                self._wake()
            case h2.events.ConnectionTerminated():
                self.close()

    def _request(self, number: int, headers: dict[str, str]) -> None:
        if headers.get(":method") != "POST" or not headers.get("content-type", "").startswith("application/grpc"):
            self._h2.send_headers(number, [(":status", "415")], end_stream=True)
            return
        self._h2.send_headers(number, self._headers)
        method = self._methods.get(headers.get(":path", ""))
        if method is None:
            self.end(number, Status.UNIMPLEMENTED, f"there is no method {headers.get(':path')}")
            return
        self._calls[number] = _Call(self, number, method, _timeout_s(headers.get("grpc-timeout", "")))

    # What calls do

    async def send(self, number: int, data: bytes) -> None:
        """Sends all of it, as fast as socket and client take it."""
        view, position = memoryview(data), 0
        while position < len(view):
            await self._writable.wait()
            window = self._h2.local_flow_control_window(number)
            if window <= 0:
                self._window_opened.clear()
                await self._window_opened.wait()
                continue
            stop = min(position + window, len(view))
            while position < stop:
                size = min(stop - position, self._h2.max_outbound_frame_size)
                self._h2.send_data(number, bytes(view[position : position + size]))
                position += size
            self._flush()

    def end(self, number: int, status: Status, message: str = "") -> None:
        """Ends a call with its status; a call that is gone already is left alone."""
        self._calls.pop(number, None)
        trailers = [("grpc-status", str(int(status)))]
        if message:
            trailers.append(("grpc-message", quote(message, safe=" !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~")))
        with suppress(h2.exceptions.ProtocolError):
            self._h2.send_headers(number, trailers, end_stream=True)
            if status is not Status.OK and self._is_still_asking(number):
                self._h2.reset_stream(number, h2.errors.ErrorCodes.NO_ERROR)
            self._flush()

    def _is_still_asking(self, number: int) -> bool:
        """Whether the client has not ended its side: then it is told to stop."""
        stream = self._h2.streams.get(number)
        return stream is not None and not stream.closed

    def _wake(self) -> None:
        self._window_opened.set()

    def _flush(self) -> None:
        data = self._h2.data_to_send()
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)


class _Call:
    """One call: collects its request, then runs its handler as a task."""

    def __init__(self, connection: Connection, number: int, method: Method, timeout_s: float | None) -> None:
        self.task: asyncio.Task[None] | None = None
        self._connection, self._number, self._method, self._timeout_s = connection, number, method, timeout_s
        self._request = bytearray()

    def add(self, data: bytes) -> bool:
        """Takes a part of the request; False if it has become too long."""
        self._request += data
        return len(self._request) <= MAX_REQUEST_BYTES + _PREFIX.size

    def start(self) -> None:
        self.task = asyncio.get_running_loop().create_task(self._run())

    def cancel(self) -> None:
        if self.task is not None:
            self.task.cancel()

    async def _run(self) -> None:
        status, message = Status.OK, ""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._answer()
        except CallError as error:
            status, message = error.status, str(error)
        except h2.exceptions.ProtocolError:
            return  # the client has left in the meantime
        except TimeoutError:
            status, message = Status.DEADLINE_EXCEEDED, "the call took longer than its caller allows"
        except Exception:
            log.exception("a call to Hubble failed")
            status, message = Status.INTERNAL, "the server failed; its log says why"
        self._connection.end(self._number, status, message)

    async def _answer(self) -> None:
        request = self._parsed()
        async with aclosing(self._method.handler(request)) as answers:
            async for messages in answers:
                await self._connection.send(self._number, framed(messages))

    def _parsed(self) -> Any:
        if len(self._request) < _PREFIX.size:
            raise CallError(Status.INVALID_ARGUMENT, "the request is missing")
        is_compressed, size = _PREFIX.unpack_from(self._request)
        if is_compressed:
            raise CallError(Status.UNIMPLEMENTED, "compressed requests are not supported")
        content = bytes(self._request[_PREFIX.size :])
        if len(content) != size:
            raise CallError(Status.INVALID_ARGUMENT, "one request is expected, as long as it says")
        try:
            return self._method.parse(content)
        except Exception as error:  # protobuf's DecodeError derives from Exception alone
            raise CallError(Status.INVALID_ARGUMENT, f"the request cannot be read: {error}") from error


def framed(messages: Iterable[Message]) -> bytes:
    """The messages as gRPC puts them on the wire: a flag (not compressed), the length, the content."""
    parts: list[bytes] = []
    for message in messages:
        content = message.SerializeToString()
        parts += (_PREFIX.pack(False, len(content)), content)
    return b"".join(parts)


def _timeout_s(text: str) -> float | None:
    """The value of a grpc-timeout header; None if there is none that makes sense."""
    match = _TIMEOUT.fullmatch(text)
    return int(match[1]) * _TIMEOUT_UNITS_S[match[2]] if match else None

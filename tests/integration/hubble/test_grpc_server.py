"""The gRPC server itself, with genuine grpcio clients and, for what those never do, with bare HTTP/2."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc
import h2.config
import h2.connection
import h2.events
import pytest

from pycilium.hubble import grpc_server
from pycilium.hubble.grpc_server import CallError, GrpcServer, Method, Status

PATH = "/t.Test/"
REQUEST = [
    (":method", "POST"),
    (":scheme", "http"),
    (":authority", "x"),
    ("content-type", "application/grpc"),
]


class Raw:
    """A message that is its bytes."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def SerializeToString(self) -> bytes:
        return self.content


class Service:
    """A few handlers, and what became of them."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()

    def methods(self) -> dict[str, Method]:
        handlers = {name: getattr(self, name) for name in ("echo", "many", "forever", "refuse", "fail")}
        return {PATH + name: Method(bytes, handler) for name, handler in handlers.items()}

    async def echo(self, request: bytes) -> AsyncGenerator[list[Raw], None]:
        yield [Raw(request), Raw(b"")]

    async def many(self, request: bytes) -> AsyncGenerator[list[Raw], None]:
        """As many batches of ten numbered messages of 1000 bytes as the request says."""
        for batch in range(int(request)):
            yield [Raw(b"%08d" % (10 * batch + number) + b"." * 992) for number in range(10)]

    async def forever(self, request: bytes) -> AsyncGenerator[list[Raw], None]:
        try:
            yield [Raw(b"started")]
            await asyncio.Event().wait()
        finally:
            self.ended.set()

    async def refuse(self, request: bytes) -> AsyncGenerator[list[Raw], None]:
        raise CallError(Status.INVALID_ARGUMENT, 'no "ü", 100 %')
        yield []

    async def fail(self, request: bytes) -> AsyncGenerator[list[Raw], None]:
        yield [Raw(b"half")]
        raise ZeroDivisionError


class Running:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.service = Service()
        self.server = GrpcServer(self.service.methods(), [("x-version", "7")])

    def call(
        self, channel: grpc.aio.Channel, name: str, request: bytes = b"", **more: object
    ) -> grpc.aio.UnaryStreamCall:
        return channel.unary_stream(PATH + name)(request, **more)


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    made = Running(tmp_path / "grpc.sock")
    await made.server.listen_unix(str(made.path))
    yield made
    await made.server.close(grace_s=0.1)


@pytest.fixture
async def channel(running: Running) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(f"unix:{running.path}") as made:
        yield made


class TestGenuineClients:
    async def test_get_all_messages_of_a_batch_one_by_one(self, running: Running, channel: grpc.aio.Channel) -> None:
        call = running.call(channel, "echo", b"hello")

        assert [message async for message in call] == [b"hello", b""]
        assert dict(await call.initial_metadata())["x-version"] == "7"

    async def test_get_long_streams_whole_and_in_order(self, running: Running, channel: grpc.aio.Channel) -> None:
        seen = [int(message[:8]) async for message in running.call(channel, "many", b"500")]

        assert seen == list(range(5000))

    async def test_that_read_slowly_hold_up_nobody_else(self, running: Running, channel: grpc.aio.Channel) -> None:
        slow = running.call(channel, "many", b"3000")
        assert int((await slow.read())[:8]) == 0

        async with asyncio.timeout(10):
            for _ in range(5):
                assert len([message async for message in running.call(channel, "many", b"20")]) == 200
            for number in range(1, 30_000):
                assert int((await slow.read())[:8]) == number

    async def test_may_make_many_calls_at_once(self, running: Running, channel: grpc.aio.Channel) -> None:
        async def one() -> int:
            return len([message async for message in running.call(channel, "many", b"10")])

        assert await asyncio.gather(*(one() for _ in range(300))) == [100] * 300

    async def test_that_leave_end_their_calls(self, running: Running, channel: grpc.aio.Channel) -> None:
        call = running.call(channel, "forever")
        assert await call.read() == b"started"
        call.cancel()

        async with asyncio.timeout(5):
            await running.service.ended.wait()

    async def test_are_told_when_their_time_is_over(self, running: Running, channel: grpc.aio.Channel) -> None:
        call = running.call(channel, "forever", timeout=0.2)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in call:
                pass

        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        async with asyncio.timeout(5):
            await running.service.ended.wait()

    @pytest.mark.parametrize(
        ("name", "code", "details"),
        [
            ("refuse", grpc.StatusCode.INVALID_ARGUMENT, 'no "ü", 100 %'),
            ("nothing", grpc.StatusCode.UNIMPLEMENTED, "there is no method /t.Test/nothing"),
            ("fail", grpc.StatusCode.INTERNAL, "the server failed; its log says why"),
        ],
    )
    async def test_get_errors_as_status_and_message(
        self, running: Running, channel: grpc.aio.Channel, name: str, code: grpc.StatusCode, details: str
    ) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in running.call(channel, name):
                pass

        assert (caught.value.code(), caught.value.details()) == (code, details)

    async def test_see_their_calls_end_when_the_server_closes(
        self, running: Running, channel: grpc.aio.Channel
    ) -> None:
        call = running.call(channel, "forever")
        assert await call.read() == b"started"
        async with asyncio.timeout(5):
            await running.server.close(grace_s=0.05)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()

        assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        assert running.service.ended.is_set()

    async def test_may_compress_nothing(self, running: Running) -> None:
        async with grpc.aio.insecure_channel(f"unix:{running.path}", compression=grpc.Compression.Gzip) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                async for _ in running.call(channel, "echo", b"a" * 5000):
                    pass

        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


class Bare:
    """A client in bare HTTP/2 that sees every event."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.h2.initiate_connection()

    def request(self, name: str, content: bytes, *, end: bool = True, **headers: str) -> int:
        number = self.h2.get_next_available_stream_id()
        lines = [(":path", PATH + name), *REQUEST]
        lines = [(key, headers.get(key.strip(":").replace("-", "_"), value)) for key, value in lines]
        self.h2.send_headers(number, lines)
        self.h2.send_data(number, content, end_stream=end)
        self.flush()
        return number

    def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())

    async def until(self, kind: type[h2.events.Event]) -> h2.events.Event:
        """The next event of this kind. Takes in data without opening the window again."""
        async with asyncio.timeout(5):
            while data := await self.reader.read(65536):
                for event in self.h2.receive_data(data):
                    if isinstance(event, kind):
                        return event
        raise AssertionError(f"the server closed the connection without {kind.__name__}")

    async def received_in(self, seconds: float) -> int:
        """How many bytes of answers come in this time."""
        received = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while data := await self.reader.read(65536):
                    events = self.h2.receive_data(data)
                    received += sum(
                        len(event.data or b"") for event in events if isinstance(event, h2.events.DataReceived)
                    )
        return received


@asynccontextmanager
async def bare(running: Running) -> AsyncIterator[Bare]:
    reader, writer = await asyncio.open_unix_connection(str(running.path))
    yield Bare(reader, writer)
    writer.close()


def framed(content: bytes, *, length: int | None = None) -> bytes:
    return struct.pack(">?I", False, len(content) if length is None else length) + content


async def trailers(client: Bare) -> dict[str, str]:
    event = await client.until(h2.events.TrailersReceived)
    assert isinstance(event, h2.events.TrailersReceived)
    return dict(event.headers or [])


class TestOddClients:
    @pytest.mark.parametrize(
        ("content", "status"),
        [
            (b"", Status.INVALID_ARGUMENT),
            (b"\0\0", Status.INVALID_ARGUMENT),
            (framed(b"abc", length=2), Status.INVALID_ARGUMENT),
            (framed(b"abc", length=9), Status.INVALID_ARGUMENT),
            (framed(b"a") + framed(b"b"), Status.INVALID_ARGUMENT),
        ],
        ids=["empty", "short", "too-short", "too-long", "two"],
    )
    async def test_a_request_that_is_not_one_message_is_refused(
        self, running: Running, content: bytes, status: Status
    ) -> None:
        async with bare(running) as client:
            client.request("echo", content)
            assert (await trailers(client))["grpc-status"] == str(int(status))

    async def test_a_request_without_end_is_cut_off(self, running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(grpc_server, "MAX_REQUEST_BYTES", 10_000)
        async with bare(running) as client:
            client.request("echo", framed(b"a" * 12_000), end=False)
            assert (await trailers(client))["grpc-status"] == str(int(Status.RESOURCE_EXHAUSTED))

    @pytest.mark.parametrize("headers", [{"method": "GET"}, {"content_type": "text/html"}], ids=["get", "html"])
    async def test_what_is_not_grpc_is_refused(self, running: Running, headers: dict[str, str]) -> None:
        async with bare(running) as client:
            client.request("echo", framed(b""), **headers)
            event = await client.until(h2.events.ResponseReceived)

        assert isinstance(event, h2.events.ResponseReceived)
        assert dict(event.headers or [])[":status"] == "415"

    async def test_a_client_that_never_reads_holds_one_window_of_answers_and_no_more(self, running: Running) -> None:
        async with bare(running) as client:
            client.request("many", framed(b"1000000"))
            received = await client.received_in(0.5)

        assert received == 65535

    async def test_what_is_not_http_2_is_shown_the_door(self, running: Running) -> None:
        reader, writer = await asyncio.open_unix_connection(str(running.path))
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(5):
            await reader.read()
        writer.close()

    async def test_a_connection_that_breaks_off_ends_its_calls(self, running: Running) -> None:
        async with bare(running) as client:
            client.request("forever", framed(b""))
            await client.until(h2.events.DataReceived)
        async with asyncio.timeout(5):
            await running.service.ended.wait()

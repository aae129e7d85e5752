"""Watches of key spans, all over one stream to one member; the stream is replaced when it breaks.

A watch knows the revision that it has delivered up to, so a stream to another member goes on exactly there: nothing is
lost and nothing comes twice. Events of one revision are delivered together or not at all. A reader that is slow makes
its watch pause, not the others' wait. If no member takes the watches for a while, they all end with StoreUnavailable.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

import grpc

from pycilium.errors import CiliumError, StoreUnavailable, WatchExpired
from pycilium.store.etcd.connection import EtcdConnection
from pycilium.store.etcd.failures import Meaning, explained, meaning, reason
from pycilium.store.etcd.proto import etcd_pb2 as etcd

MAX_WAITING = 20_000
"""Events that may wait for their reader; past that the watch is taken back from etcd until they have been read."""
_PAUSES_S = (0.0, 0.05, 0.1, 0.2)
_SILENCE_S = 3.0
"""After which a member is asked for a sign of life, and after which again it is left."""
_NO_WATCH = -1
"""The watch id by which newer members answer a request that they refuse."""


class Watch:
    """One span of keys, from one revision on."""

    def __init__(self, span: tuple[bytes, bytes], after: int) -> None:
        self.span = span
        self.delivered = after
        """Every change up to this revision has been put into `waiting`."""
        self.waiting: deque[etcd.Event] = deque()
        self.failure: CiliumError | None = None
        self.id = 0
        """Its number on the present stream; 0: it is not on it."""
        self.denied = False
        self._parts: list[etcd.Event] = []
        self._news = asyncio.Event()

    def take(self, response: etcd.WatchResponse) -> None:
        """Keeps the events of a response; the parts of one that came in fragments only once it is whole."""
        self._parts.extend(response.events)
        if response.fragment:
            return
        if self._parts:
            self.waiting.extend(self._parts)
            self.delivered = self._parts[-1].kv.mod_revision
            self._parts = []
            self._news.set()
        elif not response.created:  # a progress report: nothing happened up to here
            self.delivered = max(self.delivered, response.header.revision)

    def leave_stream(self) -> None:
        """Its stream is over: parts of an incomplete response will come again."""
        self.id = 0
        self._parts = []

    def fail(self, failure: CiliumError) -> None:
        """Ends the watch, after what waits has been read."""
        self.failure = self.failure or failure
        self._news.set()

    async def news(self) -> None:
        """Waits until there is an event or a failure."""
        self._news.clear()
        if not self.waiting and self.failure is None:
            await self._news.wait()


class Watches:
    """All watches of one store."""

    def __init__(self, connection: EtcdConnection) -> None:
        self._connection = connection
        self._watches: set[Watch] = set()
        self._stream: _Stream | None = None
        self._running: asyncio.Task[None] | None = None
        self._cluster_id = 0
        self._failing_since: float | None = None

    async def events(self, span: tuple[bytes, bytes], after: int) -> AsyncGenerator[etcd.Event, None]:
        """Every change of the span's keys after a revision, each once and in order; WatchExpired, StoreUnavailable."""
        _, header = await self._connection.probe(self._connection.deadline())
        _refuse_future(after, header.revision)
        with self._watched(Watch(span, after)) as watch:
            while True:
                while watch.waiting:
                    yield watch.waiting.popleft()
                if watch.failure is not None:
                    raise watch.failure
                if watch.id == 0 and self._stream is not None:
                    self._stream.ask(watch)
                await watch.news()

    async def close(self) -> None:
        """Ends every watch."""
        self._fail_all(StoreUnavailable(f"the store ({self._connection.address}) is closed"))
        running = self._running
        if running is not None:
            running.cancel()
            await asyncio.wait([running])

    @contextmanager
    def _watched(self, watch: Watch) -> Iterator[Watch]:
        self._watches.add(watch)
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run(), name="etcd watches")
        try:
            yield watch
        finally:
            self._watches.discard(watch)
            if self._stream is not None:
                self._stream.take_back(watch)
            if not self._watches and self._running is not None:
                self._running.cancel()
                self._running = self._stream = None

    async def _run(self) -> None:
        """One stream after another for as long as anybody watches."""
        failures = 0
        while self._watches:
            try:
                await self._one_stream()
            except grpc.aio.AioRpcError as error:
                if meaning(error) is Meaning.STALE_LOGIN:
                    self._connection.forget_login()
                self._failed(StoreUnavailable(f"etcd's watches broke off: {reason(error)}"))
            except CiliumError as error:
                self._failed(error)
            failures = 0 if self._failing_since is None else failures + 1
            await asyncio.sleep(_PAUSES_S[min(failures, len(_PAUSES_S) - 1)])

    async def _one_stream(self) -> None:
        member, header = await self._connection.probe(self._connection.deadline())
        self._check_cluster(header)
        # A member that is cut off from the others ends such a stream instead of keeping it open, and silent.
        metadata = (("hasleader", "true"), *self._connection.credentials())
        stream = self._stream = _Stream()
        responses = member.watch.Watch(stream.requests(), metadata=metadata)
        try:
            for watch in self._watches:
                stream.ask(watch)
            async with aclosing(_spoken(stream, responses)) as spoken:
                async for response in spoken:
                    self._failing_since = None
                    if not self._take(stream, response):
                        return
            self._connection.leave(member)
            raise StoreUnavailable(f"{member.endpoint} ended the stream of watches, or says nothing on it")
        except grpc.aio.AioRpcError:
            self._connection.leave(member)
            raise
        finally:
            responses.cancel()
            stream.end()
            if self._stream is stream:
                self._stream = None

    def _take(self, stream: _Stream, response: etcd.WatchResponse) -> bool:
        """Handles what etcd says. False if a new stream, with a new login, should be tried."""
        watch = stream.addressed(response)
        if watch is None:
            return True
        if response.canceled:
            stream.forget(watch)
            return self._cancelled(watch, response)
        if response.created:
            watch.denied = False
        watch.take(response)
        if len(watch.waiting) > MAX_WAITING:
            stream.take_back(watch)
        return True

    def _cancelled(self, watch: Watch, response: etcd.WatchResponse) -> bool:
        if response.compact_revision:
            compacted = f"changes up to {response.compact_revision} were compacted away"
            watch.fail(_expired(watch.delivered, compacted))
        elif self._connection.address.user and not watch.denied:
            watch.denied = True
            self._connection.forget_login()
            return False
        else:
            why = explained(response.cancel_reason)
            watch.fail(StoreUnavailable(f"{self._connection.address} refuses a watch: {why}"))
        return True

    def _check_cluster(self, header: etcd.ResponseHeader) -> None:
        """Ends watches that this cluster cannot go on with: it is another one, or was restored from a copy."""
        changed = self._cluster_id not in (0, header.cluster_id)
        self._cluster_id = header.cluster_id
        for watch in self._watches:
            if changed:
                watch.fail(_expired(watch.delivered, "another cluster answers now"))
            try:
                _refuse_future(watch.delivered, header.revision)
            except WatchExpired as expired:
                watch.fail(expired)

    def _failed(self, error: CiliumError) -> None:
        """Gives the watches up once there has been no stream for as long as a call may take."""
        now = asyncio.get_running_loop().time()
        self._failing_since = self._failing_since or now
        if self._connection.closed or now - self._failing_since >= self._connection.timeout_s:
            self._fail_all(error)
            self._failing_since = None

    def _fail_all(self, error: CiliumError) -> None:
        for watch in self._watches:
            watch.fail(error)
        self._watches.clear()


async def _spoken(stream: _Stream, responses: Any) -> AsyncGenerator[etcd.WatchResponse, None]:
    """What a member says; ends with its stream, or once it is silent although it was asked for a sign of life.

    A member that stands still keeps its connection open, and gRPC's keepalive may ping etcd only seldom.
    """
    asked = False
    upcoming = asyncio.ensure_future(responses.read())
    try:
        while True:
            said, _ = await asyncio.wait([upcoming], timeout=_SILENCE_S)
            if said:
                response = upcoming.result()
                if response is grpc.aio.EOF:
                    return
                asked = False
                yield response
                upcoming = asyncio.ensure_future(responses.read())
            elif asked:
                return
            else:
                asked = True
                stream.ask_for_sign()
    finally:
        upcoming.cancel()


class _Stream:
    """Which watches are on one stream, by the numbers that we gave them there, and what is to be sent on it."""

    def __init__(self) -> None:
        self._requests: asyncio.Queue[etcd.WatchRequest | None] = asyncio.Queue()
        self._by_id: dict[int, Watch] = {}
        self._asked: deque[int] = deque()
        self._ids = itertools.count(1)

    async def requests(self) -> AsyncGenerator[etcd.WatchRequest, None]:
        """For gRPC, whose reader of them outlives a call that broke off: it has to be told of the end."""
        while (request := await self._requests.get()) is not None:
            yield request

    def ask(self, watch: Watch) -> None:
        """Puts a watch onto the stream, from where it has got to."""
        if watch.failure is not None:
            return
        watch.id = next(self._ids)
        self._by_id[watch.id] = watch
        self._asked.append(watch.id)
        first, end = watch.span
        create = etcd.WatchCreateRequest(
            key=first,
            range_end=end,
            start_revision=watch.delivered + 1,
            watch_id=watch.id,
            prev_kv=True,
            progress_notify=True,
            fragment=True,
        )
        self._requests.put_nowait(etcd.WatchRequest(create_request=create))

    def ask_for_sign(self) -> None:
        """Etcd answers with a progress report that is no watch's."""
        self._requests.put_nowait(etcd.WatchRequest(progress_request=etcd.WatchProgressRequest()))

    def take_back(self, watch: Watch) -> None:
        if watch.id in self._by_id:
            cancel = etcd.WatchCancelRequest(watch_id=watch.id)
            self._requests.put_nowait(etcd.WatchRequest(cancel_request=cancel))
            self.forget(watch)

    def forget(self, watch: Watch) -> None:
        """The watch is on the stream no more."""
        self._by_id.pop(watch.id, None)
        watch.leave_stream()

    def addressed(self, response: etcd.WatchResponse) -> Watch | None:
        number = response.watch_id
        if response.created:
            asked = self._asked.popleft()  # requests are answered in their order
            number = asked if number == _NO_WATCH else number
        return self._by_id.get(number)

    def end(self) -> None:
        for watch in self._by_id.values():
            watch.leave_stream()
        self._by_id.clear()
        self._requests.put_nowait(None)


def _refuse_future(after: int, present: int) -> None:
    if after > present:
        raise _expired(after, f"the cluster is at {present}: it was restored from a copy")


def _expired(after: int, why: str) -> WatchExpired:
    return WatchExpired(f"changes after version {after} cannot be watched, as {why}: list again and watch from there")

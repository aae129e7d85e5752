"""Hubble's gRPC services of one node: Observer, Peer and Health, on a unix socket and over TCP.

The server reads the flow store and never writes it. Whoever ingests calls `notify`, in the server's event loop; each
follower then catches up at its own pace, so a slow one holds up nobody and is told how many flows it missed.
"""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing, suppress
from typing import Any

import grpc
import numpy as np
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from pycilium.errors import CiliumError, ConfigError
from pycilium.hubble.agent_events import AgentEventLog
from pycilium.hubble.directories import Directories
from pycilium.hubble.field_mask import FlowMask
from pycilium.hubble.filters import compile_filters
from pycilium.hubble.flow import FlowConverter
from pycilium.hubble.predicates import FilterContext
from pycilium.hubble.proto import (
    observer_pb2,
    observer_pb2_grpc,
    peer_pb2,
    peer_pb2_grpc,
    relay_pb2,
)
from pycilium.hubble.query import FlowQuery, Found, Reader
from pycilium.hubble.store import FlowStore, Loss

API_VERSION = "1.19.4"
"""Of Hubble's API that we speak; clients that are older warn their users."""
HEALTH_SERVICE = "hubble.server.Observer"
RATE_WINDOW_NS = 60_000_000_000
SOCKET_MODE = 0o660
MAX_SOCKET_PATH = 107
DEFAULT_CLUSTER = "default"
_HEADERS = (("hubble-server-version", API_VERSION),)


class HubbleServer:
    """Serves one node's flows. `start` and `stop` may be called once each."""

    def __init__(
        self,
        store: FlowStore,
        directories: Directories,
        node_name: str,
        version: str,
        *,
        cluster_name: str = DEFAULT_CLUSTER,
        node_labels: Iterable[str] = (),
        agent_events: AgentEventLog | None = None,
    ) -> None:
        """`version` is shown to users, e.g. `pycilium v0.1.0`."""
        self.agent_events = agent_events or AgentEventLog()
        self.agent_events.on_event = self.notify
        self._store = store
        self._node_name = node_name
        self._cluster_name = cluster_name
        self._version = version
        self._started_ns = time.monotonic_ns()
        self._wakers: set[asyncio.Event] = set()
        self._stopping = False
        self._server: grpc.aio.Server | None = None
        self._address = ""
        full_name = f"{cluster_name}/{node_name}"
        self._context = FilterContext(store, directories, full_name, tuple(node_labels))
        self._converter = FlowConverter(store, directories, full_name)

    async def start(self, unix_path: str | None, tcp_listen: str | None) -> None:
        """Listens on a unix socket and on `[host]:port`, each if given. ConfigError says what cannot be listened on."""
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        observer_pb2_grpc.add_ObserverServicer_to_server(_Observer(self), server)  # type: ignore[no-untyped-call]
        peer_pb2_grpc.add_PeerServicer_to_server(_Peer(self), server)  # type: ignore[no-untyped-call]
        checks = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(checks, server)
        for service in ("", HEALTH_SERVICE):
            await checks.set(service, health_pb2.HealthCheckResponse.SERVING)
        if unix_path is not None:
            _free_socket(unix_path)
            _bind(server, f"unix:{unix_path}", unix_path)
            self._address = f"unix://{unix_path}"
        if tcp_listen is not None:
            port = _bind_tcp(server, tcp_listen)
            self._address = f"{tcp_listen.rpartition(':')[0] or self._node_name}:{port}"
        await server.start()
        if unix_path is not None:
            os.chmod(unix_path, SOCKET_MODE)
        self._server = server

    async def stop(self, grace_s: float = 0.5) -> None:
        """Ends the streams of followers, and with the grace over whatever else still runs."""
        self._stopping = True
        self.notify()
        if self._server is not None:
            await self._server.stop(grace_s)
            self._server = None

    def notify(self) -> None:
        """To be called after flows were ingested or lost."""
        for waker in self._wakers:
            waker.set()

    @property
    def address(self) -> str:
        """Where others reach this server."""
        return self._address

    # What the services need

    async def flows(self, request: observer_pb2.GetFlowsRequest) -> AsyncGenerator[observer_pb2.GetFlowsResponse, None]:
        """The answer to a request. CiliumError if it cannot be answered as asked."""
        mask = FlowMask(request.field_mask.paths) if request.field_mask.paths else None
        query = self._query(request)
        reader = Reader(self._store, query, time.time_ns())
        for part in reader.history():
            if part is None:
                await asyncio.sleep(0)
                continue
            for response in self._responses(part, mask):
                yield response
        if not query.follow:
            return
        waker = asyncio.Event()
        self._wakers.add(waker)
        try:
            while not self._stopping and not self._is_over(query):
                waker.clear()
                if not reader.has_news:
                    await _wait(waker, query)
                for part in reader.news():
                    for response in self._responses(part, mask):
                        yield response
                await asyncio.sleep(0)
        finally:
            self._wakers.discard(waker)

    def _is_over(self, query: FlowQuery) -> bool:
        return query.until_ns is not None and time.time_ns() > query.until_ns

    def _query(self, request: observer_pb2.GetFlowsRequest) -> FlowQuery:
        if request.first and request.follow:
            raise CiliumError("first and follow exclude each other")
        return FlowQuery(
            predicate=compile_filters(request.whitelist, request.blacklist, self._context),
            number=request.number,
            first=request.first,
            follow=request.follow,
            since_ns=request.since.ToNanoseconds() if request.HasField("since") else None,
            until_ns=request.until.ToNanoseconds() if request.HasField("until") else None,
        )

    def _responses(self, part: Found | Loss, mask: FlowMask | None) -> Iterable[observer_pb2.GetFlowsResponse]:
        if isinstance(part, Loss):
            yield self._converter.loss(part)
            return
        for response in self._converter.responses(part.sequences, part.columns):
            if mask is not None:
                mask.apply(response.flow)
            yield response

    async def agent_event_responses(
        self, request: observer_pb2.GetAgentEventsRequest
    ) -> AsyncGenerator[observer_pb2.GetAgentEventsResponse, None]:
        since_ns = request.since.ToNanoseconds() if request.HasField("since") else 0
        until_ns = request.until.ToNanoseconds() if request.HasField("until") else 1 << 63
        log = self.agent_events
        kept = [record for record in log.since(0) if since_ns <= record.time_ns <= until_ns]
        if request.number and len(kept) > request.number:
            kept = kept[: request.number] if request.first else kept[-request.number :]
        if request.follow and not request.number and not since_ns:
            kept = []
        cursor = log.next
        waker = asyncio.Event()
        self._wakers.add(waker)
        try:
            while True:
                for record in kept:
                    response = observer_pb2.GetAgentEventsResponse(
                        agent_event=record.event, node_name=self._context.node_name
                    )
                    response.time.FromNanoseconds(record.time_ns)
                    yield response
                if not request.follow or self._stopping:
                    return
                await waker.wait()
                waker.clear()
                kept, cursor = log.since(cursor), log.next
        finally:
            self._wakers.discard(waker)

    def status(self) -> observer_pb2.ServerStatusResponse:
        store = self._store
        uptime_ns = time.monotonic_ns() - self._started_ns
        return observer_pb2.ServerStatusResponse(
            num_flows=len(store),
            max_flows=store.capacity,
            seen_flows=store.next,
            uptime_ns=uptime_ns,
            version=self._version,
            flows_rate=store.rate(time.time_ns(), min(RATE_WINDOW_NS, uptime_ns)),
        )

    def nodes(self) -> observer_pb2.GetNodesResponse:
        status = self.status()
        node = observer_pb2.Node(
            name=self.peer_name,
            version=self._version,
            address=self._address,
            state=relay_pb2.NODE_CONNECTED,
            tls=observer_pb2.TLS(enabled=False),
            uptime_ns=status.uptime_ns,
            num_flows=status.num_flows,
            max_flows=status.max_flows,
            seen_flows=status.seen_flows,
        )
        return observer_pb2.GetNodesResponse(nodes=[node])

    def namespaces(self) -> observer_pb2.GetNamespacesResponse:
        """Namespaces of the flows that are kept."""
        store = self._store
        used = np.zeros(len(store.names), dtype=np.bool_)
        for _, rows in store.segments(store.oldest, store.next):
            used[rows.source_name] = True
            used[rows.destination_name] = True
        names = [store.names[number] for number in np.flatnonzero(used)]
        found = {(name.cluster_name or self._cluster_name, name.namespace) for name in names if name and name.namespace}
        return observer_pb2.GetNamespacesResponse(
            namespaces=[
                observer_pb2.Namespace(cluster=cluster, namespace=namespace) for cluster, namespace in sorted(found)
            ]
        )

    @property
    def peer_name(self) -> str:
        """As peers name nodes: without the cluster if that is the default one."""
        return self._node_name if self._cluster_name == DEFAULT_CLUSTER else self._context.node_name

    async def until_stopped(self) -> None:
        waker = asyncio.Event()
        self._wakers.add(waker)
        try:
            while not self._stopping:
                await waker.wait()
                waker.clear()
        finally:
            self._wakers.discard(waker)


class _Observer(observer_pb2_grpc.ObserverServicer):
    """observer.Observer: takes requests apart and errors to status codes."""

    def __init__(self, hubble: HubbleServer) -> None:
        self._hubble = hubble

    async def GetFlows(self, request: observer_pb2.GetFlowsRequest, context: Any) -> None:  # noqa: N802
        await context.send_initial_metadata(_HEADERS)
        try:
            async with aclosing(self._hubble.flows(request)) as responses:
                async for response in responses:
                    await context.write(response)
        except CiliumError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))

    async def GetAgentEvents(self, request: observer_pb2.GetAgentEventsRequest, context: Any) -> None:  # noqa: N802
        await context.send_initial_metadata(_HEADERS)
        async with aclosing(self._hubble.agent_event_responses(request)) as responses:
            async for response in responses:
                await context.write(response)

    async def GetDebugEvents(self, request: observer_pb2.GetDebugEventsRequest, context: Any) -> None:  # noqa: N802
        """The datapath sends no debug events: the stream is empty, and stays open for followers."""
        await context.send_initial_metadata(_HEADERS)
        if request.follow:
            await self._hubble.until_stopped()

    async def GetNodes(self, request: observer_pb2.GetNodesRequest, context: Any) -> observer_pb2.GetNodesResponse:  # noqa: N802
        del request
        await context.send_initial_metadata(_HEADERS)
        return self._hubble.nodes()

    async def GetNamespaces(  # noqa: N802
        self, request: observer_pb2.GetNamespacesRequest, context: Any
    ) -> observer_pb2.GetNamespacesResponse:
        del request
        await context.send_initial_metadata(_HEADERS)
        return self._hubble.namespaces()

    async def ServerStatus(  # noqa: N802
        self, request: observer_pb2.ServerStatusRequest, context: Any
    ) -> observer_pb2.ServerStatusResponse:
        del request
        await context.send_initial_metadata(_HEADERS)
        return self._hubble.status()


class _Peer(peer_pb2_grpc.PeerServicer):
    """peer.Peer: this node is the only peer that it knows."""

    def __init__(self, hubble: HubbleServer) -> None:
        self._hubble = hubble

    async def Notify(self, request: peer_pb2.NotifyRequest, context: Any) -> None:  # noqa: N802
        del request
        await context.send_initial_metadata(_HEADERS)
        await context.write(
            peer_pb2.ChangeNotification(
                name=self._hubble.peer_name, address=self._hubble.address, type=peer_pb2.PEER_ADDED
            )
        )
        await self._hubble.until_stopped()


async def _wait(waker: asyncio.Event, query: FlowQuery) -> None:
    """Until there is news, or the query's time is over."""
    if query.until_ns is None:
        await waker.wait()
        return
    with suppress(TimeoutError):
        await asyncio.wait_for(waker.wait(), max(0.0, (query.until_ns - time.time_ns()) / 1e9) + 0.001)


def _free_socket(path: str) -> None:
    """Removes the socket that an earlier run left behind."""
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise ConfigError(f"{path}: a socket's path may have {MAX_SOCKET_PATH} bytes at most")
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise ConfigError(f"{path}: exists and is no socket; remove it or choose another run_dir")
        os.unlink(path)
    except FileNotFoundError:
        return


def _bind_tcp(server: grpc.aio.Server, listen: str) -> int:
    host, separator, port = listen.rpartition(":")
    if not separator or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"hubble_listen: {listen!r} is not an address such as :4244 or 127.0.0.1:4244")
    if host:
        return _bind(server, listen, listen)
    try:
        return _bind(server, f"[::]:{port}", listen)
    except ConfigError:  # a node without IPv6
        return _bind(server, f"0.0.0.0:{port}", listen)


def _bind(server: grpc.aio.Server, target: str, shown: str) -> int:
    try:
        port: int = server.add_insecure_port(target)
    except RuntimeError as error:
        raise ConfigError(f"cannot listen on {shown} for Hubble's clients: in use, or not allowed?") from error
    return port

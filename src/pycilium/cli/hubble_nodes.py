"""Several nodes' Hubble servers asked as if they were one: streams merged by time, figures added up.

What is asked reaches every node unchanged; only what has to be cut again (`--last 20` of three nodes gives sixty flows)
is. A node that stops answering is told once and left out. This is for labs, whose servers are all at hand; a cluster
has a relay.
"""

from __future__ import annotations

import heapq
import itertools
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from pycilium.hubble.proto import observer_pb2

GATHERED_S = 0.05
"""Followed flows that come within this time are put in order."""
Tell = Callable[[str], None]


class ManyObservers:
    """observer.Observer over the stubs of several nodes, by node name."""

    def __init__(self, observers: Mapping[str, Any], tell: Tell | None = None) -> None:
        self._observers = dict(observers)
        self._tell = tell or (lambda said: print(said, file=sys.stderr))

    def GetFlows(self, request: observer_pb2.GetFlowsRequest) -> Iterator[Any]:  # noqa: N802  gRPC's name
        return self._merged("GetFlows", request)

    def GetAgentEvents(self, request: observer_pb2.GetAgentEventsRequest) -> Iterator[Any]:  # noqa: N802  gRPC's name
        return self._merged("GetAgentEvents", request)

    def GetDebugEvents(self, request: observer_pb2.GetDebugEventsRequest) -> Iterator[Any]:  # noqa: N802  gRPC's name
        return self._merged("GetDebugEvents", request)

    def GetNodes(self, request: observer_pb2.GetNodesRequest, timeout: float) -> observer_pb2.GetNodesResponse:  # noqa: N802  gRPC's name
        """Each node once, in its own words where it speaks of itself."""
        answers = self._answers("GetNodes", request, timeout)
        nodes = {node.name: node for answer in answers.values() for node in answer.nodes}
        for own, answer in answers.items():
            nodes |= {node.name: node for node in answer.nodes if node.name.rpartition("/")[2] == own}
        return observer_pb2.GetNodesResponse(nodes=nodes.values())

    def GetNamespaces(  # noqa: N802  gRPC's name
        self, request: observer_pb2.GetNamespacesRequest, timeout: float
    ) -> observer_pb2.GetNamespacesResponse:
        answers = self._answers("GetNamespaces", request, timeout)
        found = {(it.cluster, it.namespace): it for answer in answers.values() for it in answer.namespaces}
        return observer_pb2.GetNamespacesResponse(namespaces=[found[key] for key in sorted(found)])

    def ServerStatus(  # noqa: N802  gRPC's name
        self, request: observer_pb2.ServerStatusRequest, timeout: float
    ) -> observer_pb2.ServerStatusResponse:
        """As a relay adds it up: flows of all, uptime of the youngest."""
        answers = list(self._answers("ServerStatus", request, timeout).values())
        status = observer_pb2.ServerStatusResponse(
            num_flows=sum(answer.num_flows for answer in answers),
            max_flows=sum(answer.max_flows for answer in answers),
            seen_flows=sum(answer.seen_flows for answer in answers),
            uptime_ns=min(answer.uptime_ns for answer in answers),
            flows_rate=sum(answer.flows_rate for answer in answers),
            version=answers[0].version,
        )
        status.num_connected_nodes.value = len(answers)
        return status

    def _answers(self, call: str, request: Any, timeout: float) -> dict[str, Any]:
        return {name: getattr(one, call)(request, timeout=timeout) for name, one in self._observers.items()}

    def _merged(self, call: str, request: Any) -> Iterator[Any]:
        streams = [self._until_lost(name, getattr(one, call)(request)) for name, one in self._observers.items()]
        if request.follow:
            return followed(streams)
        merged = heapq.merge(*streams, key=time_ns_of)
        return selected(merged, request.number, first=request.first)

    def _until_lost(self, name: str, stream: Iterable[Any]) -> Iterator[Any]:
        """The stream up to the moment when the node answers no more."""
        try:
            yield from stream
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            self._tell(f"{name} does not answer (any more): {error.details()}")


class ManyHealths:
    """grpc.health.v1.Health over several nodes: serving if all of them are."""

    def __init__(self, healths: Iterable[Any]) -> None:
        self._healths = list(healths)

    def Check(self, request: health_pb2.HealthCheckRequest, timeout: float) -> health_pb2.HealthCheckResponse:  # noqa: N802  gRPC's name
        answers = [health.Check(request, timeout=timeout) for health in self._healths]
        serving = health_pb2.HealthCheckResponse.SERVING
        return next((answer for answer in answers if answer.status != serving), answers[-1])


def time_ns_of(response: Any) -> int:
    """When what the response tells happened."""
    return int(response.time.seconds) * 1_000_000_000 + int(response.time.nanos)


def selected(merged: Iterator[Any], number: int, *, first: bool) -> Iterator[Any]:
    """The first or the last so many of what several nodes gave, each its first or last so many; 0: all."""
    if not 0 < number < sys.maxsize:
        return merged
    if first:
        return itertools.islice(merged, number)
    return iter(deque(merged, maxlen=number))


def followed(streams: Iterable[Iterator[Any]]) -> Iterator[Any]:
    """What the streams give, as it comes; what comes within a moment is put in order of time."""
    arrived: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
    ended = 0
    readers = [threading.Thread(target=_read, args=(stream, arrived), daemon=True) for stream in streams]
    for reader in readers:
        reader.start()
    while ended < len(readers):
        batch = [arrived.get()]
        deadline = time.monotonic() + GATHERED_S
        while (left_s := deadline - time.monotonic()) > 0:
            try:
                batch.append(arrived.get(timeout=left_s))
            except queue.Empty:
                break
        ended += sum(response is None for _, response in batch)
        failed = [response for _, response in batch if isinstance(response, grpc.RpcError)]
        if failed:
            raise failed[0]
        yield from (response for _, response in sorted(batch, key=lambda pair: pair[0]) if response is not None)


def _read(stream: Iterator[Any], into: queue.SimpleQueue[tuple[int, Any]]) -> None:
    """Puts every response, with its time; at the end None, or the error that ended it."""
    try:
        for response in stream:
            into.put((time_ns_of(response), response))
    except grpc.RpcError as error:
        into.put((0, error))
    else:
        into.put((0, None))

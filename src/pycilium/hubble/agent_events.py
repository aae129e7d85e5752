"""What the agent itself did, for `hubble observe agent-events`: a short ring that the agent's wiring fills."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from pycilium.hubble.directories import EndpointName
from pycilium.hubble.proto import flow_pb2
from pycilium.model.service import Frontend

MOST_BACKENDS = 100_000
"""Of all the Services that the kept events tell of: one with thousands of backends may change again and again."""


@dataclass(frozen=True, slots=True)
class AgentEventRecord:
    number: int
    time_ns: int
    tell: Callable[[], flow_pb2.AgentEvent]
    backends: int = 0

    @property
    def event(self) -> flow_pb2.AgentEvent:
        """Made when somebody asks: mostly nobody does."""
        return self.tell()


class AgentEventLog:
    """The last `capacity` agent events, numbered from 0; fewer if they name very many backends."""

    def __init__(self, capacity: int = 1024, on_event: Callable[[], None] = lambda: None) -> None:
        self.next = 0
        self.on_event = on_event
        self._capacity = capacity
        self._records: deque[AgentEventRecord] = deque()
        self._backends = 0

    @property
    def oldest(self) -> int:
        return self.next - len(self._records)

    def since(self, number: int) -> list[AgentEventRecord]:
        """The events from this number on that are still kept."""
        skip = max(0, number - self.oldest)
        return list(self._records)[skip:]

    def agent_started(self, time_ns: int) -> None:
        event = flow_pb2.AgentEvent(type=flow_pb2.AGENT_STARTED)
        event.agent_start.time.FromNanoseconds(time_ns)
        self._append(time_ns, event)

    def endpoint_created(self, time_ns: int, endpoint_id: int, name: EndpointName, labels: Iterable[str] = ()) -> None:
        self._append(time_ns, _endpoint(flow_pb2.ENDPOINT_CREATED, endpoint_id, name, labels))

    def endpoint_deleted(self, time_ns: int, endpoint_id: int, name: EndpointName, labels: Iterable[str] = ()) -> None:
        self._append(time_ns, _endpoint(flow_pb2.ENDPOINT_DELETED, endpoint_id, name, labels))

    def endpoint_regenerated(self, time_ns: int, endpoint_id: int, labels: Iterable[str] = (), error: str = "") -> None:
        event = flow_pb2.AgentEvent(
            type=flow_pb2.ENDPOINT_REGENERATE_FAILURE if error else flow_pb2.ENDPOINT_REGENERATE_SUCCESS
        )
        event.endpoint_regenerate.id = endpoint_id
        event.endpoint_regenerate.labels.extend(labels)
        event.endpoint_regenerate.error = error
        self._append(time_ns, event)

    def policy_updated(self, time_ns: int, labels: Iterable[str], revision: int, rule_count: int) -> None:
        self._append(time_ns, _policy(flow_pb2.POLICY_UPDATED, labels, revision, rule_count))

    def policy_deleted(self, time_ns: int, labels: Iterable[str], revision: int, rule_count: int) -> None:
        self._append(time_ns, _policy(flow_pb2.POLICY_DELETED, labels, revision, rule_count))

    def service_upserted(self, time_ns: int, frontend: Frontend, service_id: int) -> None:
        self._keep(time_ns, partial(_service_upsert, frontend, service_id), len(frontend.inside or frontend.outside))

    def service_deleted(self, time_ns: int, service_id: int) -> None:
        event = flow_pb2.AgentEvent(type=flow_pb2.SERVICE_DELETED)
        event.service_delete.id = service_id
        self._append(time_ns, event)

    def attachment_rolled_back(self, time_ns: int, message: str) -> None:
        self._append(time_ns, _other("attachment-rolled-back", message))

    def pool_exhausted(self, time_ns: int, message: str) -> None:
        self._append(time_ns, _other("ipam-exhausted", message))

    def node_port_taken(self, time_ns: int, message: str) -> None:
        self._append(time_ns, _other("node-port-taken", message))

    def _append(self, time_ns: int, event: flow_pb2.AgentEvent) -> None:
        self._keep(time_ns, lambda: event)

    def _keep(self, time_ns: int, tell: Callable[[], flow_pb2.AgentEvent], backends: int = 0) -> None:
        self._records.append(AgentEventRecord(self.next, time_ns, tell, backends))
        self._backends += backends
        while len(self._records) > self._capacity or (self._backends > MOST_BACKENDS and len(self._records) > 1):
            self._backends -= self._records.popleft().backends
        self.next += 1
        self.on_event()


def _other(kind: str, message: str) -> flow_pb2.AgentEvent:
    """What Cilium's protocol has no type for."""
    event = flow_pb2.AgentEvent(type=flow_pb2.AGENT_EVENT_UNKNOWN)
    event.unknown.type, event.unknown.notification = kind, message
    return event


def _endpoint(
    kind: flow_pb2.AgentEventType.ValueType, endpoint_id: int, name: EndpointName, labels: Iterable[str]
) -> flow_pb2.AgentEvent:
    event = flow_pb2.AgentEvent(type=kind)
    update = event.endpoint_update
    update.id, update.namespace, update.pod_name = endpoint_id, name.namespace, name.pod_name
    update.labels.extend(labels)
    return event


def _service_upsert(frontend: Frontend, service_id: int) -> flow_pb2.AgentEvent:
    event = flow_pb2.AgentEvent(type=flow_pb2.SERVICE_UPSERTED)
    upsert = event.service_upsert
    upsert.id, upsert.name, upsert.namespace, upsert.type = (
        service_id,
        frontend.service,
        frontend.namespace,
        frontend.kind.value,
    )
    upsert.frontend_address.ip, upsert.frontend_address.port = str(frontend.at.address), frontend.at.port
    for backend in frontend.inside or frontend.outside:
        upsert.backend_addresses.add(ip=str(backend.at.address), port=backend.at.port)
    upsert.ext_traffic_policy = "Local" if frontend.external_local else "Cluster"
    upsert.int_traffic_policy = "Local" if frontend.internal_local else "Cluster"
    return event


def _policy(
    kind: flow_pb2.AgentEventType.ValueType, labels: Iterable[str], revision: int, rule_count: int
) -> flow_pb2.AgentEvent:
    event = flow_pb2.AgentEvent(type=kind)
    update = event.policy_update
    update.labels.extend(labels)
    update.revision, update.rule_count = revision, rule_count
    return event

"""Rows of the flow store as messages of Hubble's API: made only for those that somebody asked for.

A converter keeps what repeats (endpoints, addresses, the rules behind a decision): a row costs some microseconds.
Invariant: a message depends on the row and the directories alone, so converting again gives the same.
"""

from __future__ import annotations

import ipaddress
import uuid
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from pycilium.hubble import summary
from pycilium.hubble.columns import (
    EGRESS,
    EGRESS_DENIED,
    INGRESS,
    INGRESS_DENIED,
    POLICY_DENIED,
    POLICY_DENY,
    REPLY_UNKNOWN,
    REPLY_YES,
    TRACE_TO_ENDPOINT,
    TYPE_DROP,
    TYPE_POLICY_VERDICT,
    TYPE_TRACE,
    TYPE_TRACE_SOCK,
    VERDICT_DROPPED,
    Columns,
)
from pycilium.hubble.directories import (
    CLUSTER_LABEL,
    Decision,
    DecisionRules,
    Direction,
    Directories,
    Outcome,
    PolicyName,
)
from pycilium.hubble.proto import flow_pb2, observer_pb2
from pycilium.hubble.service_names import FrontendKey
from pycilium.hubble.store import FlowStore, Loss

CACHED = 16384
"""Messages and decisions kept before a cache starts afresh."""
_SAID = {Outcome.ALLOWED: "allowed by ", Outcome.DENIED: "denied by ", Outcome.NO_RULE: ""}
_OBSERVED_TO_ENDPOINT = flow_pb2.TO_ENDPOINT


FILLED_FIELDS = frozenset(
    {
        *(
            "time",
            "uuid",
            "verdict",
            "ethernet",
            "IP",
            "l4",
            "source",
            "destination",
            "source_service",
            "destination_service",
            "Type",
            "node_name",
            "event_type",
        ),
        *("traffic_direction", "is_reply", "reply", "drop_reason", "drop_reason_desc", "trace_observation_point"),
        *("trace_reason", "interface", "policy_match_type", "Summary"),
        *("sock_xlate_point", "socket_cookie", "cgroup_id"),
        *("egress_allowed_by", "ingress_allowed_by", "egress_denied_by", "ingress_denied_by"),
    }
)
"""The fields of flow.Flow that a row may fill."""


class Row(NamedTuple):
    """One row as plain Python values; fields as in Columns."""

    time_ns: int
    source_high: int
    source_low: int
    destination_high: int
    destination_low: int
    source_port: int
    destination_port: int
    source_identity: int
    destination_identity: int
    source_endpoint: int
    destination_endpoint: int
    source_name: int
    destination_name: int
    ifindex: int
    type: int
    sub_type: int
    verdict: int
    drop_reason: int
    traffic_direction: int
    is_reply: int
    trace_reason: int
    verdict_flags: int
    family: int
    protocol: int
    tcp_flags: int
    icmp_type: int
    icmp_code: int
    ether_type: int
    egress_row: int
    ingress_row: int
    egress_selector: int
    ingress_selector: int
    egress_revision: int
    ingress_revision: int
    source_mac: bytes
    destination_mac: bytes
    packet_bytes: int
    cpu: int
    error: int
    service_id: int
    socket_cookie: int
    cgroup_id: int


def rows_as_values(columns: Columns) -> list[Row]:
    """The rows as plain Python values: cheaper in bulk than element by element."""
    return [Row._make(values) for values in zip(*(column.tolist() for column in columns), strict=True)]


@lru_cache(maxsize=CACHED)
def address_text(high: int, low: int, family: int) -> str:
    if family == 4:
        return str(ipaddress.IPv4Address(low & 0xFFFFFFFF))
    return str(ipaddress.IPv6Address((high << 64) | low))


def flow_uuid(store_id: int, sequence: int) -> str:
    """The flow's id: custom UUID (version 8) of the store and the sequence number, so it can be found again."""
    number = (store_id & 0xFFFFFFFFFFFF) << 80 | (store_id >> 48 & 0xFFF) << 64 | (sequence & 0x3FFFFFFFFFFFFFFF)
    return str(uuid.UUID(int=number | 0x8 << 76 | 0x2 << 62))


def sequence_of_uuid(store_id: int, text: str) -> int | None:
    """The sequence number behind a flow's id; None if it is not one of this store's. ValueError if it is no UUID."""
    sequence = uuid.UUID(text).int & 0x3FFFFFFFFFFFFFFF
    return sequence if flow_uuid(store_id, sequence) == str(uuid.UUID(text)) else None


class FlowConverter:
    """Makes messages of rows for one node."""

    def __init__(self, store: FlowStore, directories: Directories, node_name: str) -> None:
        """`node_name` as Hubble shows it: `cluster/node`."""
        self._store = store
        self._directories = directories
        self._node_name = node_name
        self._names_generation = store.names_generation
        self._endpoints: dict[tuple[int, int, int], flow_pb2.Endpoint] = {}
        self._rules: dict[tuple[object, ...], _Rules] = {}

    def responses(self, sequences: Sequence[int], columns: Columns) -> Iterable[observer_pb2.GetFlowsResponse]:
        """A response per row; `columns` are the rows of these sequence numbers."""
        for sequence, row in zip(sequences, rows_as_values(columns), strict=True):
            response = observer_pb2.GetFlowsResponse(node_name=self._node_name)
            _set_time(response.time, row.time_ns)
            self.fill(response.flow, sequence, row)
            yield response

    def flows(self, sequences: Sequence[int], columns: Columns) -> list[flow_pb2.Flow]:
        made = []
        for sequence, row in zip(sequences, rows_as_values(columns), strict=True):
            flow = flow_pb2.Flow()
            self.fill(flow, sequence, row)
            made.append(flow)
        return made

    def loss(self, loss: Loss) -> observer_pb2.GetFlowsResponse:
        """The response that tells of lost events."""
        response = observer_pb2.GetFlowsResponse(node_name=self._node_name)
        _set_time(response.time, loss.time_ns)
        response.lost_events.source = int(loss.source)  # type: ignore[assignment]
        response.lost_events.num_events_lost = loss.count
        if loss.cpu is not None:
            response.lost_events.cpu.value = loss.cpu
        return response

    def fill(self, flow: flow_pb2.Flow, sequence: int, row: Row) -> None:
        """Writes the row into an empty message."""
        _set_time(flow.time, row.time_ns)
        flow.uuid = flow_uuid(self._store.store_id, sequence)
        flow.verdict = row.verdict  # type: ignore[assignment]
        if row.type == TYPE_TRACE_SOCK:
            _fill_socket(flow, row)
        else:
            flow.ethernet.source = row.source_mac.hex(":")
            flow.ethernet.destination = row.destination_mac.hex(":")
            flow.Type = flow_pb2.L3_L4
        if row.family:
            _fill_layers(flow, row)
            flow.source.CopyFrom(self._endpoint(row.source_endpoint, row.source_identity, row.source_name))
            flow.destination.CopyFrom(
                self._endpoint(row.destination_endpoint, row.destination_identity, row.destination_name)
            )
            self._fill_services(flow, row)
        flow.node_name = self._node_name
        flow.event_type.type = row.type
        flow.event_type.sub_type = row.sub_type
        flow.traffic_direction = row.traffic_direction  # type: ignore[assignment]
        if row.is_reply != REPLY_UNKNOWN:
            flow.is_reply.value = row.is_reply == REPLY_YES
            flow.reply = row.is_reply == REPLY_YES
        if row.verdict == VERDICT_DROPPED:
            flow.drop_reason = row.drop_reason
            flow.drop_reason_desc = row.drop_reason  # type: ignore[assignment]
        if row.type == TYPE_TRACE:
            point = _OBSERVED_TO_ENDPOINT if row.sub_type == TRACE_TO_ENDPOINT else row.sub_type
            flow.trace_observation_point = point  # type: ignore[assignment]
            flow.trace_reason = row.trace_reason  # type: ignore[assignment]
        if row.ifindex:
            flow.interface.index = row.ifindex
            flow.interface.name = self._directories.interfaces.name(row.ifindex)
        text = _summary(row)
        decided = self._fill_rules(flow, row)
        flow.Summary = f"{text}; {decided}" if decided else text

    def _endpoint(self, endpoint_id: int, identity: int, name_number: int) -> flow_pb2.Endpoint:
        if self._names_generation != self._store.names_generation or len(self._endpoints) > CACHED:
            self._names_generation = self._store.names_generation
            self._endpoints.clear()
        key = (endpoint_id, identity, name_number)
        cached = self._endpoints.get(key)
        if cached is not None:
            return cached
        labels = self._directories.identities.labels(identity)
        message = flow_pb2.Endpoint(ID=endpoint_id, identity=identity, labels=labels or ())
        name = self._store.names[name_number]
        if name is not None:
            message.namespace, message.pod_name = name.namespace, name.pod_name
            message.cluster_name = name.cluster_name
            for workload in name.workloads:
                message.workloads.add(name=workload.name, kind=workload.kind)
        if not message.cluster_name:
            message.cluster_name = cluster_of(labels or ())
        if labels is not None:
            self._endpoints[key] = message
        return message

    def _fill_services(self, flow: flow_pb2.Flow, row: Row) -> None:
        """Names the Services at both ends: of a packet that was translated, the one whose backend it is to or from.

        At a socket the address tells: one flow has it from before, another from after the translation.
        """
        services, reply = self._directories.services, row.is_reply == REPLY_YES
        service_id = row.service_id if row.type != TYPE_TRACE_SOCK else 0
        at_source = FrontendKey(row.source_high, row.source_low, row.source_port, row.protocol)
        at_destination = FrontendKey(row.destination_high, row.destination_low, row.destination_port, row.protocol)
        source = services.of(service_id) if service_id and reply else services.at(at_source)
        destination = services.of(service_id) if service_id and not reply else services.at(at_destination)
        if source:
            flow.source_service.namespace, flow.source_service.name = source
        if destination:
            flow.destination_service.namespace, flow.destination_service.name = destination

    def _fill_rules(self, flow: flow_pb2.Flow, row: Row) -> str:
        """Names the policies behind the row and returns what its summary says of them."""
        said = ""
        for direction in (EGRESS, INGRESS):
            outcome = _outcome(row, direction)
            if outcome is None:
                continue
            rules = self._rules_of(row, direction, outcome)
            if rules is None:
                continue
            allowed = outcome is Outcome.ALLOWED
            if direction == EGRESS:
                (flow.egress_allowed_by if allowed else flow.egress_denied_by).extend(rules.policies)
            else:
                (flow.ingress_allowed_by if allowed else flow.ingress_denied_by).extend(rules.policies)
            if row.traffic_direction == direction:
                flow.policy_match_type = rules.match_type if row.type == TYPE_POLICY_VERDICT else 0
                if row.type == TYPE_POLICY_VERDICT or not allowed:
                    said = rules.text
        return said

    def _rules_of(self, row: Row, direction: int, outcome: Outcome) -> _Rules | None:
        # A matched rule depends on row and selector alone; which rule comes nearest depends on the packet
        # and on the policy of that moment too.
        key: tuple[object, ...] = (
            (direction, outcome, row.egress_row, row.egress_selector)
            if direction == EGRESS
            else (direction, outcome, row.ingress_row, row.ingress_selector)
        )
        decision = None
        if outcome is Outcome.NO_RULE:
            decision = _decision(row, direction, outcome)
            key = (*key, decision)
        cached = self._rules.get(key)
        if cached is not None:
            return cached
        found = self._directories.rules.rules(decision or _decision(row, direction, outcome))
        if found is None:
            return None
        if len(self._rules) > CACHED:
            self._rules.clear()
        made = self._rules[key] = _Rules.of(found, outcome)
        return made


class _Rules(NamedTuple):
    policies: list[flow_pb2.Policy]
    match_type: int
    text: str

    @classmethod
    def of(cls, found: DecisionRules, outcome: Outcome) -> _Rules:
        text = f"{_SAID[outcome]}{found.text}" if found.text else ""
        return cls([_policy(policy) for policy in found.policies], found.match_type, text)


def cluster_of(labels: Iterable[str]) -> str:
    """The cluster that security labels name, if they do."""
    return next((label.removeprefix(CLUSTER_LABEL) for label in labels if label.startswith(CLUSTER_LABEL)), "")


def _policy(policy: PolicyName) -> flow_pb2.Policy:
    return flow_pb2.Policy(
        name=policy.name,
        namespace=policy.namespace,
        labels=policy.labels,
        revision=policy.revision,
        kind=policy.kind,
    )


def _outcome(row: Row, direction: int) -> Outcome | None:
    """How the direction was decided, as far as the row tells: for this packet, or when it admitted the connection."""
    own = row.traffic_direction == direction
    if row.type == TYPE_POLICY_VERDICT and not own:
        return None
    egress = direction == EGRESS
    refused = own and row.type == TYPE_DROP and row.drop_reason in (POLICY_DENIED, POLICY_DENY)
    if refused or row.verdict_flags & (EGRESS_DENIED if egress else INGRESS_DENIED):
        return Outcome.DENIED if row.drop_reason == POLICY_DENY else Outcome.NO_RULE
    known = row.egress_row if egress else row.ingress_row
    return Outcome.ALLOWED if known else None


def _decision(row: Row, direction: int, outcome: Outcome) -> Decision:
    egress = direction == EGRESS
    # A decision is about the connection, so a reply is turned round.
    forward = row.is_reply != REPLY_YES
    peer_is_destination = egress == forward
    return Decision(
        direction=Direction(direction),
        outcome=outcome,
        row_id=row.egress_row if egress else row.ingress_row,
        selector=row.egress_selector if egress else row.ingress_selector,
        endpoint_id=row.source_endpoint if peer_is_destination else row.destination_endpoint,
        peer_identity=row.destination_identity if peer_is_destination else row.source_identity,
        peer_address=address_text(row.destination_high, row.destination_low, row.family)
        if peer_is_destination
        else address_text(row.source_high, row.source_low, row.family),
        protocol=row.protocol,
        port=_decided_port(row, forward=forward),
        revision=row.egress_revision if egress else row.ingress_revision,
    )


def _decided_port(row: Row, *, forward: bool) -> int:
    if row.protocol in (summary.ICMP, summary.ICMPV6):
        return row.icmp_type
    return row.destination_port if forward else row.source_port


def _set_time(timestamp: Any, time_ns: int) -> None:
    timestamp.seconds, timestamp.nanos = divmod(time_ns, 1_000_000_000)


def _summary(row: Row) -> str:
    if row.type == TYPE_TRACE_SOCK and row.protocol == summary.TCP:
        return "TCP"  # there is no packet yet that could have flags
    return summary.packet_summary(
        row.family, row.protocol, row.tcp_flags, (row.icmp_type, row.icmp_code), row.ether_type
    )


def _fill_socket(flow: flow_pb2.Flow, row: Row) -> None:
    flow.Type = flow_pb2.SOCK
    flow.sock_xlate_point = row.sub_type  # type: ignore[assignment]
    flow.socket_cookie = row.socket_cookie
    flow.cgroup_id = row.cgroup_id


def _fill_layers(flow: flow_pb2.Flow, row: Row) -> None:
    flow.IP.source = _end_text(row, row.source_high, row.source_low)
    flow.IP.destination = _end_text(row, row.destination_high, row.destination_low)
    flow.IP.ipVersion = flow_pb2.IPv4 if row.family == 4 else flow_pb2.IPv6
    protocol = row.protocol
    if protocol == summary.TCP:
        tcp = flow.l4.TCP
        tcp.source_port, tcp.destination_port = row.source_port, row.destination_port
        if row.type != TYPE_TRACE_SOCK:
            tcp.flags.CopyFrom(_tcp_flags(row.tcp_flags))
    elif protocol == summary.UDP:
        flow.l4.UDP.source_port, flow.l4.UDP.destination_port = row.source_port, row.destination_port
    elif protocol == summary.ICMP:
        flow.l4.ICMPv4.SetInParent()
        flow.l4.ICMPv4.type, flow.l4.ICMPv4.code = row.icmp_type, row.icmp_code
    elif protocol == summary.ICMPV6:
        flow.l4.ICMPv6.SetInParent()
        flow.l4.ICMPv6.type, flow.l4.ICMPv6.code = row.icmp_type, row.icmp_code
    elif protocol == summary.SCTP:
        flow.l4.SCTP.source_port, flow.l4.SCTP.destination_port = row.source_port, row.destination_port
    elif protocol == summary.VRRP:
        flow.l4.VRRP.SetInParent()
    elif protocol == summary.IGMP:
        flow.l4.IGMP.SetInParent()


def _end_text(row: Row, high: int, low: int) -> str:
    """A socket that is being connected may have no address yet."""
    return "" if row.type == TYPE_TRACE_SOCK and not high | low else address_text(high, low, row.family)


@lru_cache(maxsize=256)
def _tcp_flags(bits: int) -> flow_pb2.TCPFlags:
    return flow_pb2.TCPFlags(**{name: True for name, bit in summary.TCP_FLAGS if bits & bit})

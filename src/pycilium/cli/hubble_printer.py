"""Flows, lost events, agent events and status as text: the forms of the hubble command, which scripts know.

Text that comes from outside cannot steer the terminal: escape characters in it are shown, not sent.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from pycilium.cli.hubble_filters import RESERVED_IDENTITIES, TRACE_POINTS
from pycilium.cli.hubble_time import format_duration, format_time
from pycilium.hubble.proto import flow_pb2, observer_pb2, relay_pb2
from pycilium.model.drop_reason import drop_reason_text

RED, GREEN, YELLOW, MAGENTA, CYAN = 31, 32, 33, 35, 36
DROP, DEBUG_CAPTURE, TRACE, POLICY_VERDICT, TRACE_SOCK = 1, 3, 4, 5, 7
SEPARATOR = "------------"
_MATCH_TYPES = ("none", "L3-Only", "L3-L4", "L4-Only", "all", "L3-Proto", "Proto-Only")
_SOCKET_POINTS = ("SOCK_XLATE_POINT_UNKNOWN", "pre-xlate-fwd", "post-xlate-fwd", "pre-xlate-rev", "post-xlate-rev")
_NODE_NAMES_SHOWN = 50
_HTML = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"})


@dataclass(frozen=True, slots=True)
class PrintOptions:
    output: str = "compact"
    """compact, dict, json, jsonpb or table."""
    time_format: str = "StampMilli"
    translate_ips: bool = True
    node_name: bool = False
    policy_names: bool = False
    color: bool = False
    legacy_json: bool = False
    debug: bool = False


class Printer:
    """Prints one stream. Call `close` at its end: tables are printed only then."""

    def __init__(self, options: PrintOptions, out: TextIO, errors: TextIO) -> None:
        self._options = options
        self._out = out
        self._errors = errors
        self._count = 0
        self._rows: list[Sequence[str]] = []

    def close(self) -> None:
        if self._rows:
            self._out.write(table_text(self._rows))
            self._rows = []
        self._out.flush()

    def response(self, response: observer_pb2.GetFlowsResponse) -> None:
        kind = response.WhichOneof("response_types")
        if kind == "flow":
            self.flow(response)
        elif kind == "lost_events":
            self.lost(response)
        elif kind == "node_status":
            self.node_status(response)

    # Flows

    def flow(self, response: observer_pb2.GetFlowsResponse) -> None:
        flow, options = response.flow, self._options
        if self._json(response, flow):
            return
        source, destination = self._hosts(flow)
        cells = {
            "TIMESTAMP": self._time(flow.time),
            **({"NODE": plain(flow.node_name)} if options.node_name else {}),
            "SOURCE": source,
            "DESTINATION": destination,
            "TYPE": flow_type(flow),
            "VERDICT": self._verdict(flow),
            "SUMMARY": _summary(flow),
        }
        if options.output == "compact":
            self._compact_flow(flow, cells)
        else:
            self._print_cells(cells)

    def _compact_flow(self, flow: flow_pb2.Flow, cells: dict[str, str]) -> None:
        ends = [
            f"{cells['SOURCE']} {self._identity(flow.source.identity)}",
            f"{cells['DESTINATION']} {self._identity(flow.destination.identity)}",
        ]
        arrow = "<>"
        if flow.HasField("is_reply"):
            arrow = "<-" if flow.is_reply.value else "->"
            if flow.is_reply.value:
                ends.reverse()
        node = f" [{cells['NODE']}]" if "NODE" in cells else ""
        self._line(
            f"{cells['TIMESTAMP']}{node}: {ends[0]} {arrow} {ends[1]} "
            f"{cells['TYPE']} {cells['VERDICT']} ({cells['SUMMARY']})"
        )

    def _hosts(self, flow: flow_pb2.Flow) -> tuple[str, str]:
        if not flow.HasField("IP"):
            if not flow.HasField("ethernet"):
                return "", ""
            ends = (flow.ethernet.source, flow.ethernet.destination)
            return self._paint(CYAN, plain(ends[0])), self._paint(CYAN, plain(ends[1]))
        source_port, destination_port = _ports(flow)
        return (
            self._host(flow.IP.source, source_port, flow.source, flow.source_service, flow.source_names),
            self._host(
                flow.IP.destination,
                destination_port,
                flow.destination,
                flow.destination_service,
                flow.destination_names,
            ),
        )

    def _host(
        self, ip: str, port: int, endpoint: flow_pb2.Endpoint, service: flow_pb2.Service, names: Sequence[str]
    ) -> str:
        host = ip
        if self._options.translate_ips:
            if endpoint.pod_name:
                host = _joined(service.namespace or endpoint.namespace, endpoint.pod_name)
            elif service.name:
                host = _joined(service.namespace, service.name)
            elif names:
                host = ",".join(names)
        host = plain(host)
        if port:
            host = f"[{host}]:" if ":" in host else f"{host}:"
            host += self._paint(YELLOW, str(port))
        return self._paint(CYAN, host)

    def _identity(self, number: int) -> str:
        name = RESERVED_IDENTITIES.get(number, "unknown" if number == 0 else f"ID:{number}")
        return self._paint(MAGENTA, f"({name})")

    def _verdict(self, flow: flow_pb2.Flow) -> str:
        name, color = _enum_name(flow_pb2.Verdict, flow.verdict), None
        decided = flow.event_type.type == POLICY_VERDICT
        egress = flow.traffic_direction == flow_pb2.EGRESS
        if flow.verdict in (flow_pb2.FORWARDED, flow_pb2.REDIRECTED):
            color = GREEN
            if decided:
                name = "ALLOWED" + self._policies(flow.egress_allowed_by if egress else flow.ingress_allowed_by)
        elif flow.verdict in (flow_pb2.DROPPED, flow_pb2.ERROR):
            color = RED
            if decided:
                name = "DENIED" + self._policies(flow.egress_denied_by if egress else flow.ingress_denied_by)
        elif flow.verdict in (flow_pb2.AUDIT, flow_pb2.TRACED, flow_pb2.TRANSLATED):
            color = YELLOW
            if decided and flow.verdict == flow_pb2.AUDIT:
                name = "AUDITED"
        return name if color is None else self._paint(color, name)

    def _policies(self, policies: Sequence[flow_pb2.Policy]) -> str:
        named = [plain(f"{policy.name} ({policy.kind})") for policy in policies if policy.kind and policy.name]
        return f" BY {', '.join(named)}" if self._options.policy_names and named else ""

    # Lost events and nodes

    def lost(self, response: observer_pb2.GetFlowsResponse) -> None:
        lost = response.lost_events
        if self._json(response, lost):
            return
        source = _enum_name(flow_pb2.LostEventSource, lost.source)
        span = ""
        if lost.HasField("first") and lost.HasField("last"):
            span = f" (first: {self._time(lost.first)}, last: {self._time(lost.last)})"
        if self._options.output == "compact":
            count = f"CPU({lost.cpu.value}) {lost.num_events_lost}{span}"
            self._line(f"{self._time(response.time)} EVENTS LOST: {source} {count}")
            return
        cells = {
            "TIMESTAMP": self._time(response.time),
            **({"NODE": plain(response.node_name) or "-"} if self._options.node_name else {}),
            "SOURCE": source,
            "DESTINATION": "-",
            "TYPE": "EVENTS LOST",
            "VERDICT": "-",
            "SUMMARY": f"CPU({lost.cpu.value}) - {lost.num_events_lost}{span}",
        }
        if self._options.output == "dict":
            del cells["DESTINATION"]
        self._print_cells(cells)

    def node_status(self, response: observer_pb2.GetFlowsResponse) -> None:
        """Nodes that fail are told on stderr; that others work is told to those who debug."""
        status = response.node_status
        failing = status.state_change in (relay_pb2.NODE_ERROR, relay_pb2.NODE_UNAVAILABLE)
        if not (failing or self._options.debug):
            return
        if self._options.output in ("json", "jsonpb"):
            self._errors.write(json_text(response) + "\n")
            return
        names = plain(_cut_off(list(status.node_names)))
        count = len(status.node_names)
        said = {
            relay_pb2.NODE_CONNECTED: f"Receiving flows from {count} nodes: {names}",
            relay_pb2.NODE_UNAVAILABLE: f"{count} nodes are unavailable: {names}",
            relay_pb2.NODE_GONE: f"{count} nodes removed from cluster: {names}",
            relay_pb2.NODE_ERROR: f"Error {json.dumps(status.message)} on {count} nodes: {names}",
        }.get(status.state_change, "unknown node status event")
        self._errors.write(f"{self._time(response.time)} [{plain(response.node_name)}]: {said}\n")

    # Agent and debug events

    def agent_event(self, response: observer_pb2.GetAgentEventsResponse) -> None:
        event = response.agent_event
        if self._json(response, event):
            return
        kind, details = _enum_name(flow_pb2.AgentEventType, event.type), plain(self._agent_details(event))
        self._event(response, kind, {"DETAILS": details}, f"({details})")

    def debug_event(self, response: observer_pb2.GetDebugEventsResponse) -> None:
        event = response.debug_event
        if self._json(response, event):
            return
        message = plain(event.message)
        self._event(response, _enum_name(flow_pb2.DebugEventType, event.type), {"MESSAGE": message}, f"({message})")

    def _event(self, response: Any, kind: str, more: dict[str, str], compact: str) -> None:
        time_text = self._time(response.time)
        if self._options.output == "compact":
            node = f" [{plain(response.node_name)}]" if self._options.node_name else ""
            self._line(f"{time_text}{node}: {kind} {compact}")
            return
        node_cell = {"NODE": plain(response.node_name)} if self._options.node_name else {}
        self._print_cells({"TIMESTAMP": time_text, **node_cell, "TYPE": kind, **more})

    def _agent_details(self, event: flow_pb2.AgentEvent) -> str:
        kind = event.WhichOneof("notification")
        if kind == "agent_start":
            return f"start time: {self._time(event.agent_start.time)}"
        if kind == "policy_update":
            policy = event.policy_update
            return f"labels: [{','.join(policy.labels)}], revision: {policy.revision}, count: {policy.rule_count}"
        if kind == "endpoint_regenerate":
            endpoint = event.endpoint_regenerate
            error = f", error: {endpoint.error}" if endpoint.error else ""
            return f"id: {endpoint.id}, labels: [{','.join(endpoint.labels)}]{error}"
        if kind == "endpoint_update":
            update = event.endpoint_update
            namespace = f", namespace: {update.namespace}" if update.namespace else ""
            return f"id: {update.id}{namespace}" + (f", pod name: {update.pod_name}" if update.pod_name else "")
        if kind == "ipcache_update":
            return f"cidr: {event.ipcache_update.cidr}, identity: {event.ipcache_update.identity}"
        if kind == "service_upsert":
            return _upserted_service(event.service_upsert)
        if kind == "service_delete":
            return f"id: {event.service_delete.id}"
        if kind == "unknown":
            return f"type: {event.unknown.type}, notification: {event.unknown.notification}"
        return "UNKNOWN"

    # Forms

    def _json(self, response: Message, inner: Message) -> bool:
        if self._options.output not in ("json", "jsonpb"):
            return False
        legacy = self._options.output == "json" and self._options.legacy_json
        self._line(json_text(inner if legacy else response))
        return True

    def _print_cells(self, cells: dict[str, str]) -> None:
        if self._options.output == "table":
            if not self._rows:
                self._rows.append(tuple(cells))
            self._rows.append(tuple(cells.values()))
            return
        if self._count:
            self._out.write(SEPARATOR + "\n")
        for name, value in cells.items():
            self._out.write(f"{name:>11}: {value}\n")
        self._count += 1

    def _line(self, text: str) -> None:
        self._out.write(text + "\n")
        self._count += 1

    def _time(self, timestamp: Any) -> str:
        return format_time(self._options.time_format, timestamp.seconds, timestamp.nanos)

    def _paint(self, color: int, text: str) -> str:
        if not self._options.color or self._options.output not in ("compact", "dict"):
            return text
        return f"\x1b[{color}m{text}\x1b[0m"


def status_text(status: observer_pb2.ServerStatusResponse, output: str) -> str:
    """A server's status in one of the forms compact, dict, table and json."""
    if output in ("json", "jsonpb"):
        return json_text(status) + "\n"
    rate = f"{status.flows_rate:.2f}" if status.flows_rate > 0 else "N/A"
    connected = str(status.num_connected_nodes.value) if status.HasField("num_connected_nodes") else "N/A"
    unavailable = str(status.num_unavailable_nodes.value) if status.HasField("num_unavailable_nodes") else "N/A"
    if output == "compact":
        return _compact_status(status, rate)
    cells = [
        ("NUM FLOWS", "NUM FLOWS", f"{status.num_flows:,}"),
        ("MAX FLOWS", "MAX FLOWS", f"{status.max_flows:,}"),
        ("SEEN FLOWS", "SEEN FLOWS", f"{status.seen_flows:,}"),
        ("FLOWS PER SECOND", "FLOWS PER SECOND", rate),
        ("UPTIME", "UPTIME", format_duration(status.uptime_ns)),
        ("NUM CONNECTED NODES", "NUM CONNECTED NODES", connected),
        ("NUM UNAVAIL. NODES", "NUM UNAVAILABLE NODES", unavailable),
        ("VERSION", "VERSION", plain(status.version)),
    ]
    if output == "dict":
        return "".join(f"{name:>19}: {value}\n" for name, _, value in cells)
    return table_text([[name for _, name, _ in cells], [value for _, _, value in cells]])


def _compact_status(status: observer_pb2.ServerStatusResponse, rate: str) -> str:
    share = f" ({status.num_flows / status.max_flows:.2%})" if status.max_flows else ""
    uptime_s = status.uptime_ns / 1e9
    if rate == "N/A" and uptime_s > 0:
        rate = f"{status.seen_flows / uptime_s:.2f}"
    lines = [f"Current/Max Flows: {status.num_flows:,}/{status.max_flows:,}{share}", f"Flows/s: {rate}"]
    missing = status.num_unavailable_nodes.value
    if status.HasField("num_connected_nodes"):
        connected = status.num_connected_nodes.value
        of_all = f"/{connected + missing}" if status.HasField("num_unavailable_nodes") else ""
        lines.append(f"Connected Nodes: {connected}{of_all}")
    if missing:
        names = sorted(status.unavailable_nodes)
        more = [f"and {missing - len(names)} more..."] if names and missing > len(names) else []
        lines += [f"Unavailable Nodes: {missing}", *(f"  - {plain(name)}" for name in (*names, *more))]
    return "\n".join(lines) + "\n"


def table_text(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell and three spaces; the last is as long as it is."""
    widths = [max(len(row[column]) for row in rows) + 3 for column in range(len(rows[0]) - 1)]
    return "".join(
        "".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)) + row[-1] + "\n" for row in rows
    )


def json_text(message: Message) -> str:
    """The message in proto3's JSON mapping with the fields' own names, on one line."""
    content = MessageToDict(message, preserving_proto_field_name=True)
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False).translate(_HTML)


def plain(text: str) -> str:
    return text.replace("\x1b", "^[").replace("\r", "\\r") if "\x1b" in text or "\r" in text else text


def flow_type(flow: flow_pb2.Flow) -> str:
    """What kind of event it was: the TYPE column."""
    kind, sub_type = flow.event_type.type, flow.event_type.sub_type
    if flow.HasField("l7"):
        return _layer7_type(flow.l7)
    if kind == TRACE:
        return TRACE_POINTS[sub_type] if 0 <= sub_type < len(TRACE_POINTS) else str(sub_type)
    if kind == DROP:
        return drop_reason_text(sub_type)
    if kind == POLICY_VERDICT:
        match = flow.policy_match_type
        direction = _enum_name(flow_pb2.TrafficDirection, flow.traffic_direction)
        return f"policy-verdict:{_MATCH_TYPES[match] if match < len(_MATCH_TYPES) else match} {direction}"
    if kind == DEBUG_CAPTURE:
        return _enum_name(flow_pb2.DebugCapturePoint, flow.debug_capture_point)
    if kind == TRACE_SOCK:
        return _SOCKET_POINTS[flow.sock_xlate_point] if flow.sock_xlate_point < len(_SOCKET_POINTS) else "UNKNOWN"
    return "UNKNOWN"


def _layer7_type(layer7: flow_pb2.Layer7) -> str:
    record = layer7.WhichOneof("record") or "l7"
    kind = _enum_name(flow_pb2.L7FlowType, layer7.type).lower()
    return f"{record}-{kind} {plain(layer7.dns.observation_source)}" if record == "dns" else f"{record}-{kind}"


def _summary(flow: flow_pb2.Flow) -> str:
    trace = f"IP Trace ID: {flow.ip_trace_id.trace_id}; " if flow.ip_trace_id.trace_id else ""
    auth = f"; Auth: {_enum_name(flow_pb2.AuthType, flow.auth_type)}" if flow.auth_type else ""
    return plain(f"{trace}{flow.Summary}{auth}")


def _ports(flow: flow_pb2.Flow) -> tuple[int, int]:
    kind = flow.l4.WhichOneof("protocol")
    if kind not in ("TCP", "UDP", "SCTP"):
        return 0, 0
    layer = getattr(flow.l4, kind)
    return layer.source_port, layer.destination_port


def _joined(namespace: str, name: str) -> str:
    return f"{namespace}/{name}" if namespace else name


def _enum_name(enum: Any, number: int) -> str:
    """The name of an enum's value; a number that nobody knows stays a number."""
    try:
        name: str = enum.Name(number)
    except ValueError:
        return str(number)
    return name


def _cut_off(names: list[str]) -> str:
    shown, length = 0, 0
    for name in names:
        length += len(name) + 2
        if length > _NODE_NAMES_SHOWN and shown:
            break
        shown += 1
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" (and {more} more)" if more else "")


def _upserted_service(service: flow_pb2.ServiceUpsertNotification) -> str:
    """As Hubble's command writes it."""
    backends = ", ".join(_socket_address(backend) for backend in service.backend_addresses)
    parts = [f"id: {service.id}", f"frontend: {_socket_address(service.frontend_address)}", f"backends: [{backends}]"]
    fields = {
        "type": service.type,
        "external traffic policy": service.ext_traffic_policy,
        "internal traffic policy": service.int_traffic_policy,
        "namespace": service.namespace,
        "name": service.name,
    }
    return ", ".join([*parts, *(f"{name}: {value}" for name, value in fields.items() if value)])


def _socket_address(address: flow_pb2.ServiceUpsertNotificationAddr) -> str:
    return f"[{address.ip}]:{address.port}" if ":" in address.ip else f"{address.ip}:{address.port}"

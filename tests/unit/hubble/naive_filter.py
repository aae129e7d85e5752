"""Flow filters tried on one flow message at a time: slow, plain, and the oracle for the vectorised ones."""

from __future__ import annotations

import fnmatch
import ipaddress
from collections.abc import Iterable

from pycilium.hubble.proto import flow_pb2

FLAG_NAMES = ("FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR", "NS")


def matches(flow: flow_pb2.Flow, whitelist: list[flow_pb2.FlowFilter], blacklist: list[flow_pb2.FlowFilter]) -> bool:
    allowed = not whitelist or any(matches_filter(flow, item) for item in whitelist)
    return allowed and not any(matches_filter(flow, item) for item in blacklist)


def matches_filter(flow: flow_pb2.Flow, item: flow_pb2.FlowFilter) -> bool:
    return all(any(_holds(flow, field.name, value) for value in values) for field, values in item.ListFields())


def _holds(flow: flow_pb2.Flow, field: str, value) -> bool:
    if field.startswith(("source_", "destination_")):
        side, _, what = field.partition("_")
        return _end_holds(flow, side, what, value)
    if field == "verdict":
        return flow.verdict == value
    if field == "event_type":
        kind = flow.event_type
        return value.type in (0, kind.type) and (not value.match_sub_type or value.sub_type == kind.sub_type)
    if field == "protocol":
        kinds = {"icmp": ("ICMPv4", "ICMPv6"), "icmpv4": ("ICMPv4",), "icmpv6": ("ICMPv6",)}
        return flow.l4.WhichOneof("protocol") in kinds.get(value, (value.upper(),))
    if field == "reply":
        if not flow.HasField("is_reply"):
            return value is False and flow.verdict == flow_pb2.DROPPED
        return flow.is_reply.value == value
    if field == "tcp_flags":
        has = flow.l4.TCP.flags
        return flow.l4.HasField("TCP") and all(getattr(has, name) for name in FLAG_NAMES if getattr(value, name))
    if field == "ip_version":
        return flow.IP.ipVersion == value
    if field == "traffic_direction":
        return flow.traffic_direction == value
    if field == "drop_reason_desc":
        return flow.drop_reason_desc == value
    if field == "uuid":
        return flow.uuid == value
    if field == "interface":
        has = flow.interface
        return bool(has.index) and value.index in (0, has.index) and value.name in ("", has.name)
    if field == "node_name":
        cluster, _, node = flow.node_name.partition("/")
        wanted_cluster, separator, wanted = value.rpartition("/")
        return fnmatch.fnmatch(cluster, wanted_cluster if separator else "default") and (
            bool(separator and not wanted) or fnmatch.fnmatch(node, wanted)
        )
    if field == "encrypted":
        return flow.IP.encrypted == value
    raise AssertionError(f"the oracle knows nothing of {field}")


def _end_holds(flow: flow_pb2.Flow, side: str, what: str, value) -> bool:
    if not flow.HasField("IP"):
        return what == "identity" and value == 0
    end = getattr(flow, side)
    if what == "ip":
        return ipaddress.ip_address(getattr(flow.IP, side)) in ipaddress.ip_network(value, strict=False)
    if what == "pod":
        namespace, separator, prefix = value.partition("/")
        if not separator:
            namespace, prefix = "default", value
        named = end.namespace or end.pod_name
        return bool(named) and namespace in ("", end.namespace) and end.pod_name.startswith(prefix)
    if what == "service":
        service = getattr(flow, f"{side}_service")
        namespace, separator, prefix = value.partition("/")
        if not separator:
            namespace, prefix = "default", value
        return bool(service.name) and namespace in ("", service.namespace) and service.name.startswith(prefix)
    if what == "label":
        return all(_label_holds(end.labels, part.strip()) for part in value.split(","))
    if what == "identity":
        return end.identity == value
    if what == "port":
        kind = flow.l4.WhichOneof("protocol")
        return kind in ("TCP", "UDP", "SCTP") and getattr(getattr(flow.l4, kind), f"{side}_port") == int(value)
    if what == "workload":
        return any(
            (not value.name or value.name == workload.name) and (not value.kind or value.kind == workload.kind)
            for workload in end.workloads
            if value.name or value.kind
        )
    if what == "cluster_name":
        return bool(end.cluster_name) and fnmatch.fnmatch(end.cluster_name, value)
    raise AssertionError(f"the oracle knows nothing of {side}_{what}")


def _label_holds(labels: Iterable[str], part: str) -> bool:
    """Only `key`, `!key`, `key=value` and `key!=value`."""
    if "!=" in part:
        key, _, value = part.partition("!=")
        return not _has_label(labels, key, value)
    if part.startswith("!"):
        return not _has_label(labels, part[1:], None)
    key, separator, value = part.partition("=")
    return _has_label(labels, key, value if separator else None)


def _has_label(labels: Iterable[str], key: str, value: str | None) -> bool:
    for label in labels:
        name, _, has = label.partition("=")
        if key in (name, name.partition(":")[2]) and (value is None or value == has):
            return True
    return False

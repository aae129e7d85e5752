"""Flow filters as predicates over columns: compiled once per request, tried on whole columns.

A FlowFilter holds where all of its fields hold; a field holds where any of its values does. What a value says about
a name, a label set or an identity is worked out once per name or identity, into a table that whole columns index.
Fields about things that no flow of ours carries (HTTP, DNS, FQDN, encryption) are checked and match nothing;
what cannot be judged at all is refused by name, never ignored.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from google.protobuf.unknown_fields import UnknownFieldSet

from pycilium.hubble.columns import (
    REPLY_UNKNOWN,
    REPLY_YES,
    VERDICT_DROPPED,
    Columns,
    Mask,
)
from pycilium.hubble.directories import EndpointName
from pycilium.hubble.flow import cluster_of, sequence_of_uuid
from pycilium.hubble.label_filter import SelectorSyntaxError, parse_label_selector
from pycilium.hubble.predicates import (
    AnswerTable,
    FilterContext,
    FilterError,
    Predicate,
    by_identity,
    by_name,
    by_service,
    constant,
    everything,
    ip_only,
    nothing,
    one_of,
)
from pycilium.hubble.proto import flow_pb2
from pycilium.hubble.service_names import ServiceName
from pycilium.hubble.summary import ICMP, ICMPV6, IGMP, SCTP, TCP, TCP_FLAGS, UDP, VRRP

L7_EVENT_TYPE = 129
DEFAULT_NAMESPACE = "default"
DEFAULT_CLUSTER = "default"

_PROTOCOLS = {
    "icmp": (ICMP, ICMPV6),
    "icmpv4": (ICMP,),
    "icmpv6": (ICMPV6,),
    "tcp": (TCP,),
    "udp": (UDP,),
    "sctp": (SCTP,),
    "vrrp": (VRRP,),
    "igmp": (IGMP,),
    "dns": (),
    "http": (),
    "kafka": (),
}
_HTTP_FIELDS = ("http_status_code", "http_method", "http_path", "http_url", "http_header")


_Values = Sequence[Any]
_Builder = Callable[[_Values, FilterContext], Predicate]


def compile_filters(
    whitelist: Iterable[flow_pb2.FlowFilter], blacklist: Iterable[flow_pb2.FlowFilter], context: FilterContext
) -> Predicate:
    """Flows that match any filter of the whitelist, or all if that is empty, and none of the blacklist.

    Raises FilterError.
    """
    allowed = [compile_filter(item, context) for item in whitelist]
    denied = [compile_filter(item, context) for item in blacklist]

    def matches(rows: Columns, first: int) -> Mask:
        mask = _any_of(allowed, rows, first) if allowed else everything(rows, first)
        if denied:
            mask &= ~_any_of(denied, rows, first)
        return mask

    return matches


def compile_filter(item: flow_pb2.FlowFilter, context: FilterContext) -> Predicate:
    """One filter: all of its fields must hold."""
    for unknown in UnknownFieldSet(item):  # type: ignore[attr-defined]
        raise FilterError(f"field number {unknown.field_number}: this filter is not supported by this server")
    _check_layer7(item)
    conditions = []
    for field, value in item.ListFields():
        if field.name == "experimental":
            if value.cel_expression:
                raise FilterError("experimental.cel_expression: CEL expressions are not supported by this server")
            continue
        builder = _BUILDERS.get(field.name)
        if builder is None:
            raise FilterError(f"{field.name}: this filter is not supported by this server")
        try:
            conditions.append(builder(value, context))
        except (ValueError, re.error) as error:
            raise FilterError(f"{field.name}: {error}") from error

    def matches(rows: Columns, first: int) -> Mask:
        mask = everything(rows, first)
        for condition in conditions:
            mask &= condition(rows, first)
        return mask

    return matches


def _any_of(predicates: list[Predicate], rows: Columns, first: int) -> Mask:
    mask = predicates[0](rows, first)
    for predicate in predicates[1:]:
        mask = mask | predicate(rows, first)
    return mask


def _column_in(name: str) -> _Builder:
    """The column holds one of the values."""

    def build(values: _Values, _context: FilterContext) -> Predicate:
        wanted = {int(value) for value in values}
        return lambda rows, _first: one_of(getattr(rows, name), wanted)

    return build


def _matches_no_flow(check: Callable[[Any], object] | None = None) -> _Builder:
    """For what no flow of ours carries; `check` raises ValueError for a value that makes no sense."""

    def build(values: _Values, _context: FilterContext) -> Predicate:
        for value in values:
            if check is not None:
                check(value)
        return nothing

    return build


# Addresses and ports


def _addresses(side: str) -> _Builder:
    def build(values: _Values, _context: FilterContext) -> Predicate:
        networks = [_network_words(value) for value in values]

        def matches(rows: Columns, _first: int) -> Mask:
            high, low = getattr(rows, f"{side}_high"), getattr(rows, f"{side}_low")
            mask: Mask = nothing(rows, 0)
            for version, network, masks in networks:
                found = (low & masks[1]) == network[1]
                if masks[0]:
                    found &= (high & masks[0]) == network[0]
                mask |= found & (rows.family == version)
            return mask

        return matches

    return build


def _network_words(text: str) -> tuple[int, tuple[np.uint64, np.uint64], tuple[np.uint64, np.uint64]]:
    """(family, address words, mask words) of an address or CIDR; IPv4 in mapped form."""
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is neither an IP address nor a CIDR such as 10.0.0.0/8") from None
    address, mask = int(network.network_address), int(network.netmask)
    if network.version == 4:
        address |= 0xFFFF << 32
        mask |= ((1 << 96) - 1) << 32
    return network.version, _words(address & mask), _words(mask)


def _words(number: int) -> tuple[np.uint64, np.uint64]:
    return np.uint64(number >> 64), np.uint64(number & 0xFFFFFFFFFFFFFFFF)


def _ports(side: str) -> _Builder:
    def build(values: _Values, _context: FilterContext) -> Predicate:
        ports = {_port(value) for value in values}
        return lambda rows, _first: (
            one_of(getattr(rows, f"{side}_port"), ports) & one_of(rows.protocol, (TCP, UDP, SCTP)) & (rows.family != 0)
        )

    return build


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 65536):
        raise ValueError(f"{text!r} is not a port from 0 to 65535")
    return int(text)


def _protocols(values: _Values, _context: FilterContext) -> Predicate:
    numbers: set[int] = set()
    for value in values:
        if value.lower() not in _PROTOCOLS:
            raise ValueError(f"unknown protocol {value!r}; known are {', '.join(sorted(_PROTOCOLS))}")
        numbers.update(_PROTOCOLS[value.lower()])
    return lambda rows, _first: ip_only(one_of(rows.protocol, numbers), rows)


def _ip_versions(values: _Values, _context: FilterContext) -> Predicate:
    families = {flow_pb2.IP_NOT_USED: 0, flow_pb2.IPv4: 4, flow_pb2.IPv6: 6}
    wanted = {families.get(value, -1) for value in values}
    return lambda rows, _first: one_of(rows.family, wanted)


def _tcp_flags(values: _Values, _context: FilterContext) -> Predicate:
    # The ninth flag, NS, lies outside the byte that events carry: no flow has it.
    wanted = [sum(bit for name, bit in TCP_FLAGS if getattr(value, name)) for value in values if not value.NS]

    def matches(rows: Columns, _first: int) -> Mask:
        mask = nothing(rows, 0)
        for bits in wanted:
            mask |= (rows.tcp_flags & bits) == bits
        return ip_only(mask & (rows.protocol == TCP), rows)

    return matches


# Who


def _pods(side: str) -> _Builder:
    def build(values: _Values, context: FilterContext) -> Predicate:
        wanted = [_namespaced(value) for value in values]

        def holds(name: EndpointName) -> bool:
            return any(
                (name.namespace or name.pod_name)
                and (not namespace or name.namespace == namespace)
                and name.pod_name.startswith(prefix)
                for namespace, prefix in wanted
            )

        return by_name(side, holds, context)

    return build


def _namespaced(text: str) -> tuple[str, str]:
    """(namespace, prefix of the name) of `[namespace/]prefix`; an empty namespace is any."""
    namespace, separator, prefix = text.partition("/")
    return (namespace, prefix) if separator else (DEFAULT_NAMESPACE, text)


def _services(side: str) -> _Builder:
    def build(values: _Values, context: FilterContext) -> Predicate:
        wanted = [_namespaced(value) for value in values]

        def holds(name: ServiceName) -> bool:
            return any(
                (not namespace or name.namespace == namespace) and name.name.startswith(prefix)
                for namespace, prefix in wanted
            )

        return by_service(side, holds, context)

    return build


def _workloads(side: str) -> _Builder:
    def build(values: _Values, context: FilterContext) -> Predicate:
        def holds(name: EndpointName) -> bool:
            return any(
                (not wanted.name or wanted.name == workload.name) and (not wanted.kind or wanted.kind == workload.kind)
                for workload in name.workloads
                for wanted in values
                if wanted.name or wanted.kind
            )

        return by_name(side, holds, context)

    return build


def _identities(side: str) -> _Builder:
    def build(values: _Values, _context: FilterContext) -> Predicate:
        wanted = {int(value) for value in values}

        def matches(rows: Columns, _first: int) -> Mask:
            mask = ip_only(one_of(getattr(rows, f"{side}_identity"), wanted), rows)
            return mask | (rows.family == 0) if 0 in wanted else mask

        return matches

    return build


def _labels(column: str) -> _Builder:
    def build(values: _Values, context: FilterContext) -> Predicate:
        return by_identity(column, _label_test(values), context)

    return build


def _label_test(values: _Values) -> Callable[[tuple[str, ...]], bool]:
    try:
        selectors = [parse_label_selector(value) for value in values]
    except SelectorSyntaxError as error:
        raise ValueError(str(error)) from error
    return lambda labels: any(all(part.matches(labels) for part in selector) for selector in selectors)


def _clusters(side: str) -> _Builder:
    def build(values: _Values, context: FilterContext) -> Predicate:
        patterns = [_glob(value) for value in values]

        def holds(cluster: str) -> bool:
            return bool(cluster) and any(pattern.fullmatch(cluster) for pattern in patterns)

        named = by_name(side, lambda name: bool(name.cluster_name), context)
        name_holds = by_name(side, lambda name: holds(name.cluster_name), context)
        labels_hold = by_identity(f"{side}_identity", lambda labels: holds(cluster_of(labels)), context)
        return lambda rows, first: name_holds(rows, first) | (labels_hold(rows, first) & ~named(rows, first))

    return build


def _glob(pattern: str) -> re.Pattern[str]:
    """A name pattern: `*` is any run of letters, digits, dots and dashes; case and one trailing dot do not count."""
    plain = pattern.lower().removesuffix(".")
    if not re.fullmatch(r"[-.0-9a-z_*]*", plain):
        raise ValueError(f"{pattern!r} is not a name, nor a pattern of one with *")
    return re.compile("[-.0-9a-z]*".join(re.escape(part) for part in plain.split("*")))


# What was seen


def _event_types(values: _Values, _context: FilterContext) -> Predicate:
    wanted = [(value.type, value.sub_type if value.match_sub_type else None) for value in values]

    def matches(rows: Columns, _first: int) -> Mask:
        mask = nothing(rows, 0)
        for event_type, sub_type in wanted:
            found = one_of(rows.type, (event_type,)) if event_type else everything(rows, 0)
            if sub_type is not None:
                found &= one_of(rows.sub_type, (sub_type,))
            mask |= found
        return mask

    return matches


def _replies(values: _Values, _context: FilterContext) -> Predicate:
    wanted = set(values)

    def matches(rows: Columns, _first: int) -> Mask:
        mask = nothing(rows, 0)
        if True in wanted:
            mask |= rows.is_reply == REPLY_YES
        if False in wanted:
            unknown = rows.is_reply == REPLY_UNKNOWN
            mask |= (rows.is_reply == 0) | (unknown & (rows.verdict == VERDICT_DROPPED))
        return mask

    return matches


def _interfaces(values: _Values, context: FilterContext) -> Predicate:
    interfaces = context.directories.interfaces

    def holds(ifindex: int) -> bool:
        return ifindex != 0 and any(
            (not value.index or value.index == ifindex) and (not value.name or value.name == interfaces.name(ifindex))
            for value in values
        )

    table = AnswerTable(holds)
    return lambda rows, _first: table.matches(rows.ifindex)


def _uuids(values: _Values, context: FilterContext) -> Predicate:
    wanted = set()
    for value in values:
        try:
            wanted.add(sequence_of_uuid(context.store.store_id, value))
        except ValueError:
            continue  # no flow has such an id

    def matches(rows: Columns, first: int) -> Mask:
        mask = nothing(rows, 0)
        for sequence in wanted:
            if sequence is not None and 0 <= sequence - first < len(mask):
                mask[sequence - first] = True
        return mask

    return matches


# Where


def _node_names(values: _Values, context: FilterContext) -> Predicate:
    cluster, _, node = context.node_name.rpartition("/")
    for_cluster = cluster or DEFAULT_CLUSTER

    def holds(pattern: str) -> bool:
        cluster_pattern, separator, node_pattern = pattern.rpartition("/")
        cluster_matches = _glob(cluster_pattern if separator else DEFAULT_CLUSTER).fullmatch(for_cluster)
        node_matches = (separator and not node_pattern) or _glob(node_pattern).fullmatch(node.lower())
        return bool(cluster_matches and node_matches)

    held = [holds(value) for value in values]
    return constant(any(held))


def _node_labels(values: _Values, context: FilterContext) -> Predicate:
    return constant(_label_test(values)(context.node_labels))


# Layer 7: no flow of ours carries it yet


def _check_layer7(item: flow_pb2.FlowFilter) -> None:
    types = {value.type for value in item.event_type}
    used = [name for name in (*_HTTP_FIELDS, "dns_query") if getattr(item, name)]
    if used and types and not types & {0, L7_EVENT_TYPE}:
        raise FilterError(f"{used[0]}: needs event type l7 ({L7_EVENT_TYPE}) among event_type, or no event_type at all")


def _status_code(text: str) -> None:
    if not re.fullmatch(r"[1-5](\d{0,2}\+|\d{2})", text):
        raise ValueError(f"{text!r} is neither a status such as 404 nor a prefix such as 5+")


_BUILDERS: dict[str, _Builder] = {
    "source_ip": _addresses("source"),
    "destination_ip": _addresses("destination"),
    "source_pod": _pods("source"),
    "destination_pod": _pods("destination"),
    "source_label": _labels("source_identity"),
    "destination_label": _labels("destination_identity"),
    "source_port": _ports("source"),
    "destination_port": _ports("destination"),
    "source_identity": _identities("source"),
    "destination_identity": _identities("destination"),
    "source_workload": _workloads("source"),
    "destination_workload": _workloads("destination"),
    "source_cluster_name": _clusters("source"),
    "destination_cluster_name": _clusters("destination"),
    "verdict": _column_in("verdict"),
    "event_type": _event_types,
    "protocol": _protocols,
    "reply": _replies,
    "tcp_flags": _tcp_flags,
    "ip_version": _ip_versions,
    "traffic_direction": _column_in("traffic_direction"),
    "drop_reason_desc": _column_in("drop_reason"),
    "interface": _interfaces,
    "uuid": _uuids,
    "node_name": _node_names,
    "node_labels": _node_labels,
    "encrypted": lambda values, _context: constant(False in values),
    "source_fqdn": _matches_no_flow(_glob),
    "destination_fqdn": _matches_no_flow(_glob),
    "source_service": _services("source"),
    "destination_service": _services("destination"),
    "source_ip_xlated": _matches_no_flow(_network_words),
    "trace_id": _matches_no_flow(),
    "ip_trace_id": _matches_no_flow(),
    "http_status_code": _matches_no_flow(_status_code),
    "http_method": _matches_no_flow(),
    "http_path": _matches_no_flow(re.compile),
    "http_url": _matches_no_flow(re.compile),
    "http_header": _matches_no_flow(),
    "dns_query": _matches_no_flow(re.compile),
}

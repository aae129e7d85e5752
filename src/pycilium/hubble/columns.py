"""Flows as columns: one numpy array per property, one row per flow.

`rows_of` turns a batch of kernel events (fields as in bpf/abi/events.h) into rows, without a Python loop: it unfolds
the policy decisions that ride along with an event into rows of their own, which come before the event's row, and works
out verdict, drop reason and traffic direction. Everything else reads columns; nothing here knows names or protobuf.

An event of type 7 is of a socket, not of a packet: what would be the ids of its policy rows are the lower and upper
half of the socket's cookie, what would be revisions those of the cgroup's id.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pycilium.model.drop_reason import DropReason

Events = NDArray[np.void]
Mask = NDArray[np.bool_]
Indices = NDArray[np.intp]

TYPE_DROP = 1
TYPE_TRACE = 4
TYPE_POLICY_VERDICT = 5
TYPE_TRACE_SOCK = 7

TRACE_TO_ENDPOINT = 0

REPLY_YES = 1
REPLY_UNKNOWN = 2

VERDICT_FORWARDED = 1
VERDICT_DROPPED = 2
VERDICT_TRACED = 6
"""Of a socket, before the translation."""
VERDICT_TRANSLATED = 7

INGRESS = 1
EGRESS = 2

EGRESS_DECIDED = 1
INGRESS_DECIDED = 2
EGRESS_DENIED = 4
INGRESS_DENIED = 8

POLICY_DENIED = int(DropReason.POLICY_DENIED)
"""No rule allows it."""
POLICY_DENY = int(DropReason.POLICY_DENY)
"""A deny rule matched."""


class Columns(NamedTuple):
    """Arrays of equal length. Addresses are two host-order words each, IPv4 in mapped form; times are wall clock."""

    time_ns: NDArray[np.int64]
    source_high: NDArray[np.uint64]
    source_low: NDArray[np.uint64]
    destination_high: NDArray[np.uint64]
    destination_low: NDArray[np.uint64]
    source_port: NDArray[np.uint16]
    destination_port: NDArray[np.uint16]
    source_identity: NDArray[np.uint32]
    destination_identity: NDArray[np.uint32]
    source_endpoint: NDArray[np.uint16]
    destination_endpoint: NDArray[np.uint16]
    source_name: NDArray[np.uint32]
    """Index into the store's list of endpoint names; 0: none."""
    destination_name: NDArray[np.uint32]
    ifindex: NDArray[np.uint32]
    type: NDArray[np.uint8]
    sub_type: NDArray[np.int16]
    verdict: NDArray[np.uint8]
    drop_reason: NDArray[np.uint8]
    traffic_direction: NDArray[np.uint8]
    is_reply: NDArray[np.uint8]
    trace_reason: NDArray[np.uint8]
    verdict_flags: NDArray[np.uint8]
    family: NDArray[np.uint8]
    protocol: NDArray[np.uint8]
    tcp_flags: NDArray[np.uint8]
    icmp_type: NDArray[np.uint8]
    icmp_code: NDArray[np.uint8]
    ether_type: NDArray[np.uint16]
    egress_row: NDArray[np.uint32]
    ingress_row: NDArray[np.uint32]
    egress_selector: NDArray[np.uint16]
    ingress_selector: NDArray[np.uint16]
    egress_revision: NDArray[np.uint32]
    ingress_revision: NDArray[np.uint32]
    source_mac: NDArray[np.void]
    destination_mac: NDArray[np.void]
    packet_bytes: NDArray[np.uint32]
    cpu: NDArray[np.uint16]
    error: NDArray[np.int32]
    service_id: NDArray[np.uint32]
    """Of the frontend that it was for; 0: none."""
    socket_cookie: NDArray[np.uint64]
    cgroup_id: NDArray[np.uint64]

    def rows(self, selection: slice | Indices | Mask) -> Columns:
        """The chosen rows: views for a slice, copies otherwise."""
        return Columns._make(column[selection] for column in self)


_TYPES: dict[str, str] = {
    "time_ns": "i8",
    **dict.fromkeys(("source_high", "source_low", "destination_high", "destination_low"), "u8"),
    **dict.fromkeys(("socket_cookie", "cgroup_id"), "u8"),
    **dict.fromkeys(("source_port", "destination_port", "source_endpoint", "destination_endpoint"), "u2"),
    **dict.fromkeys(("ether_type", "egress_selector", "ingress_selector", "cpu"), "u2"),
    **dict.fromkeys(("source_identity", "destination_identity", "source_name", "destination_name", "ifindex"), "u4"),
    **dict.fromkeys(
        ("egress_row", "ingress_row", "egress_revision", "ingress_revision", "packet_bytes", "service_id"), "u4"
    ),
    "sub_type": "i2",
    "error": "i4",
    "source_mac": "V6",
    "destination_mac": "V6",
}
COLUMN_TYPES = {name: np.dtype(_TYPES.get(name, "u1")) for name in Columns._fields}

COPIED = (
    *("source_port", "destination_port", "source_identity", "destination_identity"),
    *("source_endpoint", "destination_endpoint", "ifindex", "is_reply", "verdict_flags"),
    *("family", "protocol", "tcp_flags", "icmp_type", "icmp_code", "ether_type"),
    *("egress_row", "ingress_row", "egress_selector", "ingress_selector", "egress_revision", "ingress_revision"),
    *("packet_bytes", "cpu", "error", "service_id"),
)
"""Columns that are a field of the event as it is."""

_SOCKET_NUMBERS = {
    "socket_cookie": ("egress_row", "ingress_row"),
    "cgroup_id": ("egress_revision", "ingress_revision"),
}


def allocate(rows: int) -> Columns:
    return Columns._make(np.zeros(rows, dtype=dtype) for dtype in COLUMN_TYPES.values())


def pieces(start: int, stop: int, capacity: int) -> Iterator[tuple[int, slice]]:
    """The slots of a ring that the sequence numbers start..stop take: (first sequence number, slice), at most two."""
    while start < stop:
        slot = start % capacity
        count = min(stop - start, capacity - slot)
        yield start, slice(slot, slot + count)
        start += count


def rows_of(events: Events, clock_offset_ns: int) -> Columns:
    """The rows that a batch of events gives, in order; names are left 0."""
    flags = events["verdict_flags"]
    decided = flags & (EGRESS_DECIDED | INGRESS_DECIDED)
    direction: NDArray[np.uint8]
    if decided.any():
        # Egress, ingress, then the event itself: a row each, as far as they exist.
        count = 1 + (flags & 1) + ((flags >> 1) & 1)
        source = np.repeat(np.arange(len(events)), count)
        last = np.cumsum(count) - 1
        direction = np.where(flags & EGRESS_DECIDED, np.uint8(EGRESS), np.uint8(INGRESS))[source]
        # A second decision on the same event is always the ingress one.
        second = np.empty(len(source), dtype=np.bool_)
        second[0] = False
        np.equal(source[1:], source[:-1], out=second[1:])
        direction[second] = INGRESS
        direction[last] = 0
        # As plain bytes: numpy gathers records field by field, which takes ten times as long.
        events = np.take(np.ascontiguousarray(events).view(f"V{events.itemsize}"), source).view(events.dtype)
    else:
        direction = np.zeros(len(events), dtype=np.uint8)
    return _columns(events, direction, clock_offset_ns)


def _columns(events: Events, decision: NDArray[np.uint8], clock_offset_ns: int) -> Columns:
    """`decision` is the direction that a row tells the policy verdict of, 0 where it tells the event itself."""
    rows: dict[str, Any] = {name: events[name] for name in COPIED}
    rows["time_ns"] = events["time_ns"].astype(np.int64) + clock_offset_ns
    for side in ("source", "destination"):
        words = np.ascontiguousarray(events[side]).view(">u8").reshape(-1, 2)
        rows[f"{side}_high"], rows[f"{side}_low"] = words[:, 0], words[:, 1]
        rows[f"{side}_mac"] = np.ascontiguousarray(events[f"{side}_mac"]).view("V6").reshape(-1)
        rows[f"{side}_name"] = np.zeros(len(events), dtype=np.uint32)

    is_verdict = decision != 0
    dropped = events["type"] == TYPE_DROP
    flags = events["verdict_flags"]
    denied = np.where(decision == EGRESS, flags & EGRESS_DENIED, flags & INGRESS_DENIED) != 0
    subtype = events["subtype"]
    # A verdict row's reason is that of the event if that was dropped.
    reason = np.where(dropped, subtype, np.where(denied, np.uint8(POLICY_DENIED), np.uint8(0)))
    reason[np.where(is_verdict, ~denied, ~dropped)] = 0

    rows["type"] = np.where(is_verdict, np.uint8(TYPE_POLICY_VERDICT), events["type"])
    rows["sub_type"] = np.where(is_verdict, -reason.astype(np.int16), subtype)
    rows["drop_reason"] = reason
    rows["verdict"] = np.where(reason != 0, np.uint8(VERDICT_DROPPED), np.uint8(VERDICT_FORWARDED))
    rows["trace_reason"] = np.where(is_verdict | dropped, np.uint8(0), events["reason"])
    rows["traffic_direction"] = np.where(is_verdict, decision, _directions(events, dropped))
    _take_apart_sockets(rows, events)
    return Columns(**rows)


def _take_apart_sockets(rows: dict[str, Any], events: Events) -> None:
    """Columns that socket events fill, and those that they have lent their room to."""
    of_socket = events["type"] == TYPE_TRACE_SOCK
    for name, halves in _SOCKET_NUMBERS.items():
        rows[name] = np.zeros(len(events), dtype=np.uint64)
        if of_socket.any():
            low, high = (events[half].astype(np.uint64) for half in halves)
            rows[name][of_socket] = (low | high << np.uint64(32))[of_socket]
            for half in halves:
                rows[half] = np.where(of_socket, np.uint32(0), rows[half])
    translated = np.where(events["subtype"] % 2 == 0, np.uint8(VERDICT_TRANSLATED), np.uint8(VERDICT_TRACED))
    rows["verdict"] = np.where(of_socket, translated, rows["verdict"])


def _directions(events: Events, dropped: Mask) -> NDArray[np.uint8]:
    """The connection's direction as the endpoint sees it at which the event was made; 0 if that cannot be said."""
    at_destination = ~dropped & (events["subtype"] == TRACE_TO_ENDPOINT)
    endpoint = np.where(at_destination, events["destination_endpoint"], events["source_endpoint"])
    egress = at_destination == (events["is_reply"] == REPLY_YES)
    seen = np.where(egress, np.uint8(EGRESS), np.uint8(INGRESS))
    seen[(endpoint == 0) | (events["is_reply"] == REPLY_UNKNOWN)] = 0
    return np.where(dropped, events["direction"], seen)

"""Synthetic kernel events: the layout of struct flow_event (bpf/abi/events.h) and a builder with readable arguments."""

from __future__ import annotations

import ipaddress
from typing import Any

import numpy as np

EVENT = np.dtype(
    [
        ("time_ns", "<u8"),
        ("source", "V16"),
        ("destination", "V16"),
        ("source_port", ">u2"),
        ("destination_port", ">u2"),
        ("source_identity", "<u4"),
        ("destination_identity", "<u4"),
        ("source_endpoint", "<u2"),
        ("destination_endpoint", "<u2"),
        ("ifindex", "<u4"),
        ("type", "u1"),
        ("subtype", "u1"),
        ("family", "u1"),
        ("protocol", "u1"),
        ("tcp_flags", "u1"),
        ("reason", "u1"),
        ("direction", "u1"),
        ("verdict_flags", "u1"),
        ("icmp_type", "u1"),
        ("icmp_code", "u1"),
        ("ether_type", "<u2"),
        ("egress_row", "<u4"),
        ("ingress_row", "<u4"),
        ("egress_selector", "<u2"),
        ("ingress_selector", "<u2"),
        ("source_mac", "V6"),
        ("destination_mac", "V6"),
        ("packet_bytes", "<u4"),
        ("egress_revision", "<u4"),
        ("ingress_revision", "<u4"),
        ("cpu", "<u2"),
        ("is_reply", "u1"),
        ("pad", "u1"),
        ("error", "<i4"),
        ("pad2", "<u4"),
    ]
)

TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
DROP, TRACE = 1, 4
TO_ENDPOINT, TO_HOST, TO_STACK = 0, 2, 3
NEW, ESTABLISHED, REPLY = 1, 2, 3
INGRESS, EGRESS = 1, 2


def address_bytes(text: str) -> bytes:
    address = ipaddress.ip_address(text)
    return b"\0" * 10 + b"\xff\xff" + address.packed if address.version == 4 else address.packed


def event(source: str = "10.0.0.1", destination: str = "10.0.0.2", **fields: Any) -> np.ndarray:
    """One event: a new TCP connection's SYN to an endpoint, unless the fields say otherwise."""
    values: dict[str, Any] = {
        "time_ns": 1_000_000_000,
        "source_port": 40000,
        "destination_port": 80,
        "type": TRACE,
        "subtype": TO_ENDPOINT,
        "family": ipaddress.ip_address(source).version,
        "protocol": TCP,
        "tcp_flags": SYN,
        "reason": NEW,
        "ether_type": 0x0800,
        "packet_bytes": 74,
        "source_mac": bytes.fromhex("0a0000000001"),
        "destination_mac": bytes.fromhex("0a0000000002"),
        **fields,
    }
    made = np.zeros(1, dtype=EVENT)
    made["source"] = np.void(address_bytes(source))
    made["destination"] = np.void(address_bytes(destination))
    for name, value in values.items():
        made[name] = np.void(value) if isinstance(value, bytes) else value
    return made


def events(*made: np.ndarray) -> np.ndarray:
    return np.concatenate(made) if made else np.zeros(0, dtype=EVENT)

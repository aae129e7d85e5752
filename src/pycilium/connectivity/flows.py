"""What the connectivity test reads in Hubble's flows: from the JSON of `hubble observe -o json` to values. Pure.

Only what judging needs is taken over; the rest stays out, so that a flow of another version disturbs nothing.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

POLICY_DENIED, POLICY_DENY = "POLICY_DENIED", "POLICY_DENY"
_ECHO_REQUEST = (8, 128)


@dataclass(frozen=True, slots=True)
class Flow:
    """One flow.

    Attributes:
        protocol: `tcp`, `udp`, `icmp`, or "" for what is none of these.
        ports: source and destination; 0 for ICMP.
        direction: `egress`, `ingress` or "".
        policies: names of those that decided, by what they did: `egress_allowed_by`, ...
    """

    time: str
    node: str
    verdict: str
    source: str
    destination: str
    protocol: str
    ports: tuple[int, int]
    ends: tuple[str, str]
    """Who they are, as Hubble shows them."""
    direction: str = ""
    is_reply: bool = False
    syn: bool = False
    echo_request: bool = False
    drop_reason: str = ""
    policies: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    summary: str = ""

    @property
    def dropped(self) -> bool:
        return self.verdict == "DROPPED"

    def __str__(self) -> str:
        what = f"{self.verdict} {self.drop_reason}".strip()
        clock = self.time.partition("T")[2].rstrip("Z")[:12]
        source, destination = (
            f"{end} {address}{f':{port}' if port else ''}".strip()
            for end, address, port in zip(self.ends, (self.source, self.destination), self.ports, strict=True)
        )
        arrow = "<-" if self.is_reply else "->"
        left, right = (destination, source) if self.is_reply else (source, destination)
        return f"{clock} {self.node}: {left} {arrow} {right} {self.direction} {what} ({self.summary})".replace(
            "  ", " "
        )


def flow_of(plain: Mapping[str, Any]) -> Flow:
    """From one line of `hubble observe -o json`, decoded."""
    flow = plain.get("flow", plain)
    layer, ip = flow.get("l4") or {}, flow.get("IP") or {}
    protocol = next((name for name in ("TCP", "UDP", "ICMPv4", "ICMPv6") if name in layer), "")
    inner = layer.get(protocol) or {}
    flags = inner.get("flags") or {}
    names = ("egress_allowed_by", "ingress_allowed_by", "egress_denied_by", "ingress_denied_by")
    return Flow(
        time=str(flow.get("time", "")),
        node=str(flow.get("node_name", "")).rpartition("/")[2],
        verdict=str(flow.get("verdict", "")),
        source=str(ip.get("source", "")),
        destination=str(ip.get("destination", "")),
        protocol={"ICMPv4": "icmp", "ICMPv6": "icmp"}.get(protocol, protocol.lower()),
        ports=(int(inner.get("source_port", 0)), int(inner.get("destination_port", 0))),
        ends=(_end(flow.get("source") or {}), _end(flow.get("destination") or {})),
        direction={"EGRESS": "egress", "INGRESS": "ingress"}.get(str(flow.get("traffic_direction", "")), ""),
        is_reply=bool(flow.get("is_reply", False)),
        syn=bool(flags.get("SYN")) and not flags.get("ACK"),
        echo_request=inner.get("type") in _ECHO_REQUEST,
        drop_reason=str(flow.get("drop_reason_desc", "")),
        policies={name: tuple(str(each.get("name", "")) for each in flow.get(name) or ()) for name in names},
        summary=str(flow.get("Summary", "")),
    )


def of_connection(flows: Iterable[Flow], protocol: str, sources: Container[tuple[str, int]]) -> list[Flow]:
    """Those of one connection, both ways, found by the side that began it: addresses and ports it had on the way."""
    return [
        flow
        for flow in flows
        if flow.protocol == protocol
        and ((flow.source, flow.ports[0]) in sources or (flow.destination, flow.ports[1]) in sources)
    ]


def of_echo(flows: Iterable[Flow], source: str, destination: str) -> list[Flow]:
    """An echo request's and its reply's. They have no ports, and the same two may ask each other."""
    ends = (source, destination)
    return [
        flow
        for flow in flows
        if flow.protocol == "icmp"
        and ((flow.source, flow.destination) if flow.echo_request else (flow.destination, flow.source)) == ends
    ]


def _end(plain: Mapping[str, Any]) -> str:
    if pod := plain.get("pod_name"):
        return f"{plain.get('namespace', '')}/{pod}"
    labels = [str(label).removeprefix("reserved:") for label in plain.get("labels") or ()]
    return labels[0] if labels else f"identity {plain.get('identity', 0)}"

"""The shape of a packet test: one packet in, its fate, the packet out, the events out. Whole packets, whole events."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from pycilium.datapath.layouts import EventType, FlowEvent, TracePoint, TraceReason
from tests.bpf.node import DEVICE_OF_PROGRAM, Node, Verdict, mac, packed


@dataclass(frozen=True, slots=True)
class Case:
    """`packet_out` None: as it came in. `events` are compared whole, but for time and CPU."""

    description: str
    packet: Packet | bytes
    verdict: Verdict
    events: Callable[[Node], list[FlowEvent]] = lambda _: []
    packet_out: Packet | bytes | None = None
    program: str = "from_container"
    device: str = "web"
    setup: Callable[[Node], object] = lambda _: None

    def __str__(self) -> str:
        return self.description


def check(node: Node, case: Case) -> None:
    case.setup(node)
    node.reader.read()
    ran = node.run(case.program, DEVICE_OF_PROGRAM.get(case.program, case.device), bytes(case.packet))
    expected = bytes(case.packet if case.packet_out is None else case.packet_out)
    assert (ran.verdict, timeless(ran.events)) == (case.verdict, case.events(node))
    assert ran.packet.hex() == expected.hex(), f"{Ether(ran.packet)!r} is not {Ether(expected)!r}"


def timeless(events: list[FlowEvent]) -> list[FlowEvent]:
    assert all(event.time_ns for event in events)
    return [replace(event, time_ns=0, cpu=0) for event in events]


def event(node: Node, packet: Packet, device: str, **fields: Any) -> FlowEvent:
    """What the event of `packet` must hold, as far as the packet itself tells; `fields` say the rest."""
    frame = packet if isinstance(packet, Ether) else Ether(packet)
    seen: dict[str, Any] = {
        "ifindex": node.devices[device],
        "packet_bytes": len(bytes(packet)),
        "ether_type": frame.type,
        "source_mac": mac(frame.src),
        "destination_mac": mac(frame.dst),
    }
    ip = frame.getlayer(IP) or frame.getlayer(IPv6)
    if ip is not None:
        seen |= {"family": ip.version, "source": packed(ip.src), "destination": packed(ip.dst)}
        seen |= _transport(frame, ip)
    return FlowEvent(**{**seen, **fields})


def _transport(frame: Packet, ip: Packet) -> dict[str, Any]:
    protocol = bytes(ip)[9] if ip.version == 4 else bytes(ip)[6]
    seen: dict[str, Any] = {"protocol": protocol}
    ports = ip.getlayer(TCP) or ip.getlayer(UDP)
    if protocol in {6, 17} and ports is not None:
        seen |= {"source_port": ports.sport, "destination_port": ports.dport}
    if protocol == 6 and ip.haslayer(TCP):
        seen["tcp_flags"] = int(ip[TCP].flags)
    if protocol == 1 and ip.haslayer(ICMP):
        seen |= {"icmp_type": ip[ICMP].type, "icmp_code": ip[ICMP].code}
    if protocol == 58:
        seen |= {"icmp_type": bytes(ip.payload)[0], "icmp_code": bytes(ip.payload)[1]}
    return seen


def traced(
    node: Node, packet: Packet, point: TracePoint, reason: TraceReason, *, device: str = "web", **fields: Any
) -> FlowEvent:
    return event(node, packet, device, type=EventType.TRACE, subtype=point, reason=reason, **fields)


def dropped(
    node: Node, packet: Packet, reason: int, direction: int, *, device: str = "web", **fields: Any
) -> FlowEvent:
    """`is_reply` says not known, as of packets that never came to conntrack, unless `fields` know better."""
    fields = {"is_reply": 2, **fields}
    return event(node, packet, device, type=EventType.DROP, subtype=reason, direction=direction, **fields)

"""Frames of a client outside, of the backend that answers it: what a driver would hand in. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from tests.benchmark.connection import End, Speech

PAYLOAD_BYTES = 18
WINDOW = 500
NOTHING = ("NOP", None)


@dataclass(frozen=True, slots=True)
class Cable:
    """The addresses of a frame."""

    source: str
    destination: str


def datagram(cable: Cable, source: End, destination: End) -> bytes:
    transport = UDP(sport=source.port, dport=destination.port)
    return bytes(_head(cable, source, destination) / transport / bytes(PAYLOAD_BYTES))


def segment(cable: Cable, source: End, destination: End, says: Speech) -> bytes:
    """The next that `source` would send. Sent again it is what is lost and sent again."""
    transport = TCP(
        sport=source.port,
        dport=destination.port,
        flags="PA",
        seq=says.sequence,
        ack=says.acknowledged,
        window=WINDOW,
        options=[NOTHING, NOTHING, ("Timestamp", (says.timestamp, 0))],
    )
    return bytes(_head(cable, source, destination) / transport / bytes(PAYLOAD_BYTES))


def _head(cable: Cable, source: End, destination: End) -> Packet:
    layer = IPv6 if ":" in destination.address else IP
    return Ether(src=cable.source, dst=cable.destination) / layer(src=source.address, dst=destination.address)

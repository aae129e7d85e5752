"""The host port: a port of the node that leads to one of its pods. Written `8080:80/TCP`, `192.0.2.7:8080:80/UDP`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address

from pycilium.model.l4 import MAX_PORT, PORT_PROTOCOLS, Protocol
from pycilium.model.peer import Address

_WRITTEN = re.compile(r"(?:(?P<address>\[[^]]+\]|[^:\[\]]+):)?(?P<port>\d+):(?P<target>\d+)(?:/(?P<protocol>\w+))?")
_PROTOCOLS = {protocol.name: protocol for protocol in PORT_PROTOCOLS}


@dataclass(frozen=True, slots=True, order=True)
class HostPort:
    """What reaches `port` of the node goes to `target_port` of the pod."""

    port: int
    target_port: int
    protocol: Protocol = Protocol.TCP
    address: Address | None = None
    """Of the node; None: every address that it has."""

    def __post_init__(self) -> None:
        """ValueError for what is no port, or a protocol without ports."""
        for port in (self.port, self.target_port):
            if not 1 <= port <= MAX_PORT:
                raise ValueError(f"{port} is no port: 1 to {MAX_PORT} are")
        if self.protocol not in PORT_PROTOCOLS:
            raise ValueError(f"{self.protocol.name} has no ports: {', '.join(_PROTOCOLS)} have")

    @classmethod
    def of(cls, port: int, target_port: int, protocol: str = "TCP", address: str = "") -> HostPort:
        """From the words in which runtimes and people speak; ValueError says which of them is wrong."""
        known = _PROTOCOLS.get(protocol.upper())
        if known is None:
            raise ValueError(f"protocol {protocol!r} is not one of {', '.join(_PROTOCOLS)}")
        at = ip_address(address) if address else None
        return cls(port, target_port, known, None if at is not None and at.is_unspecified else at)

    @classmethod
    def parse(cls, text: str) -> HostPort:
        """The inverse of `str`; without a protocol it is TCP. ValueError says what is wrong."""
        found = _WRITTEN.fullmatch(text)
        if found is None:
            raise ValueError(f"{text!r} is no host port: write it as 8080:80/TCP, or with an address before it")
        address = (found["address"] or "").strip("[]")
        return cls.of(int(found["port"]), int(found["target"]), found["protocol"] or "TCP", address)

    def __str__(self) -> str:
        at = self.address
        host = "" if at is None else f"[{at}]:" if at.version == 6 else f"{at}:"
        return f"{host}{self.port}:{self.target_port}/{self.protocol.name}"

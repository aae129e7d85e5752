"""One attempt to reach something, and what came of it: what a ground hands to a peer and gets back. Pure.

The plain forms are what `peer` reads and prints.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Protocol = Literal["tcp", "udp", "icmp"]


@dataclass(frozen=True, slots=True)
class Probe:
    """HTTP by TCP, a datagram that is echoed, or an ICMP echo."""

    protocol: Protocol
    address: str
    port: int = 0
    timeout_s: float = 5.0

    @property
    def plain(self) -> dict[str, Any]:
        return {
            "protocol": self.protocol,
            "address": self.address,
            "port": self.port,
            "timeout_s": self.timeout_s,
        }

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}/{self.protocol.upper()}" if self.port else f"{host} ICMP echo"


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What came of it.

    Attributes:
        answered: whether the other side answered.
        error: why not, as the system calls it: `ETIMEDOUT`, `ECONNREFUSED`.
        local: own address and port, as far as known: by it flows are found.
        seen: address and port that the other side saw, if it said so: others than its own if they were translated.
    """

    answered: bool
    error: str = ""
    local: tuple[str, int] = ("", 0)
    seen: tuple[str, int] = ("", 0)
    took_s: float = 0.0

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> ProbeResult:
        (address, port), (seen, seen_port) = plain.get("local") or ("", 0), plain.get("seen") or ("", 0)
        return cls(
            answered=bool(plain["answered"]),
            error=str(plain.get("error", "")),
            local=(str(address), int(port)),
            seen=(str(seen), int(seen_port)),
            took_s=float(plain.get("took_s", 0.0)),
        )

    def __str__(self) -> str:
        if self.answered:
            return f"answered after {self.took_s * 1000:.1f} ms"
        if self.error == "ETIMEDOUT":
            return f"no answer within {self.took_s:.1f} s"
        return "refused" if self.error == "ECONNREFUSED" else f"failed with {self.error}"

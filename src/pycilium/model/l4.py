"""What a rule says of protocol and port.

For ICMP and ICMPv6 the type stands in the place of the port, as in the kernel's rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

MAX_PORT = 65535
PORTS = range(1, MAX_PORT + 1)
"""Those that somebody can be reached at."""


class Protocol(IntEnum):
    """IANA's numbers of the protocols that the datapath tracks."""

    ICMP = 1
    TCP = 6
    UDP = 17
    ICMPV6 = 58
    SCTP = 132


PORT_PROTOCOLS = (Protocol.TCP, Protocol.UDP, Protocol.SCTP)
"""What protocol ANY means beside a port."""

_WITH_PORTS = {protocol.name: protocol for protocol in PORT_PROTOCOLS}
_ICMP = (Protocol.ICMP, Protocol.ICMPV6)
_NAMES = {Protocol.ICMPV6: "ICMPv6"}


def protocol_name(protocol: int) -> str:
    """`TCP`, `ICMPv6`, or the number."""
    try:
        known = Protocol(protocol)
    except ValueError:
        return str(protocol)
    return _NAMES.get(known, known.name)


@dataclass(frozen=True, slots=True, order=True)
class PortRange:
    """The ports `first` to `last` of one protocol; of every protocol (and every port) if `protocol` is 0."""

    protocol: int = 0
    first: int = 0
    last: int = MAX_PORT

    @classmethod
    def single(cls, protocol: int, port: int) -> PortRange:
        """One port."""
        return cls(protocol, port, port)

    @property
    def all_ports(self) -> bool:
        """Whether the port makes no difference."""
        return self.first == 0 and self.last == MAX_PORT

    def covers(self, protocol: int, port: int) -> bool:
        """Whether a packet of this protocol and port lies within."""
        return self.protocol == 0 or (self.protocol == protocol and self.first <= port <= self.last)

    def prefixes(self) -> tuple[tuple[int, int], ...]:
        """The (port, prefix length) pairs that together are exactly this range, the least of them."""
        found = []
        port = self.first
        while port <= self.last:
            size = (port & -port) if port else MAX_PORT + 1
            while port + size - 1 > self.last:
                size >>= 1
            found.append((port, 16 - size.bit_length() + 1))
            port += size
        return tuple(found)

    def __str__(self) -> str:
        if self.protocol == 0:
            return "any protocol"
        name = protocol_name(self.protocol)
        if self.all_ports:
            return name
        ports = str(self.first) if self.first == self.last else f"{self.first}-{self.last}"
        return f"{name} type {ports}" if self.protocol in _ICMP else f"{ports}/{name}"


ANY_PORT = PortRange()


class NamedTarget(NamedTuple):
    """A named port: of a slice, or of a pod's containers."""

    name: str
    protocol: Protocol
    port: int

    @classmethod
    def parse(cls, text: str) -> NamedTarget:
        """The inverse of `str`; without a protocol it is TCP. ValueError says what is wrong."""
        name, _, target = text.partition("=")
        number, _, protocol = target.partition("/")
        known = _WITH_PORTS.get((protocol or "TCP").upper())
        if not name or known is None or not (number.isascii() and number.isdecimal() and 0 < int(number) <= MAX_PORT):
            raise ValueError(f"{text!r} is no port with a name: write it as http=8080/TCP, from 1 to {MAX_PORT}")
        return cls(name, known, int(number))

    def __str__(self) -> str:
        return f"{self.name}={self.port}/{protocol_name(self.protocol)}"


@dataclass(frozen=True, slots=True, order=True)
class PortName:
    """The port that a pod calls so, whatever its number; pods may differ, and one that has no such port has none."""

    protocol: Protocol
    name: str

    @property
    def all_ports(self) -> bool:
        """Never: a name that nobody has is no port at all."""
        return False

    def means(self, target: NamedTarget) -> bool:
        """Whether `target` has this name."""
        return target.name == self.name and target.protocol == self.protocol

    def among(self, targets: Iterable[NamedTarget]) -> tuple[NamedTarget, ...]:
        """Those of `targets` that have this name, by number."""
        return tuple(sorted(target for target in targets if self.means(target)))

    def __str__(self) -> str:
        return f"{self.name}/{protocol_name(self.protocol)}"


Ports = PortRange | PortName


def resolved(ports: Iterable[Ports], targets: Iterable[NamedTarget]) -> tuple[PortRange, ...]:
    """What `ports` are for a pod that has these; names that it does not have are nothing."""
    targets = tuple(targets)
    found: dict[PortRange, None] = {}
    for each in ports:
        if isinstance(each, PortName):
            found |= dict.fromkeys(PortRange.single(target.protocol, target.port) for target in each.among(targets))
        else:
            found[each] = None
    return tuple(found)

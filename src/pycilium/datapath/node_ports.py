"""Ports of the node that services use: kept from being given to sockets by chance, and found where one is bound.

All of it is of the calling thread's network namespace.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from pycilium.errors import DatapathError
from pycilium.model.l4 import Protocol

_RESERVED = Path("/proc/sys/net/ipv4/ip_local_reserved_ports")
_TABLES = Path("/proc/thread-self/net")
_SOCKETS = ((Protocol.TCP, ("tcp", "tcp6"), "0A"), (Protocol.UDP, ("udp", "udp6"), "07"))
"""Protocol, tables, and the state of sockets that take what comes to their port: listening; unconnected."""

Range = tuple[int, int]


def reserve(first: int, last: int) -> bool:
    """Have the kernel give no socket without a port of its own one of these; whether that was news. DatapathError.

    What is reserved already stays so. It holds for IPv6 too, whatever the setting is called.
    """
    try:
        before = _RESERVED.read_text().strip()
        merged = merged_ranges([*parsed_ranges(before), (first, last)])
        if merged == merged_ranges(parsed_ranges(before)):
            return False
        _RESERVED.write_text(ranges_text(merged))
    except (OSError, ValueError) as error:
        raise DatapathError(f"{_RESERVED}: node ports cannot be reserved: {error}") from error
    return True


def bound() -> set[tuple[int, Protocol]]:
    """The ports at which sockets of this namespace wait for anybody; of SCTP nothing is known."""
    found: set[tuple[int, Protocol]] = set()
    for protocol, tables, state in _SOCKETS:
        for table in tables:
            try:
                text = (_TABLES / table).read_text()
            except OSError:  # the family is off
                continue
            found |= {(port, protocol) for port in ports_in(text, state)}
    return found


def ports_in(table: str, state: str) -> Iterator[int]:
    """The local ports of the sockets in that state in a table of /proc/net."""
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 3 and fields[3] == state:
            yield int(fields[1].rpartition(":")[2], 16)


def parsed_ranges(text: str) -> list[Range]:
    """The ranges in `8080,30000-32767`; ValueError."""
    found = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        found.append((int(first), int(last or first)))
    return found


def merged_ranges(ranges: Iterable[Range]) -> list[Range]:
    """The same ports in as few ranges as there can be, in order."""
    merged: list[Range] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return merged


def ranges_text(ranges: Iterable[Range]) -> str:
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)

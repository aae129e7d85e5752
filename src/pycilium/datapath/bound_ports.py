"""Ports at which sockets of the calling thread's network namespace wait for anybody, as /proc tells of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pycilium.model.l4 import Protocol

_TABLES = Path("/proc/thread-self/net")
_SOCKETS = ((Protocol.TCP, ("tcp", "tcp6"), "0A"), (Protocol.UDP, ("udp", "udp6"), "07"))
"""Protocol, tables, and the state of sockets that take what comes to their port: listening; unconnected."""


def bound_ports() -> set[tuple[int, Protocol]]:
    """Of SCTP nothing is known."""
    found: set[tuple[int, Protocol]] = set()
    for protocol, tables, state in _SOCKETS:
        for table in tables:
            try:
                text = (_TABLES / table).read_text(encoding="ascii")
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

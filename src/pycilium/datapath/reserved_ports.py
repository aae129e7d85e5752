"""Node ports are kept out of the ports that the kernel gives to sockets by itself, which would get services' packets.

Of the caller's network namespace. What others have reserved stays reserved, and nothing is ever given back: a socket
may have been bound meanwhile on the strength of it.
"""

from __future__ import annotations

from pathlib import Path

from pycilium.errors import DatapathError

SYSCTLS = Path("/proc/sys/net/ipv4")
_GIVEN_OUT, _RESERVED = "ip_local_port_range", "ip_local_reserved_ports"


def reserve(ports: range, sysctls: Path = SYSCTLS) -> str:
    """Reserve the ports if the kernel might give one of them out. What was changed, in words; "" if nothing was."""
    try:
        first, last = map(int, (sysctls / _GIVEN_OUT).read_text(encoding="ascii").split())
        reserved = _parsed((sysctls / _RESERVED).read_text(encoding="ascii"))
        if not set(ports) & set(range(first, last + 1)) - reserved:
            return ""
        wanted = _written(reserved | set(ports))
        (sysctls / _RESERVED).write_text(wanted, encoding="ascii")
    except OSError as error:
        raise DatapathError(f"{sysctls / _RESERVED}: node ports cannot be reserved: {error.strerror}") from error
    return f"net.ipv4.{_RESERVED} = {wanted}"


def _parsed(text: str) -> set[int]:
    """As in 8080,30000-32767."""
    ports: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        ports.update(range(int(first), int(last or first) + 1))
    return ports


def _written(ports: set[int]) -> str:
    """The inverse of `_parsed`, as short as can be."""
    ordered = sorted(ports)
    starts = [port for port in ordered if port - 1 not in ports]
    ends = [port for port in ordered if port + 1 not in ports]
    return ",".join(
        str(first) if first == last else f"{first}-{last}" for first, last in zip(starts, ends, strict=True)
    )

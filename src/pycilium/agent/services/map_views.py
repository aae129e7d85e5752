"""The maps of services as the agent's API shows them. Reads the kernel; what a number stands for is looked up there.

A frontend is shown with its backends and how many slots each has, not with the slots one by one: a Maglev table has
thousands.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address
from itertools import islice
from typing import Any

import numpy as np

from pycilium.api import messages
from pycilium.datapath import layouts
from pycilium.datapath.layouts import BackendState, ServiceFlags, ServiceFlowFlags, SocketFlowDirection
from pycilium.datapath.loader import Datapath
from pycilium.model.l4 import protocol_name

SHOWN_ENTRIES = 100_000
SHOWN_BACKENDS = 100
"""Of one frontend."""
_SOCKET_CLIENT = 0xFFFFFFFF
"""First word of a client that is a network namespace (lib/service.h)."""


def entries(datapath: Datapath, name: str) -> list[messages.MapEntry] | None:
    """What one of the maps of services holds; None if `name` is none of them."""
    read = _READERS.get(name)
    return None if read is None else list(islice(read(datapath, name), SHOWN_ENTRIES))


def _services(datapath: Datapath, name: str) -> Iterator[messages.MapEntry]:
    slots, backends = datapath.mapped(layouts.SERVICE_SLOTS).values, datapath.mapped(layouts.BACKENDS).values
    with datapath.map(layouts.MAPS[name]) as opened:
        for key, entry in opened.items():
            sets = " ".join(
                f"{side}=[{_set_text(one, slots, backends)}]"
                for side, one in (("inside", entry.inside), ("outside", entry.outside))
            )
            flags = _flag_names(ServiceFlags(entry.flags))
            affinity = f" affinity={entry.affinity_id} for {entry.affinity_s}s" if entry.affinity_s else ""
            yield messages.MapEntry(
                key=_l4(key.address, key.port, key.protocol),
                value=f"id={entry.service_id} {sets} flags={flags or 'none'}{affinity}",
            )


def _set_text(one: layouts.ServiceSet, slots: Any, backends: Any) -> str:
    """`10.0.0.5:8080 (id 3), 10.0.0.6:8080 (id 4, 2 slots)`."""
    ids, counts = np.unique(slots[one.first_slot : one.first_slot + one.slots], return_counts=True)
    shown = [
        f"{_l4(*_backend_at(backends[number]))} (id {number}{f', {count} slots' if count > 1 else ''})"
        for number, count in zip(ids[:SHOWN_BACKENDS].tolist(), counts.tolist(), strict=False)
    ]
    more = [f"and {len(ids) - SHOWN_BACKENDS} more"] if len(ids) > SHOWN_BACKENDS else []
    return ", ".join(shown + more)


def _backends(datapath: Datapath, _name: str) -> Iterator[messages.MapEntry]:
    values = datapath.mapped(layouts.BACKENDS).values
    for number in np.flatnonzero(values["state"] != BackendState.NONE).tolist():
        state = BackendState(int(values[number]["state"])).name.lower()
        yield messages.MapEntry(key=str(number), value=f"{_l4(*_backend_at(values[number]))} {state}")


def _affinity(datapath: Datapath, name: str) -> Iterator[messages.MapEntry]:
    now_s = int(time.monotonic())
    with datapath.map(layouts.MAPS[name]) as opened:
        for key, entry in opened.items():
            yield messages.MapEntry(
                key=f"affinity={key.affinity_id} client={_client(key.client)}",
                value=f"backend={entry.backend_id} used={now_s - entry.used_s}s ago",
            )


def _source_ranges(datapath: Datapath, name: str) -> Iterator[messages.MapEntry]:
    with datapath.map(layouts.MAPS[name]) as opened:
        for entry in opened.items():  # presence is all that there is to a value
            key = entry[0]
            network = f"{_plain(key.address)}/{key.prefix_len - 32}"
            yield messages.MapEntry(key=f"service={key.service_id}", value=network)


def _flows(datapath: Datapath, name: str) -> Iterator[messages.MapEntry]:
    now_s = int(time.monotonic())
    with datapath.map(layouts.MAPS[name]) as opened:
        for key, entry in opened.items():
            flags = _flag_names(ServiceFlowFlags(entry.flags))
            yield messages.MapEntry(
                key=(
                    f"{protocol_name(key.protocol)} {_plain(key.source)} {key.source_port} -> "
                    f"{_plain(key.destination)} {key.destination_port}"
                ),
                value=(
                    f"becomes {_plain(entry.source)} {entry.source_port} -> "
                    f"{_plain(entry.destination)} {entry.destination_port} service={entry.service_id} "
                    f"backend={entry.backend_id} used={now_s - entry.used_s}s ago flags={flags or 'none'}"
                ),
            )


def _sockets(datapath: Datapath, name: str) -> Iterator[messages.MapEntry]:
    with datapath.map(layouts.MAPS[name]) as opened:
        for key, entry in opened.items():
            direction = SocketFlowDirection(key.direction).name.lower()
            yield messages.MapEntry(
                key=f"socket={key.socket_cookie} {direction} {_plain(key.address)} {key.port}",
                value=(
                    f"becomes {_plain(entry.address)} {entry.port} service={entry.service_id} "
                    f"backend={entry.backend_id}"
                ),
            )


def _slots(datapath: Datapath, _name: str) -> Iterator[messages.MapEntry]:
    values = datapath.mapped(layouts.SERVICE_SLOTS).values
    for number in np.flatnonzero(values)[:SHOWN_ENTRIES].tolist():
        yield messages.MapEntry(key=str(number), value=f"backend={int(values[number])}")


_READERS: Mapping[str, Callable[[Datapath, str], Iterable[messages.MapEntry]]] = {
    "services4": _services,
    "services6": _services,
    "service_slots": _slots,
    "backends": _backends,
    "affinity": _affinity,
    "source_ranges4": _source_ranges,
    "source_ranges6": _source_ranges,
    "service_flows4": _flows,
    "service_flows6": _flows,
    "socket_flows": _sockets,
}


def _backend_at(row: Any) -> tuple[bytes, int, int]:
    return row["address"].tobytes(), int(row["port"]), int(row["protocol"])


def _client(raw: bytes) -> str:
    """An address, or the cookie of the network namespace that a socket was in."""
    if int.from_bytes(raw[:4], sys.byteorder) == _SOCKET_CLIENT:
        high, low = (int.from_bytes(raw[at : at + 4], sys.byteorder) for at in (8, 12))
        return f"netns:{high << 32 | low}"
    return str(_plain(raw))


def _flag_names(flags: Any) -> str:
    return ",".join(flag.name.lower().replace("_", "-") for flag in flags)


def _plain(raw: int | bytes) -> IPv4Address | IPv6Address:
    if isinstance(raw, int):
        return IPv4Address(raw)
    address = IPv6Address(raw)
    return address.ipv4_mapped or address


def _l4(address: int | bytes, port: int, protocol: int) -> str:
    plain = _plain(address)
    return f"{f'[{plain}]' if plain.version == 6 else plain}:{port}/{protocol_name(protocol)}"

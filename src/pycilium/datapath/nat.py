"""Mappings of masqueraded flows: listed for people, and rid of those whose connection is gone.

A mapping lives as long as its connection in conntrack; a port that a service's connection has, too. Of the node's own
flows, which conntrack does not hold or only sees one way, it lives by the time of its last use. The programs never
remove one that is whole.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pycilium.datapath import layouts
from pycilium.datapath.conntrack import Bytes, Collected, canonical_keys, is_among, known_keys
from pycilium.datapath.layouts import CtLifetimeS, NatDirection, NatFlags
from pycilium.datapath.maps import Columns, Map, RawMap

GRACE_S = 10
"""An entry that was used so lately stays: its connection may be younger than the list of connections."""
IDLE_TCP_S, IDLE_OTHER_S = int(CtLifetimeS.TCP_S), int(CtLifetimeS.OTHER_S)


@dataclass(frozen=True, slots=True)
class Mapping:
    """One mapping as people read it: `inside` is seen by `remote` as `outside`. `used_s` is of CLOCK_MONOTONIC."""

    protocol: int
    inside: str
    inside_port: int
    outside: str
    outside_port: int
    remote: str
    remote_port: int
    used_s: int


def collect(target: RawMap, conntrack: RawMap, now_s: int) -> Collected:
    """Remove the entries of nat4 or nat6 that no connection of ct4 or ct6 needs any more."""
    known = known_keys(conntrack)
    alive = removed = 0
    for keys, values in target.chunks():
        dead = _dead(keys, values, known, now_s)
        gone = [row.tobytes() for row in keys[dead]]
        failures = target.delete_batch(gone)
        removed += len(gone) - len(failures)
        alive += len(keys) - len(gone) + len(failures)
    return Collected(alive, removed)


def mappings(target: Map[Any, layouts.NatEntry]) -> Iterator[Mapping]:
    """All mappings of nat4 or nat6, as their NAT_OUT entries have them."""
    keys, values = target.dump()
    outward = (keys["direction"] == NatDirection.OUT) & (values["flags"] & NatFlags.SERVICE == 0)
    for key, value in zip(keys[outward], values[outward], strict=True):
        yield Mapping(
            protocol=int(key["protocol"]),
            inside=_address(key["local"]),
            inside_port=int(key["local_port"]),
            outside=_plain(value["address"].tobytes()),
            outside_port=int(value["port"]),
            remote=_address(key["remote"]),
            remote_port=int(key["remote_port"]),
            used_s=int(value["used_s"]),
        )


def _dead(keys: Columns, values: Columns, known: npt.NDArray[Any], now_s: int) -> npt.NDArray[np.bool_]:
    key = _Key(np.asarray(keys))
    entry = np.ascontiguousarray(values).view(layouts.NatEntry.DTYPE).reshape(-1)
    address = np.asarray(values)[:, 16 - key.width : 16]
    port = np.asarray(values)[:, 16:18]
    idle_s = now_s - entry["used_s"].astype(np.int64)
    outward, service = key.direction == NatDirection.OUT, (entry["flags"] & NatFlags.SERVICE) != 0
    as_it_is = (outward | service)[:, None]
    inside = np.hstack([np.where(as_it_is, key.local, address), np.where(as_it_is, key.local_port, port)])
    remote = np.hstack([key.remote, key.remote_port])
    connected = is_among(canonical_keys(inside, remote, key.protocol), known)
    own = np.where(service, outward, (key.local == address).all(axis=1))
    allowed_s = np.where(key.protocol == socket.IPPROTO_TCP, IDLE_TCP_S, IDLE_OTHER_S)
    dead: npt.NDArray[np.bool_] = np.where(own, idle_s > allowed_s, ~connected & (idle_s > GRACE_S))
    return dead


class _Key:
    """The columns of nat4's or nat6's keys, addresses and ports as they lie in memory: big end first."""

    def __init__(self, raw: Bytes) -> None:
        self.width = 4 if raw.shape[1] == layouts.Nat4Key.SIZE else 16
        ends = 2 * self.width
        self.local, self.remote = raw[:, : self.width], raw[:, self.width : ends]
        self.local_port, self.remote_port = raw[:, ends : ends + 2], raw[:, ends + 2 : ends + 4]
        self.protocol, self.direction = raw[:, ends + 4], raw[:, ends + 5]


def _address(raw: Any) -> str:
    if isinstance(raw, np.ndarray):
        return str(ipaddress.IPv6Address(raw.tobytes()))
    return str(ipaddress.IPv4Address(int(raw)))


def _plain(raw: bytes) -> str:
    address = ipaddress.IPv6Address(raw)
    return str(address.ipv4_mapped or address)

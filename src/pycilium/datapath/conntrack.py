"""Connections: what the programs remember, listed for people, and rid of what has expired.

The programs remove an entry only when a connection between two pods of the node is over, and treat one past its
`expires_s` as absent. `collect` removes those, a chunk at a time and each chunk right after it was read, so that a
connection that comes back to life within the scan is hardly ever hit. If it is, its next packet is judged anew, as
after any expiry.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pycilium.datapath import layouts
from pycilium.datapath.layouts import CtFlags, CtState
from pycilium.datapath.maps import Map, RawMap

GRACE_S = 5
"""An entry is collected only so long after it expired: the one that a packet revives is likelier to be fresher."""

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Collected:
    """One run of the collector over one map."""

    alive: int
    removed: int


@dataclass(frozen=True, slots=True)
class Connection:
    """One connection as people read it: `source` opened it. Times are seconds of CLOCK_MONOTONIC."""

    protocol: int
    source: str
    source_port: int
    destination: str
    destination_port: int
    source_identity: int
    destination_identity: int
    state: CtState
    created_s: int
    expires_s: int
    egress_revision: int
    ingress_revision: int


def collect(target: RawMap, now_s: int, *, grace_s: int = GRACE_S) -> Collected:
    """Remove the entries of ct4 or ct6 that expired more than `grace_s` ago."""
    alive = removed = 0
    for keys, values in target.chunks():
        expires = _column(values, "expires_s").astype(np.int64)
        dead = expires + grace_s < now_s
        gone = [row.tobytes() for row in keys[dead]]
        failures = target.delete_batch(gone)
        removed += len(gone) - len(failures)
        alive += len(keys) - len(gone) + len(failures)
    return Collected(alive, removed)


def newest_revision(target: RawMap) -> int:
    """The latest policy revision that an entry of ct4 or ct6 was admitted by; 0 if there is none."""
    revisions = (
        int(_column(values, side).max(initial=0))
        for _, values in target.chunks()
        for side in ("egress_revision", "ingress_revision")
    )
    return max(revisions, default=0)


def connections(target: Map[Any, layouts.CtEntry]) -> Iterator[Connection]:
    """All connections of ct4 or ct6, expired ones too."""
    keys, values = target.dump()
    for key, value in zip(keys, values, strict=True):
        yield _connection(key, value)


def known_keys(target: RawMap) -> npt.NDArray[Any]:
    """The keys of all entries of ct4 or ct6, sorted, for is_among()."""
    keys = np.concatenate([np.empty((0, target.key_size), np.uint8), *(keys for keys, _ in target.chunks())])
    return np.sort(_words(keys))


def canonical_keys(one: Bytes, other: Bytes, protocol: Bytes) -> Bytes:
    """The keys (abi/conntrack.h) of connections between ends of address and port, big end first."""
    high = (_words(one) > _words(other))[:, None]
    lower, higher = np.where(high, other, one), np.where(high, one, other)
    rest = np.zeros((len(protocol), 4), np.uint8)
    rest[:, 0] = protocol
    return np.hstack([lower[:, :-2], higher[:, :-2], lower[:, -2:], higher[:, -2:], rest])


def is_among(keys: Bytes, known: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which of the keys are known."""
    wanted = _words(keys)
    at = np.searchsorted(known, wanted)
    found = np.zeros(len(wanted), bool)
    inner = at < len(known)
    found[inner] = known[at[inner]] == wanted[inner]
    return found


def _words(rows: Bytes) -> npt.NDArray[Any]:
    """Rows of equal length as values that compare like their bytes: zeros at the end make no difference to them."""
    words: npt.NDArray[Any] = np.ascontiguousarray(rows).view(f"S{rows.shape[1]}").reshape(-1)
    return words


def _column(values: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    structured: npt.NDArray[Any] = np.ascontiguousarray(values).view(layouts.CtEntry.DTYPE).reshape(-1)
    column: npt.NDArray[Any] = structured[name]
    return column


def _connection(key: np.void, value: np.void) -> Connection:
    low = (_address(key["address_low"]), int(key["port_low"]))
    high = (_address(key["address_high"]), int(key["port_high"]))
    source, destination = (high, low) if int(value["flags"]) & CtFlags.ORIGIN_HIGH else (low, high)
    return Connection(
        protocol=int(key["protocol"]),
        source=source[0],
        source_port=source[1],
        destination=destination[0],
        destination_port=destination[1],
        source_identity=int(value["source_identity"]),
        destination_identity=int(value["destination_identity"]),
        state=CtState(int(value["state"])),
        created_s=int(value["created_s"]),
        expires_s=int(value["expires_s"]),
        egress_revision=int(value["egress_revision"]),
        ingress_revision=int(value["ingress_revision"]),
    )


def _address(raw: Any) -> str:
    if isinstance(raw, np.ndarray):
        return str(ipaddress.IPv6Address(raw.tobytes()))
    return str(ipaddress.IPv4Address(int(raw)))

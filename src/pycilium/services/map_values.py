"""What stands in the kernel's maps of services, as values: entries, rows, and all of it together.

Owns the conversion from model values to them. Byte orders are for whoever writes the maps.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pycilium.model.peer import Network
from pycilium.model.service import Algorithm, ForwardingMode, Frontend, FrontendKind, L4Address, ServiceFlag
from pycilium.services.runs import Run

Slots = NDArray[np.uint32]
"""Ids of backends."""
NO_FLAGS = ServiceFlag(0)


@dataclass(frozen=True, slots=True)
class FrontendEntry:
    """A `service_entry`."""

    inside: Run
    outside: Run
    service_id: int
    affinity_s: int = 0
    flags: ServiceFlag = NO_FLAGS
    affinity_id: int = 0
    """By which the programs remember a client's backend; 0: they do not."""


@dataclass(frozen=True, slots=True)
class SourceRange:
    """A key of source_ranges4/6."""

    service_id: int
    network: Network


@dataclass(frozen=True, slots=True)
class Capacities:
    """How much the maps hold, and how Maglev and time are set."""

    slots: int = 2097152
    backends: int = 262144
    maglev_table_size: int = 16381
    grace_s: float = 1.0
    """Much longer than a program runs."""


@dataclass(frozen=True, slots=True)
class MapContents:
    """What the maps of an earlier agent hold."""

    frontends: Mapping[L4Address, FrontendEntry] = field(default_factory=dict)
    source_ranges: Collection[SourceRange] = ()
    backends: Mapping[int, tuple[L4Address, int]] = field(default_factory=dict)
    """Id → where it is, and its state; those that are NONE left out."""
    slots: Slots = field(default_factory=lambda: np.zeros(0, dtype=np.uint32))
    """All of service_slots; may be the mapped memory itself."""


@dataclass(frozen=True, slots=True)
class BackendRows:
    """Rows of service_backends, as columns: as long as one another, numbers in host order."""

    ids: NDArray[np.uint32]
    addresses: NDArray[np.uint8]
    """A row of 16 bytes each, IPv4 in mapped form."""
    ports: NDArray[np.uint16]
    protocols: NDArray[np.uint8]
    states: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to write; see `plan` for the order."""

    backends: BackendRows
    slots: Sequence[tuple[Run, Slots]]
    source_ranges: Mapping[SourceRange, bool]
    frontends: Mapping[L4Address, FrontendEntry | None]


@dataclass(frozen=True, slots=True)
class Retired:
    """Ids that the kernel is to know as NONE, each with the backend that it stood for."""

    backends: Mapping[int, L4Address]


def flags_of(frontend: Frontend) -> ServiceFlag:
    """What a program must know of a frontend."""
    flags = NO_FLAGS
    if frontend.kind is not FrontendKind.CLUSTER_IP:
        flags |= ServiceFlag.EXTERNAL
    if frontend.kind is FrontendKind.HOST_PORT:
        flags |= ServiceFlag.OWN_NODE
    if frontend.algorithm is Algorithm.MAGLEV:
        flags |= ServiceFlag.MAGLEV
    if frontend.affinity_s:
        flags |= ServiceFlag.AFFINITY
    if frontend.source_ranges is not None:
        flags |= ServiceFlag.SOURCE_DENY if frontend.source_ranges.deny else ServiceFlag.SOURCE_ALLOW
    if frontend.forwarding is ForwardingMode.DSR:
        flags |= ServiceFlag.DSR
    if frontend.external_local:
        flags |= ServiceFlag.KEEP_SOURCE
    return flags


def backend_rows(backends: Mapping[int, tuple[L4Address, int]]) -> BackendRows:
    """The rows of these ids: where each one is, and its state."""
    packed = b"".join(_mapped(at) for at, _ in backends.values())
    return BackendRows(
        ids=np.fromiter(backends, dtype=np.uint32, count=len(backends)),
        addresses=np.frombuffer(packed, dtype=np.uint8).reshape(-1, 16),
        ports=np.array([at.port for at, _ in backends.values()], dtype=np.uint16),
        protocols=np.array([at.protocol for at, _ in backends.values()], dtype=np.uint8),
        states=np.array([state for _, state in backends.values()], dtype=np.uint8),
    )


_MAPPED_PREFIX = bytes(10) + b"\xff\xff"


def _mapped(backend: L4Address) -> bytes:
    return backend.address.packed if backend.address.version == 6 else _MAPPED_PREFIX + backend.address.packed

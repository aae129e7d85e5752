"""The maps of services as targets: frontends and source ranges by reconcilers, slots and backends as memory.

    stage 1  source ranges    of a service id
          2  frontends        a frontend waits until the source ranges of its service id are there
          3  addresses        that frontends have

Slots and backends are written by `write` before the round in which frontends are switched to them; those writes cannot
fail. When `services4` or `services6` is full, the frontends in it stay as they are and the new ones are told of.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, Self

import numpy as np

from pycilium.datapath import layouts
from pycilium.datapath.codec import MapSpec
from pycilium.datapath.mapped_array import MappedArray
from pycilium.datapath.maps import AnyMap, MapOperations, Translation
from pycilium.errors import MapFull
from pycilium.model.host_port import HostPort
from pycilium.model.l4 import Protocol
from pycilium.model.peer import Address
from pycilium.model.service import L4Address, ServiceFlag
from pycilium.reconcile import Reconciler, Stages, Uncertain
from pycilium.services import FrontendEntry, MapContents, Plan, Run, SourceRange

_MAPPED = bytes(10) + b"\xff\xff"


@dataclass(frozen=True, slots=True)
class ServiceTargets:
    """What is planned goes here; `frontends`, `ranges` and `addresses` by address family."""

    frontends: Mapping[int, Reconciler[L4Address, FrontendEntry]]
    ranges: Mapping[int, Reconciler[SourceRange, bool]]
    addresses: Mapping[int, Reconciler[Address, bool]]
    """Whether nothing but services is there."""
    slots: MappedArray[Any]
    backends: MappedArray[Any]
    stages: Stages

    @classmethod
    def make(
        cls,
        open_map: Callable[[MapSpec[Any, Any]], AnyMap[Any, Any]],
        open_array: Callable[[MapSpec[Any, Any]], MappedArray[Any]],
    ) -> Self:
        """On the maps that these open; `resync` the stages before the first plan."""
        ranges: dict[int, Reconciler[SourceRange, bool]] = {
            4: Reconciler("source_ranges4", MapOperations(open_map(layouts.SOURCE_RANGES4), _RANGES4)),
            6: Reconciler("source_ranges6", MapOperations(open_map(layouts.SOURCE_RANGES6), _RANGES6)),
        }
        frontends: dict[int, Reconciler[L4Address, FrontendEntry]] = {
            version: Reconciler(
                f"services{version}",
                MapOperations(open_map(spec), translation),
                ready=partial(_ranges_ready, ranges[version]),
            )
            for version, spec, translation in (
                (4, layouts.SERVICES4, _FRONTENDS4),
                (6, layouts.SERVICES6, _FRONTENDS6),
            )
        }
        addresses: dict[int, Reconciler[Address, bool]] = {
            version: Reconciler(f"service_ips{version}", MapOperations(open_map(spec), translation))
            for version, spec, translation in (
                (4, layouts.SERVICE_IPS4, _ADDRESSES4),
                (6, layouts.SERVICE_IPS6, _ADDRESSES6),
            )
        }
        return cls(
            frontends,
            ranges,
            addresses,
            open_array(layouts.SERVICE_SLOTS),
            open_array(layouts.BACKENDS),
            Stages([*ranges.values(), *frontends.values(), *addresses.values()]),
        )

    @property
    def reconcilers(self) -> tuple[Reconciler[Any, Any], ...]:
        return (*self.frontends.values(), *self.ranges.values(), *self.addresses.values())

    def keep_all(self) -> None:
        """Desire what the maps hold, until a plan says otherwise; right after the resync."""
        for reconciler in self.reconcilers:
            reconciler.desired_replace(dict(reconciler.tracker.realized))

    def contents(self) -> MapContents:
        """What the maps hold; right after the resync."""
        frontends = {
            at: entry
            for reconciler in self.frontends.values()
            for at, entry in reconciler.tracker.realized.items()
            if not isinstance(entry, Uncertain)
        }
        ranges = [key for reconciler in self.ranges.values() for key in reconciler.tracker.realized]
        return MapContents(frontends, ranges, dict(self._known_backends()), self.slots.values)

    def host_ports(self) -> dict[Address, tuple[HostPort, ...]]:
        """The host ports that the maps hold, by the address of the pod behind each; right after the resync."""
        found: defaultdict[tuple[L4Address, int], set[Address]] = defaultdict(set)
        for reconciler in self.frontends.values():
            for at, entry in reconciler.tracker.realized.items():
                if not isinstance(entry, Uncertain) and entry.flags & ServiceFlag.OWN_NODE:
                    for number in set(self.slots.values[entry.inside.first : entry.inside.end].tolist()):
                        if (target := self.backend(number)) is not None:
                            found[target, at.port].add(at.address)
        ports: defaultdict[Address, list[HostPort]] = defaultdict(list)
        for (target, port), addresses in sorted(found.items()):
            anywhere = any(address.is_unspecified for address in addresses)
            for address in (None,) if anywhere else sorted(addresses, key=int):
                ports[target.address].append(HostPort(port, target.port, target.protocol, address))
        return {address: tuple(listed) for address, listed in ports.items()}

    def write(self, plan: Plan) -> None:
        """Write the memory of a plan at once, and desire the rest of it: the next round writes that."""
        rows = plan.backends
        if len(rows.ids):
            written = np.zeros(len(rows.ids), layouts.BackendEntry.DTYPE)
            written["address"], written["port"] = rows.addresses, rows.ports
            written["protocol"], written["state"] = rows.protocols, rows.states
            self.backends.values[rows.ids] = written
        for run, slots in plan.slots:
            self.slots.values[run.first : run.end] = slots
        for source_range, wanted in plan.source_ranges.items():
            reconciler = self.ranges[source_range.network.version]
            if wanted:
                reconciler.desired_set(source_range, True)
            else:
                reconciler.desired_delete(source_range)
        for at, entry in plan.frontends.items():
            if entry is None:
                self.frontends[at.address.version].desired_delete(at)
            else:
                self.frontends[at.address.version].desired_set(at, entry)

    def write_addresses(self, changes: Mapping[Address, bool | None]) -> None:
        """Desire these: whether nothing but services is there, None for what no frontend has."""
        for address, alone in changes.items():
            if alone is None:
                self.addresses[address.version].desired_delete(address)
            else:
                self.addresses[address.version].desired_set(address, alone)

    def retire(self, backends: Iterable[int]) -> None:
        """Nothing has these ids any more."""
        ids = np.fromiter(backends, np.int64)
        self.backends.values["state"][ids] = layouts.BackendState.NONE

    def full(self) -> Iterator[str]:
        """Which maps have no room for all that is wanted, and what to raise."""
        for field, reconcilers in (
            ("service_capacity", self.frontends),
            ("service_capacity", self.addresses),
            ("source_range_capacity", self.ranges),
        ):
            for reconciler in reconcilers.values():
                without = sum(isinstance(error, MapFull) for error in reconciler.errors.values())
                if without:
                    yield f"{reconciler.name} is full, {without} entries do not fit: raise {field}"

    def pending(self) -> set[L4Address]:
        """Frontends that the kernel may not have as they were planned last."""
        found: set[L4Address] = set()
        for reconciler in self.frontends.values():
            found.update(reconciler.tracker.pending_updates, reconciler.tracker.pending_deletions)
        return found

    def backend(self, number: int) -> L4Address | None:
        """Where the backend with this id is; None: nothing has it."""
        row = self.backends.values[number]
        if row["state"] == layouts.BackendState.NONE:
            return None
        return L4Address(_plain(row["address"].tobytes()), int(row["port"]), Protocol(int(row["protocol"])))

    def _known_backends(self) -> Iterable[tuple[int, tuple[L4Address, int]]]:
        states = self.backends.values["state"]
        for number in np.flatnonzero(states != layouts.BackendState.NONE).tolist():
            at = self.backend(number)
            if at is not None:
                yield number, (at, int(states[number]))


def _ranges_ready(ranges: Reconciler[SourceRange, bool], _: L4Address, entry: FrontendEntry) -> bool:
    pending = ranges.tracker.pending_updates
    return not pending or not any(key.service_id == entry.service_id for key in pending)


def _plain(raw: bytes) -> IPv4Address | IPv6Address:
    return IPv4Address(raw[12:]) if raw.startswith(_MAPPED) else IPv6Address(raw)


def _entry(value: FrontendEntry) -> layouts.ServiceEntry:
    return layouts.ServiceEntry(
        inside=layouts.ServiceSet(first_slot=value.inside.first, slots=value.inside.slots),
        outside=layouts.ServiceSet(first_slot=value.outside.first, slots=value.outside.slots),
        service_id=value.service_id,
        affinity_s=value.affinity_s,
        flags=int(value.flags),
        affinity_id=value.affinity_id,
    )


def _entry_back(raw: layouts.ServiceEntry) -> FrontendEntry:
    return FrontendEntry(
        inside=Run(raw.inside.first_slot, raw.inside.slots),
        outside=Run(raw.outside.first_slot, raw.outside.slots),
        service_id=raw.service_id,
        affinity_s=raw.affinity_s,
        flags=ServiceFlag(raw.flags),
        affinity_id=raw.affinity_id,
    )


_FRONTENDS4: Translation[Any, Any, Any, Any] = Translation(
    to_key=lambda at: layouts.Service4Key(address=int(at.address), port=at.port, protocol=int(at.protocol)),
    to_value=_entry,
    from_key=lambda raw: L4Address(IPv4Address(raw.address), raw.port, Protocol(raw.protocol)),
    from_value=_entry_back,
)
_FRONTENDS6: Translation[Any, Any, Any, Any] = Translation(
    to_key=lambda at: layouts.Service6Key(address=at.address.packed, port=at.port, protocol=int(at.protocol)),
    to_value=_entry,
    from_key=lambda raw: L4Address(IPv6Address(raw.address), raw.port, Protocol(raw.protocol)),
    from_value=_entry_back,
)
_ADDRESSES4: Translation[Any, Any, Any, Any] = Translation(
    to_key=lambda address: layouts.ServiceAddress4Key(int(address)),
    to_value=int,
    from_key=lambda raw: IPv4Address(raw.address),
    from_value=bool,
)
_ADDRESSES6: Translation[Any, Any, Any, Any] = Translation(
    to_key=lambda address: layouts.ServiceAddress6Key(address.packed),
    to_value=int,
    from_key=lambda raw: IPv6Address(raw.address),
    from_value=bool,
)
_SERVICE_ID_BITS = 32
_RANGES4: Translation[Any, Any, Any, Any] = Translation(
    to_key=lambda key: layouts.SourceRange4Key(
        prefix_len=_SERVICE_ID_BITS + key.network.prefixlen,
        service_id=key.service_id,
        address=int(key.network.network_address),
    ),
    to_value=int,
    from_key=lambda raw: SourceRange(raw.service_id, IPv4Network((raw.address, raw.prefix_len - _SERVICE_ID_BITS))),
    from_value=bool,
)
_RANGES6: Translation[Any, Any, Any, Any] = Translation(
    to_key=lambda key: layouts.SourceRange6Key(
        prefix_len=_SERVICE_ID_BITS + key.network.prefixlen,
        service_id=key.service_id,
        address=key.network.network_address.packed,
    ),
    to_value=int,
    from_key=lambda raw: SourceRange(raw.service_id, IPv6Network((raw.address, raw.prefix_len - _SERVICE_ID_BITS))),
    from_value=bool,
)

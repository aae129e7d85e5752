"""The maps that an earlier agent pinned, beside those that are wanted now: which are taken over, and which made anew.

One that is wanted with another type, size, key, value or flags is made anew, and what it holds goes along
(`moved_maps`) if key and value mean the same as before; else it is dropped by name.

    STATE     the programs write them. Each for itself
    SCRATCH   nobody reads them after the packet in hand, or after the event
    AGENT     all others: the agent writes them from what is intended. All are made anew or none: it removes what
              nothing refers to any more, and the programs that still run must not miss it

Invariant: a map that is pinned is never changed from here.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from pycilium.datapath import bpf_syscall as bpf
from pycilium.datapath import btf, layouts, libbpf
from pycilium.datapath.maps import RawMap
from pycilium.datapath.moved_maps import BEFORE, Lost, MovedMap, MovedMaps
from pycilium.errors import DatapathError, MapFull

STATE = frozenset(
    {
        *("ct4", "ct6", "ct_transients", "nat4", "nat6", "fragments", "path_mtus", "metrics", "events_lost"),
        *("service_flows4", "service_flows6", "affinity", "socket_flows"),
    }
)
SCRATCH = frozenset(
    {
        *("clock", "ct_turn", "events", "event_wakeup", "packet_flow", "nat_draft", "service_draft", "xdp_draft"),
    }
)
AGENT = frozenset(layouts.MAPS) - STATE - SCRATCH

NUMBERS_OF = {
    "path_mtus": frozenset(("nodes",)),
    "affinity": frozenset(("services4", "services6", "backends")),
}
"""Maps that name others' entries by number, and do not see whether that means the same still: dropped with them."""


@dataclass(frozen=True, slots=True)
class _Pinned:
    """One map, as it was found. `carries`: its key and value mean what they do now."""

    raw: RawMap
    fits: bool
    carries: bool
    before: RawMap | None


class EarlierMaps:
    """What is pinned in `folder`; descriptors belong to `stack`."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        self._pinned: dict[str, _Pinned] = {}
        self._looked: set[str] = set()
        self._btf: dict[int, btf.Btf] = {}

    def look(self, wanted: libbpf.Map, declared: btf.MapDefinition) -> None:
        """At what is pinned by the name of a map that is wanted. DatapathError if it cannot be opened."""
        if wanted.name in self._looked:
            return
        self._looked.add(wanted.name)
        found = self._open(wanted.name, wanted.name)
        if found is None:
            return
        before = self._open(BEFORE + wanted.name, wanted.name) if wanted.name in STATE else None
        if before is not None and (_same(before, found) or not self._carries(before, wanted, declared)):
            before = None
        info = bpf.map_info(found.fd)
        carries = self._carries(found, wanted, declared)
        shape = (info.type, info.flags, info.max_entries) == (int(wanted.type), wanted.flags, wanted.max_entries)
        self._pinned[wanted.name] = _Pinned(found, carries and shape, carries, before)

    def kept(self) -> dict[str, int]:
        """Descriptors by name of those that are taken over as they are."""
        fit = {name for name, each in self._pinned.items() if each.fits and not self._means_nothing(name)}
        if not all(name in fit for name in self._pinned if name in AGENT):
            fit -= AGENT
        return {name: self._pinned[name].raw.fd for name in fit}

    def moved(self, made: dict[str, int]) -> MovedMaps:
        """What goes along into the maps that were `made` anew, with all that is there by now in them.

        MapFull if a map of AGENT is too small for what it holds.
        """
        kept, going, lost = self.kept(), list[MovedMap](), list[Lost]()
        for name, each in self._pinned.items():
            if name in SCRATCH:
                continue
            if not each.carries or self._means_nothing(name):
                lost += _dropped(name, each.raw)
                continue
            new = RawMap(made[name], name)
            moves = [] if name in kept else [MovedMap(name, each.raw, new, fresh=True)]
            if each.before is not None:  # an agent did not come to its end: programs may write there still
                moves.append(MovedMap(name, each.before, new, fresh=False))
            for move in moves:
                lost += _carry(move)
            going += moves[-1:] if name in STATE else ()
        return MovedMaps(self._folder, going, lost)

    def _means_nothing(self, name: str) -> bool:
        """Whether its entries name those of another map that are dropped."""
        others = (self._pinned.get(other) for other in NUMBERS_OF.get(name, ()))
        return any(other is not None and not other.carries for other in others)

    def _open(self, file: str, name: str) -> RawMap | None:
        path = self._folder / file
        try:
            fd = bpf.object_get(str(path))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DatapathError(f"{path}: cannot be opened: {error.strerror}") from error
        self._stack.callback(os.close, fd)
        return RawMap(fd, name)

    def _carries(self, found: RawMap, wanted: libbpf.Map, declared: btf.MapDefinition) -> bool:
        info = bpf.map_info(found.fd)
        if (info.key_size, info.value_size) != (wanted.key_size, wanted.value_size):
            return False
        sides = ((info.btf_key_type_id, declared.key), (info.btf_value_type_id, declared.value))
        return all(
            not number or side is None or btf.reads_as(self._kernel_btf(info.btf_id).resolve(number), side)
            for number, side in sides
        )

    def _kernel_btf(self, btf_id: int) -> btf.Btf:
        """Maps that one object made share their BTF."""
        if btf_id not in self._btf:
            self._btf[btf_id] = btf.Btf(bpf.btf_blob(btf_id))
        return self._btf[btf_id]


def _carry(move: MovedMap) -> list[Lost]:
    without_room = move.carry()
    if without_room and move.name in AGENT:
        raise MapFull(move.name, move.new.max_entries)
    if without_room and not move.new.array:
        return [Lost(move.name, without_room, "its new size has no room for them")]
    return []


def _dropped(name: str, old: RawMap) -> list[Lost]:
    """Of what the agent writes anew nothing is lost."""
    entries = sum(len(keys) for keys, _ in old.chunks()) if name in STATE else 0
    return [Lost(name, entries, "this version keeps them in another form")] if entries else []


def _same(one: RawMap, other: RawMap) -> bool:
    return bpf.map_info(one.fd).id == bpf.map_info(other.fd).id

"""Which CiliumEndpoint stands in which CiliumEndpointSlice: the fewest bytes to all nodes, and no needless change.

A write of a slice goes to every node whole, so what counts is how much of it is news. New endpoints therefore go
together into slices that must be written anyway, then into those of which they and what left are a worthy part, then
into new ones: first come, first served, not by identity, for thirty pods that start in one second may be of thirty
identities. An endpoint stays where it is until it is gone; so who follows slices never sees it leave one before it is
in another.

Pure. What is planned follows from the slices as they are and the endpoints as they should be, and from nothing else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from pycilium.model.resources.cilium_objects import CiliumEndpointSlice, CoreEndpoint

COMPLETE: Final = "complete"
"""The name of a slice without endpoints, which says that every CiliumEndpoint is in one of the others.

It is made when that has come true, and goes before any other slice does when slices are no longer wanted. It is of
the same kind because only then whoever follows learns of both in order.
"""
MOST: Final = 100
"""Endpoints of one slice, as Cilium has it."""
WORTH: Final = 4
"""Of a slice that need not be written, at most so many others are written again for each that comes or has left."""


class EndpointName(NamedTuple):
    """Which CiliumEndpoint."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Slice:
    """What a CiliumEndpointSlice holds."""

    namespace: str
    entries: Mapping[EndpointName, CoreEndpoint]
    sound: bool = True
    """False: it holds what it must not, and is to be written anew."""

    @classmethod
    def of(cls, resource: CiliumEndpointSlice) -> Slice:
        """What a resource says; of two entries with one name, the first."""
        entries: dict[EndpointName, CoreEndpoint] = {}
        for each in resource.endpoints:
            entries.setdefault(EndpointName(resource.namespace, each.name), each)
        return cls(resource.namespace, entries, sound=len(entries) == len(resource.endpoints))


@dataclass(frozen=True, slots=True)
class SliceWrite:
    """A slice as it should be; without entries it is to go."""

    name: str
    slice: Slice
    urgency: int
    """0: others get an address that leaves it; 1: it says something new; 2: something only leaves it."""
    left: int = 0
    """How many endpoints are no longer in it."""


def planned(
    present: Mapping[str, Slice],
    wanted: Mapping[EndpointName, CoreEndpoint],
    most: int = MOST,
    unknown: Collection[EndpointName] = frozenset(),
) -> list[SliceWrite]:
    """What to write, the urgent first, so that the slices together are what is `wanted`.

    Of an endpoint in `unknown` nobody can say what it is: what slices say of it stays. A slice that holds more than
    `most` keeps them and gets no more.
    """
    plan = _Plan(present, wanted, unknown, most)
    plan.keep()
    plan.place()
    return sorted(plan.writes(), key=lambda write: (write.urgency, write.name))


@dataclass(slots=True)
class _Plan:
    present: Mapping[str, Slice]
    wanted: Mapping[EndpointName, CoreEndpoint]
    unknown: Collection[EndpointName]
    most: int
    touched: dict[str, _Draft] = field(default_factory=dict)
    placed: set[EndpointName] = field(default_factory=set)

    def keep(self) -> None:
        """Everything where it is; of an endpoint in two slices, the one that comes first by name."""
        for name in sorted(self.present):
            slice_ = self.present[name]
            if not self._stays(slice_):
                self.touched[name] = self._kept_of(slice_)
            self.placed.update(slice_.entries)

    def place(self) -> None:
        """Whatever has no place yet."""
        new: dict[str, list[EndpointName]] = {}
        for key in sorted(self.wanted.keys() - self.placed):
            new.setdefault(key.namespace, []).append(key)
        for namespace, keys in new.items():
            for name in self._written_anyway(namespace):
                self._put(name, keys)
            for name in self._others(namespace):
                if keys and self._is_worth_it(name, len(keys)):
                    self.touched.setdefault(name, _Draft(namespace, dict(self.present[name].entries)))
                    self._put(name, keys)
            for name in self._new_names():
                if not keys:
                    break
                self.touched[name] = _Draft(namespace, {})
                self._put(name, keys)

    def writes(self) -> Iterator[SliceWrite]:
        taken = {address for draft in self.touched.values() for each in draft.come for address in _addresses(each)}
        for name, draft in self.touched.items():
            frees = any(address in taken for each in draft.gone() for address in _addresses(each))
            urgency = 0 if frees else 1 if draft.come else 2
            yield SliceWrite(name, Slice(draft.namespace, draft.entries), urgency, len(draft.left))

    def _stays(self, slice_: Slice) -> bool:
        """Nearly every slice, so every endpoint is looked at here: by which object it is, before what it says."""
        wanted = self.wanted.get
        return (
            slice_.sound
            and bool(slice_.entries)
            and all(wanted(key) is entry or self._says(key, entry) for key, entry in slice_.entries.items())
            and self.placed.isdisjoint(slice_.entries)
        )

    def _says(self, key: EndpointName, entry: CoreEndpoint) -> bool:
        wanted = self.wanted.get(key)
        return wanted == entry or (wanted is None and key in self.unknown)

    def _kept_of(self, slice_: Slice) -> _Draft:
        draft = _Draft(slice_.namespace, {})
        for key, entry in slice_.entries.items():
            wanted = self.wanted.get(key, entry if key in self.unknown else None)
            if wanted is None or key in self.placed:
                draft.left.append(entry)
                continue
            draft.entries[key] = wanted
            if wanted != entry:
                draft.come.append(wanted)
                draft.left.append(entry)
        return draft

    def _put(self, name: str, keys: list[EndpointName]) -> None:
        """As many as there is room for, the first first."""
        draft = self.touched[name]
        room = max(0, self.most - len(draft.entries))
        for key in keys[:room]:
            draft.entries[key] = self.wanted[key]
            draft.come.append(self.wanted[key])
        del keys[:room]

    def _written_anyway(self, namespace: str) -> list[str]:
        """The fullest first, so that others may become empty and go."""
        found = (name for name, draft in self.touched.items() if draft.namespace == namespace and draft.come)
        return sorted(found, key=lambda name: (-len(self.touched[name].entries), name))

    def _others(self, namespace: str) -> list[str]:
        """Those first that most has left, then the fullest."""
        found = (
            (-len(draft.left) if (draft := self.touched.get(name)) is not None else 0, -len(slice_.entries), name)
            for name, slice_ in self.present.items()
            if slice_.namespace == namespace
        )
        return [name for *_, name in sorted(found)]

    def _is_worth_it(self, name: str, new: int) -> bool:
        """Whether so much of the slice would be news that it may be written for it."""
        draft = self.touched.get(name)
        kept, left = (len(draft.entries), len(draft.left)) if draft else (len(self.present[name].entries), 0)
        return kept < self.most and kept <= WORTH * (left + min(new, self.most - kept))

    def _new_names(self) -> Iterator[str]:
        """The lowest numbers that are free: of two operators that both believe they lead, only one gets such a name."""
        number = 0
        while True:
            number += 1
            name = f"ces-{number}"
            if name not in self.present and name not in self.touched:
                yield name


@dataclass(slots=True)
class _Draft:
    """A slice in the making."""

    namespace: str
    entries: dict[EndpointName, CoreEndpoint]
    come: list[CoreEndpoint] = field(default_factory=list)
    left: list[CoreEndpoint] = field(default_factory=list)

    def gone(self) -> Iterable[CoreEndpoint]:
        """Those whose addresses nobody has any more by this slice."""
        here = {address for each in self.entries.values() for address in _addresses(each)} if self.left else set()
        return (each for each in self.left if not here.issuperset(_addresses(each)))


def _addresses(core: CoreEndpoint) -> list[str]:
    pairs = core.networking.addressing if core.networking is not None else ()
    return [address for pair in pairs for address in (pair.ipv4, pair.ipv6) if address]

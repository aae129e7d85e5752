"""From desired frontends to writes: which ids, slots and entries the kernel's maps shall get, and in which order.

    planner = ServicePlanner(capacities, MapContents(...))     what the maps hold; empty ones after a boot
    plan = planner.replace(all frontends, now)                 once, then for each change:
    plan = planner.update({L4Address: Frontend or None}, now)

A plan is carried out in the order of its fields; each step is harmless while the next has not been done, so that a
program sees of a frontend one whole set or the other, and no slot that leads to an id that nobody has:

    1. backends       rows of service_backends
    2. slots          runs of service_slots, which no frontend leads to yet
    3. source_ranges  entries to add (True); those to remove (False) are removed after 4
    4. frontends      entries of services4/6 to write, or to delete (None)

Then, whenever frontends have been written (and at least once a second while `planner.busy`):

    retired = planner.realized(pending, now)                   pending: frontends that the kernel refused so far
    5. retired        ids whose rows become BACKEND_NONE: what still has them chooses another backend

What is left behind rests until no frontend in the kernel leads to it and `grace_s` has passed (`backend_sets`), so a
program that has read a frontend never finds other slots or backends than it had then. Ids of frontends only go up:
what remembers one (connections, events) does not take another frontend for it. So do those of what clients with session
affinity have had (`affinity`), which frontends of one port of a Service share.

A frontend for which there is no room keeps what it has, or stays away; `problems` says what to raise, and each later
update tries it again.

A restarted agent reads the maps back: every frontend keeps its id, every backend too, and a set whose slots would be
the same keeps its run and is not written. Pure; `now` is any clock that only goes forward.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from pycilium.model.peer import Network
from pycilium.model.service import Algorithm, Backend, Frontend, L4Address, ServiceFlag
from pycilium.services.affinity import Affinities
from pycilium.services.backend_ids import BackendIds
from pycilium.services.backend_sets import BackendSet, BackendSets, Members, NoRoomError
from pycilium.services.map_values import (
    BackendRows,
    Capacities,
    FrontendEntry,
    MapContents,
    Plan,
    Retired,
    SourceRange,
    backend_rows,
    flags_of,
)
from pycilium.services.runs import NO_RUN, Run


@dataclass(slots=True)
class _Realized:
    """What a frontend leads to, as last planned. Of one that an earlier agent left, `frontend` is not known."""

    entry: FrontendEntry
    inside: BackendSet | None
    outside: BackendSet | None
    frontend: Frontend | None = None

    @property
    def sets(self) -> tuple[BackendSet, ...]:
        return tuple(each for each in (self.inside, self.outside) if each is not None)


class ServicePlanner:
    """Owns the numbers of services in this node's maps."""

    def __init__(self, capacities: Capacities, contents: MapContents | None = None) -> None:
        contents = contents or MapContents()
        self._ids = BackendIds(capacities.backends, contents.backends)
        self._sets = BackendSets(capacities.slots, self._ids, capacities.maglev_table_size, capacities.grace_s)
        self._grace_s = capacities.grace_s
        self._planned: dict[L4Address, _Realized] = {}
        self._by_service_id: dict[int, L4Address] = {}
        self._next_service_id = 1
        self._affinities = Affinities()
        self._ranges: dict[int, frozenset[Network]] = {}
        self._waiting: dict[L4Address, tuple[Frontend, str]] = {}
        self._members: dict[tuple[int, Algorithm], Members] = {}
        self._restore(contents)

    # == what is asked ==

    def replace(self, frontends: Iterable[Frontend], now: float) -> Plan:
        """These are all frontends that there shall be."""
        wanted: dict[L4Address, Frontend | None] = {frontend.at: frontend for frontend in frontends}
        gone = {at: None for at in (*self._planned, *self._waiting) if at not in wanted}
        return self.update({**gone, **wanted}, now)

    def update(self, changes: Mapping[L4Address, Frontend | None], now: float) -> Plan:
        """Each of these frontends shall be so, or not be (None). What found no room before is tried again."""
        self._ids.free_rested(now, self._grace_s)
        entries: dict[L4Address, FrontendEntry | None] = {}
        ranges: dict[SourceRange, bool] = {}
        again = {at: frontend for at, (frontend, _) in self._waiting.items() if at not in changes}
        # First those that have an id of affinity already: new ones of the same port take it.
        for at, frontend in sorted({**changes, **again}.items(), key=lambda change: change[0] not in self._planned):
            self._waiting.pop(at, None)
            if frontend is None:
                self._remove(at, entries, ranges)
            else:
                self._place(frontend, entries, ranges)
        self._members.clear()
        written, self._sets.written = self._sets.written, []
        return Plan(self._rows(), tuple(written), ranges, entries)

    def realized(self, pending: Collection[L4Address], now: float) -> Retired:
        """All planned switches are in the kernel but those of `pending`; what they left behind begins to rest."""
        still = self._sets.realized(pending, now)
        self._ids.free_rested(now, self._grace_s)
        return Retired({number: self._ids.at[number] for number in self._ids.gone(still, now)})

    # == what is known ==

    @property
    def busy(self) -> bool:
        """Whether `realized` should be called again: something rests, or waits for what rests."""
        return self._sets.resting or self._ids.resting or bool(self._waiting)

    @property
    def problems(self) -> dict[L4Address, str]:
        """Frontends that are not as they should be for want of room, and what to raise."""
        return {at: reason for at, (_, reason) in self._waiting.items()}

    def entry(self, at: L4Address) -> FrontendEntry | None:
        """What a frontend's entry is, as last planned."""
        planned = self._planned.get(at)
        return planned.entry if planned is not None else None

    def backend_ids(self, at: L4Address) -> tuple[tuple[int, ...], ...]:
        """The ids of all backends of a frontend, as last planned: of each set to which it leads."""
        planned = self._planned.get(at)
        return tuple(dict.fromkeys(each.numbers for each in planned.sets)) if planned is not None else ()

    def remembered(self, affinity_id: int) -> set[int]:
        """The ids of the backends that clients may have had who are remembered by that id."""
        return {
            number for at in self._affinities.sharing(affinity_id) for ids in self.backend_ids(at) for number in ids
        }

    def backend(self, number: int) -> L4Address | None:
        """Which backend has an id, None if nothing has it."""
        return self._ids.at.get(number)

    def frontend_of(self, service_id: int) -> L4Address | None:
        """The frontend that has this id."""
        return self._by_service_id.get(service_id)

    def backend_id(self, at: L4Address) -> int | None:
        """The id of a backend, None if it has none."""
        return self._ids.known(at)

    @property
    def backends_used(self) -> int:
        return len(self._ids)

    @property
    def free_slots(self) -> int:
        return self._sets.free_slots

    # == one frontend ==

    def _place(
        self, frontend: Frontend, entries: dict[L4Address, FrontendEntry | None], ranges: dict[SourceRange, bool]
    ) -> None:
        at = frontend.at
        previous = self._planned.get(at)
        if previous is not None and previous.frontend == frontend:
            return
        present = previous.sets if previous is not None else ()
        try:
            inside, outside = self._want(frontend, present)
        except NoRoomError as error:
            self._waiting[at] = (frontend, str(error))
            return
        for each in present:
            self._sets.leave(each, at)
        flags = flags_of(frontend)
        service_id = self._service_id(at, previous.entry if previous is not None else None, flags)
        affinity_id = self._affinities.join(
            frontend, previous.entry.affinity_id if previous is not None else 0, self._fresh_id
        )
        entry = FrontendEntry(_run(inside), _run(outside), service_id, frontend.affinity_s, flags, affinity_id)
        self._planned[at] = _Realized(entry, inside, outside, frontend)
        if previous is None or previous.entry != entry:
            entries[at] = entry
        if previous is not None and previous.entry.service_id != service_id:
            self._forget_id(previous.entry.service_id, at, ranges)
        self._set_ranges(service_id, _networks(frontend), ranges)

    def _remove(
        self, at: L4Address, entries: dict[L4Address, FrontendEntry | None], ranges: dict[SourceRange, bool]
    ) -> None:
        previous = self._planned.pop(at, None)
        if previous is None:
            return
        for each in previous.sets:
            self._sets.leave(each, at)
        entries[at] = None
        self._affinities.leave(at)
        self._forget_id(previous.entry.service_id, at, ranges)

    def _want(self, frontend: Frontend, present: Sequence[BackendSet]) -> tuple[BackendSet | None, BackendSet | None]:
        inside = self._want_set(frontend.inside, frontend.algorithm, present)
        try:
            return inside, self._want_set(frontend.outside, frontend.algorithm, present)
        except NoRoomError:
            if inside is not None:
                self._sets.leave(inside, frontend.at)
            raise

    def _want_set(
        self, backends: tuple[Backend, ...], algorithm: Algorithm, present: Sequence[BackendSet]
    ) -> BackendSet | None:
        if not backends:
            return None
        # The frontends of one service mostly have the very same tuple of backends.
        members = self._members.get((id(backends), algorithm))
        if members is None:
            members = self._members[id(backends), algorithm] = self._sets.members(backends, algorithm)
        return self._sets.want(members, present)

    # == ids of frontends, and their source ranges ==

    def _service_id(self, at: L4Address, previous: FrontendEntry | None, flags: ServiceFlag) -> int:
        """The id that the frontend has; a new one for a new frontend, or if its source ranges now mean the opposite."""
        judged = ServiceFlag.SOURCE_ALLOW | ServiceFlag.SOURCE_DENY
        if previous is not None and self._by_service_id.get(previous.service_id) == at:
            before, after = previous.flags & judged, flags & judged
            if before == after or not before or not after:
                return previous.service_id
        service_id = self._fresh_id()
        self._by_service_id[service_id] = at
        return service_id

    def _fresh_id(self) -> int:
        fresh = self._next_service_id
        self._next_service_id += 1
        return fresh

    def _forget_id(self, service_id: int, at: L4Address, ranges: dict[SourceRange, bool]) -> None:
        if self._by_service_id.get(service_id) == at:
            del self._by_service_id[service_id]
            self._set_ranges(service_id, frozenset(), ranges)

    def _set_ranges(self, service_id: int, networks: frozenset[Network], ranges: dict[SourceRange, bool]) -> None:
        before = self._ranges.pop(service_id, frozenset())
        for network in networks - before:
            ranges[SourceRange(service_id, network)] = True
        for network in before - networks:
            ranges[SourceRange(service_id, network)] = False
        if networks:
            self._ranges[service_id] = networks

    # == what the maps hold ==

    def _rows(self) -> BackendRows:
        states = self._ids.changed_states()
        return backend_rows({number: (self._ids.at[number], state) for number, state in states.items()})

    def _restore(self, contents: MapContents) -> None:
        runs = [run for entry in contents.frontends.values() for run in (entry.inside, entry.outside)]
        sets = self._sets.restore(runs, contents.slots)
        for at, entry in contents.frontends.items():
            restored = _Realized(entry, sets.get(entry.inside), sets.get(entry.outside))
            self._planned[at] = restored
            for each in restored.sets:
                self._sets.join(each)
            if entry.service_id:
                self._by_service_id.setdefault(entry.service_id, at)
        ranges: defaultdict[int, set[Network]] = defaultdict(set)
        for each_range in contents.source_ranges:
            ranges[each_range.service_id].add(each_range.network)
        self._ranges = {service_id: frozenset(networks) for service_id, networks in ranges.items()}
        affinities = (entry.affinity_id for entry in contents.frontends.values())
        self._next_service_id = 1 + max((0, *self._by_service_id, *self._ranges, *affinities))


def _networks(frontend: Frontend) -> frozenset[Network]:
    return frozenset(frontend.source_ranges.networks) if frontend.source_ranges is not None else frozenset()


def _run(backend_set: BackendSet | None) -> Run:
    return backend_set.run if backend_set is not None else NO_RUN

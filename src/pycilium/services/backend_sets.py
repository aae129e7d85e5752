"""Sets of backends as runs of service_slots. Frontends that choose among the same backends in the same way share one.

A set that no frontend wants any more rests, whole and with its run, until no frontend in the kernel leads to it and a
grace time has passed after that: no program can then have read the frontend before and the run after. While it rests it
can be taken up again as it is, so backends that come and go and come again cost nothing but the switches.

Invariant: the slots of a set that is there, wanted or resting, are not written.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from pycilium.model.service import Algorithm, Backend, BackendState, L4Address
from pycilium.services import maglev
from pycilium.services.backend_ids import BackendIds
from pycilium.services.map_values import Slots
from pycilium.services.runs import NO_RUN, FreeRuns, Run


@dataclass(slots=True, eq=False)
class BackendSet:
    """One set. `numbers` are the ids of all of its backends, `active` of those that take connections by their state."""

    key: Hashable
    """Its members, or its run while it is not known what an earlier agent meant by it."""
    run: Run
    numbers: tuple[int, ...]
    active: tuple[int, ...]
    wanted_by: int = 0
    left_by: set[L4Address] = field(default_factory=set)
    """Frontends that wanted it, and of which the kernel may not know better yet."""
    left_since: float | None = None
    """When the last of them was known to know better."""


@dataclass(frozen=True, slots=True)
class Members:
    """What a set is to hold: who is chosen how often, and who is only kept."""

    numbers: tuple[int, ...]
    active: tuple[int, ...]
    chosen: tuple[int, ...]
    weights: tuple[int, ...]
    table_size: int
    """Of a Maglev table; 0 for a set of which one is chosen at random."""

    @property
    def slots(self) -> int:
        return (self.table_size or sum(self.weights)) if self.chosen else 0


class NoRoomError(Exception):
    """No run of slots, or no id, is free for a set. Carries what lacks."""


class BackendSets:
    """Owns all sets and which run each one has."""

    def __init__(self, capacity: int, ids: BackendIds, table_size: int, grace_s: float) -> None:
        self._ids, self._table_size, self._grace_s = ids, table_size, grace_s
        self._free = FreeRuns(capacity)
        self._sets: dict[Hashable, BackendSet] = {}
        self._left: set[BackendSet] = set()
        self._restored_slots: dict[Run, Slots] = {}
        self.written: list[tuple[Run, Slots]] = []
        """Runs to be written before any frontend is switched to them; whoever plans takes them."""

    def __len__(self) -> int:
        return len(self._sets)

    @property
    def free_slots(self) -> int:
        return self._free.free

    def restore(self, runs: Iterable[Run], slots: Slots) -> dict[Run, BackendSet]:
        """The sets that frontends in the kernel lead to, without those that overlap another or leave the map."""
        found: dict[Run, BackendSet] = {}
        end = 0
        for run in sorted(set(runs)):
            if run.slots and run.first >= end and run.end <= self._free.capacity:
                content = self._restored_slots[run] = slots[run.first : run.end]
                numbers = tuple(number for number in np.unique(content).tolist() if number in self._ids.at)
                active = tuple(number for number in numbers if self._ids.state[number] == BackendState.ACTIVE)
                found[run] = self._sets[run] = BackendSet(run, run, numbers, active)
                self._ids.name(numbers)
                end = run.end
        self._free = FreeRuns(self._free.capacity, found)
        return found

    def members(self, backends: Sequence[Backend], algorithm: Algorithm) -> Members:
        """What a set of these holds. Raises NoRoomError if there is no id for one of them."""
        numbers = tuple(self._numbers(backends))
        if all(backend.weight == 1 and backend.state is BackendState.ACTIVE for backend in backends):
            return self._chosen(numbers, numbers, (1,) * len(numbers), algorithm, taking=True)  # mostly so
        takers = [each for each in zip(numbers, backends, strict=True) if each[1].weight]
        active = [each for each in takers if each[1].state is BackendState.ACTIVE]
        chosen = active or takers
        weights = tuple(backend.weight for _, backend in chosen)
        return self._chosen(numbers, tuple(number for number, _ in chosen), weights, algorithm, taking=bool(active))

    def want(self, members: Members, present: Iterable[BackendSet]) -> BackendSet:
        """The set with these members, wanted by one more. Raises NoRoomError.

        `present` are those that the kernel leads to now: of restored ones one may turn out to be it.
        """
        found = self._sets.get(members)
        if found is None:
            found = self._restored(members, present) or self._new(members)
        self.join(found)
        return found

    def join(self, backend_set: BackendSet) -> None:
        """One more frontend wants it."""
        if not backend_set.wanted_by:
            self._ids.want(backend_set.numbers, backend_set.active)
        backend_set.wanted_by += 1

    def leave(self, backend_set: BackendSet, frontend: L4Address) -> None:
        """`frontend` wants it no longer; the kernel may still lead from it to the set."""
        backend_set.wanted_by -= 1
        if not backend_set.wanted_by:
            self._ids.unwant(backend_set.numbers, backend_set.active)
        backend_set.left_by.add(frontend)
        backend_set.left_since = None
        self._left.add(backend_set)

    def realized(self, pending: Collection[L4Address], now: float) -> set[int]:
        """The kernel knows of all switches but those of `pending`. Returns the ids to which these may still lead."""
        still: set[int] = set()
        for each in list(self._left):
            each.left_by.intersection_update(pending)
            if each.left_by:
                still.update(each.numbers)
            elif each.wanted_by:
                self._left.discard(each)
                each.left_since = None
            elif each.left_since is None:
                each.left_since = now
            elif now - each.left_since >= self._grace_s:
                self._drop(each)
        return still

    @property
    def resting(self) -> bool:
        """Whether time alone will bring room."""
        return bool(self._left)

    def _chosen(
        self,
        numbers: tuple[int, ...],
        chosen: tuple[int, ...],
        weights: tuple[int, ...],
        algorithm: Algorithm,
        *,
        taking: bool,
    ) -> Members:
        """`taking`: whether those that are chosen take connections by their state."""
        table_size = self._table_size if algorithm is Algorithm.MAGLEV and len(chosen) > 1 else 0
        return Members(numbers, chosen if taking else (), chosen, weights, table_size)

    def _numbers(self, backends: Sequence[Backend]) -> Iterator[int]:
        for number in self._ids.of_all(backends):
            if number is None:
                raise NoRoomError(f"all {self._ids.capacity - 1} backends are in use: raise backend_capacity")
            yield number

    def _restored(self, members: Members, present: Iterable[BackendSet]) -> BackendSet | None:
        """A restored set whose run is, slot for slot, that of these members: it becomes theirs."""
        for each in present:
            content = self._restored_slots.get(each.run)
            if content is None or len(content) != members.slots or not set(each.numbers) <= set(members.chosen):
                continue
            if np.array_equal(content, self._slots(members)):
                self._become(each, members)
                return each
        return None

    def _become(self, restored: BackendSet, members: Members) -> None:
        self._ids.name(members.numbers)
        self._ids.unname(restored.numbers)
        if restored.wanted_by:
            self._ids.want(members.numbers, members.active)
            self._ids.unwant(restored.numbers, restored.active)
        del self._sets[restored.key], self._restored_slots[restored.run]
        restored.key, restored.numbers, restored.active = members, members.numbers, members.active
        self._sets[members] = restored

    def _new(self, members: Members) -> BackendSet:
        run = self._free.take(members.slots) if members.slots else NO_RUN
        if run is None:
            raise NoRoomError(
                f"no {members.slots} neighbouring slots are free, of {self._free.free} that are: "
                f"raise service_slot_capacity"
            )
        if run.slots:
            self.written.append((run, self._slots(members)))
        found = BackendSet(members, run, members.numbers, members.active)
        self._sets[members] = found
        self._ids.name(found.numbers)
        return found

    def _slots(self, members: Members) -> Slots:
        chosen = np.array(members.chosen, dtype=np.uint32)
        if members.table_size:
            addresses = [self._ids.at[number] for number in members.chosen]
            return chosen[maglev.table(addresses, members.weights, members.table_size)]
        return np.repeat(chosen, members.weights) if max(members.weights) > 1 else chosen

    def _drop(self, backend_set: BackendSet) -> None:
        self._left.discard(backend_set)
        del self._sets[backend_set.key]
        self._restored_slots.pop(backend_set.run, None)
        self._ids.unname(backend_set.numbers)
        if backend_set.run.slots:
            self._free.give_back(backend_set.run)

"""Ids of backends: which address has which, and what state the kernel should know it in.

An id is *live* while a set that is wanted names it. When none does any longer it is told to the kernel as NONE, as soon
as no frontend in the kernel leads to it, and given out again only a grace time after that: then no program can still
have it in hand. Of free ids the one that has been free longest is given out, for what clients remember (affinity) names
ids too.

Invariant: an id that a set names, wanted or resting, belongs to one address.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Container, Iterable, Mapping, Sequence

from pycilium.model.service import Backend, BackendState, L4Address

NONE = 0
"""`BACKEND_NONE`: nothing has this id."""
_ACTIVE, _TERMINATING = int(BackendState.ACTIVE), int(BackendState.TERMINATING)


class BackendIds:
    """Owns ids 1 to `capacity` - 1."""

    def __init__(self, capacity: int, restored: Mapping[int, tuple[L4Address, int]]) -> None:
        """`restored`: what the kernel has, id → address and state. Of two ids of one address the first keeps it."""
        self.capacity = capacity
        self._ids: dict[int, int] = {}
        self.at: dict[int, L4Address] = {}
        self.state = bytearray(capacity)
        """By id: what the kernel was told."""
        self._live, self._active, self._named = (array("I", bytes(4 * capacity)) for _ in range(3))
        """By id: in how many sets it is that are wanted; as one that takes connections; that are there at all."""
        restored = {number: each for number, each in restored.items() if 0 < number < capacity}
        self._fading: set[int] = set(restored)
        self._none_since: dict[int, float] = {}
        self._touched: set[int] = set()
        """Those that became live or active, or no longer are: only their states may be others."""
        self._free: deque[int] = deque()
        self._next = 1
        for number, (at, state) in restored.items():
            self.at[number], self.state[number] = at, state
            self._ids.setdefault(at.number, number)

    def __len__(self) -> int:
        """How many are in use, or rest."""
        return len(self.at)

    def of(self, at: L4Address) -> int | None:
        """The id of an address; a new one if it has none, None if there is none left."""
        number = self._ids.get(at.number)
        if number is None:
            number = self._take()
            if number is not None:
                self._ids[at.number] = number
                self.at[number] = at
                self._fading.add(number)  # until a set names it
        return number

    def of_all(self, backends: Sequence[Backend]) -> list[int | None]:
        """The ids of these, as `of` gives them."""
        ids = self._ids
        numbers = [ids.get(backend.at.number) for backend in backends]
        return [self.of(backend.at) for backend in backends] if None in numbers else numbers

    def known(self, at: L4Address) -> int | None:
        """The id of an address, None if it has none."""
        return self._ids.get(at.number)

    @property
    def resting(self) -> bool:
        """Whether some wait to be told as NONE, or to be given back."""
        return bool(self._fading or self._none_since)

    # == sets ==

    def name(self, numbers: Iterable[int]) -> None:
        """A set that names these is there now."""
        for number in numbers:
            self._named[number] += 1

    def unname(self, numbers: Iterable[int]) -> None:
        """It is gone."""
        for number in numbers:
            self._named[number] -= 1

    def want(self, numbers: Iterable[int], active: Iterable[int]) -> None:
        """A set of these is wanted now; `active` are those of them that take connections."""
        for counts, counted in ((self._live, numbers), (self._active, active)):
            for number in counted:
                if not counts[number]:
                    self._touched.add(number)
                counts[number] += 1

    def unwant(self, numbers: Iterable[int], active: Iterable[int]) -> None:
        """It is wanted no longer."""
        for counts, counted in ((self._live, numbers), (self._active, active)):
            for number in counted:
                counts[number] -= 1
                if not counts[number]:
                    self._touched.add(number)

    # == states ==

    def changed_states(self) -> dict[int, int]:
        """The states that the kernel is to be told before frontends are switched: of all that are live."""
        changed: dict[int, int] = {}
        for number in self._touched:
            if not self._live[number]:
                self._fading.add(number)
                continue
            self._fading.discard(number)
            self._none_since.pop(number, None)
            state = _ACTIVE if self._active[number] else _TERMINATING
            if self.state[number] != state:
                self.state[number] = changed[number] = state
        self._touched.clear()
        return changed

    def gone(self, still_named: Container[int], now: float) -> list[int]:
        """Those that the kernel is to know as NONE now; `still_named` are those to which a frontend may still lead."""
        if not self._fading:
            self._fading = set()  # one that was big is slow to look through
            return []
        gone = [number for number in self._fading if number not in still_named]
        for number in gone:
            self._fading.discard(number)
            self.state[number] = NONE
            self._none_since[number] = now
        return gone

    def free_rested(self, now: float, grace_s: float) -> None:
        """Give back what has been NONE for the grace time and stands in no set."""
        if not self._none_since:
            self._none_since = {}
            return
        for number, since in list(self._none_since.items()):
            if now - since >= grace_s and not self._named[number]:
                self._free_one(number)

    def _free_one(self, number: int) -> None:
        del self._none_since[number]
        key = self.at.pop(number).number
        if self._ids.get(key) == number:
            del self._ids[key]
        if number < self._next:  # else the search for numbers that were never used comes by it
            self._free.append(number)

    def _take(self) -> int | None:
        while self._next in self.at:
            self._next += 1
        if self._next < self.capacity:
            self._next += 1
            return self._next - 1
        return self._free.popleft() if self._free else None

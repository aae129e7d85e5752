"""Node ids: this node's own numbers for the others, by which ipcache entries say where an address is.

A node keeps its id for as long as it is known, wherever it moves; after a restart it has the id under which the nodes
map holds its address. A freed id rests until its removal, and that of all that referred to it, is realized.

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pycilium.model.peer import Address
from pycilium.reconcile import NumberPool, NumbersExhaustedError


class NodeNumbers:
    """Gives ids to names; see the module.

    Args:
        in_use: ids that an earlier agent left in the map, with the addresses that they stand for.
        capacity: of the map; 0 is no id.
    """

    def __init__(self, in_use: Mapping[int, Address], capacity: int) -> None:
        self._pool = NumberPool(range(1, capacity), in_use)
        self._kept = {address: number for number, address in sorted(in_use.items(), reverse=True)}
        self._numbers: dict[str, int] = {}
        self._without: set[str] = set()
        self._resting = bool(in_use)
        self._rested = False

    @property
    def numbers(self) -> Mapping[str, int]:
        """Name → id."""
        return MappingProxyType(self._numbers)

    @property
    def without(self) -> frozenset[str]:
        """Nodes for which there was no id left."""
        return frozenset(self._without)

    @property
    def retry_due(self) -> bool:
        """Whether an id came free since `assign` found none for a node."""
        return self._rested and bool(self._without)

    def assign(self, addresses: Mapping[str, Address]) -> None:
        """Give an id to each of these nodes and to no other."""
        for name in [name for name in self._numbers if name not in addresses]:
            self._pool.release(self._numbers.pop(name))
            self._resting = True
        self._rested = False
        self._without.clear()
        new = sorted(addresses.keys() - self._numbers.keys())
        for name in new:
            kept = self._kept.pop(addresses[name], None)
            if kept is not None:
                self._pool.claim(kept)
                self._numbers[name] = kept
        for name in new:
            if name not in self._numbers:
                self._take(name)

    def realized(self) -> None:
        """The kernel has caught up: freed ids may be given out again."""
        self._kept.clear()
        self._pool.realized()
        self._rested |= self._resting
        self._resting = False

    def _take(self, name: str) -> None:
        try:
            self._numbers[name] = self._pool.take()
        except NumbersExhaustedError:
            self._without.add(name)

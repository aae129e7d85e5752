"""Maglev's lookup tables: which backend each slot belongs to.

Every backend has its own order of preference over all slots, which follows from its address alone; in turns, each
takes the first slot in its order that is still free, as many a turn as its weight says. So all shares are even, and
when one backend comes or goes nearly all slots stay with whom they had. The table does not depend on the order in which
backends are given, and is the same on every node.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from math import gcd
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pycilium.model.service import L4Address

TABLE_SIZES: Final = (251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521, 131071)
"""Primes, so that each step leads through all slots. The size should be a hundred times the number of backends."""


def table(backends: Sequence[L4Address], weights: Sequence[int], size: int) -> NDArray[np.uint32]:
    """For each of `size` slots the position of its backend in `backends`.

    There must be at least one; weights are at least 1. Of more backends than slots, the last in turn get none.
    """
    if len(backends) == 1:
        return np.zeros(size, dtype=np.uint32)
    walks = [_walk(backend, size) for backend in backends]
    order = sorted(range(len(backends)), key=walks.__getitem__)
    shared = gcd(*weights)
    turns = [index for index in order for _ in range(weights[index] // shared)]
    free = bytearray(b"\1") * size
    owners = [0] * size
    left = size
    wanted = [filter(free.__getitem__, _slots(walk, size)) for walk in walks]
    few = _FEW // len(backends)
    while left:
        if few and left <= few:
            remaining = np.flatnonzero(np.frombuffer(free, dtype=np.uint8))
            wanted = [filter(free.__getitem__, _sorted(remaining, walk, size)) for walk in walks]
            few = 0
        for index in turns[:left]:
            slot = next(wanted[index])
            free[slot] = 0
            owners[slot] = index
        left -= min(left, len(turns))
    return np.array(owners, dtype=np.uint32)


class _Walk(NamedTuple):
    """A backend's order of preference: from `offset` on, always `step` further, around the table."""

    offset: int
    step: int
    seed: bytes


_FEW = 20_000
"""Backends times free slots. From there on it is quicker to sort the free slots by each backend's order than to step
over the others; without this most of the time would go into the last hundred slots."""


def _walk(backend: L4Address, size: int) -> _Walk:
    seed = blake2b(str(backend).encode(), digest_size=16).digest()
    return _Walk(int.from_bytes(seed[:8], "big") % size, int.from_bytes(seed[8:], "big") % (size - 1) + 1, seed)


def _slots(walk: _Walk, size: int) -> Iterator[int]:
    """All slots in this order; built of C's own iterators, as tens of thousands are looked at."""
    return map(size.__rmod__, range(walk.offset, walk.offset + walk.step * size, walk.step))


def _sorted(slots: NDArray[np.intp], walk: _Walk, size: int) -> Iterator[int]:
    """These slots in this order."""
    positions = (slots - walk.offset) * pow(walk.step, -1, size) % size
    return iter(slots[np.argsort(positions)].tolist())

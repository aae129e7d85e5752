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
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pycilium.model.service import L4Address

TABLE_SIZES: Final = (251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521, 131071)
"""Primes, so that each step leads through all slots. The size should be a hundred times the number of backends."""


def table(backends: Sequence[L4Address], weights: Sequence[int], size: int) -> NDArray[np.uint32]:
    """For each of `size` slots the position of its backend in `backends`.

    There must be at least one; weights are at least 1. Of more backends than slots, the last in turn get none.
    """
    seeds = [_seed(backend) for backend in backends]
    order = sorted(range(len(backends)), key=seeds.__getitem__)
    if len(order) == 1:
        return np.zeros(size, dtype=np.uint32)
    shared = gcd(*weights)
    free = bytearray(b"\1") * size
    turns: list[tuple[Iterator[int], int]] = []
    for index in order:
        turns += [(_wanted(seeds[index], size, free), index)] * (weights[index] // shared)
    owners = [0] * size
    left = size
    while left:
        for slots, index in turns[:left]:
            slot = next(slots)
            free[slot] = 0
            owners[slot] = index
        left -= min(left, len(turns))
    return np.array(owners, dtype=np.uint32)


def _wanted(seed: bytes, size: int, free: bytearray) -> Iterator[int]:
    """The slots in a backend's order of preference that are free when it comes to them.

    Built of C's own iterators: of 16,381 slots 160,000 are looked at.
    """
    offset = int.from_bytes(seed[:8], "big") % size
    step = int.from_bytes(seed[8:], "big") % (size - 1) + 1
    return filter(free.__getitem__, map(size.__rmod__, range(offset, offset + step * size, step)))


def _seed(backend: L4Address) -> bytes:
    return blake2b(str(backend).encode(), digest_size=16).digest()

"""The two bands of a range of numbers that both users and the allocator choose from. Decisions only.

The lower, static band is for numbers that users write down; the allocator takes from the upper band first, and from the
lower one only when nothing else is left. So a number that somebody writes down is seldom taken already (Kubernetes'
KEP-3070 for cluster IPs, KEP-3668 for node ports).

Where the allocator begins to look follows from the owner's name: who is made again gets, most often, the number again
that it had, and two allocators that do not see each other seldom choose the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BandedRange:
    """The numbers `first`…`last`; the first `static` of them are the static band."""

    first: int
    last: int
    static: int = 0

    @property
    def size(self) -> int:
        return self.last - self.first + 1

    def __contains__(self, number: int) -> bool:
        return self.first <= number <= self.last

    def choose(self, owner: str, taken: Container[int]) -> int | None:
        """A number that is not taken; None if all are."""
        start = int.from_bytes(hashlib.sha256(owner.encode()).digest()[:8])
        for low, size in ((self.first + self.static, self.size - self.static), (self.first, self.static)):
            for step in range(size):
                number = low + (start + step) % size
                if number not in taken:
                    return number
        return None


def static_band(size: int, *, share: int, least: int, most: int) -> int:
    """How many numbers of a range of `size` are the static band: a part in `share`, but not in a tiny range."""
    return 0 if size <= least else min(max(least, size // share), most)

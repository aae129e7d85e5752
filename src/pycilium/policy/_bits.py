"""Identity bits: for each identity and bank the mask of the selectors that it belongs to, and what changed of them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from pycilium.policy._numbers import Words

BANK_WORDS = 8
BANK_BITS = BANK_WORDS * 64

ANY_BIT = 1
"""Everybody has it in every bank."""

_WORD = (1 << 64) - 1

BitsKey = tuple[int, int]
"""Identity and bank."""


@lru_cache(maxsize=4096)  # identities of alike pods have equal masks, and share the words
def words_of(mask: int) -> Words:
    """The eight words of a bank, as the kernel has them."""
    w0, w1, w2, w3, w4, w5, w6, w7 = ((mask >> shift) & _WORD for shift in range(0, BANK_BITS, 64))
    return w0, w1, w2, w3, w4, w5, w6, w7


class IdentityBits:
    """Masks, and what each was when its changes were last taken."""

    def __init__(self) -> None:
        self._masks: dict[BitsKey, int] = {}
        self._before: dict[BitsKey, int] = {}
        self._banks: set[int] = set()
        """Those that anybody has or had a mask in: few of all that there may be."""

    def assign(self, identity: int, masks: dict[int, int]) -> None:
        """The identity has these masks (bank → mask) and no others."""
        self._banks.update(masks)
        for bank in self._banks:
            self._set((identity, bank), masks.get(bank, 0))

    def add(self, identities: Iterable[int], bank: int, bit: int) -> None:
        """Each of them belongs to this selector."""
        self._banks.add(bank)
        for identity in identities:
            self._set((identity, bank), self._masks.get((identity, bank), 0) | bit)

    def remove(self, identities: Iterable[int], bank: int, bit: int) -> None:
        """None of them belongs to this selector."""
        for identity in identities:
            self._set((identity, bank), self._masks.get((identity, bank), 0) & ~bit)

    def take_changes(self) -> dict[BitsKey, Words | None]:
        """What changed since the last call; None is no bits left."""
        changed: dict[BitsKey, Words | None] = {}
        for key, before in self._before.items():
            mask = self._masks.get(key, 0)
            if mask != before:
                changed[key] = words_of(mask | ANY_BIT) if mask else None
        self._before = {}
        return changed

    def _set(self, key: BitsKey, mask: int) -> None:
        before = self._masks.get(key, 0)
        if mask == before:
            return
        self._before.setdefault(key, before)
        if mask:
            self._masks[key] = mask
        else:
            del self._masks[key]

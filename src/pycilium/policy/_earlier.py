"""What the policies of an earlier agent need for as long as they are in force: until this one's have taken their place.

They know addresses outside by the local identities of prefixes. So those prefixes stay, and a new prefix within one
takes over what the old policies thought of it. Their banks are free only after all of that is cleared away.
"""

from __future__ import annotations

from collections.abc import Iterable

from pycilium.model.peer import Network
from pycilium.policy._bits import BitsKey
from pycilium.policy._numbers import NumbersInUse, Words


class EarlierPolicies:
    """See the module. Once they are gone this does nothing."""

    def __init__(self, in_use: NumbersInUse, held: Iterable[Network]) -> None:
        self._bits = in_use.bits
        self._banks = sorted(in_use.banks)
        self._held = dict.fromkeys(held)
        self._released: list[Network] = []
        self._inherited: set[BitsKey] = set()
        self._changes: dict[BitsKey, Words | None] = {}

    @property
    def held(self) -> Iterable[Network]:
        """The prefixes that stay for their sake."""
        return self._held

    def holds(self, network: Network) -> bool:
        """Whether this prefix stays for their sake."""
        return network in self._held

    def inherit(self, identity: int, of: int) -> None:
        """To them `identity`, which is new, is what `of` was."""
        for bank in self._banks:
            words = self._bits.get((of, bank))
            if identity and of and identity != of and words is not None:
                self._inherited.add((identity, bank))
                self._changes[identity, bank] = words

    def realized(self) -> list[int]:
        """They are gone: first what was kept goes, and with the next call their banks are free, which are returned."""
        if self._held or self._inherited:
            self._released, self._held = list(self._held), {}
            self._changes, self._inherited = dict.fromkeys(self._inherited), set()
            self._bits = {}
            return []
        free, self._banks = self._banks, []
        return free

    @property
    def cleanup_due(self) -> bool:
        """Whether something is waiting to be taken."""
        return bool(self._released or self._changes)

    def take_released(self) -> list[Network]:
        """Prefixes that need not stay any longer."""
        released, self._released = self._released, []
        return released

    def take_changes(self) -> dict[BitsKey, Words | None]:
        """Bits in their banks."""
        changes, self._changes = self._changes, {}
        return changes

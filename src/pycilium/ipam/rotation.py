"""Numbers from a range, each given out once and given out again as late as possible.

Never-used numbers come first, in order; after them the released ones, the longest released first.
Nothing is stored per unused number, so a range may be as wide as an IPv6 prefix.
After a restart the history is unknown: what is claimed then moves the start behind it, for the
numbers given out last before the restart were probably the highest.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from collections.abc import Set as AbstractSet
from types import MappingProxyType
from typing import Generic, TypeVar

from pycilium.errors import EndpointConflict, IpamExhausted

Owner = TypeVar("Owner", bound=Hashable)


class Rotation(Generic[Owner]):
    """Numbers `low`…`high` without `excluded`, each with at most one owner."""

    def __init__(self, low: int, high: int, excluded: AbstractSet[int] = frozenset()) -> None:
        self._low, self._high = low, high
        self._excluded = frozenset(number for number in excluded if low <= number <= high)
        self._owners: dict[int, Owner] = {}
        self._released: dict[int, None] = {}  # in order of release
        self._next = low
        self._unseen = max(0, high - low + 1)  # how many numbers the search has not come by yet

    @property
    def capacity(self) -> int:
        return max(0, self._high - self._low + 1 - len(self._excluded))

    @property
    def owners(self) -> Mapping[int, Owner]:
        """A live view: number → owner."""
        return MappingProxyType(self._owners)

    def __contains__(self, number: int) -> bool:
        """Whether `number` could be given out at all."""
        return self._low <= number <= self._high and number not in self._excluded

    def take(self, owner: Owner) -> int | None:
        """A free number, now `owner`'s; None when all are taken."""
        number = self._take_unused()
        if number is None:
            number = next(iter(self._released), None)
        if number is not None:
            self._released.pop(number, None)
            self._owners[number] = owner
        return number

    def claim(self, number: int, owner: Owner) -> bool:
        """Give `owner` this very number. False if somebody else has it; `number` must be one of the range."""
        assert number in self
        if self._owners.get(number, owner) != owner:
            return False
        self._released.pop(number, None)
        self._owners[number] = owner
        self._start_after(number)
        return True

    def release(self, number: int) -> bool:
        """Take `number` back; False if nobody had it."""
        if number not in self._owners:
            return False
        del self._owners[number]
        self._released[number] = None
        return True

    def _take_unused(self) -> int | None:
        while self._unseen:
            number = self._next
            self._unseen -= 1
            self._next = number + 1 if number < self._high else self._low
            if number not in self._excluded and number not in self._owners and number not in self._released:
                return number
        return None

    def _start_after(self, number: int) -> None:
        # Only before the first search: later the start would jump over numbers that were never used.
        if self._unseen == self._high - self._low + 1 and number >= self._next:
            self._next = number + 1 if number < self._high else self._low


class EndpointIds:
    """Node-local endpoint ids: 1…65535."""

    def __init__(self) -> None:
        self._numbers: Rotation[str] = Rotation(1, 0xFFFF)

    def allocate(self, owner: str) -> int:
        """A free id. Raises IpamExhausted."""
        endpoint_id = self._numbers.take(owner)
        if endpoint_id is None:
            raise IpamExhausted(f"all {self._numbers.capacity} endpoint ids of this node are in use")
        return endpoint_id

    def claim(self, endpoint_id: int, owner: str) -> None:
        """Restore an id. Idempotent. Raises EndpointConflict if another owner has it or it is no endpoint id."""
        if endpoint_id not in self._numbers:
            raise EndpointConflict(f"{endpoint_id} is no endpoint id: 1 to 65535 are")
        if not self._numbers.claim(endpoint_id, owner):
            raise EndpointConflict(f"endpoint id {endpoint_id} belongs to {self._numbers.owners[endpoint_id]}")

    def release(self, endpoint_id: int) -> bool:
        """Idempotent; False if it was free."""
        return self._numbers.release(endpoint_id)

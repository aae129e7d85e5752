"""Rows: for one policy the words that a packet's identity bits are AND-ed with, per bank, direction, protocol and port.

The longest match alone decides, so what a less specific row says is folded into every more specific one beneath it.
Port prefixes are nested or apart, never half over one another, so "beneath" is a walk up at most eighteen keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pycilium.model.l4 import PortRange
from pycilium.model.policy import Direction, RuleRef
from pycilium.policy._bits import ANY_BIT, BANK_BITS, words_of
from pycilium.policy._numbers import Words

UNENFORCED = 1
"""POLICY_ROW_UNENFORCED: decide, but send no verdict event."""


class RowKey(NamedTuple):
    """Key of a row. `protocol` None: every protocol; `port_prefix` counts the leading bits of `port` that matter."""

    policy_id: int
    bank: int
    direction: Direction
    protocol: int | None
    port: int
    port_prefix: int

    @property
    def prefix_len(self) -> int:
        """Bits of the kernel's key that must match."""
        return 56 if self.protocol is None else 64 + self.port_prefix


@dataclass(frozen=True, slots=True)
class Row:
    """Who is allowed and who is denied. `row_id` stands for this content, and the rules behind it, for all time."""

    allow: Words
    deny: Words
    row_id: int
    flags: int


class Contribution(NamedTuple):
    """What one rule gives to the rows: its selector number, allowed or denied."""

    selector: int
    deny: bool
    rule: RuleRef


@dataclass(frozen=True, slots=True)
class RowContent:
    """A row before it has an id. Equal contents share one."""

    bank: int
    contributions: tuple[Contribution, ...]
    flags: int
    default_allow: bool

    @property
    def allow(self) -> int:
        """Mask of the allowed selectors."""
        return self._mask(deny=False) | (ANY_BIT if self.default_allow else 0)

    @property
    def deny(self) -> int:
        """Mask of the denied selectors."""
        return self._mask(deny=True)

    def row(self, row_id: int) -> Row:
        """The row."""
        return Row(words_of(self.allow), words_of(self.deny), row_id, self.flags)

    def rules(self, selector: int) -> tuple[RuleRef, ...]:
        """The rules that decide for a selector: those that deny it, else those that allow it."""
        deciding = [part for part in self.contributions if part.selector == selector]
        denying = any(part.deny for part in deciding)
        return tuple(dict.fromkeys(part.rule for part in deciding if part.deny == denying))

    def _mask(self, *, deny: bool) -> int:
        mask = 0
        for part in self.contributions:
            if part.deny == deny:
                mask |= 1 << (part.selector % BANK_BITS)
        return mask


_Place = tuple[int | None, int, int]  # protocol, port, port prefix
_ANYTHING: _Place = (None, 0, 0)


def fold(
    rules: Iterable[tuple[Contribution, tuple[PortRange, ...]]],
    banks: Iterable[int],
    *,
    enforced: bool,
) -> Iterator[tuple[int, _Place, RowContent]]:
    """The rows of one direction: (bank, place, content). Every bank gets its row for anything."""
    own: dict[int, dict[_Place, list[Contribution]]] = {bank: {_ANYTHING: []} for bank in banks}
    for contribution, ranges in rules:
        places = own[contribution.selector // BANK_BITS]
        for place in {place for ports in ranges for place in _places(ports)}:
            places.setdefault(place, []).append(contribution)
    silent = not enforced and not any(parts for places in own.values() for parts in places.values())
    for bank, places in own.items():
        lengths = sorted({prefix for protocol, _, prefix in places if protocol is not None}, reverse=True)
        for place in places:
            parts = dict.fromkeys(part for above in _lineage(place, lengths) for part in places.get(above, ()))
            flags = UNENFORCED if silent else 0
            yield bank, place, RowContent(bank, tuple(parts), flags, default_allow=not enforced)


def _places(ports: PortRange) -> Iterator[_Place]:
    if ports.protocol == 0:
        yield _ANYTHING
        return
    for port, prefix in ports.prefixes():
        yield ports.protocol, port, prefix


def _lineage(place: _Place, lengths: Sequence[int]) -> Iterator[_Place]:
    """The place and all less specific ones of these prefix lengths, from the most specific on."""
    protocol, port, prefix = place
    if protocol is not None:
        for length in lengths:
            if length <= prefix:
                shift = 16 - length
                yield protocol, port >> shift << shift, length
    yield _ANYTHING

"""What an update asks the kernel to know: its entries by stage."""

from __future__ import annotations

from dataclasses import dataclass, field

from pycilium.model.peer import Network
from pycilium.model.policy import Subject
from pycilium.policy._bits import BitsKey
from pycilium.policy._numbers import Words
from pycilium.policy._programs import PolicyEntry
from pycilium.policy._rows import Row, RowKey


@dataclass(frozen=True, slots=True)
class PolicyChanges:
    """What to write; None is what to remove. Applied in the order of the fields, removals in reverse."""

    bits: dict[BitsKey, Words | None] = field(default_factory=dict)
    """(identity, bank) → the selectors of that bank."""
    rows: dict[RowKey, Row | None] = field(default_factory=dict)
    policies: dict[int, PolicyEntry | None] = field(default_factory=dict)
    """policy id → revision and banks."""
    cidrs: dict[Network, int | None] = field(default_factory=dict)
    """prefix → identity of the addresses outside that it is the longest prefix of. After a change, ask for the
    `cidr_identity` of the addresses within again."""
    subjects: dict[Subject, int | None] = field(default_factory=dict)
    """subject → policy id."""

    def __bool__(self) -> bool:
        return bool(self.bits or self.rows or self.policies or self.cidrs or self.subjects)

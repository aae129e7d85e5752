"""The numbers that an earlier agent left in the kernel's maps, each with what must be known of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pycilium.model.peer import Network

Words = tuple[int, int, int, int, int, int, int, int]
"""The 512 bits of a bank, as the kernel has them."""


@dataclass(frozen=True, slots=True)
class NumbersInUse:
    """What the pinned maps of an earlier agent use."""

    policy_ids: frozenset[int] = frozenset()
    banks: frozenset[int] = frozenset()
    local_identities: frozenset[int] = frozenset()
    """All of them, wherever they stand."""
    cidrs: Mapping[Network, int] = field(default_factory=dict)
    """Prefixes of the ipcache whose identity is local or a world. They keep their numbers, and stay until the kernel
    has caught up: the old policies, in force until the endpoints flip, go on recognising what lies behind them."""
    bits: Mapping[tuple[int, int], Words] = field(default_factory=dict)
    """identity_bits, at least those of local identities and the worlds. A new prefix takes over, for the old policies,
    what they thought of the one that it lies in."""
    max_revision: int = 0
    max_row_id: int = 0

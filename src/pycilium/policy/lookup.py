"""The kernel's policy lookup in Python: what the entries that the engine gives out decide.

Follows the contract of bpf/abi/policy.h word by word and shares nothing with the compiler. For tests, and for asking
what the kernel would say without sending a packet.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

from pycilium.model.identity import ReservedIdentity
from pycilium.model.peer import Address, Network
from pycilium.model.policy import Direction, Subject
from pycilium.policy._bits import BANK_BITS, BitsKey
from pycilium.policy._changes import PolicyChanges
from pycilium.policy._numbers import Words
from pycilium.policy._programs import PolicyEntry
from pycilium.policy._rows import Row, RowKey

K = TypeVar("K")
V = TypeVar("V")

_ANY_PEER: Words = (1, 0, 0, 0, 0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class LookupVerdict:
    """`denied` tells an explicit deny from no rule; `row_id` 0: there is no policy for this endpoint."""

    allowed: bool
    denied: bool = False
    row_id: int = 0
    selector: int = 0


NOT_CONFIGURED = LookupVerdict(allowed=False)


@dataclass(slots=True)
class KernelTables:
    """The maps that a policy decision reads."""

    bits: dict[BitsKey, Words] = field(default_factory=dict)
    rows: dict[RowKey, Row] = field(default_factory=dict)
    policies: dict[int, PolicyEntry] = field(default_factory=dict)
    cidrs: dict[Network, int] = field(default_factory=dict)
    subjects: dict[Subject, int] = field(default_factory=dict)

    def apply(self, changes: PolicyChanges) -> None:
        """Make all changes."""
        _apply(self.bits, changes.bits)
        _apply(self.rows, changes.rows)
        _apply(self.policies, changes.policies)
        _apply(self.cidrs, changes.cidrs)
        _apply(self.subjects, changes.subjects)

    def outside_identity(self, address: Address) -> int:
        """What the ipcache says of an address that is no pod's or node's."""
        found = [network for network in self.cidrs if network.version == address.version and address in network]
        if found:
            return self.cidrs[max(found, key=lambda network: network.prefixlen)]
        return ReservedIdentity.WORLD_IPV4 if address.version == 4 else ReservedIdentity.WORLD_IPV6

    def decide(
        self,
        policy_id: int,
        direction: Direction,
        identity: int,
        cidr_identity: int,
        protocol: int,
        port: int,
    ) -> LookupVerdict:
        """The verdict of policy `policy_id` on a packet from or to a peer."""
        entry = self.policies.get(policy_id)
        if entry is None or not entry.banks:
            return NOT_CONFIGURED
        allowed: LookupVerdict | None = None
        missed = NOT_CONFIGURED
        for bank in entry.banks:
            row = self._longest_match(policy_id, bank, direction, protocol, port)
            if row is None:
                return NOT_CONFIGURED
            bits = self.bits.get((identity, bank), _ANY_PEER)
            if cidr_identity:
                bits = _or(bits, self.bits.get((cidr_identity, bank), _ANY_PEER))
            hit = _lowest(bits, row.deny)
            if hit is not None:
                return LookupVerdict(allowed=False, denied=True, row_id=row.row_id, selector=bank * BANK_BITS + hit)
            hit = _lowest(bits, row.allow)
            if hit is not None and allowed is None:
                allowed = LookupVerdict(allowed=True, row_id=row.row_id, selector=bank * BANK_BITS + hit)
            if missed is NOT_CONFIGURED:
                missed = LookupVerdict(allowed=False, row_id=row.row_id)
        return allowed or missed

    def _longest_match(self, policy_id: int, bank: int, direction: Direction, protocol: int, port: int) -> Row | None:
        for length in range(16, -1, -1):
            shift = 16 - length
            row = self.rows.get(RowKey(policy_id, bank, direction, protocol, port >> shift << shift, length))
            if row is not None:
                return row
        return self.rows.get(RowKey(policy_id, bank, direction, None, 0, 0))


def _apply(table: dict[K, V], changes: dict[K, V | None]) -> None:
    for key, value in changes.items():
        if value is None:
            table.pop(key, None)
        else:
            table[key] = value


def _or(left: Words, right: Words) -> Words:
    a, b, c, d, e, f, g, h = (x | y for x, y in zip(left, right, strict=True))
    return a, b, c, d, e, f, g, h


def _lowest(bits: Words, mask: Words) -> int | None:
    for index, (left, right) in enumerate(zip(bits, mask, strict=True)):
        if hit := left & right:
            return index * 64 + (hit & -hit).bit_length() - 1
    return None

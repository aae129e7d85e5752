"""The identity allocator: label set → number, shared by all nodes of a cluster without asking one another.

A number follows from the labels (a hash, then the next free one), so two nodes that meet the same labels at the same
time propose the same number; the store lets one create it, and the other finds just what it wanted. An identity that
was collected too early comes back under its old number.

How the agent uses it:

    proposal = allocator.propose(labels)            # known already? then nothing is to be done
    create the identity in the store                # taken by others' labels? observe() it and propose again
    allocator.observe(proposal.identity)            # or let the watch do it
    allocator.hold(labels) ... allocator.release(labels)

Invariant: a number stands for one label set as long as anybody may remember it; it rests for the grace time before
other labels may get it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from pycilium.errors import CiliumError
from pycilium.model.identity import CLUSTER_IDENTITIES, RESERVED_IDENTITIES, Identity
from pycilium.model.labels import Labels

DEFAULT_GRACE_S = 900.0

_RESERVED = {identity.labels: identity for identity in RESERVED_IDENTITIES}


class IdentitiesExhaustedError(CiliumError):
    """All identity numbers of the cluster are taken: use fewer different labels on pods."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """An identity for a label set. If it is not `known`, it is to be created in the store."""

    identity: Identity
    known: bool


class IdentityAllocator:
    """Owns this node's view of the cluster's identities; see the module. Time comes in as seconds of any one clock."""

    def __init__(self, identities: Iterable[Identity] = (), *, grace_s: float = DEFAULT_GRACE_S) -> None:
        self._grace_s = grace_s
        self._labels: dict[int, Labels] = {}
        self._numbers: dict[Labels, tuple[int, ...]] = {}
        """Sorted; hardly ever more than one."""
        self._holders: Counter[Labels] = Counter()
        self._resting: dict[int, tuple[Labels, float]] = {}
        for identity in identities:
            self.observe(identity)

    def propose(self, labels: Labels, now: float = 0.0) -> Proposal:
        """The identity of `labels`: the known one (of several the lowest, so that nodes agree) or one to create."""
        reserved = _RESERVED.get(labels)
        if reserved is not None:
            return Proposal(reserved, known=True)
        numbers = self._numbers.get(labels)
        if numbers:
            return Proposal(Identity(numbers[0], labels), known=True)
        return Proposal(Identity(self._free_number(labels, now), labels), known=False)

    def observe(self, identity: Identity) -> None:
        """The store has this identity. Idempotent."""
        known = self._labels.get(identity.number)
        if known == identity.labels:
            return
        if known is not None:
            self._drop(identity.number)
        self._labels[identity.number] = identity.labels
        self._numbers[identity.labels] = tuple(sorted((*self._numbers.get(identity.labels, ()), identity.number)))
        self._resting.pop(identity.number, None)

    def forget(self, number: int, now: float) -> None:
        """The store has it no longer. Absent is success."""
        labels = self._drop(number)
        if labels is not None:
            self._resting[number] = (labels, now)

    def pass_over(self, number: int, now: float) -> None:
        """Somebody has it of whom nobody can say who it is: not to be proposed again soon."""
        self._resting[number] = (Labels(), now)

    def get(self, number: int) -> Identity | None:
        """A known identity by its number."""
        labels = self._labels.get(number)
        return None if labels is None else Identity(number, labels)

    def hold(self, labels: Labels) -> None:
        """One more endpoint of this node has these labels."""
        self._holders[labels] += 1

    def release(self, labels: Labels) -> None:
        """One endpoint less."""
        if self._holders[labels] < 1:
            raise ValueError(f"nobody holds {labels}")
        self._holders[labels] -= 1
        if not self._holders[labels]:
            del self._holders[labels]

    def missing(self) -> list[Labels]:
        """Label sets that endpoints of this node have and the store does not know: create them (again)."""
        return [labels for labels in self._holders if labels not in self._numbers and labels not in _RESERVED]

    def _drop(self, number: int) -> Labels | None:
        labels = self._labels.pop(number, None)
        if labels is not None:
            left = tuple(other for other in self._numbers.pop(labels) if other != number)
            if left:
                self._numbers[labels] = left
        return labels

    def _free_number(self, labels: Labels, now: float) -> int:
        digest = hashlib.sha256(str(labels).encode()).digest()
        start = int.from_bytes(digest[:8], "big") % len(CLUSTER_IDENTITIES)
        for step in range(len(CLUSTER_IDENTITIES)):
            number = CLUSTER_IDENTITIES[(start + step) % len(CLUSTER_IDENTITIES)]
            if number not in self._labels and not self._rests(number, labels, now):
                return number
        raise IdentitiesExhaustedError(f"all {len(CLUSTER_IDENTITIES)} identity numbers are taken")

    def _rests(self, number: int, labels: Labels, now: float) -> bool:
        resting = self._resting.get(number)
        return resting is not None and resting[0] != labels and now - resting[1] < self._grace_s

"""Which number a label set gets, and when it is no longer used. Decisions only: the store's I/O is others'."""

from pycilium.identity.allocator import IdentitiesExhaustedError, IdentityAllocator, Proposal
from pycilium.identity.collection import MARK, Decision, IdentityCollection, IdentityState

__all__ = [
    "MARK",
    "Decision",
    "IdentitiesExhaustedError",
    "IdentityAllocator",
    "IdentityCollection",
    "IdentityState",
    "Proposal",
]

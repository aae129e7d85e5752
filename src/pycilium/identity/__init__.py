"""Which number a label set gets. Decisions only: the store's I/O is the agent's."""

from pycilium.identity.allocator import IdentitiesExhaustedError, IdentityAllocator, Proposal

__all__ = ["IdentitiesExhaustedError", "IdentityAllocator", "Proposal"]

"""The addresses that frontends have: programs look for the frontends of these and of nodes' own alone.

And which of them are services' own: at their other ports nobody answers, and programs say so at once. Without that,
what a client sends to a port that no frontend has would follow the node's routes out of the cluster, and mostly come
back.
Invariant: the addresses are those that would follow from all frontends at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from pycilium.model.peer import Address
from pycilium.model.service import Frontend, FrontendKind, L4Address


class ServiceAddresses:
    """Owns which addresses frontends have, those of nodes left out, and whether nothing else is there."""

    def __init__(self) -> None:
        self._alone: defaultdict[Address, dict[L4Address, bool]] = defaultdict(dict)

    def update(self, changes: Mapping[L4Address, Frontend | None]) -> dict[Address, bool | None]:
        """Takes in frontends, None for those that are no more. Returns the addresses that are different now: whether
        nothing but services is there, None for those that no frontend has any more.
        """
        before: dict[Address, bool | None] = {}
        for at, frontend in changes.items():
            before.setdefault(at.address, self._is_alone(at.address))
            if frontend is None or _is_of_nodes(frontend):
                self._alone[at.address].pop(at, None)
            else:
                self._alone[at.address][at] = frontend.owns_address
            if not self._alone[at.address]:
                del self._alone[at.address]
        return {address: now for address, then in before.items() if (now := self._is_alone(address)) != then}

    def _is_alone(self, address: Address) -> bool | None:
        claims = self._alone.get(address)
        return any(claims.values()) if claims else None


def _is_of_nodes(frontend: Frontend) -> bool:
    """A host port may have any address that its pod asks for."""
    return frontend.kind is FrontendKind.NODE_PORT or frontend.at.address.is_unspecified

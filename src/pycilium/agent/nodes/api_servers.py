"""Who serves the cluster's API: of Kubernetes whom the Service `kubernetes` leads to, elsewhere who is configured.

API servers keep that Service true themselves. What is known depends on the slices there are and on nothing before them.
"""

from __future__ import annotations

from collections.abc import Iterable

from pycilium.model.identity import HOST, HOST_SERVING_API, Identity
from pycilium.model.peer import Address
from pycilium.services import SliceView
from pycilium.tables import Change

NAMESPACE, SERVICE = "default", "kubernetes"


class ApiServers:
    """Owns their addresses."""

    def __init__(self, configured: frozenset[Address]) -> None:
        self._configured = configured
        self._of_slices: dict[str, frozenset[Address]] = {}

    def update(self, slices: Iterable[Change[SliceView]]) -> bool:
        """Take in what changed of the slices; whether other addresses serve now."""
        before = self.addresses
        for change in slices:
            if change.old is not None and _leads_to_servers(change.old):
                self._of_slices.pop(change.old.name, None)
            if change.new is not None and _leads_to_servers(change.new):
                candidates = change.new.candidates.values()
                addresses = (each.backend.at.address for some in candidates for each in some)
                self._of_slices[change.new.name] = frozenset(addresses)
        return self.addresses != before

    @property
    def addresses(self) -> frozenset[Address]:
        """All that serve."""
        return self._configured.union(*self._of_slices.values())

    def host_identity(self, hosts: Iterable[Address]) -> Identity:
        """The node's own, of which these are the addresses."""
        return HOST if self.addresses.isdisjoint(hosts) else HOST_SERVING_API


def _leads_to_servers(view: SliceView) -> bool:
    return (view.namespace, view.service) == (NAMESPACE, SERVICE)

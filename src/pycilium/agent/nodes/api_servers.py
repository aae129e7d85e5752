"""Who serves the cluster's API: what the entity kube-apiserver stands for.

Of Kubernetes it is what the Service `kubernetes` leads to, which API servers keep true themselves; elsewhere what is
configured. Depends on the slices there are, and on nothing that happened before.
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
        self.addresses = configured

    def update(self, slices: Iterable[Change[SliceView]]) -> frozenset[Address]:
        """Take in what changed of the slices; the addresses that are API servers now and were none, or the reverse."""
        before = self.addresses
        for change in slices:
            if change.old is not None and _leads_to_servers(change.old):
                self._of_slices.pop(change.old.name, None)
            if change.new is not None and _leads_to_servers(change.new):
                candidates = change.new.candidates.values()
                self._of_slices[change.new.name] = frozenset(
                    each.backend.at.address for some in candidates for each in some
                )
        self.addresses = self._configured.union(*self._of_slices.values())
        return before ^ self.addresses

    def host_identity(self, hosts: Iterable[Address]) -> Identity:
        """The node's own, of which these are the addresses."""
        return HOST if self.addresses.isdisjoint(hosts) else HOST_SERVING_API


def _leads_to_servers(view: SliceView) -> bool:
    return (view.namespace, view.service) == (NAMESPACE, SERVICE)

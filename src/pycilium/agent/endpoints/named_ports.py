"""What the pods of each identity call their ports, on all nodes: policies mean ports by these names.

Owns the counts, so that a pod that comes or goes costs its own ports alone. Pure. Containers that no Pod stands for
have none: no runtime gives a port a name. Reserved identities have none either, whatever another node says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from sys import intern

from pycilium.model.endpoint import Endpoint
from pycilium.model.identity import CLUSTER_IDENTITIES
from pycilium.model.l4 import NamedTarget, Protocol
from pycilium.model.remote_endpoint import RemoteEndpoint
from pycilium.model.resources import Pod
from pycilium.tables import Change


class IdentityPorts:
    """Counts of (identity, port); see the module."""

    def __init__(self) -> None:
        self._counts: dict[int, Counter[NamedTarget]] = {}

    def update(
        self, endpoints: Iterable[Change[Endpoint]], remote: Iterable[Change[RemoteEndpoint]]
    ) -> dict[int, frozenset[NamedTarget]]:
        """Take in what changed; returns the identities whose ports may have, with all that they have now."""
        touched: set[int] = set()
        for change in endpoints:
            for endpoint, step in ((change.new, 1), (change.old, -1)):
                if endpoint is not None and endpoint.named_ports:
                    touched.add(self._count(endpoint.sec_identity, endpoint.named_ports, step))
        for told in remote:
            for pod, step in ((told.new, 1), (told.old, -1)):
                if pod is not None and pod.targets and pod.sec_identity in CLUSTER_IDENTITIES:
                    touched.add(self._count(pod.sec_identity, case_folded(pod.targets), step))
        touched.discard(0)  # whose identity is not known yet has nobody's ports
        return {number: frozenset(self._counts.get(number, ())) for number in touched}

    def _count(self, number: int, ports: Iterable[NamedTarget], step: int) -> int:
        counts = self._counts.setdefault(number, Counter())
        for port in ports:
            counts[port] += step
            if not counts[port]:
                del counts[port]
        if not counts:
            del self._counts[number]
        return number


def named_ports_of(pod: Pod) -> frozenset[NamedTarget]:
    """What the pod calls its ports."""
    return case_folded(
        tuple(
            NamedTarget(intern(port.name), Protocol[port.protocol], port.port)
            for port in pod.named_ports
            if port.protocol in Protocol.__members__
        )
    )


@lru_cache(maxsize=4096)  # alike pods share one
def case_folded(ports: tuple[NamedTarget, ...]) -> frozenset[NamedTarget]:
    """In small letters, as policies mean them: RFC 6335 does not tell cases apart."""
    return frozenset(port._replace(name=port.name.lower()) for port in ports)

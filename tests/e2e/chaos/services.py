"""Services among the pods: who is behind each, and what the intended state says of a connection to it. Pure.

Nobody edits them: their backends come, go and change as pods do. Any backend may be chosen, so a connection that some
of them would take and others not says nothing, and is not tried.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tests.e2e.chaos.model import PodName, State
from tests.e2e.chaos.policies import PORTS
from tests.e2e.chaos.verdicts import Connection, allowed

PORT = 80
_PROTOCOLS = ("TCP", "UDP")


@dataclass(frozen=True)
class Service:
    """Its namespace, the label `app` of its backends, and its cluster IPs."""

    namespace: str
    app: str
    addresses: tuple[str, str]

    @property
    def resource(self) -> dict[str, Any]:
        """As it would stand in a file."""
        ports = [{"name": name.lower(), "port": PORT, "targetPort": PORTS[0], "protocol": name} for name in _PROTOCOLS]
        spec = {"clusterIP": self.addresses[0], "clusterIPs": list(self.addresses), "ipFamilies": ["IPv4", "IPv6"]}
        spec |= {"ipFamilyPolicy": "RequireDualStack", "selector": {"app": self.app}, "ports": ports}
        metadata = {"name": f"app-{self.app}", "namespace": self.namespace}
        return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}

    def backends(self, state: State) -> list[PodName]:
        return [
            name for name, pod in state.pods.items() if name[0] == self.namespace and pod.labels.get("app") == self.app
        ]


SERVICES = (
    Service("red", "a", ("10.96.0.20", "fd00:96::20")),
    Service("blue", "b", ("10.96.0.21", "fd00:96::21")),
)


def connections(
    service: Service, state: State, source: PodName, addresses_of: Callable[[PodName], Sequence[str]]
) -> dict[Connection, bool]:
    """What this pod can ask of the Service, and whether it is reached; only where it does not hang on chance."""
    backends, found = service.backends(state), {}
    if source in backends:
        return {}
    for own, address, family in zip(addresses_of(source), service.addresses, (0, 1), strict=True):
        for protocol in _PROTOCOLS:
            outcomes = {
                allowed(state, Connection(source, pod, own, addresses_of(pod)[family], PORTS[0], protocol))
                for pod in backends
            } or {False}
            if len(outcomes) == 1:
                found[Connection(source, None, own, address, PORT, protocol)] = outcomes.pop()
    return found

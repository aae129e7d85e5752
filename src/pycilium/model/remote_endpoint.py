"""The remote endpoint: a pod of another node, as its CiliumEndpoint or a slice says. There are many thousands: slim.

Owns the conversion from the resources. Invariant: of what many have in common (texts, label sets) there is one copy.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from sys import intern

from pycilium.errors import InvalidResource
from pycilium.model.endpoint import EndpointState
from pycilium.model.l4 import PORTS, NamedTarget, Protocol
from pycilium.model.labels import NO_LABELS, Labels
from pycilium.model.node import usable_address
from pycilium.model.peer import Address
from pycilium.model.resources import CiliumEndpoint
from pycilium.model.resources.base import ResourceKey
from pycilium.model.resources.cilium_objects import CoreEndpoint, EndpointNetworking, NamedPort


@dataclass(frozen=True, slots=True)
class RemoteEndpoint:
    """Who has which addresses, and where; and what Services select it by."""

    namespace: str
    name: str
    addresses: tuple[Address, ...]
    sec_identity: int
    """0: not known yet."""
    node: str
    """What the endpoint calls its node: an address or a name, "" for nothing."""
    created_s: int = 0
    """When the resource was made; of two that claim one address the newer has it."""
    labels: Labels = NO_LABELS
    """Those of its identity; none where nobody here selects by them."""
    targets: tuple[NamedTarget, ...] = ()
    """What it calls its ports, in its own order."""
    leaving: bool = False

    @property
    def key(self) -> ResourceKey:
        return ResourceKey("CiliumEndpoint", self.namespace, self.name)

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def remote_endpoint_of(resource: CiliumEndpoint, *, selectable: bool = False) -> RemoteEndpoint | None:
    """What a CiliumEndpoint says, None if it has no addresses; InvalidResource names the field that cannot be.

    With `selectable` it has the labels that Services may select it by.
    """
    status = resource.status
    if status is None or status.networking is None:
        return None
    networking, created = status.networking, resource.metadata.creation_timestamp
    addresses = _addresses(networking, "status.networking")
    if not addresses:
        return None
    identity = status.identity
    return RemoteEndpoint(
        namespace=intern(resource.metadata.namespace),
        name=resource.metadata.name,
        addresses=addresses,
        sec_identity=identity.id if identity is not None else 0,
        node=intern(networking.node),
        created_s=int(created.timestamp()) if created is not None else 0,
        labels=Labels.of_texts(identity.labels) if selectable and identity is not None else NO_LABELS,
        targets=_targets(status.named_ports, "status.named-ports"),
        leaving=status.state is not None and EndpointState(status.state).is_leaving,
    )


def remote_endpoint_in_slice(namespace: str, core: CoreEndpoint) -> RemoteEndpoint | None:
    """What one entry of a CiliumEndpointSlice says, as above.

    A slice does not say when a CiliumEndpoint was made: the operator leaves out what a younger one claims.
    """
    networking = core.networking
    addresses = _addresses(networking, "networking") if networking is not None else ()
    if networking is None or not addresses:
        return None
    return RemoteEndpoint(
        namespace=intern(namespace),
        name=core.name,
        addresses=addresses,
        sec_identity=core.id,
        node=intern(networking.node),
        targets=_targets(core.named_ports, "named-ports"),
    )


def _addresses(networking: EndpointNetworking, path: str) -> tuple[Address, ...]:
    found = (
        usable_address(text, f"{path}.addressing[{index}]")
        for index, pair in enumerate(networking.addressing)
        for text in (pair.ipv4, pair.ipv6)
        if text
    )
    return tuple(dict.fromkeys(found))


def _targets(ports: tuple[NamedPort, ...], path: str) -> tuple[NamedTarget, ...]:
    found = []
    for index, port in enumerate(ports):
        if not port.name or port.protocol not in ("TCP", "UDP", "SCTP"):
            continue
        if port.port not in PORTS:
            raise InvalidResource(f"{port.port} is no port from 1 to 65535", path=f"{path}[{index}].port")
        found.append(NamedTarget(intern(port.name), Protocol[port.protocol], port.port))
    return _shared(tuple(found))


@lru_cache(maxsize=4096)
def _shared(targets: tuple[NamedTarget, ...]) -> tuple[NamedTarget, ...]:
    return targets

"""The node: another machine of the cluster, as its CiliumNode tells of it.

Owns the conversion from the resource. Invariant: addresses are such as packets can be sent to, and no pod CIDR is a
whole family: whatever else is wrong with them shows only beside other nodes (`agent.node_claims`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address

from pycilium.errors import InvalidResource
from pycilium.model.peer import Address, Network, ipv4_address, is_ipv4_in_ipv6, stays_on_one_machine
from pycilium.model.resources import CiliumNode
from pycilium.model.resources.checks import pod_cidr_of

INTERNAL_IP = "InternalIP"
"""On the underlay: where the node's machine is reached."""
GATEWAY_IP = "CiliumInternalIP"
"""The node's own address within its pod CIDR."""

ZONE_LABEL = "topology.kubernetes.io/zone"


@dataclass(frozen=True, slots=True)
class Node:
    """A node's name and what it says of itself."""

    name: str
    internal_ips: tuple[Address, ...] = ()
    gateway_ips: tuple[Address, ...] = ()
    health_ips: tuple[Address, ...] = ()
    pod_cidrs: tuple[Network, ...] = ()
    boot_id: str = ""
    zone: str = ""
    """Where it stands, for Services that prefer what is near."""
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)

    def internal_ip(self, version: int) -> Address | None:
        """The first address of a family on the underlay."""
        return next((address for address in self.internal_ips if address.version == version), None)

    def __str__(self) -> str:
        return f"node {self.name} ({', '.join(map(str, self.internal_ips)) or 'no InternalIP'})"


def node_of(resource: CiliumNode) -> Node:
    """What a CiliumNode says; InvalidResource names the field that cannot be."""
    spec = resource.spec
    health = (spec.health.ipv4, spec.health.ipv6) if spec.health is not None else ()
    return Node(
        name=resource.metadata.name,
        internal_ips=tuple(_addresses(resource, INTERNAL_IP)),
        gateway_ips=tuple(_addresses(resource, GATEWAY_IP)),
        health_ips=tuple(usable_address(each, "spec.health") for each in health if each),
        pod_cidrs=tuple(
            pod_cidr_of(cidr, f"spec.ipam.podCIDRs[{index}]")
            for index, cidr in enumerate(spec.ipam.pod_cidrs if spec.ipam is not None else ())
        ),
        boot_id=spec.bootid,
        zone=resource.metadata.labels.get(ZONE_LABEL, ""),
        labels=resource.metadata.labels,
    )


def usable_address(text: str, path: str) -> Address:
    """An address that a node or a pod can have; InvalidResource for any other text."""
    try:
        address: Address = IPv6Address(text) if ":" in text else ipv4_address(text)
    except ValueError:
        raise InvalidResource(f"{text!r} is not an IP address", path=path) from None
    if isinstance(address, IPv6Address) and (address.scope_id or is_ipv4_in_ipv6(address)):
        raise InvalidResource(f"{text} is not an address of its own: no zone, and IPv4 as IPv4", path=path)
    if stays_on_one_machine(address):
        raise InvalidResource(f"{text} cannot be the address of a node or pod", path=path)
    return address


def _addresses(resource: CiliumNode, kind: str) -> Iterator[Address]:
    for index, address in enumerate(resource.spec.addresses):
        if address.type == kind:
            yield usable_address(address.ip, f"spec.addresses[{index}].ip")

"""What Services and CiliumLoadBalancerIPPools say, as LB-IPAM's core understands it. Pure."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from ipaddress import ip_address, ip_network

from pycilium.ipam.load_balancer import AddressPool, AddressRequest, Block, Sharing
from pycilium.model.peer import Address
from pycilium.model.resources import CiliumLoadBalancerIPPool, Service
from pycilium.model.resources.load_balancing import LOAD_BALANCER_CLASSES, IPPoolBlock, selectable_labels

IPS = ("lbipam.cilium.io/ips", "io.cilium/lb-ipam-ips")
SHARING_KEY = ("lbipam.cilium.io/sharing-key", "io.cilium/lb-ipam-sharing-key")
SHARING_NAMESPACES = ("lbipam.cilium.io/sharing-cross-namespace", "io.cilium/lb-ipam-sharing-cross-namespace")
"""The second names are Cilium's before 1.15."""


def pool_of(resource: CiliumLoadBalancerIPPool) -> AddressPool:
    """What a pool offers."""
    spec = resource.spec
    first_last = spec.allow_first_last_ips != "No"
    return AddressPool(
        name=resource.metadata.name,
        blocks=tuple(_block(block, first_last=first_last) for block in spec.blocks),
        created=resource.metadata.creation_timestamp,
        selector=spec.service_selector,
        disabled=spec.disabled,
    )


def request_of(service: Service) -> AddressRequest | None:
    """What a Service asks for; None if it is none of our business."""
    spec = service.spec
    if spec.type != "LoadBalancer" or spec.load_balancer_class not in LOAD_BALANCER_CLASSES:
        return None
    wanted, malformed = _wanted(service)
    return AddressRequest(
        namespace=service.metadata.namespace,
        name=service.metadata.name,
        created=service.metadata.creation_timestamp,
        labels=selectable_labels(service),
        families=_families(service),
        all_families=spec.ip_family_policy != "PreferDualStack",
        wanted=wanted,
        malformed=malformed,
        has=tuple(_addresses(each.ip for each in service.status.load_balancer.ingress)),
        sharing=_sharing(service),
        ports=frozenset((port.port, port.protocol) for port in spec.ports),
        backends=tuple(sorted((spec.selector or {}).items())) if spec.external_local else (),
    )


def _families(service: Service) -> tuple[int, ...]:
    spec = service.spec
    if spec.ip_families:
        return tuple(4 if family == "IPv4" else 6 for family in spec.ip_families)
    return tuple(address.version for address in _addresses(spec.all_cluster_ips)) or (4,)


def _addresses(texts: Iterable[str]) -> Iterator[Address]:
    """Those of them that are addresses: old API servers took some with zeros before."""
    for text in texts:
        with contextlib.suppress(ValueError):
            yield ip_address(text)


def _wanted(service: Service) -> tuple[tuple[Address, ...], tuple[str, ...]]:
    """The addresses that it asks for by themselves, and the words in their place that are none."""
    asked = _annotation(service, IPS) or service.spec.load_balancer_ip
    addresses: dict[Address, None] = {}
    malformed = []
    for text in filter(None, map(str.strip, asked.split(","))):
        try:
            addresses[ip_address(text)] = None
        except ValueError:
            malformed.append(text)
    return tuple(addresses), tuple(malformed)


def _sharing(service: Service) -> Sharing | None:
    key = _annotation(service, SHARING_KEY)
    namespaces = _annotation(service, SHARING_NAMESPACES).split(",")
    return Sharing(key=key, namespaces=frozenset(filter(None, map(str.strip, namespaces)))) if key else None


def _annotation(service: Service, names: tuple[str, ...]) -> str:
    return next((value for name in names if (value := service.metadata.annotations.get(name))), "")


def _block(block: IPPoolBlock, *, first_last: bool) -> Block:
    if not block.cidr:
        return Block(ip_address(block.start), ip_address(block.stop or block.start))
    network = ip_network(block.cidr, strict=False)
    first, last = network.network_address, network.broadcast_address
    if not first_last and network.num_addresses > 2:
        first, last = first + 1, last - 1
    return Block(first, last)

"""At which addresses a Service, or a pod's host port, is reached from this node: frontends without their backends.

A NodePort has a frontend at each address of this node, and one at the unspecified address, which stands for all other
nodes. So has a host port, where it stands for this node by whatever address. Owns what a Service's spec and status say
of addresses; what they say of backends is for `frontends`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from pycilium.model.l4 import PORTS, Protocol
from pycilium.model.peer import Address, address_of, is_ipv4_in_ipv6
from pycilium.model.resources import Service
from pycilium.model.resources.service import ServicePort, ServiceSpec
from pycilium.model.service import FrontendKind, L4Address
from pycilium.services.annotations import Wishes
from pycilium.services.settings import ServiceSettings

ANY_ADDRESS: Final[dict[int, Address]] = {4: IPv4Address(0), 6: IPv6Address(0)}
"""What stands for the addresses of nodes, by IP version."""
PROXY_NAME_LABEL: Final = "service.kubernetes.io/service-proxy-name"
"""Kubernetes' way to leave a Service to another proxy."""


@dataclass(frozen=True, slots=True)
class Exposure:
    """One address, port and protocol of a Service."""

    at: L4Address
    kind: FrontendKind
    port: ServicePort


def is_served(service: Service) -> bool:
    """Whether a Service has frontends at all: neither headless, nor a name elsewhere, nor another proxy's."""
    spec = service.spec
    return spec.type != "ExternalName" and not spec.headless and PROXY_NAME_LABEL not in service.metadata.labels


def families_of(spec: ServiceSpec, settings: ServiceSettings) -> tuple[int, ...]:
    """The IP versions of a Service, whether this node has them or not."""
    if spec.ip_families:
        return tuple(4 if family == "IPv4" else 6 for family in spec.ip_families)
    return (
        tuple(address.version for address in _addresses(spec.all_cluster_ips, "clusterIP", [])) or settings.families[:1]
    )


def exposures(service: Service, wishes: Wishes, settings: ServiceSettings, problems: list[str]) -> Iterator[Exposure]:
    """Every address at which this node serves a Service; what cannot be is named in `problems`."""
    spec = service.spec
    families = families_of(spec, settings)
    reached = {
        FrontendKind.CLUSTER_IP: _of_family(spec.all_cluster_ips, families, "clusterIP", problems),
        FrontendKind.LOAD_BALANCER: _of_family(service.ingress_ips, families, "load balancer's address", problems)
        if spec.type == "LoadBalancer"
        else [],
        FrontendKind.EXTERNAL_IP: _of_family(spec.external_ips, families, "external IP", problems),
    }
    for port in spec.ports:
        if port.port not in PORTS:
            problems.append(f"{port.port} is no port from 1 to 65535 and is not served")
            continue
        for kind, addresses in reached.items():
            if wishes.exposes(kind):
                yield from _at_each(addresses, port.port, port, kind, settings)
        if port.node_port and spec.node_ports_wanted and wishes.exposes(FrontendKind.NODE_PORT):
            yield from _node_port(port, families, settings, problems)


def host_addresses(asked: Address | None, family: int, settings: ServiceSettings) -> tuple[Address, ...]:
    """Where a host port is reached: at the address that was asked for, or at any of this node's."""
    if asked is not None and not asked.is_unspecified:
        return (asked,) if asked.version == family else ()
    return _own_and_any(family, settings)


def _own_and_any(family: int, settings: ServiceSettings) -> tuple[Address, ...]:
    return ANY_ADDRESS[family], *(address for address in settings.addresses if address.version == family)


def _node_port(
    port: ServicePort, families: Iterable[int], settings: ServiceSettings, problems: list[str]
) -> Iterator[Exposure]:
    if port.node_port not in settings.node_ports:
        first, last = settings.node_ports.start, settings.node_ports.stop - 1
        problems.append(
            f"node port {port.node_port} is outside of {first}-{last} and is not served: choose one within, or change "
            f"node_port_range"
        )
        return
    for family in families:
        yield from _at_each(_own_and_any(family, settings), port.node_port, port, FrontendKind.NODE_PORT, settings)


def _at_each(
    addresses: Iterable[Address], number: int, port: ServicePort, kind: FrontendKind, settings: ServiceSettings
) -> Iterator[Exposure]:
    for address in addresses:
        if address.version in settings.families:
            yield Exposure(L4Address(address, number, Protocol[port.protocol]), kind, port)


def _of_family(texts: Iterable[str], families: tuple[int, ...], what: str, problems: list[str]) -> list[Address]:
    found = list(_addresses(texts, what, problems))
    problems.extend(
        f"{what} {address} is IPv{address.version}, which ipFamilies does not name: it is not served"
        for address in found
        if address.version not in families
    )
    return [address for address in found if address.version in families]


def _addresses(texts: Iterable[str], what: str, problems: list[str]) -> Iterator[Address]:
    """Those of them that are addresses. API servers let some pass that are none, with zeros before for instance."""
    for text in texts:
        try:
            address = address_of(text)
        except ValueError:
            problems.append(f"{what} {text!r} is not an IP address: it is not served")
            continue
        if is_ipv4_in_ipv6(address) or "%" in text:
            problems.append(f"{what} {text} is not an address of its own (no zone, and IPv4 as IPv4): it is not served")
        else:
            yield address

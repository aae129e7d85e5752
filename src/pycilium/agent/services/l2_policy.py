"""Which addresses of Services this node may announce on which of its devices. Pure.

A Service stands for election in a *round*, together with all that have an address in common with it: so of an address
that several Services share one node alone can be the announcer. Which Services make a round follows from all of them
and from nothing that is this node's own, so that all nodes see the same rounds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address

from pycilium.model.peer import Address
from pycilium.model.resources import CiliumL2AnnouncementPolicy, LabelSelector, ResourceKey, Service
from pycilium.model.resources.load_balancing import L2_CLASS, selectable_labels
from pycilium.store.leases import ANNOUNCEMENT_LEASES

HOSTNAME_LABEL = "kubernetes.io/hostname"
"""A node has it, whoever labels it else."""


@dataclass(frozen=True, slots=True)
class L2Policy:
    """What a CiliumL2AnnouncementPolicy lets nodes announce."""

    nodes: LabelSelector | None
    services: LabelSelector | None
    load_balancer_ips: bool
    external_ips: bool
    interfaces: tuple[re.Pattern[str], ...]

    def devices(self, names: Iterable[str]) -> Iterator[str]:
        for name in names:
            if not self.interfaces or any(pattern.search(name) for pattern in self.interfaces):
                yield name


def l2_policy_of(resource: CiliumL2AnnouncementPolicy) -> L2Policy:
    """What the resource says."""
    spec = resource.spec
    return L2Policy(
        nodes=spec.node_selector,
        services=spec.service_selector,
        load_balancer_ips=spec.load_balancer_ips,
        external_ips=spec.external_ips,
        interfaces=tuple(re.compile(pattern) for pattern in spec.interfaces),
    )


@dataclass(frozen=True, slots=True)
class L2Intent:
    """Everything that decides what this node may announce."""

    services: tuple[Service, ...] = ()
    policies: tuple[L2Policy, ...] = ()
    node_labels: Mapping[str, str] | None = None
    devices: tuple[str, ...] = ()
    """Names of those to which programs are attached."""
    has_local_backend: Callable[[Service], bool] = lambda _: True


@dataclass(frozen=True, slots=True)
class Announcement:
    """One address on one device."""

    device: str
    address: Address


def candidacies(intent: L2Intent) -> dict[str, frozenset[Announcement]]:
    """By the lease of its round, what this node may announce while it holds that."""
    labels = intent.node_labels or {}
    here = [policy for policy in intent.policies if policy.nodes is None or policy.nodes.matches(labels)]
    if not here:
        return {}
    leases = _leases(intent.services)
    found: dict[str, set[Announcement]] = {}
    for service in intent.services:
        if service.spec.external_local and not intent.has_local_backend(service):
            continue  # what would arrive here could go nowhere
        for announcement in _announcements(service, here, intent.devices):
            found.setdefault(leases[service.key], set()).add(announcement)
    return {lease: frozenset(announcements) for lease, announcements in found.items()}


def _announcements(service: Service, policies: Iterable[L2Policy], devices: Iterable[str]) -> Iterator[Announcement]:
    labels = selectable_labels(service)
    for policy in policies:
        if policy.services is not None and not policy.services.matches(labels):
            continue
        addresses = [
            *(_load_balancer_ips(service) if policy.load_balancer_ips else ()),
            *(map(ip_address, service.spec.external_ips) if policy.external_ips else ()),
        ]
        for device in policy.devices(devices):
            for address in addresses:
                yield Announcement(device, address)


def _load_balancer_ips(service: Service) -> Iterator[Address]:
    if service.spec.type == "LoadBalancer" and service.spec.load_balancer_class in (None, L2_CLASS):
        yield from map(ip_address, service.ingress_ips)


def _leases(services: Iterable[Service]) -> dict[ResourceKey, str]:
    """The name of each Service's lease: that of the first by name of all that are tied to it by shared addresses."""
    ordered = sorted(services, key=lambda service: service.key)
    first: dict[ResourceKey, ResourceKey] = {service.key: service.key for service in ordered}
    holders: dict[Address, ResourceKey] = {}

    def root(key: ResourceKey) -> ResourceKey:
        while first[key] != key:
            first[key] = key = first[first[key]]
        return key

    for service in ordered:
        for address in (*_load_balancer_ips(service), *map(ip_address, service.spec.external_ips)):
            one, other = sorted((root(service.key), root(holders.setdefault(address, service.key))))
            first[other] = one
    return {key: f"{ANNOUNCEMENT_LEASES}{root(key).namespace}-{root(key).name}" for key in first}

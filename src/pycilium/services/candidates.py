"""Endpoints that may become backends: what an EndpointSlice lists, and what a Service's selector selects.

Owns the conversion from resources, done once for each: what cannot be is left out and named. Whether a candidate is
chosen is decided elsewhere (`choice`). Texts that many have in common are shared: there may be 100,000.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from sys import intern
from typing import NamedTuple

from pycilium.model.endpoint import EndpointState
from pycilium.model.l4 import Protocol
from pycilium.model.node import usable_address
from pycilium.model.peer import Address
from pycilium.model.resources import CiliumEndpoint, EndpointSlice
from pycilium.model.resources.endpoint_slice import SliceEndpoint
from pycilium.model.service import Backend, L4Address

NO_NAMES: frozenset[str] = frozenset()
K8S_PREFIX = "k8s:"


class NamedTarget(NamedTuple):
    """A port that has a name: of a slice, or of a pod's containers."""

    name: str
    protocol: Protocol
    port: int


class Candidate(NamedTuple):
    """One endpoint at one port, with what decides whether it is chosen. The backend is as it is when it is chosen."""

    backend: Backend
    order: tuple[int, int]
    """Sorts by address and port."""
    ready: bool
    serving: bool
    terminating: bool
    for_zones: frozenset[str] = NO_NAMES
    for_nodes: frozenset[str] = NO_NAMES


@dataclass(frozen=True, slots=True)
class SliceView:
    """What of an EndpointSlice matters. `targets` are its ports that have a number."""

    namespace: str
    service: str
    name: str
    family: int
    """0: names, which cannot be backends."""
    targets: tuple[NamedTarget, ...]
    problems: tuple[str, ...]
    candidates: Mapping[NamedTarget, tuple[Candidate, ...]]


@dataclass(frozen=True, slots=True)
class PodEndpoint:
    """What of a pod's endpoint matters to the Services that may select it."""

    namespace: str
    name: str
    labels: Mapping[str, str]
    """Kubernetes' own, as far as they are part of the identity."""
    addresses: tuple[Address, ...]
    targets: tuple[NamedTarget, ...] = ()
    node: str = ""
    """What the endpoint calls its node: a name or an address."""
    ready: bool = True
    terminating: bool = False
    matching: frozenset[tuple[str, str]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "matching", frozenset(self.labels.items()))

    @property
    def key(self) -> tuple[str, str]:
        return self.namespace, self.name


def slice_view(resource: EndpointSlice) -> SliceView:
    """What an EndpointSlice lists."""
    family = {"IPv4": 4, "IPv6": 6}.get(resource.address_type, 0)
    targets = tuple(
        NamedTarget(intern(port.name), Protocol[port.protocol], port.port)
        for port in resource.ports or ()
        if port.port is not None
    )
    problems: list[str] = []
    endpoints = list(_addressed(resource, family, problems)) if family else []
    if not family:
        problems.append(f"EndpointSlice {resource.metadata.name}: names cannot be backends; list addresses")
    return SliceView(
        namespace=intern(resource.metadata.namespace),
        service=resource.service_name,
        name=resource.metadata.name,
        family=family,
        targets=targets,
        problems=tuple(problems),
        candidates={
            target: tuple(_candidate(each, address, target) for address, each in endpoints) for target in targets
        },
    )


def pod_endpoint(resource: CiliumEndpoint) -> PodEndpoint | None:
    """What a CiliumEndpoint says, None if it has no addresses; InvalidResource names the field that cannot be."""
    status = resource.status
    if status is None or status.networking is None:
        return None
    addresses = tuple(
        usable_address(text, f"status.networking.addressing[{index}]")
        for index, pair in enumerate(status.networking.addressing)
        for text in (pair.ipv4, pair.ipv6)
        if text
    )
    if not addresses:
        return None
    leaving = status.state is not None and EndpointState(status.state).is_leaving
    return PodEndpoint(
        namespace=intern(resource.metadata.namespace),
        name=resource.metadata.name,
        labels=dict(_k8s_labels(status.identity.labels if status.identity is not None else ())),
        addresses=tuple(dict.fromkeys(addresses)),
        targets=tuple(
            NamedTarget(intern(port.name), Protocol[port.protocol], port.port)
            for port in status.named_ports
            if port.name and port.protocol in ("TCP", "UDP", "SCTP")
        ),
        node=intern(status.networking.node),
        ready=not leaving,
        terminating=leaving,
    )


def candidate_of_pod(
    pod: PodEndpoint, at: L4Address, node: str, zone: str, *, for_zones: frozenset[str], for_nodes: frozenset[str]
) -> Candidate:
    """A pod at one port, with the hints that the slices' controller would give it."""
    backend = Backend(at, node=node, zone=zone)
    return Candidate(backend, _order(at), pod.ready, pod.ready, pod.terminating, for_zones, for_nodes)


def _addressed(resource: EndpointSlice, family: int, problems: list[str]) -> Iterator[tuple[Address, SliceEndpoint]]:
    """The endpoints with their addresses, those that have none of the slice's family left out and named."""
    for endpoint in resource.endpoints or ():
        text = endpoint.addresses[0] if endpoint.addresses else ""
        try:
            yield _ipv4(text) if family == 4 else IPv6Address(text), endpoint
        except AddressValueError:
            problems.append(
                f"EndpointSlice {resource.metadata.name}: {text!r} is not an {resource.address_type} address and is "
                f"left out; put it into a slice of its own family"
            )


def _ipv4(text: str) -> IPv4Address:
    """Three times as quick as the library's own reading, of which 100,000 would take half a second."""
    try:
        packed = bytes(map(int, text.split(".")))
    except ValueError:
        packed = b""
    plain = len(packed) == 4 and text == ".".join(map(str, packed))
    return IPv4Address(packed if plain else text)


def _candidate(endpoint: SliceEndpoint, address: Address, target: NamedTarget) -> Candidate:
    at = L4Address(address, target.port, target.protocol)
    hints = endpoint.hints
    return Candidate(
        Backend(at, node=intern(endpoint.node_name or ""), zone=intern(endpoint.zone or "")),
        _order(at),
        endpoint.ready,
        endpoint.serving,
        endpoint.terminating,
        frozenset(zone.name for zone in hints.for_zones) if hints and hints.for_zones else NO_NAMES,
        frozenset(node.name for node in hints.for_nodes) if hints and hints.for_nodes else NO_NAMES,
    )


def _order(at: L4Address) -> tuple[int, int]:
    return int(at.address), at.port


def _k8s_labels(labels: Iterable[str]) -> Iterator[tuple[str, str]]:
    for label in labels:
        if label.startswith(K8S_PREFIX):
            key, _, value = label.removeprefix(K8S_PREFIX).partition("=")
            yield intern(key), intern(value)

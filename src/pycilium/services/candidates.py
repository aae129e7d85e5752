"""Endpoints that may become backends: what an EndpointSlice lists, and what a Service's selector selects.

Owns the conversion from resources, done once for each: what cannot be is left out and named. Whether a candidate is
chosen is decided elsewhere (`choice`). Texts that many have in common are shared: there may be 100,000.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address
from sys import intern

import msgspec

from pycilium.model.l4 import PORTS, NamedTarget, Protocol
from pycilium.model.peer import Address, ipv4_address, is_ipv4_in_ipv6, stays_on_one_machine
from pycilium.model.remote_endpoint import RemoteEndpoint
from pycilium.model.resources import EndpointSlice
from pycilium.model.resources.endpoint_slice import SliceEndpoint
from pycilium.model.service import Backend, L4Address

NO_NAMES: frozenset[str] = frozenset()
WEIGHT = "pycilium.io/weight"
"""Annotation of an EndpointSlice: how many times as many connections each of its endpoints gets as one without."""
MAX_WEIGHT = 100


class Candidate(msgspec.Struct, frozen=True, gc=False):
    """One endpoint at one port, with what decides whether it is chosen. The backend is as it is when it is chosen."""

    backend: Backend
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


def slice_view(resource: EndpointSlice) -> SliceView:
    """What an EndpointSlice lists."""
    family = {"IPv4": 4, "IPv6": 6}.get(resource.address_type, 0)
    problems: list[str] = []
    targets = tuple(_targets(resource, problems))
    endpoints = list(_addressed(resource, family, problems)) if family else []
    weight = _weight(resource, problems)
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
            target: tuple(_candidate(each, address, target, weight) for address, each in endpoints)
            for target in targets
        },
    )


def candidate_of_pod(
    pod: RemoteEndpoint, at: L4Address, node: str, zone: str, *, for_zones: frozenset[str], for_nodes: frozenset[str]
) -> Candidate:
    """A pod at one port, with the hints that the slices' controller would give it."""
    backend = Backend(at, node=node, zone=zone)
    return Candidate(backend, not pod.leaving, not pod.leaving, pod.leaving, for_zones, for_nodes)


def _targets(resource: EndpointSlice, problems: list[str]) -> Iterator[NamedTarget]:
    """Its ports, those that are none left out and named: API servers let any number pass."""
    for port in resource.ports or ():
        if port.port is not None and port.port not in PORTS:
            problems.append(
                f"EndpointSlice {resource.metadata.name}: {port.port} is no port from 1 to 65535 and is left out"
            )
        elif port.port is not None:
            yield NamedTarget(intern(port.name), Protocol[port.protocol], port.port)


def _addressed(resource: EndpointSlice, family: int, problems: list[str]) -> Iterator[tuple[Address, SliceEndpoint]]:
    """The endpoints with their addresses, those that have none of the slice's family left out and named."""
    for endpoint in resource.endpoints or ():
        text = endpoint.addresses[0] if endpoint.addresses else ""
        try:
            address = ipv4_address(text) if family == 4 else IPv6Address(text)
        except AddressValueError:
            problems.append(
                f"EndpointSlice {resource.metadata.name}: {text!r} is not an {resource.address_type} address and is "
                f"left out; put it into a slice of its own family"
            )
            continue
        if stays_on_one_machine(address) or is_ipv4_in_ipv6(address):
            problems.append(
                f"EndpointSlice {resource.metadata.name}: {text} is no address that other machines reach, and is left "
                f"out"
            )
        else:
            yield address, endpoint


def _weight(resource: EndpointSlice, problems: list[str]) -> int:
    text = resource.metadata.annotations.get(WEIGHT, "1")
    if text.isascii() and text.isdecimal() and len(text) <= 3 and int(text) <= MAX_WEIGHT:
        return int(text)
    problems.append(
        f"EndpointSlice {resource.metadata.name}: annotation {WEIGHT}: {text!r} is no number from 0 to {MAX_WEIGHT} "
        f"and is not heeded"
    )
    return 1


def _candidate(endpoint: SliceEndpoint, address: Address, target: NamedTarget, weight: int) -> Candidate:
    at = L4Address(address, target.port, target.protocol)
    hints = endpoint.hints
    return Candidate(
        Backend(at, weight=weight, node=intern(endpoint.node_name or ""), zone=intern(endpoint.zone or "")),
        endpoint.ready,
        endpoint.serving,
        endpoint.terminating,
        frozenset(zone.name for zone in hints.for_zones) if hints and hints.for_zones else NO_NAMES,
        frozenset(node.name for node in hints.for_nodes) if hints and hints.for_nodes else NO_NAMES,
    )

"""The frontends of one Service, or of one pod's host ports: where it is reached, and who stands behind it.

Depends on that Service, its slices, the endpoints that its selector selects, and the settings alone. Whether another
Service has the same address is decided where all are known (`catalogue`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from operator import attrgetter

import msgspec

from pycilium.model.l4 import Protocol
from pycilium.model.peer import Address, Network
from pycilium.model.remote_endpoint import RemoteEndpoint
from pycilium.model.resources import Service
from pycilium.model.resources.load_balancing import LOAD_BALANCER_CLASSES
from pycilium.model.resources.service import ServicePort, ServiceSpec
from pycilium.model.service import Algorithm, Backend, ForwardingMode, Frontend, FrontendKind, L4Address, SourceRanges
from pycilium.services.annotations import TOPOLOGY_MODE, Wishes, wishes_of
from pycilium.services.candidates import NO_NAMES, Candidate, SliceView, candidate_of_pod
from pycilium.services.choice import Viewpoint, of_cluster, of_node
from pycilium.services.exposure import exposures, families_of, host_addresses, is_served
from pycilium.services.settings import ServiceSettings


@dataclass(frozen=True, slots=True)
class HostPortMapping:
    """A port of the node that a pod on it declared."""

    namespace: str
    pod: str
    host_port: int
    backend: L4Address
    host_address: Address | None = None
    """None, or unspecified: every address of the node."""


@dataclass(frozen=True, slots=True)
class Reached:
    """Frontends, and what is wrong, in words."""

    frontends: tuple[Frontend, ...] = ()
    problems: tuple[str, ...] = ()


NOTHING = Reached()
_number = attrgetter("backend.at.number")
"""Of a candidate: sorts by address and port."""


def of_service(
    service: Service, slices: Iterable[SliceView], pods: Iterable[RemoteEndpoint], settings: ServiceSettings
) -> Reached:
    """The frontends of a Service. `pods` are the endpoints that its selector selects."""
    if not is_served(service):
        return NOTHING
    wishes = wishes_of(service.metadata.annotations)
    problems = list(wishes.problems)
    slices = sorted(slices, key=lambda view: view.name)
    pods = sorted(pods, key=lambda pod: pod.key) if settings.select_endpoints else []
    exposed = list(exposures(service, wishes, settings, problems))
    families = families_of(service.spec, settings)
    problems += _problems_of_slices(service, slices, families)
    behind = _Behind(service.spec, slices, pods, settings, problems)
    frontends = []
    for each in exposed:
        cluster, local = behind.of(each.port, each.at.address.version)
        outward = each.kind is not FrontendKind.CLUSTER_IP
        frontends.append(
            Frontend(
                at=each.at,
                kind=each.kind,
                namespace=service.metadata.namespace,
                service=service.metadata.name,
                port_name=each.port.name,
                inside=local if service.spec.internal_local and not outward else cluster,
                outside=(local if service.spec.external_local else cluster) if outward else (),
                algorithm=wishes.algorithm or (settings.algorithm if outward else Algorithm.RANDOM),
                affinity_s=service.spec.affinity_s,
                forwarding=_forwarding(wishes, settings, each.at.protocol) if outward else ForwardingMode.SNAT,
                source_ranges=_source_ranges(service.spec, wishes, each.at.address.version)
                if each.kind is FrontendKind.LOAD_BALANCER
                else None,
                external_local=outward and service.spec.external_local,
                internal_local=not outward and service.spec.internal_local,
                owns_address=_owns_address(service.spec, each.kind),
                health_check_node_port=service.spec.health_check_node_port if outward else 0,
            )
        )
    return Reached(tuple(frontends), tuple(dict.fromkeys(problems)))


def of_host_ports(mappings: Iterable[HostPortMapping], settings: ServiceSettings) -> Reached:
    """The frontends of a pod's host ports; the pod stands in the place of the Service."""
    return Reached(tuple(frontend for mapping in mappings for frontend in _of_host_port(mapping, settings)))


def _of_host_port(mapping: HostPortMapping, settings: ServiceSettings) -> Iterator[Frontend]:
    backends = (Backend(mapping.backend, node=settings.node, zone=settings.zone),)
    for address in host_addresses(mapping.host_address, mapping.backend.address.version, settings):
        if address.version in settings.families:
            yield Frontend(
                at=L4Address(address, mapping.host_port, mapping.backend.protocol),
                kind=FrontendKind.HOST_PORT,
                namespace=mapping.namespace,
                service=mapping.pod,
                inside=backends,
                outside=backends,
                external_local=True,
            )


class _Behind:
    """The backends of each port and family of one Service, worked out once however many addresses lead to them."""

    def __init__(
        self,
        spec: ServiceSpec,
        slices: Sequence[SliceView],
        pods: Sequence[RemoteEndpoint],
        settings: ServiceSettings,
        problems: list[str],
    ) -> None:
        self._spec, self._slices, self._pods = spec, slices, pods
        self._settings, self._problems = settings, problems
        self._view = Viewpoint(settings.node, settings.zone)
        self._known: dict[tuple[str, str, int], tuple[tuple[Backend, ...], tuple[Backend, ...]]] = {}

    def of(self, port: ServicePort, family: int) -> tuple[tuple[Backend, ...], tuple[Backend, ...]]:
        """Those for clients that may use any, and those of this node."""
        key = (port.name, port.protocol, family)
        found = self._known.get(key)
        if found is None:
            candidates = self._candidates(port, family)
            spec = self._spec
            local = of_node(candidates, self._view) if spec.internal_local or spec.external_local else ()
            found = self._known[key] = (of_cluster(candidates, self._view), local)
        return found

    def _candidates(self, port: ServicePort, family: int) -> list[Candidate]:
        """In the order of their addresses; of what is listed twice the better one."""
        listed = [*self._of_slices(port, family), *self._of_pods(port, family)]
        if self._spec.publish_not_ready_addresses:
            listed = [msgspec.structs.replace(candidate, ready=True) for candidate in listed]
        if len(set(map(_number, listed))) == len(listed):
            return sorted(listed, key=_number)
        best: dict[int, Candidate] = {}
        for candidate in listed:
            number = _number(candidate)
            other = best.setdefault(number, candidate)
            if other is not candidate and self._rank(candidate) > self._rank(other):
                best[number] = candidate
        return [best[number] for number in sorted(best)]

    def _rank(self, candidate: Candidate) -> tuple[bool, bool, bool]:
        return candidate.ready, candidate.serving, candidate.backend.node == self._settings.node

    def _of_slices(self, port: ServicePort, family: int) -> Iterator[Candidate]:
        protocol = Protocol[port.protocol]
        for view in self._slices:
            if view.family == family:
                for target in view.targets:
                    if target.name == port.name and target.protocol is protocol:
                        yield from view.candidates[target]

    def _of_pods(self, port: ServicePort, family: int) -> Iterator[Candidate]:
        protocol = Protocol[port.protocol]
        for pod in self._pods:
            address = next((each for each in pod.addresses if each.version == family), None)
            number = _target(port, protocol, pod)
            if number is None:
                self._problems.append(
                    f"port {port.port}/{port.protocol}: pod {pod.name} has no {port.protocol} port named "
                    f"{port.target_port!r}; name one in its containers' ports, or give targetPort as a number"
                )
            elif address is not None:
                yield self._candidate(pod, L4Address(address, number, protocol))

    def _candidate(self, pod: RemoteEndpoint, at: L4Address) -> Candidate:
        """With the hints that Kubernetes' controller would write into slices for trafficDistribution."""
        place = self._settings.place(pod.node)
        distribution = self._spec.traffic_distribution
        zones = frozenset((place.zone,)) if distribution and place.zone else NO_NAMES
        nodes = frozenset((place.name,)) if distribution == "PreferSameNode" and place.name else NO_NAMES
        return candidate_of_pod(pod, at, place.name, place.zone, for_zones=zones, for_nodes=nodes)


def _target(port: ServicePort, protocol: Protocol, pod: RemoteEndpoint) -> int | None:
    wanted = port.target_port
    if not isinstance(wanted, str):
        return wanted or port.port
    return next((target.port for target in pod.targets if target.name == wanted and target.protocol is protocol), None)


def _problems_of_slices(service: Service, slices: Sequence[SliceView], families: tuple[int, ...]) -> Iterator[str]:
    for view in slices:
        yield from view.problems
        if view.family and view.family not in families and any(view.candidates.values()):
            yield (
                f"EndpointSlice {view.name}: its IPv{view.family} endpoints are left out, as the Service is "
                f"{' and '.join(f'IPv{family}' for family in families)} alone: see ipFamilies and ipFamilyPolicy"
            )
    yield from _unmatched_ports(service, slices)
    if not slices and service.metadata.annotations.get(TOPOLOGY_MODE, "").lower() == "auto":
        yield f"annotation {TOPOLOGY_MODE}: needs EndpointSlices with hints; without them use trafficDistribution"


def _unmatched_ports(service: Service, slices: Sequence[SliceView]) -> Iterator[str]:
    """Ports that no slice has, though there are slices with endpoints: mostly a name that differs."""
    names = {
        (target.name, target.protocol.name) for view in slices for target, found in view.candidates.items() if found
    }
    for port in service.spec.ports:
        if names and (port.name, port.protocol) not in names:
            listed = ", ".join(sorted(f"{name!r}/{protocol}" for name, protocol in names))
            yield (
                f"port {port.port}/{port.protocol}: no EndpointSlice has a port named {port.name!r}/{port.protocol}, "
                f"only {listed}: names of a Service's ports and of its slices' must be the same"
            )


def _forwarding(wishes: Wishes, settings: ServiceSettings, protocol: Protocol) -> ForwardingMode:
    return wishes.forwarding or settings.forwarding(protocol)


def _owns_address(spec: ServiceSpec, kind: FrontendKind) -> bool:
    """Balancers of other classes may give a node's address, and an external IP is anybody's."""
    if kind is FrontendKind.LOAD_BALANCER:
        return spec.load_balancer_class in LOAD_BALANCER_CLASSES
    return kind is FrontendKind.CLUSTER_IP


def _source_ranges(spec: ServiceSpec, wishes: Wishes, family: int) -> SourceRanges | None:
    """The ranges of one family. If only the other family has any, nobody of this one is within them."""
    if not spec.load_balancer_source_ranges:
        return None
    networks = {network for network in _networks(spec.load_balancer_source_ranges) if network.version == family}
    if wishes.deny_source_ranges and not networks:
        return None
    return SourceRanges(tuple(sorted(networks, key=str)), deny=wishes.deny_source_ranges)


def _networks(texts: Iterable[str]) -> Iterator[Network]:
    """Those of them that are CIDRs: one that is none lets nobody in."""
    for text in texts:
        try:
            yield ip_network(text.strip(), strict=False)
        except ValueError:
            continue

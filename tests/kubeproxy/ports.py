"""Which endpoints each port of each Service has on one node, in one family, as kube-proxy sees it. Pure.

A port has endpoints for clients anywhere (cluster) and such as are on this node (local). Ready ones are taken; where
there is none, those that are terminating and still serve. Hints narrow the first kind.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from pycilium.model.resources.endpoint_slice import EndpointSlice, SliceEndpoint
from pycilium.model.resources.service import Service, ServicePort

Family = int
"""4 or 6."""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What kube-proxy knows of its own node. `cluster_cidrs`: the pods' addresses, by family."""

    name: str
    addresses: tuple[str, ...]
    cluster_cidrs: dict[Family, str]
    zone: str = ""

    def of_family(self, family: Family) -> tuple[str, ...]:
        return tuple(address for address in self.addresses if family_of(address) == family)


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """Where one endpoint is reached."""

    address: str
    port: int

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


@dataclass(frozen=True, slots=True)
class ProxyPort:
    """One port of one Service in one family, and who stands behind it on this node."""

    service: Service
    spec: ServicePort
    cluster_ip: str
    external_ips: tuple[str, ...]
    load_balancer_ips: tuple[str, ...]
    source_ranges: tuple[str, ...]
    node_port: int
    any_endpoint: bool
    """Whether there is one for anybody anywhere: without, clients are refused; else at worst their packets are dropped."""
    cluster: tuple[Endpoint, ...]
    local: tuple[Endpoint, ...]
    serving: tuple[Endpoint, ...]
    """All that still answer, new connections or not: UDP flows to others are forgotten."""

    @property
    def protocol(self) -> str:
        return self.spec.protocol.lower()

    @property
    def name(self) -> str:
        """`namespace/service:port`; the last part only where the port has a name."""
        name = f"{self.service.metadata.namespace}/{self.service.metadata.name}"
        return f"{name}:{self.spec.name}" if self.spec.name else name

    @property
    def external(self) -> bool:
        """Whether it is reached by anything but its cluster IP."""
        return bool(self.external_ips or self.load_balancer_ips or self.node_port)

    @property
    def external_local(self) -> bool:
        return self.service.spec.external_local

    @property
    def internal_local(self) -> bool:
        return self.service.spec.internal_local

    @property
    def affinity_s(self) -> int:
        return self.service.spec.affinity_s

    @property
    def uses_cluster(self) -> bool:
        """Even where only local endpoints serve clients outside, those of the cluster reach all."""
        return not self.internal_local or self.external

    @property
    def uses_local(self) -> bool:
        return self.internal_local or (self.external and self.external_local)

    @property
    def internal_endpoints(self) -> tuple[Endpoint, ...]:
        return self.local if self.internal_local else self.cluster

    @property
    def external_endpoints(self) -> tuple[Endpoint, ...]:
        return self.local if self.external_local else self.cluster

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """All that this node sends anybody to, once each."""
        used = (self.cluster if self.uses_cluster else ()) + (self.local if self.uses_local else ())
        return tuple(sorted(set(used)))


def family_of(address: str) -> Family:
    return 6 if ":" in address else 4


def ports_of(
    services: Iterable[Service], slices: Iterable[EndpointSlice], node: NodeFacts, family: Family
) -> list[ProxyPort]:
    """Every port that kube-proxy serves, in the order of the Services."""
    by_service: dict[tuple[str, str], list[EndpointSlice]] = defaultdict(list)
    for each in slices:
        if each.address_type == f"IPv{family}":
            by_service[each.metadata.namespace, each.service_name].append(each)
    return [
        _port(service, spec, cluster_ip, by_service[service.metadata.namespace, service.metadata.name], node, family)
        for service in services
        if (cluster_ip := _cluster_ip(service, family))
        for spec in service.spec.ports
    ]


def _cluster_ip(service: Service, family: Family) -> str:
    """Headless Services and names for others are none of kube-proxy's business."""
    if service.spec.headless or service.spec.type == "ExternalName":
        return ""
    return next((each for each in service.spec.all_cluster_ips if family_of(each) == family), "")


def _port(
    service: Service,
    spec: ServicePort,
    cluster_ip: str,
    slices: Sequence[EndpointSlice],
    node: NodeFacts,
    family: Family,
) -> ProxyPort:
    def of_family(addresses: Iterable[str]) -> tuple[str, ...]:
        return tuple(str(ip_address(each)) for each in addresses if family_of(each) == family)

    known = list(_endpoints_of(slices, spec))
    ready = [each for each in known if each[1].ready]
    return ProxyPort(
        service=service,
        spec=spec,
        cluster_ip=cluster_ip,
        external_ips=of_family(service.spec.external_ips),
        load_balancer_ips=of_family(service.ingress_ips),
        source_ranges=tuple(
            str(ip_network(each.strip()))
            for each in service.spec.load_balancer_source_ranges
            if family_of(each) == family
        ),
        node_port=spec.node_port if service.spec.node_ports_wanted else 0,
        any_endpoint=bool(_usable(known)),
        cluster=_addresses(_hinted(ready, node) or _usable(known)),
        local=_addresses(_usable([each for each in known if each[1].node_name == node.name])),
        serving=_addresses(each for each in known if each[1].serving),
    )


_Known = tuple[Endpoint, SliceEndpoint]


def _endpoints_of(slices: Sequence[EndpointSlice], spec: ServicePort) -> Iterator[_Known]:
    for each in slices:
        for port in each.ports or ():
            if port.port is not None and port.name == spec.name and port.protocol == spec.protocol:
                for endpoint in each.endpoints or ():
                    yield Endpoint(str(ip_address(endpoint.addresses[0])), port.port), endpoint


def _usable(known: Sequence[_Known]) -> list[_Known]:
    """The ready ones; else those that end but still serve."""
    ready = [each for each in known if each[1].ready]
    return ready or [each for each in known if each[1].serving and each[1].terminating]


def _hinted(ready: Sequence[_Known], node: NodeFacts) -> list[_Known]:
    """Those that are meant for this node's clients, or for its zone's; all unless every one says for whom it is."""

    def for_node(endpoint: SliceEndpoint) -> list[str]:
        return [each.name for each in endpoint.hints.for_nodes] if endpoint.hints else []

    def for_zone(endpoint: SliceEndpoint) -> list[str]:
        return [each.name for each in endpoint.hints.for_zones] if endpoint.hints else []

    ways: tuple[tuple[Callable[[SliceEndpoint], list[str]], str], ...] = ((for_node, node.name), (for_zone, node.zone))
    for hints_of, here in ways:
        if ready and all(hints_of(endpoint) for _, endpoint in ready):
            meant = [each for each in ready if here in hints_of(each[1])]
            if meant:
                return meant
    return list(ready)


def _addresses(known: Iterable[_Known]) -> tuple[Endpoint, ...]:
    return tuple(sorted({endpoint for endpoint, _ in known}))

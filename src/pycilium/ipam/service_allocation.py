"""Which cluster IPs and node ports a Service gets, where no API server decides it. Decisions only.

The Services themselves are the one record of what is taken, so nothing can leak and a deleted Service frees what it
had. Whoever calls this keeps the outcome only if no other Service was given anything since `Taken` was read.

What is not written in a Service that is applied again stays as it is, as the API server does it: applying a file twice
changes nothing.

Invariant: no two Services have the same cluster IP or node port, and what is given out lies in its range.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Container, Hashable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import TypeVar, cast

import msgspec

from pycilium.errors import InvalidResource, IpamExhausted
from pycilium.ipam.bands import BandedRange, static_band
from pycilium.model.peer import Address, Network, address_of
from pycilium.model.resources import DEFAULT_SERVICE_CIDR, Service, ServiceCIDR
from pycilium.model.resources.service import HEADLESS, IPFamily, ServicePort, ServiceSpec
from pycilium.model.resources.service_cidr import NODE_PORT_RANGE

K = TypeVar("K", bound=Hashable)

DEFAULT_SERVICE_CIDRS = ("10.96.0.0/16", "fd00:96::/112")
DEFAULT_NODE_PORTS = "30000-32767"
_MOST_ADDRESSES = 1 << 20
"""Of a range: as many as the API server uses of a wider one."""
_ADDRESS: Mapping[IPFamily, type[Address]] = {"IPv4": IPv4Address, "IPv6": IPv6Address}


@dataclass(frozen=True, slots=True)
class ServiceRanges:
    """What Services of a cluster get their addresses and ports from."""

    cidrs: tuple[Network, ...] = tuple(map(ip_network, DEFAULT_SERVICE_CIDRS))
    """The first one's family is what a Service gets that asks for none."""
    node_ports: BandedRange = field(default_factory=lambda: node_port_range(DEFAULT_NODE_PORTS))

    @property
    def families(self) -> tuple[IPFamily, ...]:
        return tuple(dict.fromkeys(_family(cidr) for cidr in self.cidrs))


class Taken:
    """What the Services of a cluster have, and who has it, whatever they had before.

    Nobody is given what another has; but what somebody else wrote may be so, and then it is free once both are gone.
    """

    def __init__(self, services: Iterable[Service] = ()) -> None:
        self.addresses: dict[Address, tuple[str, ...]] = {}
        """Who has each one; most often one Service."""
        self.ports: dict[int, tuple[str, ...]] = {}
        self._of: dict[str, tuple[tuple[Address, ...], tuple[int, ...]]] = {}
        for service in services:
            self.put(service)

    def put(self, service: Service) -> None:
        """It has now what it says, and nothing else any more."""
        owner = owner_of(service)
        self.take_out(owner)
        addresses, ports = self._of[owner] = _addresses(service.spec), tuple(_ports(service.spec))
        for address in addresses:
            self.addresses[address] = _with(owner, self.addresses.get(address))
        for port in ports:
            self.ports[port] = _with(owner, self.ports.get(port))

    def take_out(self, owner: str) -> None:
        """It has nothing any more; fine if it had nothing."""
        addresses, ports = self._of.pop(owner, ((), ()))
        for address in addresses:
            _without(owner, self.addresses, address)
        for port in ports:
            _without(owner, self.ports, port)


def _with(owner: str, others: tuple[str, ...] | None) -> tuple[str, ...]:
    return tuple(sorted({*others, owner})) if others else (owner,)


def _without(owner: str, holders: dict[K, tuple[str, ...]], key: K) -> None:
    left = tuple(each for each in holders.pop(key, ()) if each != owner)
    if left:
        holders[key] = left


def ranges_of(resources: Iterable[ServiceCIDR]) -> ServiceRanges:
    """The ranges of a cluster by its ServiceCIDRs: the one called kubernetes first; the defaults if there are none."""
    ordered = sorted(resources, key=lambda each: (each.metadata.name != DEFAULT_SERVICE_CIDR, each.metadata.name))
    if not ordered:
        return ServiceRanges()
    return ServiceRanges(
        tuple(dict.fromkeys(ip_network(cidr, strict=False) for each in ordered for cidr in each.spec.cidrs)),
        node_port_range(ordered[0].metadata.annotations.get(NODE_PORT_RANGE, DEFAULT_NODE_PORTS)),
    )


def node_port_range(text: str) -> BandedRange:
    """The ports that `30000-32767` means; ValueError says what would be right."""
    first, dash, last = text.partition("-")
    if not (dash and first.strip().isdecimal() and last.strip().isdecimal()):
        raise ValueError(f"{text!r} is not a range of ports such as {DEFAULT_NODE_PORTS}")
    low, high = int(first), int(last)
    if not 1 <= low <= high <= 0xFFFF:
        raise ValueError(f"{text!r} is not a range of ports: both must be 1 to 65535, the first one first")
    return BandedRange(low, high, static_band(high - low + 1, share=32, least=16, most=128))


def owner_of(service: Service) -> str:
    return f"{service.metadata.namespace}/{service.metadata.name}"


def carried_over(stored: Service | None, asked: Service) -> Service:
    """`asked`, with what `stored` was given and `asked` does not say.

    InvalidResource if its address would change, or the first of its families.
    """
    if stored is None or stored.spec.type == "ExternalName" or asked.spec.type == "ExternalName":
        return asked
    before, spec = stored.spec, asked.spec
    if not spec.cluster_ips and spec.cluster_ip in ("", before.cluster_ip):
        spec = msgspec.structs.replace(spec, cluster_ip=before.cluster_ip, cluster_ips=before.cluster_ips)
    elif before.all_cluster_ips and spec.all_cluster_ips[0] != before.all_cluster_ips[0]:
        raise _refused(
            asked,
            "spec.clusterIP",
            f"cannot change from {before.all_cluster_ips[0]} to {spec.all_cluster_ips[0]}: delete the Service first",
        )
    if before.ip_families and spec.ip_families and spec.ip_families[0] != before.ip_families[0]:
        raise _refused(
            asked,
            "spec.ipFamilies[0]",
            f"cannot change from {before.ip_families[0]} to {spec.ip_families[0]}: delete the Service first",
        )
    policy = spec.ip_family_policy or before.ip_family_policy
    families = spec.ip_families or before.ip_families
    spec = msgspec.structs.replace(spec, ip_family_policy=policy, ip_families=families)
    if policy == "SingleStack":
        spec = msgspec.structs.replace(spec, cluster_ips=spec.cluster_ips[:1], ip_families=families[:1])
    if spec.node_ports_wanted and before.node_ports_wanted:
        spec = msgspec.structs.replace(spec, ports=_still_numbered(spec.ports, before.ports))
    if _wants_health_check(spec) and _wants_health_check(before):
        health = spec.health_check_node_port or before.health_check_node_port
        spec = msgspec.structs.replace(spec, health_check_node_port=health)
    return msgspec.structs.replace(asked, spec=spec)


def _still_numbered(ports: Sequence[ServicePort], before: Sequence[ServicePort]) -> tuple[ServicePort, ...]:
    """A port has the node port that it had. It is known by its name, else by its number: either may be new."""
    numbers = {index: port.node_port for index, port in enumerate(ports) if port.node_port}
    used = {(number, ports[index].protocol) for index, number in numbers.items()}
    for key in (_port_name, _port_number):
        known = {key(port): port.node_port for port in before if port.node_port}
        for index, port in enumerate(ports):
            number = known.get(key(port))
            if number and index not in numbers and (number, port.protocol) not in used:
                numbers[index] = number
                used.add((number, port.protocol))
    return tuple(msgspec.structs.replace(port, node_port=numbers.get(index, 0)) for index, port in enumerate(ports))


def _port_name(port: ServicePort) -> Hashable:
    return port.name


def _port_number(port: ServicePort) -> Hashable:
    return port.port, port.protocol


def needs_allocation(stored: Service | None, carried: Service) -> bool:
    """Whether `carried` has, or must get, anything that `stored` has not; else there is nothing to decide."""
    if carried.spec.type == "ExternalName":
        return False
    if stored is None:
        return True
    spec, before = carried.spec, stored.spec
    asked = (spec.all_cluster_ips, spec.ip_families, spec.ip_family_policy)
    had = (before.all_cluster_ips, before.ip_families, before.ip_family_policy)
    missing = spec.node_ports_wanted and not all(port.node_port for port in spec.ports)
    missing |= _wants_health_check(spec) and not spec.health_check_node_port
    return missing or asked != had or not _ports(spec) <= _ports(before)


def allocated(service: Service, stored: Service | None, taken: Taken, ranges: ServiceRanges) -> Service:
    """`service` with every cluster IP and node port that it needs; `taken` must not hold those of `stored`.

    InvalidResource for an explicit value that is another's or outside of its range, IpamExhausted if none is left.
    What `stored` has it keeps, whatever became of the ranges.
    """
    if service.spec.type == "ExternalName":
        return service
    had: frozenset[Address | int] = frozenset()
    if stored is not None:
        had = frozenset((*_addresses(stored.spec), *_ports(stored.spec)))
    spec = _with_families(service, ranges)
    if spec.headless:
        spec = msgspec.structs.replace(spec, cluster_ip=HEADLESS, cluster_ips=(HEADLESS,))
    else:
        spec = _with_addresses(service, spec, had, taken, ranges)
    spec = _with_ports(service, spec, had, taken, ranges)
    return msgspec.structs.replace(service, spec=spec)


def _with_families(service: Service, ranges: ServiceRanges) -> ServiceSpec:
    spec = service.spec
    known = ranges.families
    policy = spec.ip_family_policy
    if policy is None:
        policy = "RequireDualStack" if spec.headless and not spec.selector else "SingleStack"
    given = tuple(_family(address) for address in _addresses(spec))
    asked = tuple(dict.fromkeys((*given, *spec.ip_families)))
    if spec.ip_family_policy is None and len(spec.ip_families) > 1:
        raise _refused(
            service, "spec.ipFamilyPolicy", "two ipFamilies need ipFamilyPolicy PreferDualStack or RequireDualStack"
        )
    headless_without_selector = spec.headless and not spec.selector
    for index, family in enumerate(asked):
        if family not in known and not headless_without_selector:
            raise _refused(
                service,
                f"spec.ipFamilies[{index}]",
                f"this cluster has no {family} for Services: its ranges are {_listed(ranges)}",
            )
    families: tuple[IPFamily, ...] = asked or known[:1]
    if policy != "SingleStack":
        families = tuple(dict.fromkeys((*families, *known)))
        if headless_without_selector and policy == "RequireDualStack":
            families = tuple(dict.fromkeys((*families, "IPv4", "IPv6")))
        elif policy == "RequireDualStack" and len(families) < 2:
            raise _refused(
                service, "spec.ipFamilyPolicy", f"RequireDualStack needs ranges of both families, not {_listed(ranges)}"
            )
    else:
        families = families[:1]
    return msgspec.structs.replace(spec, ip_families=families, ip_family_policy=policy)


def _with_addresses(
    service: Service, spec: ServiceSpec, had: frozenset[Address | int], taken: Taken, ranges: ServiceRanges
) -> ServiceSpec:
    given = {_family(address): address for address in _addresses(spec)}
    addresses: list[str] = []
    for index, family in enumerate(spec.ip_families):
        path = f"spec.clusterIPs[{index}]"
        address = given.get(family)
        if address is None:
            address = _free_address(service, family, taken, ranges)
        elif (holder := taken.addresses.get(address)) is not None:
            raise _refused(
                service, path, f"{address} is taken: Service {holder[0]} has it; leave clusterIP out to get a free one"
            )
        elif address in had:
            pass
        elif not any(address in cidr for cidr in ranges.cidrs):
            raise _refused(service, path, f"{address} lies outside of the cluster's ranges, {_listed(ranges)}")
        elif not _is_usable(address, ranges):
            raise _refused(service, path, f"{address} is the first or last address of its range, which nobody can have")
        addresses.append(str(address))
    return msgspec.structs.replace(spec, cluster_ip=addresses[0], cluster_ips=tuple(addresses))


def _free_address(service: Service, family: IPFamily, taken: Taken, ranges: ServiceRanges) -> Address:
    cidrs = [cidr for cidr in ranges.cidrs if _family(cidr) == family]
    for cidr in cidrs:
        numbers = _Numbers(taken.addresses, family)
        number = _band(cidr).choose(owner_of(service), numbers)
        if number is not None:
            return _ADDRESS[family](number)
    raise IpamExhausted(
        f"{service.key}: no {family} cluster IP is left in {', '.join(map(str, cidrs))}: delete Services that nobody "
        f"uses, or add a ServiceCIDR"
    )


class _Numbers:
    """The taken addresses of a family, as numbers."""

    def __init__(self, addresses: Container[Address], family: IPFamily) -> None:
        self._addresses, self._type = addresses, _ADDRESS[family]

    def __contains__(self, number: object) -> bool:
        return self._type(cast("int", number)) in self._addresses


def _with_ports(
    service: Service, spec: ServiceSpec, had: frozenset[Address | int], taken: Taken, ranges: ServiceRanges
) -> ServiceSpec:
    own: dict[int, tuple[str, ...]] = {}
    for path, port in _explicit_ports(spec):
        if port not in ranges.node_ports and port not in had:
            reason = f"{port} lies outside of the node ports, {ranges.node_ports.first}-{ranges.node_ports.last}"
            raise _refused(service, path, reason)
        if (holder := taken.ports.get(port)) is not None:
            raise _refused(
                service, path, f"node port {port} is taken: Service {holder[0]} has it; leave it out to get a free one"
            )
        own[port] = (owner_of(service),)
    if spec.health_check_node_port and spec.health_check_node_port in {port.node_port for port in spec.ports}:
        raise _refused(service, "spec.healthCheckNodePort", f"{spec.health_check_node_port} is a port's nodePort too")
    given = _numbers_given(service, spec, ChainMap(own, taken.ports), ranges)
    if spec.node_ports_wanted:
        spec = msgspec.structs.replace(spec, ports=tuple(_numbered(spec.ports, given)))
    if _wants_health_check(spec) and not spec.health_check_node_port:
        spec = msgspec.structs.replace(spec, health_check_node_port=next(given))
    return spec


def _numbered(ports: Iterable[ServicePort], given: Iterator[int]) -> Iterator[ServicePort]:
    """One number serves TCP and UDP of the same port, as clients of DNS expect."""
    numbers: dict[int, list[tuple[str, int]]] = {}
    ports = list(ports)
    for port in ports:
        if port.node_port:
            numbers.setdefault(port.port, []).append((port.protocol, port.node_port))
    for port in ports:
        if port.node_port:
            yield port
            continue
        known = numbers.setdefault(port.port, [])
        protocols = {number: {each for each, one in known if one == number} for _, number in known}
        shared = next((number for number, used in protocols.items() if port.protocol not in used), None)
        number = shared if shared is not None else next(given)
        known.append((port.protocol, number))
        yield msgspec.structs.replace(port, node_port=number)


def _numbers_given(
    service: Service, spec: ServiceSpec, used: MutableMapping[int, tuple[str, ...]], ranges: ServiceRanges
) -> Iterator[int]:
    """Free node ports, one after the other; each is used then."""
    for index in range(len(spec.ports) + 1):
        number = ranges.node_ports.choose(f"{owner_of(service)}/{index}", used)
        if number is None:
            raise IpamExhausted(
                f"{service.key}: no node port is left of {ranges.node_ports.first}-{ranges.node_ports.last}: "
                f"{len(used)} are in use; a Service of type LoadBalancer does without with "
                f"allocateLoadBalancerNodePorts: false"
            )
        used[number] = (owner_of(service),)
        yield number


def _explicit_ports(spec: ServiceSpec) -> Iterator[tuple[str, int]]:
    for index, port in enumerate(spec.ports):
        if port.node_port:
            yield f"spec.ports[{index}].nodePort", port.node_port
    if spec.health_check_node_port:
        yield "spec.healthCheckNodePort", spec.health_check_node_port


def _wants_health_check(spec: ServiceSpec) -> bool:
    return spec.type == "LoadBalancer" and spec.external_local


def _addresses(spec: ServiceSpec) -> tuple[Address, ...]:
    return tuple(address_of(text) for text in spec.all_cluster_ips if text != HEADLESS)


def _ports(spec: ServiceSpec) -> set[int]:
    return {port for _, port in _explicit_ports(spec)}


def _is_usable(address: Address, ranges: ServiceRanges) -> bool:
    """Whoever writes an address down may choose any of a range, also of one wider than what is given out."""
    cidr = next(cidr for cidr in ranges.cidrs if address in cidr)
    edges = {cidr.network_address, *([cidr.broadcast_address] if cidr.version == 4 else [])}
    return cidr.num_addresses <= 2 or address not in edges


def _band(cidr: Network) -> BandedRange:
    """Without the network's own address and IPv4's broadcast address."""
    first, last = int(cidr.network_address), int(cidr.broadcast_address)
    if cidr.num_addresses > 2:
        first, last = first + 1, last - (cidr.version == 4)
    last = min(last, first + _MOST_ADDRESSES)
    return BandedRange(first, last, static_band(last - first + 1, share=16, least=16, most=256))


def _family(of: Address | Network) -> IPFamily:
    return "IPv4" if of.version == 4 else "IPv6"


def _listed(ranges: ServiceRanges) -> str:
    return " and ".join(map(str, ranges.cidrs))


def _refused(service: Service, path: str, reason: str) -> InvalidResource:
    return InvalidResource(reason, path=path, source=str(service.key))

"""What is decided of the other nodes: their entries in the nodes map, the routes to them, and who has which address.

      nodes ─────────► node claims ──► node view ──┬──► nodes map (id → where the node is reached)
      host addresses ──┘                           ├──► routes
      remote endpoints ────────────────────────────┴──► places (address → identity, node) ──► ipcache

Pure but for its numbers: which id a node gets depends on the path, what the id says does not.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_interface
from typing import TypeVar

from pycilium.agent.intent import HostAddress
from pycilium.agent.nodes.claims import NodeView, OwnClaims, decide
from pycilium.agent.nodes.numbers import NodeNumbers
from pycilium.agent.nodes.remote_endpoints import RemoteEndpoints
from pycilium.model.node import Node
from pycilium.model.peer import Address, Network
from pycilium.model.remote_endpoint import RemoteEndpoint
from pycilium.tables import Change

K = TypeVar("K", bound=Hashable)

GATEWAY_DEVICE = "cilium_host"


@dataclass(frozen=True, slots=True)
class NodeTarget:
    """Where a node is reached."""

    address: Address
    """On the underlay."""
    ifindex: int
    """The device on whose link it is a neighbour; 0: routes lead to it."""
    mtu_bytes: int
    tunnel: bool


@dataclass(frozen=True, slots=True)
class RouteTarget:
    """How the node's own stack reaches a pod CIDR."""

    ifindex: int
    gateway: Address | None
    source: Address | None
    mtu_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSettings:
    """What this node's configuration says about the others."""

    node_name: str = ""
    pod_cidrs: tuple[Network, ...] = ()
    """This node's."""
    tunnel: bool = True
    underlay_version: int | None = None
    """4 or 6; None: 4 if this node has an IPv4 address on the underlay."""
    devices: frozenset[str] = frozenset()
    """Those on the underlay; none: all but the gateway device."""
    auto_direct_node_routes: bool = True
    mtu_bytes: int = 1500
    """The largest packet of a pod that reaches another node whole."""
    kube_apiserver: frozenset[Address] = frozenset()
    node_capacity: int = 8192


def is_underlay(host: HostAddress, devices: frozenset[str]) -> bool:
    """Whether others reach the node at this address of its own."""
    return host.interface != GATEWAY_DEVICE and (not devices or host.interface in devices)


class Cluster:
    """Owns what is decided of the other nodes; see the module."""

    def __init__(self, settings: ClusterSettings, in_use: Mapping[int, Address] | None = None) -> None:
        self.settings = settings
        self.view = NodeView()
        self.endpoints = RemoteEndpoints()
        self._numbers = NodeNumbers(in_use or {}, settings.node_capacity)
        self._nodes: dict[int, NodeTarget] = {}
        self._routes: dict[Network, RouteTarget] = {}
        self._unreached: dict[str, str] = {}

    def update(
        self,
        nodes: Iterable[Node] | None,
        hosts: Sequence[HostAddress],
        endpoints: Sequence[Change[RemoteEndpoint]],
    ) -> ClusterChanges:
        """Take in what changed; `nodes` are all of them, None if neither they nor `hosts` changed."""
        if nodes is None:
            return ClusterChanges(self.endpoints.update(endpoints, self.view), set())
        before, numbers = self.view, dict(self._numbers.numbers)
        self._decide(list(nodes), hosts)
        touched = self.endpoints.update(endpoints, self.view)
        renumbered = {
            name
            for name in numbers.keys() | self._numbers.numbers.keys()
            if numbers.get(name) != self._numbers.numbers.get(name)
        }
        touched |= dict.fromkeys(_differing(before.addresses, self.view.addresses))
        touched |= dict.fromkeys(address for address, (_, node) in self.view.addresses.items() if node in renumbered)
        touched |= dict.fromkeys(self.endpoints.of_nodes(renumbered))
        cidrs: set[Network] = _differing(before.pod_cidrs, self.view.pod_cidrs)
        cidrs.update(cidr for cidr, node in self.view.pod_cidrs.items() if node in renumbered)
        return ClusterChanges(touched, cidrs)

    def number_of(self, node: str) -> int | None:
        """The node's id; None if it has none, so that nothing can be sent to it."""
        return self._numbers.numbers.get(node)

    @property
    def nodes(self) -> Mapping[int, NodeTarget]:
        """What the nodes map should hold."""
        return self._nodes

    @property
    def routes(self) -> Mapping[Network, RouteTarget]:
        """What the node's routes to pod CIDRs of others should be."""
        return self._routes

    def realized(self) -> None:
        """The kernel has caught up."""
        self._numbers.realized()

    @property
    def retry_due(self) -> bool:
        """Whether a node that went without an id may get one now."""
        return self._numbers.retry_due

    def problems(self) -> Iterator[str]:
        """What was set aside, and why, in words."""
        for node, texts in sorted(self.view.problems.items()):
            yield from (f"node {node}: {text}" for text in texts)
        for node, text in sorted(self._unreached.items()):
            yield f"node {node}: {text}"
        yield from self.endpoints.problems()

    def _decide(self, nodes: Sequence[Node], hosts: Sequence[HostAddress]) -> None:
        settings = self.settings
        own = OwnClaims(settings.node_name, tuple(host.address for host in hosts), settings.pod_cidrs)
        self.view = decide(nodes, own)
        version = self._underlay_version(hosts)
        reached = {}
        self._unreached = {}
        for node in nodes:
            found = (each for each in self.view.internal_ips.get(node.name, ()) if each.version == version)
            address = next(found, None)
            if address is None:
                self._unreached[node.name] = f"has no IPv{version} InternalIP of its own, so nothing can be sent to it"
            else:
                reached[node.name] = address
        self._numbers.assign(reached)
        for name in self._numbers.without:
            self._unreached[name] = f"no node id is left of {settings.node_capacity - 1}: raise node_capacity"
        links = [host for host in hosts if is_underlay(host, settings.devices) and host.ifindex]
        self._nodes = {
            number: NodeTarget(reached[name], _link_to(reached[name], links), settings.mtu_bytes, settings.tunnel)
            for name, number in self._numbers.numbers.items()
        }
        self._routes = dict(self._wanted_routes(hosts, links))

    def _underlay_version(self, hosts: Iterable[HostAddress]) -> int:
        settings = self.settings
        if settings.underlay_version is not None:
            return settings.underlay_version
        has_ipv4 = any(host.address.version == 4 for host in hosts if is_underlay(host, settings.devices))
        return 4 if has_ipv4 else 6

    def _wanted_routes(
        self, hosts: Iterable[HostAddress], links: Sequence[HostAddress]
    ) -> Iterator[tuple[Network, RouteTarget]]:
        settings = self.settings
        gateways = {host.address.version: host for host in hosts if host.interface == GATEWAY_DEVICE}
        for cidr, node in self.view.pod_cidrs.items():
            gateway = gateways.get(cidr.version)
            if gateway is None or not gateway.ifindex:
                continue  # the family is off on this node
            if settings.tunnel:
                if self.number_of(node) is None:
                    continue  # nothing is sent to it
                yield cidr, RouteTarget(gateway.ifindex, None, gateway.address, settings.mtu_bytes)
            elif settings.auto_direct_node_routes:
                addresses = (each for each in self.view.internal_ips.get(node, ()) if each.version == cidr.version)
                address = next(addresses, None)
                ifindex = _link_to(address, links) if address is not None else 0
                if ifindex:
                    yield cidr, RouteTarget(ifindex, address, None, 0)


@dataclass(frozen=True, slots=True)
class ClusterChanges:
    """What may have another ipcache entry now."""

    addresses: Mapping[Address, None]
    """In an order in which those of one endpoint stand together."""
    pod_cidrs: set[Network]


def _link_to(address: Address, hosts: Iterable[HostAddress]) -> int:
    """The device on whose link `address` is a neighbour, by the longest prefix of this node's addresses; 0 if none."""
    best = max(
        (host for host in hosts if host.address.version == address.version and address in _link_of(host)),
        key=lambda host: (host.prefix_len, -host.ifindex),
        default=None,
    )
    return best.ifindex if best is not None and best.prefix_len < address.max_prefixlen else 0


def _link_of(host: HostAddress) -> Network:
    return ip_interface((host.address, host.prefix_len)).network


def _differing(before: Mapping[K, object], after: Mapping[K, object]) -> set[K]:
    return {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}

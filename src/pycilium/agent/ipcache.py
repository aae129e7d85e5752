"""What the ipcache should say of every address and prefix; the first of these that knows an address has it:

    1. endpoints of this node, and its own addresses
    2. addresses of other nodes, and of the API server
    3. pods of other nodes
    4. CIDRs of rules; within the pod CIDR of another node they say UNMANAGED, and where it is
    5. pod CIDRs of other nodes: UNMANAGED, for pods of which nothing is known yet
    6. the world

The entry of an address or prefix depends on those alone. A change costs what it touches: what lies in a rule's CIDR is
found by an index.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Protocol

from pycilium.agent.nodes.claims import SELF
from pycilium.agent.nodes.cluster import Cluster, ClusterChanges
from pycilium.model.identity import ReservedIdentity
from pycilium.model.peer import Address, Network, network_of_one
from pycilium.model.prefixes import PrefixMap
from pycilium.policy import PolicyEngine

Key = Address | Network
"""A single address stands for the prefix of its full length: tens of thousands, so they are what endpoints hold too."""

WORLD: Mapping[Network, int] = {
    IPv4Network("0.0.0.0/0"): int(ReservedIdentity.WORLD_IPV4),
    IPv6Network("::/0"): int(ReservedIdentity.WORLD_IPV6),
}


@dataclass(frozen=True, slots=True)
class IpcacheTarget:
    """What the ipcache says of a prefix."""

    sec_identity: int
    cidr_identity: int
    node_id: int = 0


@lru_cache(maxsize=4096)
def shared_target(sec_identity: int, cidr_identity: int, node_id: int) -> IpcacheTarget:
    """The addresses of one endpoint share it."""
    return IpcacheTarget(sec_identity, cidr_identity, node_id)


class Desired(Protocol):
    """Where the outcome goes: the ipcache's reconcilers."""

    def desired_set(self, key: Key, value: IpcacheTarget) -> None: ...
    def desired_delete(self, key: Key) -> None: ...


def key_of(network: Network) -> Key:
    """How the ipcache names a network."""
    return network.network_address if network.prefixlen == network.max_prefixlen else network


def network_of(key: Key) -> Network:
    """The network that a key of the ipcache names."""
    return network_of_one(key) if isinstance(key, (IPv4Address, IPv6Address)) else key


class Ipcache:
    """Owns what is desired of the ipcache; see the module."""

    def __init__(self, engine: PolicyEngine, cluster: Cluster, desired: Desired) -> None:
        self._engine, self._cluster, self._desired = engine, cluster, desired
        self._local: dict[Address, int] = {}
        self._rules: PrefixMap[int] = PrefixMap()
        self._addresses = AddressIndex()
        for network in WORLD:
            self._settle(network)
        for address in cluster.settings.kube_apiserver:
            self._settle(address)

    def update(
        self,
        gone: Iterable[Address],
        placed: Mapping[Address, int],
        cluster: ClusterChanges,
        cidrs: Mapping[Network, int | None],
    ) -> None:
        """Take in which local addresses went and came, what became of the cluster, and which CIDRs rules name now."""
        # An address may go from one endpoint to another in one step: so all that went first.
        for address in gone:
            self._local.pop(address, None)
        self._local |= placed
        keys: dict[Key, None] = dict.fromkeys((*gone, *placed, *cluster.addresses, *cluster.pod_cidrs))
        for network, number in cidrs.items():
            keys[key_of(network)] = None
            if number is not None:
                self._rules[network] = number
            elif network in self._rules:
                del self._rules[network]
        for network in cidrs:
            # The addresses and pod CIDRs that it covers may have another CIDR identity now.
            keys |= dict.fromkeys(self._addresses.within(network))
            keys |= dict.fromkeys(pod_cidr for pod_cidr, _ in self._cluster.view.owners.within(network))
        for network in cluster.pod_cidrs:
            keys |= dict.fromkeys(key_of(rule) for rule, _ in self._rules.within(network))
        for key in keys:
            self._settle(key)

    def _settle(self, key: Key) -> None:
        entry = self._entry(key)
        if entry is None:
            self._desired.desired_delete(key)
        else:
            self._desired.desired_set(key, entry)
        if isinstance(key, (IPv4Address, IPv6Address)):
            self._addresses.keep(key, present=entry is not None)

    def _entry(self, key: Key) -> IpcacheTarget | None:
        if isinstance(key, (IPv4Address, IPv6Address)):
            return self._of_address(key) or self._of_network(network_of(key))
        return self._of_network(key)

    def _of_address(self, address: Address) -> IpcacheTarget | None:
        local = self._local.get(address)
        if local is not None:
            return IpcacheTarget(local, self._engine.cidr_identity(address))
        of_node = self._cluster.view.addresses.get(address)
        if address in self._cluster.settings.kube_apiserver:
            of_node = int(ReservedIdentity.KUBE_APISERVER), of_node[1] if of_node is not None else ""
        if of_node is not None:
            identity, node = of_node
            return IpcacheTarget(identity, self._engine.cidr_identity(address), self._cluster.number_of(node) or 0)
        place = self._cluster.endpoints.place(address)
        number = self._cluster.number_of(place.node) if place is not None else None
        if place is None or number is None:
            return None
        return shared_target(place.sec_identity, self._engine.cidr_identity(address), number)

    def _of_network(self, network: Network) -> IpcacheTarget | None:
        rule = self._rules.get(network)
        cidr, node = next(self._cluster.view.owners.covering(network), (None, SELF))
        if rule is not None or cidr == network:
            number = self._cluster.number_of(node)
            if number is not None:
                return IpcacheTarget(int(ReservedIdentity.UNMANAGED), self._engine.cidr_identity(network), number)
        if rule is not None:
            return IpcacheTarget(rule, 0)
        world = WORLD.get(network)
        return IpcacheTarget(world, 0) if world is not None else None


class AddressIndex:
    """Single addresses, to be asked which of them lie in a network. Sorted when somebody asks, not before."""

    def __init__(self) -> None:
        self._present: dict[int, set[int]] = {4: set(), 6: set()}
        self._sorted: dict[int, list[int]] = {4: [], 6: []}
        self._stale = False

    def keep(self, address: Address, *, present: bool) -> None:
        """Note whether an address is there."""
        number, numbers = int(address), self._present[address.version]
        if present == (number in numbers):
            return
        self._stale = True
        if present:
            numbers.add(number)
            self._sorted[address.version].append(number)
        else:
            numbers.discard(number)

    def within(self, network: Network) -> Iterator[Address]:
        """Those that lie in `network`."""
        if self._stale:
            self._sort()
        numbers = self._sorted[network.version]
        made: type[Address] = IPv4Address if network.version == 4 else IPv6Address
        last = int(network.broadcast_address)
        for position in range(bisect_left(numbers, int(network.network_address)), len(numbers)):
            if numbers[position] > last:
                return
            yield made(numbers[position])

    def _sort(self) -> None:
        for version, present in self._present.items():
            kept = [number for number in dict.fromkeys(self._sorted[version]) if number in present]
            kept.sort()  # nearly sorted already, which makes it quick
            self._sorted[version] = kept
        self._stale = False

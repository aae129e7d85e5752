"""Cluster-pool IPAM: which node gets which pod CIDR, from pools that all nodes share. Decisions only.

What nodes have is kept in their CiliumNodes and nowhere else; each plan is made from all of them, so an operator that
starts anew decides as the one before. A node keeps what it has, whatever becomes of the pools. A CIDR that was given
back rests before another node gets it, because packets and connections of its last node may still be on their way.

Invariant: a CIDR that is given out overlaps no CIDR of another node and no node's address.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from itertools import combinations

from pycilium.errors import ConfigError, IpamExhausted
from pycilium.ipam.rotation import Rotation

Address = IPv4Address | IPv6Address
Prefix = IPv4Network | IPv6Network

REST_S = 600.0
MOST_CIDRS = 1 << 24


@dataclass(frozen=True, slots=True)
class NodeClaim:
    """What a node has and is called. The one made first is the first to be believed, then the one named first."""

    name: str
    created: datetime | None
    cidrs: tuple[Prefix, ...]
    addresses: tuple[Address, ...] = ()
    """Its own, not those of its pods."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What follows from the nodes that there are."""

    given: Mapping[str, tuple[Prefix, ...]]
    """What nodes are to get besides what they have."""
    problems: Mapping[str, tuple[str, ...]]
    """Of nodes, by name."""
    pool_problems: tuple[str, ...]
    next_due_s: float | None
    """When a rest ends that somebody waits for."""


class CidrPool:
    """The pod CIDRs of one family: all that lie in `cidrs`, each `mask_size` long, in that order.

    ConfigError if there are none, if they overlap, or if they hold no CIDR of that size.
    """

    def __init__(self, cidrs: Sequence[Prefix], mask_size: int) -> None:
        self.cidrs, self.mask_size = tuple(cidrs), mask_size
        for one, other in combinations(self.cidrs, 2):
            if one.version == other.version and one.overlaps(other):
                raise ConfigError(f"the pools {one} and {other} overlap: leave one of them out, or make them apart")
        for cidr in self.cidrs:
            room = cidr.max_prefixlen - 2
            if not cidr.prefixlen <= mask_size <= room:
                raise ConfigError(
                    f"pool {cidr} has no pod CIDRs with a mask of {mask_size}: {cidr.prefixlen} to {room}"
                )
        self._sizes = [1 << (mask_size - cidr.prefixlen) for cidr in self.cidrs]
        self.capacity = sum(self._sizes)
        if self.capacity > MOST_CIDRS:
            raise ConfigError(f"the pools hold {self.capacity} pod CIDRs, more than {MOST_CIDRS}: use a wider mask")
        self._numbers: Rotation[str] = Rotation(0, self.capacity - 1)
        self._resting: dict[int, float] = {}

    @property
    def in_use(self) -> int:
        return len(self._numbers.owners) - len(self._resting)

    def __contains__(self, cidr: Prefix) -> bool:
        return any(cidr.version == pool.version and _within(cidr, pool) for pool in self.cidrs)

    def settle(self, claims: Mapping[int, str], now: float) -> None:
        """Make these the owners; what has one no longer rests."""
        for number, owner in list(self._numbers.owners.items()):
            if owner and number not in claims:
                self._hand_over(number, "")
                self._resting[number] = now
        for number, owner in sorted(claims.items()):
            self._resting.pop(number, None)
            self._hand_over(number, owner)

    def take(self, owner: str, now: float) -> Prefix:
        """A free CIDR. Raises IpamExhausted."""
        for number, since in list(self._resting.items()):
            if now - since >= REST_S:
                del self._resting[number]
                self._numbers.release(number)
        taken = self._numbers.take(owner)
        if taken is None:
            raise IpamExhausted(self._exhausted())
        return self._cidr(taken)

    def numbers(self, cidr: Prefix) -> Iterator[int]:
        """The numbers of the pool's CIDRs that overlap `cidr`."""
        first = 0
        for pool, size in zip(self.cidrs, self._sizes, strict=True):
            if pool.version == cidr.version and pool.overlaps(cidr):
                low = max(int(cidr.network_address), int(pool.network_address))
                high = min(int(cidr.broadcast_address), int(pool.broadcast_address))
                shift = pool.max_prefixlen - self.mask_size
                base = int(pool.network_address)
                yield from range(first + ((low - base) >> shift), first + ((high - base) >> shift) + 1)
            first += size

    def next_rested_s(self) -> float | None:
        return min(self._resting.values()) + REST_S if self._resting else None

    def _hand_over(self, number: int, owner: str) -> None:
        if self._numbers.owners.get(number, owner) != owner:
            self._numbers.release(number)
        self._numbers.claim(number, owner)

    def _cidr(self, number: int) -> Prefix:
        for pool, size in zip(self.cidrs, self._sizes, strict=True):
            if number < size:
                start = int(pool.network_address) + (number << (pool.max_prefixlen - self.mask_size))
                return type(pool)((start, self.mask_size))
            number -= size
        raise AssertionError(number)

    def _exhausted(self) -> str:
        family = self.cidrs[0].version
        resting = f", {len(self._resting)} rest before they are given out again" if self._resting else ""
        return (
            f"no IPv{family} pod CIDR is left in {', '.join(map(str, self.cidrs))}: {self.in_use} of {self.capacity} "
            f"are in use{resting}; append a CIDR to cluster_pool_ipv{family}_cidrs"
        )


class ClusterPool:
    """Both families. A node gets a CIDR of each that has a pool."""

    def __init__(self, pools: Iterable[CidrPool]) -> None:
        self._pools = {pool.cidrs[0].version: pool for pool in pools}

    @property
    def pools(self) -> tuple[CidrPool, ...]:
        return tuple(self._pools.values())

    def plan(self, nodes: Iterable[NodeClaim], now: float, unknown: str = "") -> Plan:
        """What the nodes get. Asked again with the outcome it gives nothing more.

        `unknown` says of which nodes nobody knows what they have: until that is known, nothing is given to anybody.
        """
        ordered = sorted(nodes, key=_seniority)
        problems: dict[str, list[str]] = {node.name: [] for node in ordered}
        pool_problems = self._settle(ordered, problems, now)
        given: dict[str, tuple[Prefix, ...]] = {}
        starved = False
        for node in ordered:
            for version, pool in sorted(self._pools.items()):
                if any(cidr.version == version for cidr in node.cidrs):
                    continue
                if unknown:
                    problems[node.name].append(f"no IPv{version} pod CIDR can be given out safely: {unknown}")
                    continue
                try:
                    given[node.name] = (*given.get(node.name, ()), pool.take(node.name, now))
                except IpamExhausted as error:
                    problems[node.name].append(str(error))
                    starved = True
        rests = [due for pool in self.pools if (due := pool.next_rested_s()) is not None]
        return Plan(
            given=given,
            problems={name: tuple(texts) for name, texts in problems.items() if texts},
            pool_problems=tuple(pool_problems),
            next_due_s=min(rests) if starved and rests else None,
        )

    def _settle(self, ordered: Sequence[NodeClaim], problems: dict[str, list[str]], now: float) -> list[str]:
        owners: dict[int, dict[int, str]] = {version: {} for version in self._pools}
        outside: list[tuple[Prefix, str]] = []
        for node in ordered:
            for cidr in node.cidrs:
                pool = self._pools.get(cidr.version)
                taken = owners.get(cidr.version, {})
                numbers = list(pool.numbers(cidr)) if pool else []
                others = {taken[number] for number in numbers if taken.get(number, node.name) != node.name}
                if not numbers or (pool and cidr not in pool):
                    others |= {name for other, name in outside if name != node.name and _overlap(other, cidr)}
                    outside.append((cidr, node.name))
                    problems[node.name].append(_outside(cidr, pool))
                if others:
                    problems[node.name].append(
                        f"pod CIDR {cidr} is {' and '.join(sorted(others))}'s, which had it first: pods of both have "
                        f"the same addresses; remove one of the nodes, or give it another CIDR"
                    )
                for number in numbers:
                    taken.setdefault(number, node.name)
        texts = []
        for node in ordered:
            for address in node.addresses:
                pool = self._pools.get(address.version)
                for number in pool.numbers(_single(address)) if pool else ():
                    owners[address.version].setdefault(number, _NODES)
                    texts.append(
                        f"the pool around {address} overlaps an address of node {node.name}: the pod CIDR that holds "
                        f"it is given to nobody"
                    )
        for version, pool in self._pools.items():
            pool.settle(owners[version], now)
        return texts


_NODES = "addresses of nodes"


def _seniority(node: NodeClaim) -> tuple[float, str]:
    return (node.created.timestamp() if node.created else float("inf"), node.name)


def _outside(cidr: Prefix, pool: CidrPool | None) -> str:
    pools = ", ".join(map(str, pool.cidrs)) if pool else "none"
    return f"pod CIDR {cidr} lies outside of the pools ({pools}): the node keeps it, and nobody else gets it"


def _within(cidr: Prefix, pool: Prefix) -> bool:
    return cidr.prefixlen >= pool.prefixlen and cidr.network_address in pool


def _overlap(one: Prefix, other: Prefix) -> bool:
    return one.version == other.version and one.overlaps(other)


def _single(address: Address) -> Prefix:
    return ip_network(address)

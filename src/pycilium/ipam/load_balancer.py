"""Addresses of Services of type LoadBalancer from pools (LB-IPAM). Decisions only.

What Services have is kept in their status and nowhere else; each plan is made from all of them, so an operator that
starts anew decides as the one before. A Service keeps what it has while a pool that selects it holds that address, also
one that is disabled; a pool that is gone takes its addresses along.

Invariant: an address has one Service, or several that agreed to share it and have no port in common.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address

from pycilium.model.peer import Address
from pycilium.model.resources import LabelSelector

ANY_NAMESPACE = "*"


@dataclass(frozen=True, slots=True)
class Block:
    """The addresses `first`…`last` of one family."""

    first: Address
    last: Address

    def __contains__(self, address: Address) -> bool:
        return self.first.version == address.version and int(self.first) <= int(address) <= int(self.last)

    def overlaps(self, other: Block) -> bool:
        return self.first in other or other.first in self

    @property
    def size(self) -> int:
        return int(self.last) - int(self.first) + 1

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"


@dataclass(frozen=True, slots=True)
class AddressPool:
    """What a CiliumLoadBalancerIPPool offers, and to whom. The one made first is asked first, then by name."""

    name: str
    blocks: tuple[Block, ...]
    created: datetime | None = None
    selector: LabelSelector | None = None
    """None: every Service."""
    disabled: bool = False

    def __contains__(self, address: Address) -> bool:
        return any(address in block for block in self.blocks)

    def selects(self, request: AddressRequest) -> bool:
        return self.selector is None or self.selector.matches(request.labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """With whom a Service shares its addresses: those of the same key, in its namespace or in both ones' lists."""

    key: str
    namespaces: frozenset[str] = frozenset()
    """Besides its own; `*` is all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressRequest:
    """What a Service asks for and has."""

    namespace: str
    name: str
    created: datetime | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    families: tuple[int, ...] = (4,)
    all_families: bool = True
    """Whether it is satisfied with nothing less."""
    wanted: tuple[Address, ...] = ()
    """Exactly these, if any."""
    malformed: tuple[str, ...] = ()
    """What stands in their place and is no address."""
    has: tuple[Address, ...] = ()
    sharing: Sharing | None = None
    ports: frozenset[tuple[int, str]] = frozenset()
    backends: tuple[object, ...] = ()
    """What else must be equal of those that share: where packets from outside may go."""

    @property
    def is_exact(self) -> bool:
        return bool(self.wanted or self.malformed)

    @property
    def owner(self) -> str:
        return f"{self.namespace}/{self.name}"

    def may_share_with(self, other: AddressRequest) -> bool:
        one, two = self.sharing, other.sharing
        if one is None or two is None or one.key != two.key or self.backends != other.backends:
            return False
        if self.namespace != other.namespace and not (_admits(one, other) and _admits(two, self)):
            return False
        return not self.ports & other.ports


@dataclass(frozen=True, slots=True)
class Unsatisfied:
    """Why a Service did not get all that it asks for: a word for programs, a sentence for people."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class PoolState:
    """`conflict` says with what the pool overlaps; empty: with nothing."""

    total: int
    used: int
    conflict: str = ""

    @property
    def available(self) -> int:
        return self.total - self.used


@dataclass(frozen=True, slots=True)
class AddressPlan:
    """What follows from the pools and Services that there are."""

    given: Mapping[str, tuple[Address, ...]]
    """By owner: those that it has and those that it gets, in the order of its families or wishes."""
    unsatisfied: Mapping[str, Unsatisfied]
    pools: Mapping[str, PoolState]


def plan(pools: Iterable[AddressPool], requests: Iterable[AddressRequest]) -> AddressPlan:
    """Who gets what. Asked again with the outcome it gives the same; the order of its arguments means nothing."""
    ordered_pools = sorted(pools, key=lambda pool: (_moment(pool.created), pool.name))
    ordered = sorted(requests, key=lambda request: (_moment(request.created), request.namespace, request.name))
    planning = _Planning(ordered_pools, conflicts_of(ordered_pools))
    for request in ordered:
        planning.keep(request)
    for request in ordered:
        if request.is_exact:
            planning.give_wanted(request)
    for request in ordered:
        if not request.is_exact:
            planning.give_any(request)
    return planning.outcome(ordered)


def conflicts_of(ordered: Sequence[AddressPool]) -> dict[str, str]:
    """The pools that overlap themselves or one made before them, with the words for it."""
    conflicts: dict[str, str] = {}
    sound: list[AddressPool] = []
    for pool in ordered:
        text = _internal_conflict(pool) or next(filter(None, (_conflict(pool, other) for other in sound)), "")
        if text:
            conflicts[pool.name] = text
        else:
            sound.append(pool)
    return conflicts


class _Planning:
    """One plan in the making."""

    def __init__(self, pools: Sequence[AddressPool], conflicts: Mapping[str, str]) -> None:
        self._pools, self._conflicts = pools, conflicts
        self._open = [pool for pool in pools if not pool.disabled and pool.name not in conflicts]
        self._holders: dict[Address, list[AddressRequest]] = {}
        self._shared: dict[str, list[Address]] = {}
        self._given: dict[str, list[Address]] = {}
        self._unsatisfied: dict[str, Unsatisfied] = {}
        self._refused: dict[str, tuple[AddressRequest, Address]] = {}
        """The first wish of each owner that cannot be granted; why, is said when all else is decided."""
        self._free = {(pool.name, version): self._unused(pool, version) for pool in self._open for version in (4, 6)}

    def keep(self, request: AddressRequest) -> None:
        families = set(request.families)
        for address in request.has:
            fits = address in request.wanted if request.is_exact else address.version in families
            known = any(address in pool and pool.selects(request) for pool in self._pools)
            if fits and known and self._can_have(request, address):
                self._give(request, address)
                families.discard(address.version)

    def give_wanted(self, request: AddressRequest) -> None:
        if request.malformed:
            text = f"{', '.join(map(repr, request.malformed))} is no IP address, as lbipam.cilium.io/ips should hold"
            self._unsatisfied[request.owner] = Unsatisfied("invalid_ip", text)
        for address in request.wanted:
            if address in self._given.get(request.owner, ()):
                continue
            if self._why_not(request, address) is None:
                self._give(request, address)
            else:
                self._refused.setdefault(request.owner, (request, address))

    def give_any(self, request: AddressRequest) -> None:
        had = {address.version for address in self._given.get(request.owner, ())}
        missing = []
        for version in request.families:
            if version in had:
                continue
            address = self._shareable(request, version) or self._next(request, version)
            if address is None:
                missing.append(version)
            else:
                self._give(request, address)
        if missing and (request.all_families or not self._given.get(request.owner)):
            self._unsatisfied[request.owner] = self._why_none(request, missing)

    def outcome(self, ordered: Iterable[AddressRequest]) -> AddressPlan:
        for owner, (request, address) in self._refused.items():
            why = self._why_not(request, address)
            if why is not None:
                self._unsatisfied.setdefault(owner, why)
        given = {request.owner: _in_order(request, self._given.get(request.owner, ())) for request in ordered}
        states = {
            pool.name: PoolState(
                total=sum(block.size for block in pool.blocks),
                used=sum(address in pool for address in self._holders),
                conflict=self._conflicts.get(pool.name, ""),
            )
            for pool in self._pools
        }
        return AddressPlan(given, self._unsatisfied, states)

    def _can_have(self, request: AddressRequest, address: Address) -> bool:
        return all(request.may_share_with(holder) for holder in self._holders.get(address, ()))

    def _give(self, request: AddressRequest, address: Address) -> None:
        self._holders.setdefault(address, []).append(request)
        self._given.setdefault(request.owner, []).append(address)
        if request.sharing is not None:
            shared = self._shared.setdefault(request.sharing.key, [])
            if address not in shared:
                shared.append(address)

    def _why_not(self, request: AddressRequest, address: Address) -> Unsatisfied | None:
        if address.version not in request.families:
            return Unsatisfied("wrong_family", f"{address} is wanted, but the Service has no IPv{address.version}")
        offered = [pool for pool in self._open if address in pool]
        if not offered:
            return Unsatisfied("not_in_pool", f"{address} is wanted, but no enabled pool holds it")
        if not any(pool.selects(request) for pool in offered):
            return Unsatisfied(
                "pool_selector_mismatch",
                f"{address} is wanted, but the serviceSelector of pool {offered[0].name} does not select the Service",
            )
        if not self._can_have(request, address):
            strangers = (holder for holder in self._holders[address] if not request.may_share_with(holder))
            holders = " and ".join(sorted(holder.owner for holder in strangers))
            return Unsatisfied(
                "already_allocated",
                f"{address} is {holders}'s: to share it Services need the same sharing key and different ports",
            )
        return None

    def _why_none(self, request: AddressRequest, missing: Sequence[int]) -> Unsatisfied:
        families = " and ".join(f"IPv{version}" for version in missing)
        selecting = [pool for pool in self._open if pool.selects(request)]
        fitting = [pool.name for pool in selecting if any(block.first.version in missing for block in pool.blocks)]
        if not fitting:
            return Unsatisfied("no_pool", f"no enabled pool with {families} addresses selects the Service")
        return Unsatisfied(
            "out_of_ips", f"no {families} address is left in {', '.join(fitting)}: add a block, or another pool"
        )

    def _shareable(self, request: AddressRequest, version: int) -> Address | None:
        if request.sharing is None:
            return None
        for address in self._shared.get(request.sharing.key, ()):
            offered = any(address in pool and pool.selects(request) for pool in self._open)
            if address.version == version and offered and self._can_have(request, address):
                return address
        return None

    def _next(self, request: AddressRequest, version: int) -> Address | None:
        for pool in self._open:
            if pool.selects(request):
                address = next(self._free[pool.name, version], None)
                if address is not None:
                    return address
        return None

    def _unused(self, pool: AddressPool, version: int) -> Iterator[Address]:
        """The lowest first; nothing becomes free while a plan is made, so nothing is looked at twice."""
        for block in pool.blocks:
            if block.first.version == version:
                kind = IPv4Address if version == 4 else IPv6Address
                for number in range(int(block.first), int(block.last) + 1):
                    address = kind(number)
                    if address not in self._holders:
                        yield address


def _in_order(request: AddressRequest, addresses: Iterable[Address]) -> tuple[Address, ...]:
    if request.wanted:
        return tuple(sorted(addresses, key=request.wanted.index))
    return tuple(sorted(addresses, key=lambda address: request.families.index(address.version)))


def _admits(sharing: Sharing, other: AddressRequest) -> bool:
    return ANY_NAMESPACE in sharing.namespaces or other.namespace in sharing.namespaces


def _internal_conflict(pool: AddressPool) -> str:
    for index, block in enumerate(pool.blocks):
        for other in pool.blocks[:index]:
            if block.overlaps(other):
                return f"its blocks {other} and {block} overlap"
    return ""


def _conflict(pool: AddressPool, other: AddressPool) -> str:
    for block in pool.blocks:
        for theirs in other.blocks:
            if block.overlaps(theirs):
                return f"its block {block} overlaps {theirs} of pool {other.name}, which was made first"
    return ""


def _moment(created: datetime | None) -> float:
    return created.timestamp() if created else float("inf")

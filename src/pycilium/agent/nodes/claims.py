"""What nodes claim, and who has it: pod CIDRs and addresses, when some say the same.

Every address and pod CIDR that a node names is a claim. Of two that overlap, from different nodes, the later one in the
order of names is set aside, and this node's own come before all: so the outcome depends on the claims alone, not on the
order in which they came, and whoever claims what another has disturbs at most those that come after him. A pod CIDR
that holds the node's own InternalIP is set aside too: packets to the node would be sent through itself.

Pure. Worked out anew whenever a node changes, which is rare: some milliseconds for a thousand nodes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pycilium.model.identity import ReservedIdentity
from pycilium.model.node import Node
from pycilium.model.peer import Address, Network, network_of_one
from pycilium.model.prefixes import PrefixMap

SELF = ""
"""Stands for this node: before every other name."""


class Claim(NamedTuple):
    """`node` says that `network` is its own; a single address is a network of full length."""

    network: Network
    node: str
    identity: ReservedIdentity
    """What the address is to others; UNMANAGED for a pod CIDR."""
    underlay: bool = False


@dataclass(frozen=True, slots=True)
class OwnClaims:
    """What is this node's own."""

    name: str = ""
    addresses: tuple[Address, ...] = ()
    pod_cidrs: tuple[Network, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeView:
    """Who has what."""

    pod_cidrs: Mapping[Network, str] = field(default_factory=dict)
    """Of other nodes: prefix → node."""
    addresses: Mapping[Address, tuple[int, str]] = field(default_factory=dict)
    """Of other nodes: address → identity and node."""
    internal_ips: Mapping[str, tuple[Address, ...]] = field(default_factory=dict)
    """Node → where it is reached."""
    owners: PrefixMap[str] = field(default_factory=PrefixMap)
    """Pod CIDR → node, SELF's too."""
    references: Mapping[str, str] = field(default_factory=dict)
    """What an endpoint may call its node → node."""
    problems: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Node → what is wrong with it, in words."""

    def owner_of(self, address: Address) -> str | None:
        """The node in whose pod CIDR an address lies."""
        return next((node for _, node in self.owners.around(address)), None)


def decide(nodes: Iterable[Node], own: OwnClaims) -> NodeView:
    """Who has what, of all that nodes claim."""
    known = sorted(nodes, key=lambda node: node.name)
    mine = [*_own_claims(own)]
    claims = [*mine, *(claim for node in known for claim in _claims(node))]
    problems: defaultdict[str, list[str]] = defaultdict(list)
    pod_cidrs: dict[Network, str] = {}
    addresses: dict[Address, tuple[int, str]] = {}
    internal_ips: defaultdict[str, list[Address]] = defaultdict(list)
    for claim, rival in zip(claims, _rivals(claims), strict=True):
        if claim.node == SELF:
            continue
        if rival is not None:
            problems[claim.node].append(_overlap(claim, rival))
        elif claim.identity is not ReservedIdentity.UNMANAGED:
            address = claim.network.network_address
            addresses.setdefault(address, (int(claim.identity), claim.node))
            if claim.underlay:
                internal_ips[claim.node].append(address)
        else:
            pod_cidrs[claim.network] = claim.node
    return NodeView(
        pod_cidrs=pod_cidrs,
        addresses=addresses,
        internal_ips={node: tuple(found) for node, found in internal_ips.items()},
        owners=_owners(pod_cidrs, own),
        references=_references(known, addresses, own),
        problems={node: tuple(texts) for node, texts in problems.items()},
    )


def _own_claims(own: OwnClaims) -> Iterator[Claim]:
    for address in own.addresses:
        yield Claim(network_of_one(address), SELF, ReservedIdentity.HOST)
    for cidr in own.pod_cidrs:
        yield Claim(cidr, SELF, ReservedIdentity.UNMANAGED)


def _claims(node: Node) -> Iterator[Claim]:
    for address in node.internal_ips:
        yield Claim(network_of_one(address), node.name, ReservedIdentity.REMOTE_NODE, underlay=True)
    for address in node.gateway_ips:
        yield Claim(network_of_one(address), node.name, ReservedIdentity.REMOTE_NODE)
    for address in node.health_ips:
        yield Claim(network_of_one(address), node.name, ReservedIdentity.HEALTH)
    for cidr in dict.fromkeys(node.pod_cidrs):
        yield Claim(cidr, node.name, ReservedIdentity.UNMANAGED)


def _rivals(claims: Sequence[Claim]) -> list[Claim | None]:
    """For each claim the one that comes before it and overlaps it, None if it stands.

    Sorted by where they begin, networks nest like brackets: what overlaps a claim is what it lies in, and what lies in
    it. Two passes find the first of each by name.
    """
    order = sorted(range(len(claims)), key=lambda index: _position(claims[index].network))
    around: list[Claim | None] = [None] * len(claims)
    parents: dict[int, int] = {}
    holding: list[int] = []
    for index in order:
        while holding and not _holds(claims[holding[-1]].network, claims[index].network):
            holding.pop()
        if holding:
            parents[index] = holding[-1]
            around[index] = _first(around[holding[-1]], claims[holding[-1]])
        holding.append(index)
    inside: list[Claim | None] = [None] * len(claims)
    own_underlay: dict[int, Claim] = {}
    for index in reversed(order):
        parent = parents.get(index)
        if parent is not None:
            inside[parent] = _first(_first(inside[parent], inside[index]), claims[index])
    for index, claim in enumerate(claims):
        if claim.underlay:
            _mark_cidrs_around(index, claims, parents, own_underlay)
    rivals = (_first(*pair) for pair in zip(around, inside, strict=True))
    return [
        own_underlay.get(index) or (rival if rival is not None and rival.node < claims[index].node else None)
        for index, rival in enumerate(rivals)
    ]


def _mark_cidrs_around(
    index: int, claims: Sequence[Claim], parents: Mapping[int, int], found: dict[int, Claim]
) -> None:
    """A node's pod CIDR that holds its own InternalIP."""
    at: int | None = parents.get(index)
    while at is not None:
        if claims[at].node == claims[index].node and claims[at].identity is ReservedIdentity.UNMANAGED:
            found[at] = claims[index]
        at = parents.get(at)


def _first(one: Claim | None, other: Claim | None) -> Claim | None:
    if one is None or other is None:
        return one or other
    return min(one, other, key=lambda claim: (claim.node, _position(claim.network)))


def _position(network: Network) -> tuple[int, int, int]:
    return network.version, int(network.network_address), network.prefixlen


def _holds(outer: Network, inner: Network) -> bool:
    return outer.version == inner.version and inner.network_address in outer


def _overlap(claim: Claim, rival: Claim) -> str:
    whose = "of this node" if rival.node == SELF else "its own InternalIP" if rival.node == claim.node else ""
    return f"{_text(claim)} overlaps {_text(rival)} {whose or f'of node {rival.node}'}: set aside"


def _text(claim: Claim) -> str:
    network = claim.network
    is_cidr = claim.identity is ReservedIdentity.UNMANAGED
    return f"pod CIDR {network}" if is_cidr else f"address {network.network_address}"


def _owners(pod_cidrs: Mapping[Network, str], own: OwnClaims) -> PrefixMap[str]:
    owners: PrefixMap[str] = PrefixMap()
    for cidr in own.pod_cidrs:
        owners[cidr] = SELF
    for cidr, node in pod_cidrs.items():
        owners[cidr] = node
    return owners


def _references(
    nodes: Iterable[Node], addresses: Mapping[Address, tuple[int, str]], own: OwnClaims
) -> Mapping[str, str]:
    references = {node.name: node.name for node in nodes}
    references |= {str(address): node for address, (_, node) in addresses.items()}
    references |= {str(address): SELF for address in own.addresses}
    if own.name:
        references[own.name] = SELF
    return references

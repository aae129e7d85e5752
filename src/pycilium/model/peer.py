"""Peers: who the other end may be. A rule names a peer set; the engine numbers peer sets as "selectors".

Four kinds of peer: anyone; an entity (a name for reserved labels); endpoints by their labels; a CIDR less its excepts.
Invariant: a CIDR peer never matches by labels, and the others never by address.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from pycilium.model.l4 import NamedTarget
from pycilium.model.labels import CLUSTER_KEY, K8S_SOURCE, RESERVED_SOURCE
from pycilium.model.selector import LabelSelector, Operator, Requirement

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class AnyPeer:
    """Anyone, also what has no identity."""

    def __str__(self) -> str:
        return "anyone"


@dataclass(frozen=True, slots=True)
class LabelPeer:
    """Whoever has these labels. `entity` is the word that the rule used, if it used one; it says nothing more."""

    selector: LabelSelector
    entity: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"entity {self.entity}" if self.entity else f"endpoints {self.selector}"


@dataclass(frozen=True, slots=True)
class CidrPeer:
    """Addresses in `network` and in none of `excepts` (sorted)."""

    network: Network
    excepts: tuple[Network, ...] = ()

    def covers(self, inner: Network) -> bool:
        """Whether all of `inner` belongs to it, given that no except lies within `inner`."""
        return _within(inner, self.network) and not any(_within(inner, other) for other in self.excepts)

    def __contains__(self, address: Address) -> bool:
        return address in self.network and not any(address in other for other in self.excepts)

    def __str__(self) -> str:
        if not self.excepts:
            return str(self.network)
        return f"{self.network} except {', '.join(str(other) for other in self.excepts)}"


Peer = AnyPeer | LabelPeer | CidrPeer


@dataclass(frozen=True, slots=True)
class PeerSet:
    """Peers of which one must match; none at all matches nobody. Sorted, so that equal sets are equal objects.

    With `serving` only those among them whose pods have that port. Only pods have ports with names: of a CIDR it is the
    pods and nodes inside.
    """

    peers: tuple[Peer, ...]
    serving: NamedTarget | None = None
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        peers = tuple(sorted(set(self.peers), key=lambda peer: (type(peer).__name__, str(peer))))
        anyone = AnyPeer()
        object.__setattr__(self, "peers", (anyone,) if anyone in peers else peers)
        object.__setattr__(self, "_hash", hash((self.peers, self.serving)))

    @property
    def is_anyone(self) -> bool:
        """Whether it is everybody."""
        return self.peers[:1] == (AnyPeer(),) and self.serving is None

    @property
    def is_nobody(self) -> bool:
        """Whether it can match nobody."""
        return not self.peers

    def __hash__(self) -> int:
        return self._hash

    def __str__(self) -> str:
        words = " or ".join(str(peer) for peer in self.peers) or "nobody"
        return words if self.serving is None else f"{words}, with {self.serving.name} at {self.serving.port}"


ANYONE = PeerSet((AnyPeer(),))
NOBODY = PeerSet(())

_IN_CLUSTER = ("host", "remote-node", "init", "ingress", "health", "unmanaged", "kube-apiserver")
_RESERVED_ENTITIES = (*_IN_CLUSTER, "world", "world-ipv4", "world-ipv6")


def entity_peers(entity: str, cluster: str) -> tuple[Peer, ...]:
    """The peers that an entity's name stands for. Raises KeyError for a name that is none."""
    if entity == "all":
        return (AnyPeer(),)
    if entity == "none":
        return ()
    if entity in _RESERVED_ENTITIES:
        return (_reserved(entity, entity),)
    if entity in ("cluster", "cluster-mesh"):
        operator, values = (Operator.IN, (cluster,)) if entity == "cluster" else (Operator.EXISTS, ())
        members = Requirement(K8S_SOURCE, CLUSTER_KEY, operator, values)
        reserved = (_reserved(name, entity) for name in _IN_CLUSTER)
        return (LabelPeer(LabelSelector((members,)), entity), *reserved)
    raise KeyError(entity)


def ipv4_address(text: str) -> IPv4Address:
    """Three times as quick as the library's own reading, of which 100,000 would take half a second."""
    try:
        packed = bytes(map(int, text.split(".")))
    except ValueError:
        packed = b""
    plain = len(packed) == 4 and text == ".".join(map(str, packed))
    return IPv4Address(packed if plain else text)


def address_of(text: str) -> Address:
    """The address that a text writes; ValueError if it writes none."""
    return ip_address(text) if ":" in text else ipv4_address(text)


def stays_on_one_machine(address: Address) -> bool:
    """Whether no other machine can be reached at it: unspecified, loopback, link-local or multicast."""
    if isinstance(address, IPv6Address):
        return address.is_unspecified or address.is_loopback or address.is_multicast or address.is_link_local
    number = int(address)  # the properties say the same, but there may be 100,000 addresses
    return not number or number >> 24 == 127 or number >> 28 == 0b1110 or number >> 16 == 0xA9FE


def is_ipv4_in_ipv6(address: Address) -> bool:
    """Whether it is another way to write an IPv4 address: the kernel's entries would be those of that one."""
    return isinstance(address, IPv6Address) and address.ipv4_mapped is not None


def network_of_one(address: Address) -> Network:
    """The network that holds this address alone; quicker than `ip_network`, which goes by way of text."""
    number, bits = int(address), address.max_prefixlen
    return IPv4Network((number, bits)) if address.version == 4 else IPv6Network((number, bits))


def peer_set(peers: Iterable[Peer]) -> PeerSet:
    """The set of these peers."""
    return PeerSet(tuple(peers))


def _reserved(key: str, entity: str) -> LabelPeer:
    return LabelPeer(LabelSelector((Requirement(RESERVED_SOURCE, key, Operator.EXISTS),)), entity)


def _within(inner: Network, outer: Network) -> bool:
    return inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type]

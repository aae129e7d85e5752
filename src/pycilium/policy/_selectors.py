"""Selectors: peer sets with a number, and for every identity the bits of the selectors that it belongs to.

    identity labels ─► LabelPeer ─┐
                                  ├─► PeerSet ─► selector number = bank * 512 + bit ─► identity_bits
    CIDRs of rules  ─► CidrPeer ──┘

CIDRs: every network that a rule names, excepted ones too, is a prefix with two local identities. One stands for the
addresses outside: its labels say world, and it has the bits of both kinds of peer. The other is OR-ed to the identity
of a pod or node whose address lies in the prefix: it has the bits of CIDR peers alone, so nothing ever turns a pod into
the world. 0.0.0.0/0 and ::/0 use the reserved worlds as the first.

Additions show at once, removals later, one realization for each step back: rows that the kernel still has may refer to
a selector that nobody wants any more, so its bits and prefixes stay until `realized()`; then the prefixes leave the
ipcache, then their bits go, then the numbers are free.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from pycilium.model.identity import HOST_SERVING_API, LOCAL_IDENTITIES, RESERVED_IDENTITIES, Identity, cidr_labels
from pycilium.model.l4 import NamedTarget
from pycilium.model.labels import Labels
from pycilium.model.peer import ANYONE, Address, CidrPeer, LabelPeer, Network, PeerSet
from pycilium.model.prefixes import PrefixMap
from pycilium.policy._bits import ANY_BIT, BANK_BITS, BitsKey, IdentityBits
from pycilium.policy._earlier import EarlierPolicies
from pycilium.policy._label_index import LabelsIndex
from pycilium.policy._local_identities import LocalIdentities, inside_everything, world_identity
from pycilium.policy._named_ports import NamedPorts
from pycilium.policy._numbers import NumbersInUse, Words
from pycilium.policy._peer_index import PeerIndex
from pycilium.reconcile import NumbersExhaustedError

MAX_BANKS = 128
"""Selector numbers are u16 in conntrack entries and flow events."""

_RESERVED = {identity.number: identity.labels for identity in RESERVED_IDENTITIES}
_FULL_BANK = (1 << BANK_BITS) - 1


@dataclass(slots=True, eq=False)
class Selector:
    """A number that stands for a peer set for as long as it lives. A set may have several, in different banks."""

    number: int
    peers: PeerSet
    users: int = 0

    @property
    def bank(self) -> int:
        """The bank that its bit is in."""
        return self.number // BANK_BITS

    @property
    def bit(self) -> int:
        """The mask of its bit within the bank."""
        return 1 << (self.number % BANK_BITS)


@dataclass(slots=True)
class _Prefix:
    outside: int
    """The identity of addresses outside that have this as their longest prefix."""
    inside: int
    """The identity whose bits are OR-ed to pods and nodes in it; 0 if CIDRs do not match those."""
    users: int = 0
    """0: it is leaving the ipcache. Until it has left, its identities get the bits of new selectors too."""

    @property
    def identities(self) -> tuple[int, ...]:
        """Both, or the one that there is."""
        return (self.outside, self.inside) if self.inside else (self.outside,)


class SelectorTable:
    """Owns selector numbers, identity bits and local identities; see the module."""

    def __init__(self, in_use: NumbersInUse, *, cidr_matches_pods: bool) -> None:
        self._cidr_matches_pods = cidr_matches_pods
        self._identities = LabelsIndex()
        self._index = PeerIndex()
        self._bits = IdentityBits()
        self.named_ports = NamedPorts()

        self._selectors: dict[PeerSet, list[Selector]] = {}
        self._banks = dict.fromkeys((bank for bank in range(MAX_BANKS) if bank not in in_use.banks), ANY_BIT)
        self._retired: set[Selector] = set()
        self._droppable: set[Selector] = set()
        self._cleared: list[int] = []

        self._prefixes: PrefixMap[_Prefix] = PrefixMap()
        self._prefixes_before: dict[Network, int | None] = {}
        self._network_of: dict[int, Network] = {}
        self._local_identities = LocalIdentities(in_use)
        self._leaving: set[Network] = set()
        self._left: set[Network] = set()

        for identity in RESERVED_IDENTITIES:
            self.add_identity(identity)
        # The ipcache has the worlds' prefixes always; only one that a rule named has an identity for what is inside.
        worlds = (
            network
            for network, number in in_use.cidrs.items()
            if number == world_identity(network) and inside_everything(network) in in_use.local_identities
        )
        self._earlier = EarlierPolicies(in_use, (*self._local_identities.kept, *worlds))
        for network in self._earlier.held:
            self._use_prefix(network)

    # ---- identities ----

    def add_identity(self, identity: Identity) -> None:
        """A new identity, or new labels for one: only the selectors that may match are looked at.

        Reserved and local identities have the labels that they have: whoever says otherwise is not heard. Only that of
        the node itself may have those of an API server too.
        """
        is_own = _RESERVED.get(identity.number, identity.labels) == identity.labels or identity == HOST_SERVING_API
        if identity.number in LOCAL_IDENTITIES or not is_own:
            return
        known = self._identities.get(identity.number)
        if known == identity.labels:
            return
        if known is not None:
            self._identities.remove(identity.number)
        self._identities.add(identity.number, identity.labels)
        self.named_ports.update(identity.number, identity.labels, self.named_ports.of(identity.number))
        self._compute_bits(identity.number)

    def remove_identity(self, number: int) -> None:
        """An identity is gone. Absent is success; reserved and local ones stay."""
        if number not in _RESERVED and number not in LOCAL_IDENTITIES and self._identities.remove(number) is not None:
            self.named_ports.update(number, None, self.named_ports.of(number))
            self._bits.assign(number, {})

    def set_ports(self, number: int, ports: frozenset[NamedTarget]) -> None:
        """What the pods of an identity call their ports, all that they do; it may come before the identity itself."""
        before, labels = self.named_ports.of(number), self._identities.get(number)
        self.named_ports.update(number, labels, ports)
        if ports != before and labels is not None:
            self._compute_bits(number)

    def labels_of(self, number: int) -> Labels | None:
        """The labels of an identity, local ones too."""
        return self._identities.get(number)

    def cidr_identity(self, inside: Address | Network) -> int:
        """The identity to OR to that of pods and nodes at an address or in a network; 0 if no rule's CIDR covers it."""
        prefix = self._longest_prefix(inside)
        return prefix.inside if prefix is not None else 0

    def world_identity(self, address: Address) -> int:
        """The identity of `address` if it lies outside."""
        prefix = self._longest_prefix(address)
        return prefix.outside if prefix is not None else world_identity(address)

    # ---- selectors ----

    def default_bank(self) -> int:
        """The bank of policies that name no selector but "any"."""
        bank = next(iter(self._banks), None)
        if bank is None:
            raise NumbersExhaustedError
        return bank

    def existing(self, peers: PeerSet) -> list[Selector]:
        """The selectors that the set has already."""
        return self._selectors.get(peers, [])

    def room_in(self, bank: int) -> int:
        """How many selectors still fit into a bank."""
        return BANK_BITS - self._banks[bank].bit_count()

    def banks_with_room(self) -> list[int]:
        """The banks that are begun come first, so that policies touch few."""
        return sorted((bank for bank, used in self._banks.items() if used != _FULL_BANK), key=self._is_fresh)

    def _is_fresh(self, bank: int) -> bool:
        return self._banks[bank] == ANY_BIT

    def create(self, peers: PeerSet, bank: int) -> Selector:
        """A new number for the set in `bank`, which must have room; every identity that belongs gets its bit."""
        used = self._banks[bank]
        bit = ~used & (used + 1)
        self._banks[bank] = used | bit
        selector = Selector(bank * BANK_BITS + bit.bit_length() - 1, peers)
        if peers not in self._selectors:
            for network in _networks(peers):
                self._use_prefix(network)
            self._index.add(peers)
        self._selectors.setdefault(peers, []).append(selector)
        self._bits.add(self._members(peers), bank, bit)
        self._retired.add(selector)
        return selector

    def use(self, selector: Selector) -> None:
        """One more policy refers to it."""
        selector.users += 1
        self._retired.discard(selector)
        self._droppable.discard(selector)

    def release(self, selector: Selector) -> None:
        """One policy less refers to it; see the module for what happens to the last."""
        selector.users -= 1
        if not selector.users:
            self._retired.add(selector)

    def _drop(self, selector: Selector) -> None:
        self._bits.remove(self._members(selector.peers), selector.bank, selector.bit)
        self._cleared.append(selector.number)
        selectors = self._selectors[selector.peers]
        selectors.remove(selector)
        if not selectors:
            del self._selectors[selector.peers]
            self._index.remove(selector.peers)
            for network in _networks(selector.peers):
                self._release_prefix(network)

    # ---- what the kernel must know ----

    def realized(self) -> None:
        """The kernel has everything that was taken so far: whatever goes step by step goes a step further."""
        for number in self._cleared:
            self._banks[number // BANK_BITS] &= ~(1 << (number % BANK_BITS))
        self._cleared.clear()
        self._banks |= dict.fromkeys(self._earlier.realized(), ANY_BIT)
        self._local_identities.realized()
        self._left |= self._leaving
        self._leaving.clear()
        self._droppable |= self._retired
        self._retired.clear()

    @property
    def cleanup_due(self) -> bool:
        """Whether the next `take_changes` has removals that waited for the kernel."""
        return bool(self._droppable or self._left or self._earlier.cleanup_due)

    def take_changes(self) -> tuple[dict[BitsKey, Words | None], dict[Network, int | None]]:
        """What changed since the last call: identity bits and the local identities of prefixes; None is gone."""
        for network in self._left:
            self._remove_prefix(network)
        self._left.clear()
        for selector in self._droppable:
            self._drop(selector)
        self._droppable.clear()
        for network in self._earlier.take_released():
            self._release_prefix(network)
        return {**self._earlier.take_changes(), **self._bits.take_changes()}, self._take_prefix_changes()

    def _take_prefix_changes(self) -> dict[Network, int | None]:
        changed: dict[Network, int | None] = {}
        for network, before in self._prefixes_before.items():
            prefix = self._prefixes.get(network)
            outside = prefix.outside if prefix is not None and prefix.users else None
            if outside != before:
                changed[network] = outside
        self._prefixes_before = {}
        return changed

    # ---- prefixes ----

    def _longest_prefix(self, inside: Address | Network) -> _Prefix | None:
        if isinstance(inside, (IPv4Address, IPv6Address)):
            covering = self._prefixes.around(inside)
        else:
            covering = self._prefixes.covering(inside)
        return next((prefix for _, prefix in covering if prefix.users), None)

    def _use_prefix(self, network: Network) -> None:
        prefix = self._prefixes.get(network)
        if prefix is None:
            prefix = self._add_prefix(network)
        if not prefix.users:
            self._prefixes_before.setdefault(network, None)
            self._leaving.discard(network)
            self._left.discard(network)
        prefix.users += 1

    def _release_prefix(self, network: Network) -> None:
        prefix = self._prefixes.get(network)
        assert prefix is not None
        prefix.users -= 1
        if not prefix.users:
            self._prefixes_before.setdefault(network, prefix.outside)
            self._leaving.add(network)

    def _add_prefix(self, network: Network) -> _Prefix:
        outside, inside = self._local_identities.take(network)
        prefix = self._prefixes[network] = _Prefix(outside, inside if self._cidr_matches_pods else 0)
        self._network_of |= dict.fromkeys(prefix.identities, network)
        if not self._earlier.holds(network):
            around = (other for name, other in self._prefixes.covering(network) if self._earlier.holds(name))
            before = next(around, _Prefix(world_identity(network), 0))
            self._earlier.inherit(prefix.outside, before.outside)
            self._earlier.inherit(prefix.inside, before.inside)
        if network.prefixlen:
            self._identities.add(outside, cidr_labels(network))
        for number in prefix.identities:
            self._compute_bits(number)
        return prefix

    def _remove_prefix(self, network: Network) -> None:
        prefix = self._prefixes.get(network)
        assert prefix is not None
        del self._prefixes[network]
        self._local_identities.release(network, prefix.outside)
        if network.prefixlen:
            self._identities.remove(prefix.outside)
        for number in prefix.identities:
            del self._network_of[number]
            self._compute_bits(number)

    # ---- who belongs to what ----

    def _compute_bits(self, number: int) -> None:
        """Bits from scratch, by the labels that the number has and by the prefix that it stands for."""
        masks: dict[int, int] = {}
        labels, ports = self._identities.get(number), self.named_ports.of(number)
        for peers in self._index.sets_with(labels, self._network_of.get(number)):
            if peers.serving is not None and labels is not None and peers.serving not in ports:
                continue  # without labels it stands for what is inside a prefix, whatever its ports
            for selector in self._selectors[peers]:
                masks[selector.bank] = masks.get(selector.bank, 0) | selector.bit
        self._bits.assign(number, masks)

    def _members(self, peers: PeerSet) -> Collection[int]:
        """Every identity that belongs to the set."""
        members: set[int] = set()
        for peer in peers.peers:
            if isinstance(peer, LabelPeer):
                members.update(self._identities.matching(peer.selector))
            elif isinstance(peer, CidrPeer):
                inside = (prefix for network, prefix in self._prefixes.within(peer.network) if peer.covers(network))
                members.update(number for prefix in inside for number in prefix.identities)
        if peers.serving is None:
            return members
        having = self.named_ports.having(peers.serving)
        if peers.peers == ANYONE.peers:
            return having
        return {number for number in members if number in having or self._identities.get(number) is None}


def _networks(peers: PeerSet) -> Iterator[Network]:
    for peer in peers.peers:
        if isinstance(peer, CidrPeer):
            yield peer.network
            yield from peer.excepts

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

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_network

from pycilium.model.identity import RESERVED_IDENTITIES, Identity, ReservedIdentity, cidr_labels
from pycilium.model.labels import Labels
from pycilium.model.peer import Address, CidrPeer, LabelPeer, Network, Peer, PeerSet
from pycilium.policy._label_index import LabelsIndex, SelectorIndex
from pycilium.policy._local_identities import LocalIdentities, world_identity
from pycilium.policy._numbers import NumbersExhaustedError, NumbersInUse, Words
from pycilium.policy._prefixes import PrefixMap

BANK_WORDS = 8
BANK_BITS = BANK_WORDS * 64
MAX_BANKS = 128
"""Selector numbers are u16 in conntrack entries and flow events."""

ANY_BIT = 1
_FULL_BANK = (1 << BANK_BITS) - 1
_WORD = (1 << 64) - 1

BitsKey = tuple[int, int]


def words_of(mask: int) -> Words:
    """The eight words of a bank, as the kernel has them."""
    w0, w1, w2, w3, w4, w5, w6, w7 = ((mask >> shift) & _WORD for shift in range(0, BANK_BITS, 64))
    return w0, w1, w2, w3, w4, w5, w6, w7


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


@dataclass(slots=True)
class _CidrPeers:
    """The CIDR peers of one network: they differ in what they except."""

    peers: dict[CidrPeer, None] = field(default_factory=dict)


class SelectorTable:
    """Owns selector numbers, identity bits and local identities; see the module."""

    def __init__(self, in_use: NumbersInUse, *, cidr_matches_pods: bool) -> None:
        self._cidr_matches_pods = cidr_matches_pods
        self._identities = LabelsIndex()
        self._label_peers: SelectorIndex[LabelPeer] = SelectorIndex()
        self._cidr_peers: PrefixMap[_CidrPeers] = PrefixMap()
        self._sets_of: dict[Peer, set[PeerSet]] = {}
        self._selectors: dict[PeerSet, list[Selector]] = {}

        self._prefixes: PrefixMap[_Prefix] = PrefixMap()
        self._outside: dict[int, Network] = {}
        self._leaving: set[Network] = set()
        self._left: set[Network] = set()
        self._local_identities = LocalIdentities(in_use)

        self._banks = dict.fromkeys((bank for bank in range(MAX_BANKS) if bank not in in_use.banks), ANY_BIT)
        self._old_banks = sorted(in_use.banks)
        self._retired: set[Selector] = set()
        self._droppable: set[Selector] = set()
        self._cleared: list[int] = []

        self._bits: dict[BitsKey, int] = {}
        self._bits_before: dict[BitsKey, int] = {}
        self._prefixes_before: dict[Network, int | None] = {}
        for identity in RESERVED_IDENTITIES:
            self.add_identity(identity)

        # For as long as the policies of an earlier agent are in force.
        self._earlier = in_use
        worlds = (network for network, number in in_use.cidrs.items() if number == world_identity(network))
        self._held: dict[Network, None] = dict.fromkeys((*self._local_identities.kept, *worlds))
        self._held_until_now: list[Network] = []
        self._inherited: dict[BitsKey, Words | None] = {}
        self._inherited_before: dict[BitsKey, Words | None] = {}
        for network in self._held:
            self._use_prefix(network)

    # ---- identities ----

    def add_identity(self, identity: Identity) -> None:
        """A new identity, or new labels for one: only the selectors that may match are looked at."""
        known = self._identities.get(identity.number)
        if known == identity.labels:
            return
        if known is not None:
            self._identities.remove(identity.number)
        self._identities.add(identity.number, identity.labels)
        self._compute_bits(identity.number, identity.labels)

    def remove_identity(self, number: int) -> None:
        """An identity is gone. Absent is success; reserved ones stay."""
        if number > ReservedIdentity.WORLD_IPV6 and self._identities.remove(number) is not None:
            self._set_bits(number, {})

    def labels_of(self, number: int) -> Labels | None:
        """The labels of an identity, local ones too."""
        return self._identities.get(number)

    def cidr_identity(self, address: Address) -> int:
        """The identity to OR to that of a pod or node at `address`; 0 if no rule's CIDR covers it."""
        prefix = self._longest_prefix(address)
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
            self._register(peers)
        self._selectors.setdefault(peers, []).append(selector)
        for number in self._members(peers):
            self._change_bits((number, bank), self._bits.get((number, bank), 0) | bit)
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

    # ---- what the kernel must know ----

    def realized(self) -> None:
        """The kernel has everything that was taken so far."""
        for number in self._cleared:
            self._banks[number // BANK_BITS] &= ~(1 << (number % BANK_BITS))
        self._cleared.clear()
        self._local_identities.realized()
        self._forget_earlier()
        self._left |= self._leaving
        self._leaving.clear()
        self._droppable |= self._retired
        self._retired.clear()

    @property
    def cleanup_due(self) -> bool:
        """Whether the next `take_changes` has removals that waited for the kernel."""
        return bool(self._droppable or self._left or self._held_until_now or self._inherited)

    def take_changes(self) -> tuple[dict[BitsKey, Words | None], dict[Network, int | None]]:
        """What changed since the last call: identity bits and the local identities of prefixes; None is gone."""
        for network in self._left:
            self._remove_prefix(network)
        self._left.clear()
        for selector in self._droppable:
            self._drop(selector)
        self._droppable.clear()
        for network in self._held_until_now:
            self._release_prefix(network)
        self._held_until_now.clear()
        bits, self._inherited = self._inherited, {}
        for key, before in self._bits_before.items():
            now = self._bits.get(key, 0)
            if now != before:
                bits[key] = words_of(now | ANY_BIT) if now else None
        prefixes: dict[Network, int | None] = {}
        for network, outside in self._prefixes_before.items():
            prefix = self._prefixes.get(network)
            now_outside = prefix.outside if prefix is not None and prefix.users else None
            if now_outside != outside:
                prefixes[network] = now_outside
        self._bits_before, self._prefixes_before = {}, {}
        return bits, prefixes

    # ---- inside ----

    def _forget_earlier(self) -> None:
        """The policies of the earlier agent are gone: first what was kept for them goes, then their banks are free."""
        if self._held or self._inherited_before:
            self._held_until_now, self._held = list(self._held), {}
            self._inherited, self._inherited_before = dict.fromkeys(self._inherited_before), {}
            self._earlier = NumbersInUse()
        elif self._old_banks:
            self._banks |= dict.fromkeys(self._old_banks, ANY_BIT)
            self._old_banks.clear()

    def _inherit(self, network: Network, prefix: _Prefix) -> None:
        """For the earlier policies a new prefix is what its addresses were before."""
        held = (outer for around, outer in self._prefixes.covering(network) if around in self._held)
        outer = next(held, _Prefix(world_identity(network), 0))
        for bank in self._old_banks:
            for own, others in ((prefix.outside, outer.outside), (prefix.inside, outer.inside)):
                words = self._earlier.bits.get((others, bank))
                if own and others and words is not None:
                    self._inherited[own, bank] = self._inherited_before[own, bank] = words

    def _drop(self, selector: Selector) -> None:
        self._cleared.append(selector.number)
        for number in self._members(selector.peers):
            key = (number, selector.bank)
            self._change_bits(key, self._bits.get(key, 0) & ~selector.bit)
        selectors = self._selectors[selector.peers]
        selectors.remove(selector)
        if not selectors:
            del self._selectors[selector.peers]
            self._unregister(selector.peers)

    def _register(self, peers: PeerSet) -> None:
        for network in _networks(peers):
            self._use_prefix(network)
        for peer in peers.peers:
            sets = self._sets_of.setdefault(peer, set())
            sets.add(peers)
            if len(sets) > 1:
                continue
            if isinstance(peer, LabelPeer):
                self._label_peers.add(peer.selector, peer)
            elif isinstance(peer, CidrPeer):
                alike = self._cidr_peers.get(peer.network)
                if alike is None:
                    alike = self._cidr_peers[peer.network] = _CidrPeers()
                alike.peers[peer] = None

    def _unregister(self, peers: PeerSet) -> None:
        for peer in peers.peers:
            sets = self._sets_of[peer]
            sets.discard(peers)
            if sets:
                continue
            del self._sets_of[peer]
            if isinstance(peer, LabelPeer):
                self._label_peers.remove(peer.selector, peer)
            elif isinstance(peer, CidrPeer):
                alike = self._cidr_peers.get(peer.network)
                assert alike is not None
                del alike.peers[peer]
                if not alike.peers:
                    del self._cidr_peers[peer.network]
        for network in _networks(peers):
            self._release_prefix(network)

    def _longest_prefix(self, address: Address) -> _Prefix | None:
        covering = self._prefixes.covering(ip_network(address))
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

    def _add_prefix(self, network: Network) -> _Prefix:
        outside, inside = self._local_identities.take(network)
        prefix = self._prefixes[network] = _Prefix(outside, inside if self._cidr_matches_pods else 0)
        self._outside[outside] = network
        if self._earlier.bits and network not in self._held:
            self._inherit(network, prefix)
        if prefix.inside:
            self._set_bits(inside, self._bits_of(self._cidr_peers_covering(network)))
        if network.prefixlen:
            self.add_identity(Identity(outside, cidr_labels(network)))
        else:
            self._compute_bits(outside, self._identities.get(outside) or Labels())
        return prefix

    def _release_prefix(self, network: Network) -> None:
        prefix = self._prefixes.get(network)
        assert prefix is not None
        prefix.users -= 1
        if not prefix.users:
            self._prefixes_before.setdefault(network, prefix.outside)
            self._leaving.add(network)

    def _remove_prefix(self, network: Network) -> None:
        prefix = self._prefixes.get(network)
        assert prefix is not None
        del self._prefixes[network]
        del self._outside[prefix.outside]
        self._local_identities.release(network, prefix.outside)
        if prefix.inside:
            self._set_bits(prefix.inside, {})
        if network.prefixlen:
            self.remove_identity(prefix.outside)
        else:
            self._compute_bits(prefix.outside, self._identities.get(prefix.outside) or Labels())

    def _compute_bits(self, number: int, labels: Labels) -> None:
        peers: list[Peer] = list(self._label_peers.matching(labels))
        network = self._outside.get(number)
        if network is not None:
            peers.extend(self._cidr_peers_covering(network))
        self._set_bits(number, self._bits_of(peers))

    def _cidr_peers_covering(self, network: Network) -> Iterator[CidrPeer]:
        for _, alike in self._cidr_peers.covering(network):
            yield from (peer for peer in alike.peers if peer.covers(network))

    def _members(self, peers: PeerSet) -> Collection[int]:
        """Every identity that belongs to the set."""
        members: set[int] = set()
        for peer in peers.peers:
            if isinstance(peer, LabelPeer):
                members.update(self._identities.matching(peer.selector))
            elif isinstance(peer, CidrPeer):
                for network, prefix in self._prefixes.within(peer.network):
                    if peer.covers(network):
                        members.add(prefix.outside)
                        if prefix.inside:
                            members.add(prefix.inside)
        return members

    def _bits_of(self, peers: Iterable[Peer]) -> dict[int, int]:
        """Bank → mask of the selectors that somebody who matches these peers belongs to."""
        masks: dict[int, int] = {}
        for peer in peers:
            for peers_with in self._sets_of.get(peer, ()):
                for selector in self._selectors.get(peers_with, ()):
                    masks[selector.bank] = masks.get(selector.bank, 0) | selector.bit
        return masks

    def _set_bits(self, number: int, masks: dict[int, int]) -> None:
        for bank in self._banks:
            if bank in masks or (number, bank) in self._bits:
                self._change_bits((number, bank), masks.get(bank, 0))

    def _change_bits(self, key: BitsKey, mask: int) -> None:
        before = self._bits.get(key, 0)
        if mask == before:
            return
        self._bits_before.setdefault(key, before)
        if mask:
            self._bits[key] = mask
        else:
            del self._bits[key]


def _networks(peers: PeerSet) -> Iterator[Network]:
    for peer in peers.peers:
        if isinstance(peer, CidrPeer):
            yield peer.network
            yield from peer.excepts

"""Which peer sets somebody belongs to, by labels and by the prefix of the address, without trying every set."""

from __future__ import annotations

from collections.abc import Iterator

from pycilium.model.labels import Labels
from pycilium.model.peer import AnyPeer, CidrPeer, LabelPeer, Network, Peer, PeerSet
from pycilium.model.prefixes import PrefixMap
from pycilium.policy._label_index import SelectorIndex

_ANYONE = AnyPeer()


class PeerIndex:
    """Peer sets, found through the peers in them."""

    def __init__(self) -> None:
        self._sets_of: dict[Peer, set[PeerSet]] = {}
        self._label_peers: SelectorIndex[LabelPeer] = SelectorIndex()
        self._cidr_peers: PrefixMap[set[CidrPeer]] = PrefixMap()

    def add(self, peers: PeerSet) -> None:
        """Note a set; it must not be there yet."""
        for peer in peers.peers:
            sets = self._sets_of.setdefault(peer, set())
            if not sets:
                self._add_peer(peer)
            sets.add(peers)

    def remove(self, peers: PeerSet) -> None:
        """Forget a set that is there."""
        for peer in peers.peers:
            sets = self._sets_of[peer]
            sets.remove(peers)
            if not sets:
                del self._sets_of[peer]
                self._remove_peer(peer)

    def sets_with(self, labels: Labels | None, network: Network | None) -> Iterator[PeerSet]:
        """The sets that hold these labels, or all addresses of `network`. One may come twice.

        No except of a set may lie within `network`: a prefix is only that much of a network that no longer one names.
        """
        if labels is not None:
            yield from self._sets_of.get(_ANYONE, ())
            for peer in self._label_peers.matching(labels):
                yield from self._sets_of[peer]
        if network is not None:
            for _, alike in self._cidr_peers.covering(network):
                for cidr_peer in alike:
                    if cidr_peer.covers(network):
                        yield from self._sets_of[cidr_peer]

    def _add_peer(self, peer: Peer) -> None:
        if isinstance(peer, LabelPeer):
            self._label_peers.add(peer.selector, peer)
        elif isinstance(peer, CidrPeer):
            alike = self._cidr_peers.get(peer.network)
            if alike is None:
                alike = self._cidr_peers[peer.network] = set()
            alike.add(peer)

    def _remove_peer(self, peer: Peer) -> None:
        if isinstance(peer, LabelPeer):
            self._label_peers.remove(peer.selector, peer)
        elif isinstance(peer, CidrPeer):
            alike = self._cidr_peers.get(peer.network)
            assert alike is not None
            alike.remove(peer)
            if not alike:
                del self._cidr_peers[peer.network]

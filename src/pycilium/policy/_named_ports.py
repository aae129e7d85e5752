"""What identities call their ports, and which numbers a name means among the peers of a rule.

A name in an egress rule is looked up among the peers: for each number that any of them has for it the rule becomes one
for those peers alone that have it at that number. So whoever has it elsewhere, or not at all, is not meant.
An address has an identity, and what an identity calls its ports is what all pods that have it do, together: of two
pods with equal labels that differ in their ports each counts as having both.
Which pods an address range holds is not known by identity: beside a CIDR a name means the numbers of all pods.

Invariant: what is counted depends on the identities, their ports and the sets that are asked about, and on no order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from pycilium.model.l4 import NamedTarget, PortName
from pycilium.model.labels import Labels
from pycilium.model.peer import ANYONE, CidrPeer, LabelPeer, PeerSet
from pycilium.policy._peer_index import PeerIndex

NO_PORTS: frozenset[NamedTarget] = frozenset()


@dataclass(frozen=True, slots=True)
class Ask:
    """What a program was told when it asked what a name means among peers."""

    peers: PeerSet
    name: PortName
    targets: tuple[NamedTarget, ...]


@dataclass(slots=True)
class _Asked:
    users: int = 0
    targets: Counter[NamedTarget] = field(default_factory=Counter)
    """How many identities of the set have each port."""


class NamedPorts:
    """See the module."""

    def __init__(self) -> None:
        self._labels: dict[int, Labels] = {}
        """Of identities that have ports with names."""
        self._ports: dict[int, frozenset[NamedTarget]] = {}
        """What was told, also of identities whose labels are not known yet."""
        self._having: dict[NamedTarget, set[int]] = {}
        self._asked: dict[PeerSet, _Asked] = {}
        self._index = PeerIndex()
        self._changed: set[PeerSet] = set()

    # ---- what identities have ----

    def of(self, number: int) -> frozenset[NamedTarget]:
        """The ports of an identity."""
        return self._ports.get(number, NO_PORTS)

    def having(self, target: NamedTarget) -> Collection[int]:
        """The identities that have a port; not to be kept or changed."""
        return self._having.get(target, ())

    def known(self) -> Iterable[NamedTarget]:
        """All ports that any identity has."""
        return self._having

    def update(self, number: int, labels: Labels | None, ports: frozenset[NamedTarget]) -> None:
        """An identity has these labels (None: it is not known) and these ports. Idempotent."""
        if self._labels.get(number) == labels and self.of(number) == ports:
            return
        self._count(number, -1)
        self._labels.pop(number, None)
        self._ports.pop(number, None)
        if ports:
            self._ports[number] = ports
            if labels is not None:
                self._labels[number] = labels
        self._count(number, 1)

    def _count(self, number: int, step: int) -> None:
        """Add or take away what the identity has, wherever somebody asked."""
        labels, ports = self._labels.get(number), self.of(number)
        if labels is None:
            return
        for target in ports:
            having = self._having.setdefault(target, set())
            if step > 0:
                having.add(number)
            else:
                having.discard(number)
                if not having:
                    del self._having[target]
        for peers in set(self._index.sets_with(labels, None)):
            counted = self._asked[peers].targets
            for target in ports:
                counted[target] += step
                if counted[target] == (1 if step > 0 else 0):
                    self._changed.add(peers)
                if not counted[target]:
                    del counted[target]

    # ---- what a name means ----

    def ask(self, peers: PeerSet, name: PortName) -> Ask:
        """What the name means among the peers; `forget` it when nobody cares any more."""
        place = _place(peers)
        asked = self._asked.get(place)
        if asked is None:
            asked = self._asked[place] = _Asked()
            self._index.add(place)
            for number, labels in self._labels.items():
                if _holds(place, labels):
                    asked.targets.update(self._ports[number])
        asked.users += 1
        return Ask(place, name, name.among(asked.targets))

    def forget(self, ask: Ask) -> None:
        """One asks less."""
        asked = self._asked[ask.peers]
        asked.users -= 1
        if not asked.users:
            del self._asked[ask.peers]
            self._index.remove(ask.peers)
            self._changed.discard(ask.peers)

    def is_outdated(self, ask: Ask) -> bool:
        """Whether the answer would be another one now."""
        return ask.name.among(self._asked[ask.peers].targets) != ask.targets

    def take_changed(self) -> set[PeerSet]:
        """The sets about which answers may be outdated, since this was asked last."""
        changed, self._changed = self._changed, set()
        return changed


def _place(peers: PeerSet) -> PeerSet:
    """The set whose ports count: that of everybody where a CIDR says nothing of identities."""
    return ANYONE if any(isinstance(peer, CidrPeer) for peer in peers.peers) else peers


def _holds(peers: PeerSet, labels: Labels) -> bool:
    return peers.is_anyone or any(isinstance(peer, LabelPeer) and peer.selector.matches(labels) for peer in peers.peers)

"""Which remote pod has which address, and on which node it is.

An address is judged by what claims it and by whose pod CIDR it lies in, and by nothing else: so the outcome does not
depend on the order in which endpoints and nodes came, and one endpoint more costs one look. The node is the one in
whose pod CIDR the address lies; what the endpoint itself calls its node must not say otherwise, and may be out of date.

    reserved identity, address of a node, outside of its node's pod CIDRs    set aside, named
    two that claim one address       the one that was made later has it (then by name); the other is set aside, named
    node not known, no identity yet  waits

Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple, TypeVar

from pycilium.agent.nodes.claims import SELF, NodeView
from pycilium.model.identity import CLUSTER_IDENTITIES
from pycilium.model.peer import Address
from pycilium.model.remote_endpoint import RemoteEndpoint
from pycilium.tables import Change

K = TypeVar("K", bound=Hashable)


class Place(NamedTuple):
    """Who is behind an address, and where."""

    sec_identity: int
    node: str


class _Judged(NamedTuple):
    place: Place | None
    holder: RemoteEndpoint | None
    problems: tuple[str, ...]


_NOTHING = _Judged(None, None, ())


@lru_cache(maxsize=4096)
def _place(sec_identity: int, node: str) -> Place:
    """The addresses of one endpoint share it, and those of its like."""
    return Place(sec_identity, node)


class RemoteEndpoints:
    """Owns the places of remote pods' addresses; see the module."""

    def __init__(self) -> None:
        self._view = NodeView()
        self._claims: dict[Address, RemoteEndpoint | tuple[RemoteEndpoint, ...]] = {}
        """Nearly always one; then it stands there without a tuple."""
        self._places: dict[Address, Place] = {}
        self._changed: dict[Address, None] = {}
        self._identities: Counter[int] = Counter()
        """How many addresses are of an identity."""
        self._problems: dict[Address, tuple[str, ...]] = {}
        self._unplaced: dict[Address, str | None] = {}
        """Claimed addresses that have no place, with the node in whose pod CIDR they lie."""

    def update(self, changes: Iterable[Change[RemoteEndpoint]], view: NodeView) -> dict[Address, None]:
        """Take in what changed; returns the addresses whose place may have, those of one endpoint together."""
        touched = dict.fromkeys(self._touched_by(view))
        self._view = view
        for change in changes:
            if change.old is not None:
                touched |= dict.fromkeys(change.old.addresses)
                self._withdraw(change.old)
            if change.new is not None:
                touched |= dict.fromkeys(change.new.addresses)
                self._claim(change.new)
        for address in touched:
            self._settle(address)
        self._changed |= touched
        return touched

    def place(self, address: Address) -> Place | None:
        """Where a packet for `address` goes; None if no remote pod has it."""
        return self._places.get(address)

    def holder(self, address: Address) -> RemoteEndpoint | None:
        """The endpoint that has `address`, if it has a place."""
        return self._judge(address, self._view.owner_of(address)).holder if address in self._places else None

    def placed(self) -> Iterable[Address]:
        """The addresses that have a place."""
        return self._places

    def take_changed(self) -> Mapping[Address, None]:
        """The addresses whose holder may be another one than when this was asked last, those of one together."""
        changed, self._changed = self._changed, {}
        return changed

    def of_nodes(self, nodes: Collection[str | None]) -> Iterator[Address]:
        """The claimed addresses that lie in the pod CIDRs of these nodes; None: in nobody's.

        By a look at all of them: nodes change seldom, and an index would take more memory than the addresses.
        """
        if nodes:
            yield from (address for address, place in self._places.items() if place.node in nodes)
            yield from (address for address, owner in self._unplaced.items() if owner in nodes)

    def has(self, sec_identity: int) -> bool:
        """Whether a pod of another node has this identity."""
        return sec_identity in self._identities

    def problems(self) -> Iterator[str]:
        """What was set aside or waits, in words."""
        for texts in self._problems.values():
            yield from texts

    def __len__(self) -> int:
        return len(self._places)

    def _touched_by(self, view: NodeView) -> set[Address]:
        """The addresses that another view of the nodes may judge otherwise."""
        before = self._view
        if view is before:
            return set()
        touched: set[Address] = set()
        moved = {
            before.pod_cidrs.get(cidr)  # None: those that waited
            for cidr in before.pod_cidrs.keys() | view.pod_cidrs.keys()
            if before.pod_cidrs.get(cidr) != view.pod_cidrs.get(cidr)
        }
        touched.update(self.of_nodes(moved))
        touched.update(self._referring(_differing(before.references, view.references)))
        touched.update(_differing(before.addresses, view.addresses) & self._claims.keys())
        return touched

    def _claim(self, endpoint: RemoteEndpoint) -> None:
        for address in endpoint.addresses:
            others = self._claimants(address)
            self._claims[address] = (*others, endpoint) if others else endpoint

    def _withdraw(self, endpoint: RemoteEndpoint) -> None:
        for address in endpoint.addresses:
            left = tuple(other for other in self._claimants(address) if other.key != endpoint.key)
            if left:
                self._claims[address] = left if len(left) > 1 else left[0]
            else:
                self._claims.pop(address, None)

    def _claimants(self, address: Address) -> tuple[RemoteEndpoint, ...]:
        claimed = self._claims.get(address, ())
        return claimed if isinstance(claimed, tuple) else (claimed,)

    def _settle(self, address: Address) -> None:
        owner = self._view.owner_of(address)
        judged = self._judge(address, owner)
        self._unplaced.pop(address, None)
        gone = self._places.pop(address, None)
        if judged.place is not None:
            self._places[address] = judged.place
        elif address in self._claims:
            self._unplaced[address] = owner
        self._count(gone, judged.place)
        if judged.problems:
            self._problems[address] = judged.problems
        else:
            self._problems.pop(address, None)

    def _count(self, gone: Place | None, come: Place | None) -> None:
        if come is not None:
            self._identities[come.sec_identity] += 1
        if gone is not None:
            self._identities[gone.sec_identity] -= 1
            if not self._identities[gone.sec_identity]:
                del self._identities[gone.sec_identity]

    def _referring(self, references: Collection[str]) -> Iterator[Address]:
        """The addresses that are claimed by somebody who calls his node by one of these."""
        if not references:
            return
        for address, claimed in self._claims.items():
            claimants = claimed if isinstance(claimed, tuple) else (claimed,)
            if any(claimant.node in references for claimant in claimants):
                yield address

    def _judge(self, address: Address, owner: str | None) -> _Judged:
        claimants = self._claimants(address)
        if not claimants:
            return _NOTHING
        sound, problems = [], []
        for claimant in claimants:
            why = self._objection(claimant, address, owner)
            if why is None:
                sound.append(claimant)
            elif why:
                problems.append(f"{claimant}: {why}")
        if not sound or owner is None:
            return _Judged(None, None, tuple(sorted(problems)))
        holder = min(sound, key=lambda each: (-each.created_s, each.namespace, each.name))
        problems += [
            f"{each}: address {address} is that of {holder}: set aside" for each in sound if each is not holder
        ]
        return _Judged(_place(holder.sec_identity, owner), holder, tuple(sorted(problems)))

    def _objection(self, endpoint: RemoteEndpoint, address: Address, owner: str | None) -> str | None:
        """Why `endpoint` does not get `address`: "" if it is to be passed over in silence, None if it may have it."""
        view = self._view
        said = view.references.get(endpoint.node)
        if (owner == SELF and said in (None, SELF)) or said == SELF:
            return ""  # published by this node itself
        if not endpoint.sec_identity:
            return ""  # its agent is about to say
        if endpoint.sec_identity not in CLUSTER_IDENTITIES:
            return f"identity {endpoint.sec_identity} cannot be that of a pod: set aside"
        if address in view.addresses:
            return f"address {address} is that of node {view.addresses[address][1]}: set aside"
        if owner is None and said is None:
            return f"address {address} waits: no node has a pod CIDR that holds it"
        if owner is None or said not in (None, owner):
            return f"address {address} lies outside of the pod CIDRs of its node {said}: set aside"
        return None


def _differing(before: Mapping[K, object], after: Mapping[K, object]) -> set[K]:
    return {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}

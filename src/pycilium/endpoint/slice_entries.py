"""What slices should say of each CiliumEndpoint: what others need, and each address of the youngest that claims it.

Agents judge two claims to one address by when the CiliumEndpoints were made, which a slice does not say: so it is
judged here. Only of claims that name the same node: between nodes their pod CIDRs decide, and those the agents know.

Pure; what is wanted follows from the CiliumEndpoints alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import msgspec

from pycilium.endpoint.slices import EndpointName
from pycilium.errors import InvalidResource
from pycilium.model.identity import CLUSTER_IDENTITIES
from pycilium.model.remote_endpoint import remote_endpoint_of
from pycilium.model.resources import CiliumEndpoint
from pycilium.model.resources.cilium_objects import AddressPair, CoreEndpoint, EndpointNetworking

_Claimed = tuple[str, str]
"""A node, as the endpoint calls it, and an address."""


@dataclass(frozen=True, slots=True)
class _Claimant:
    core: CoreEndpoint
    networking: EndpointNetworking
    created_s: int

    @property
    def claims(self) -> list[_Claimed]:
        """None while nobody would believe it."""
        if self.core.id not in CLUSTER_IDENTITIES:
            return []
        texts = (text for pair in self.networking.addressing for text in (pair.ipv4, pair.ipv6) if text)
        return [(self.networking.node, text) for text in dict.fromkeys(texts)]


class SliceEntries:
    """Owns what is known of all CiliumEndpoints."""

    def __init__(self) -> None:
        self._claimants: dict[EndpointName, _Claimant] = {}
        self._claims: dict[_Claimed, tuple[EndpointName, ...]] = {}
        self._wanted: dict[EndpointName, CoreEndpoint] = {}
        self._unknown: dict[EndpointName, None] = {}

    @property
    def wanted(self) -> Mapping[EndpointName, CoreEndpoint]:
        """What slices should hold."""
        return self._wanted

    @property
    def unknown(self) -> Collection[EndpointName]:
        """Endpoints of which nobody can say what they are."""
        return self._unknown.keys()

    def replace(self, endpoints: Iterable[CiliumEndpoint], unreadable: Iterable[EndpointName]) -> list[str]:
        """These are all; gives what cannot be understood, in words."""
        self._claimants.clear()
        self._claims.clear()
        self._wanted.clear()
        self._unknown = dict.fromkeys(unreadable)
        return [problem for each in endpoints if (problem := self.change(each))]

    def change(self, endpoint: CiliumEndpoint) -> str:
        """Take in one that is new or has changed; gives why it cannot be understood, empty if it can."""
        name = name_of(endpoint)
        try:
            claimant = _claimant(endpoint)
        except InvalidResource as error:
            self.lose_sight_of(name)
            return f"{endpoint.key}: {error}"
        self.remove(name)
        if claimant is not None:
            self._claimants[name] = claimant
            for claimed in claimant.claims:
                self._claims[claimed] = (*self._claims.get(claimed, ()), name)
            self._settle({name, *self._rivals(claimant)})
        return ""

    def remove(self, name: EndpointName) -> None:
        """It is gone."""
        self._unknown.pop(name, None)
        self._wanted.pop(name, None)
        gone = self._claimants.pop(name, None)
        if gone is None:
            return
        for claimed in gone.claims:
            left = tuple(each for each in self._claims[claimed] if each != name)
            if left:
                self._claims[claimed] = left
            else:
                del self._claims[claimed]
        self._settle(self._rivals(gone))

    def lose_sight_of(self, name: EndpointName) -> None:
        """Nobody can say any more what it is."""
        self.remove(name)
        self._unknown[name] = None

    def _rivals(self, claimant: _Claimant) -> set[EndpointName]:
        return {name for claimed in claimant.claims for name in self._claims.get(claimed, ())}

    def _settle(self, names: Iterable[EndpointName]) -> None:
        for name in names:
            core = self._entry(name, self._claimants[name])
            if core is None:
                self._wanted.pop(name, None)
            else:
                self._wanted[name] = core

    def _entry(self, name: EndpointName, claimant: _Claimant) -> CoreEndpoint | None:
        """Without the addresses that others have; None if that leaves none."""
        lost = {claimed[1] for claimed in claimant.claims if self._holder(claimed) != name}
        if not lost:
            return claimant.core
        pairs = (
            AddressPair(ipv4="" if pair.ipv4 in lost else pair.ipv4, ipv6="" if pair.ipv6 in lost else pair.ipv6)
            for pair in claimant.networking.addressing
        )
        left = tuple(pair for pair in pairs if pair.ipv4 or pair.ipv6)
        networking = msgspec.structs.replace(claimant.networking, addressing=left)
        return msgspec.structs.replace(claimant.core, networking=networking) if left else None

    def _holder(self, claimed: _Claimed) -> EndpointName:
        """As agents judge it: the younger has it, then the first by name."""
        return min(self._claims[claimed], key=lambda name: (-self._claimants[name].created_s, name))


def name_of(endpoint: CiliumEndpoint) -> EndpointName:
    return EndpointName(endpoint.metadata.namespace, endpoint.metadata.name)


def _claimant(endpoint: CiliumEndpoint) -> _Claimant | None:
    """None if nobody needs to know of it: it has no address; InvalidResource."""
    status = endpoint.status
    networking = status.networking if status is not None else None
    if status is None or networking is None:
        return None
    if remote_endpoint_of(endpoint) is None:
        return None
    core = CoreEndpoint(
        name=endpoint.metadata.name,
        id=status.identity.id if status.identity is not None else 0,
        networking=networking,
        encryption=status.encryption,
        named_ports=status.named_ports,
        service_account=status.service_account,
    )
    created = endpoint.metadata.creation_timestamp
    return _Claimant(core, networking, int(created.timestamp()) if created is not None else 0)

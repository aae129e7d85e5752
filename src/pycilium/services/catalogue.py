"""All frontends of a node, kept up to date: a change costs what it touches.

Every Service, and every pod with host ports, *claims* the addresses of its frontends. Of several claims to one address,
port and protocol that of the oldest stands: the Service that was made first, then the first by namespace and name; a
host port comes after all Services. So who has an address depends on the claims alone, not on the order in which they
came; whoever loses it is named in `problems`, and is served at his other addresses.

Invariant: the frontends are those that a catalogue would have that was given everything at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from pycilium.model.remote_endpoint import RemoteEndpoint
from pycilium.model.resources import EndpointSlice, Service
from pycilium.model.service import BackendState, Frontend, FrontendKind, L4Address
from pycilium.services import frontends
from pycilium.services.candidates import SliceView, slice_view
from pycilium.services.frontends import NOTHING, HostPortMapping, Reached
from pycilium.services.selection import Selection
from pycilium.services.settings import ServiceSettings

Name = tuple[str, str]
"""Namespace and name."""


class Owner(NamedTuple):
    """Who claims: a Service, or a pod by its host ports."""

    namespace: str
    name: str
    host_ports: bool = False

    def __str__(self) -> str:
        return f"{'host port of pod ' if self.host_ports else ''}{self.namespace}/{self.name}"

    @property
    def title(self) -> str:
        """How a sentence about it begins."""
        return f"{'Pod' if self.host_ports else 'Service'} {self.namespace}/{self.name}"


Rank = tuple[bool, float, str, str]
_NO_RANK: Rank = (True, 0.0, "", "")


@dataclass(frozen=True, slots=True)
class CatalogueChanges:
    """What changed since the last update, None for what is gone. A pod's key is whatever names it."""

    services: Mapping[Name, Service | None] = field(default_factory=dict)
    slices: Mapping[Name, EndpointSlice | SliceView | None] = field(default_factory=dict)
    pods: Mapping[Hashable, RemoteEndpoint | None] = field(default_factory=dict)
    host_ports: Mapping[Name, tuple[HostPortMapping, ...]] = field(default_factory=dict)
    """By pod; none at all for one that is gone."""
    settings: ServiceSettings | None = None
    """None if nothing changed about them."""


class Catalogue:
    """Owns who has which frontend on this node."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings
        self._services: dict[Name, Service] = {}
        self._slices: defaultdict[Name, dict[str, SliceView]] = defaultdict(dict)
        self._service_of_slice: dict[Name, Name] = {}
        self._selection = Selection()
        self._host_ports: dict[Name, tuple[HostPortMapping, ...]] = {}
        self._reached: dict[Owner, Reached] = {}
        self._ranks: dict[Owner, Rank] = {}
        self._claims: dict[L4Address, dict[Owner, Frontend]] = {}
        self._contested: set[L4Address] = set()

    def update(self, changes: CatalogueChanges) -> dict[L4Address, Frontend | None]:
        """Takes in what changed; returns the frontends that are different now, None for those that are no more."""
        owners = self._take_in(changes)
        before: dict[L4Address, Frontend | None] = {}
        for owner in owners:
            self._claim(owner, *self._reach(owner), before)
        after = {at: self.frontend(at) for at in before}
        return {at: frontend for at, frontend in after.items() if frontend != before[at]}

    def frontend(self, at: L4Address) -> Frontend | None:
        """Who is reached at an address."""
        claims = self._claims.get(at)
        if not claims:
            return None
        if len(claims) == 1:
            return next(iter(claims.values()))
        return claims[min(claims, key=self._ranks.__getitem__)]

    def frontends(self) -> Iterator[Frontend]:
        """All of them."""
        for at in self._claims:
            frontend = self.frontend(at)
            if frontend is not None:
                yield frontend

    def backends_here(self, name: Name) -> int:
        """How many backends of this node a Service with externalTrafficPolicy Local has that take connections."""
        reached = self._reached.get(Owner(*name), NOTHING)
        return len(
            {
                backend.at.address
                for frontend in reached.frontends
                if frontend.external_local
                for backend in frontend.outside
                if backend.state is BackendState.ACTIVE and backend.weight
            }
        )

    def problems(self) -> dict[Owner, tuple[str, ...]]:
        """What is wrong, in words. Sorted."""
        found: defaultdict[Owner, list[str]] = defaultdict(list)
        for owner, reached in self._reached.items():
            if reached.problems:
                found[owner] += reached.problems
        for at in self._contested:
            claims = self._claims[at]
            winner = min(claims, key=self._ranks.__getitem__)
            for owner in claims:
                if owner != winner:
                    found[owner].append(_lost(claims[owner], winner))
        return {owner: tuple(sorted(set(found[owner]))) for owner in sorted(found)}

    # == what comes in ==

    def _take_in(self, changes: CatalogueChanges) -> set[Owner]:
        """Keeps what changed; returns whose frontends it may change."""
        touched: set[Name] = set(changes.services)
        pods = set(changes.host_ports)
        if changes.settings is not None and changes.settings != self._settings:
            before, self._settings = self._settings, changes.settings
            touched.update(self._services_that_depend_on(before))
            if changes.settings.placeless != before.placeless or changes.settings.addresses != before.addresses:
                pods.update(self._host_ports)
        for name, service in changes.services.items():
            if service is None:
                self._services.pop(name, None)
            else:
                self._services[name] = service
            self._selection.set_selector(name, service.spec.selector if service is not None else None)
        for name, resource in changes.slices.items():
            touched.update(self._take_in_slice(name, resource))
        for key, pod in changes.pods.items():
            touched.update(self._selection.set_pod(key, pod))
        for name, mappings in changes.host_ports.items():
            if mappings:
                self._host_ports[name] = mappings
            else:
                self._host_ports.pop(name, None)
        return {Owner(*name) for name in touched} | {Owner(*name, host_ports=True) for name in pods}

    def _services_that_depend_on(self, before: ServiceSettings) -> Iterator[Name]:
        """Those whose frontends may be others than `before` because of what the settings are now."""
        if self._settings.placeless != before.placeless:
            yield from self._services
            return
        yield from self._selection.on_nodes(self._settings.places_changed(before))
        if self._settings.addresses != before.addresses:
            for owner, reached in self._reached.items():
                if any(frontend.kind is FrontendKind.NODE_PORT for frontend in reached.frontends):
                    yield owner.namespace, owner.name

    def _take_in_slice(self, name: Name, told: EndpointSlice | SliceView | None) -> Iterator[Name]:
        before = self._service_of_slice.pop(name, None)
        if before is not None:
            del self._slices[before][name[1]]
            if not self._slices[before]:
                del self._slices[before]
            yield before
        view = slice_view(told) if isinstance(told, EndpointSlice) else told
        if view is not None and view.service:
            service = (name[0], view.service)
            self._slices[service][name[1]] = view
            self._service_of_slice[name] = service
            yield service

    # == who claims what ==

    def _reach(self, owner: Owner) -> tuple[Reached, Rank]:
        name = (owner.namespace, owner.name)
        if owner.host_ports:
            return frontends.of_host_ports(self._host_ports.get(name, ()), self._settings), (True, 0.0, *name)
        service = self._services.get(name)
        if service is None:
            return NOTHING, _NO_RANK
        slices = self._slices[name].values() if name in self._slices else ()
        reached = frontends.of_service(service, slices, self._selection.selected(name), self._settings)
        return reached, (False, _made(service), *name)

    def _claim(self, owner: Owner, reached: Reached, rank: Rank, before: dict[L4Address, Frontend | None]) -> None:
        """`before` is given what each address that this touches was, unless it was touched already."""
        wanted: dict[L4Address, Frontend] = {}
        for frontend in reached.frontends:
            wanted.setdefault(frontend.at, frontend)
        claimed = [frontend.at for frontend in self._reached.get(owner, NOTHING).frontends]
        touched = dict.fromkeys((*claimed, *wanted))
        for at in touched:
            if at not in before:
                before[at] = self.frontend(at)
        if reached == NOTHING:
            self._reached.pop(owner, None)
            self._ranks.pop(owner, None)
        else:
            self._reached[owner], self._ranks[owner] = reached, rank
        for at in touched:
            self._set_claim(at, owner, wanted.get(at))

    def _set_claim(self, at: L4Address, owner: Owner, frontend: Frontend | None) -> None:
        claims = self._claims.setdefault(at, {})
        if frontend is None:
            claims.pop(owner, None)
        else:
            claims[owner] = frontend
        if len(claims) > 1:
            self._contested.add(at)
            return
        self._contested.discard(at)
        if not claims:
            del self._claims[at]


def _made(service: Service) -> float:
    """When it was made; of what does not say, after all that do."""
    created = service.metadata.creation_timestamp
    return created.timestamp() if created is not None else float("inf")


_REMEDIES = {
    FrontendKind.CLUSTER_IP: "leave clusterIP out to be given a free one",
    FrontendKind.NODE_PORT: "choose another nodePort, or leave it out",
    FrontendKind.LOAD_BALANCER: "use another address or port",
    FrontendKind.EXTERNAL_IP: "use another external IP or port",
    FrontendKind.HOST_PORT: "choose another hostPort",
}

_OF_NODES = {FrontendKind.NODE_PORT: "node port", FrontendKind.HOST_PORT: "host port"}


def _lost(frontend: Frontend, winner: Owner) -> str:
    at = frontend.at
    what = _OF_NODES.get(frontend.kind, "")
    what = f"{what} {at.port}/{at.protocol.name}" if what else str(at)
    return f"{what} belongs to {winner}, which comes first: {_REMEDIES[frontend.kind]}"


def all_frontends(changes: CatalogueChanges, settings: ServiceSettings) -> tuple[Frontend, ...]:
    """The frontends that follow from all of this at once, in the order of their addresses."""
    catalogue = Catalogue(settings)
    catalogue.update(changes)
    return tuple(sorted(catalogue.frontends(), key=lambda frontend: frontend.at))

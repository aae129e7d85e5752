"""Services of one node: from the intent tables to frontends, and from those to the maps.

    services, endpoint slices ─┐
    endpoints of pods ─────────┼─► Catalogue ─► frontends ─► ServicePlanner ─► ServiceTargets
    host ports, own addresses ─┤                                 ▲                  │
    nodes and their zones ─────┘                                 └── what is realized

A change costs what it touches. What a restarted agent finds in the maps keeps its numbers, and what is unchanged is not
written. Backends that left a frontend are told of (`on_left`) once the kernel leads nobody to them any more, so that
what clients had of them is forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import TypeVar, cast

from pycilium.agent.intent import Intent
from pycilium.agent.services.targets import ServiceTargets
from pycilium.agent.services.views import counts, service_views
from pycilium.api.service_messages import ServiceCounts, ServiceView
from pycilium.model.endpoint import Endpoint
from pycilium.model.peer import Address
from pycilium.model.service import Backend, Frontend, L4Address
from pycilium.services import (
    Capacities,
    Catalogue,
    CatalogueChanges,
    FrontendEntry,
    HostPortMapping,
    NodePlace,
    ServiceAddresses,
    ServicePlanner,
    ServiceSettings,
)
from pycilium.tables import Change

T = TypeVar("T")
Name = tuple[str, str]
RESTING_CHECK_S = 0.5
"""How often what rests is looked at, while anything does."""


@dataclass(frozen=True, slots=True)
class FrontendChange:
    """A frontend that came, changed or went, with its service id before and after; 0: it had or has none."""

    old: Frontend | None
    new: Frontend | None
    old_id: int
    new_id: int


@dataclass(frozen=True, slots=True)
class Left:
    """A backend that a frontend no longer leads to."""

    frontend: L4Address
    service_id: int
    backend_id: int
    backend: L4Address
    affinity_id: int = 0
    """By which clients are remembered who had it; 0: by none, or a frontend that shares the memory has it still."""


class Services:
    """Owns the catalogue and the planner; see the module."""

    def __init__(
        self, intent: Intent, targets: ServiceTargets, settings: ServiceSettings, capacities: Capacities | None = None
    ) -> None:
        """`settings` but for what the tables say: addresses, zone and nodes. `targets` must have been read."""
        self._intent, self._targets, self._settings = intent, targets, settings
        self._services = intent.services.changes()
        self._slices = intent.slices.changes()
        self._pods = intent.remote_endpoints.changes()
        self._endpoints = intent.endpoints.changes()
        self._nodes = intent.nodes.changes()
        self._own_node = intent.own_node.changes()
        self._hosts = intent.host_addresses.changes()
        self._known: dict[L4Address, Frontend] = {}
        """As last planned; nothing is known of those that an earlier agent left."""
        self._started = False
        self._left: list[Left] = []
        self.catalogue = Catalogue(settings)
        targets.keep_all()
        self._addresses = ServiceAddresses()
        self.planner = ServicePlanner(capacities or Capacities(), targets.contents())
        self.on_change: Callable[[list[FrontendChange]], None] = lambda _: None
        """Told of frontends that changed, before the kernel knows."""
        self.on_left: Callable[[list[Left]], None] = lambda _: None

    def desire(self, now: float) -> None:
        """Take in what changed; write slots and backends, and desire the rest."""
        changed = self.catalogue.update(self._drain())
        addresses = self._addresses.update(changed)
        if self._started:
            self._targets.write_addresses(addresses)
            if changed or self.planner.problems:
                self._plan(changed, now)
            return
        self._started = True
        known = {address: None for each in self._targets.addresses.values() for address in each.tracker.realized}
        self._targets.write_addresses({**known, **addresses})
        frontends = {frontend.at: frontend for frontend in self.catalogue.frontends()}
        gone = {at: None for reconciler in self._targets.frontends.values() for at in reconciler.tracker.realized}
        self._plan({**gone, **frontends}, now)

    def realized(self, now: float) -> float | None:
        """After a round: let go of what nothing leads to any more. Returns when to come again; None: no need."""
        pending = self._targets.pending()
        retired = self.planner.realized(pending, now)
        if retired.backends:
            self._targets.retire(retired.backends)
        told = [each for each in self._left if each.frontend not in pending]
        if told:
            self._left = [each for each in self._left if each.frontend in pending]
            self.on_left(told)
        return now + RESTING_CHECK_S if self.planner.busy else None

    def frontends(self) -> Iterator[tuple[Frontend, FrontendEntry | None]]:
        """All that are wanted, with their entries as last planned; None for want of room."""
        return ((frontend, self.planner.entry(frontend.at)) for frontend in self.catalogue.frontends())

    @property
    def longest_affinity_s(self) -> int:
        """Of all Services: what clients had before that means nothing to any of them."""
        return max((frontend.affinity_s for frontend in self._known.values()), default=0)

    def view(self) -> Iterator[ServiceView]:
        """GET /service, by service id."""
        known = sorted(self.frontends(), key=lambda known: _id_of(known[1]))
        for frontend, entry in known:
            realized = self._targets.frontends[frontend.at.address.version].is_done(frontend.at)
            yield from service_views(frontend, _id_of(entry), realized=realized)

    def counts(self) -> ServiceCounts:
        """The part of GET /healthz."""
        return counts(self.catalogue.frontends(), self.planner.backends_used, self.problems())

    def problems(self) -> Iterator[str]:
        """What is wrong, in words: conflicts, what cannot be, and what to raise."""
        for owner, texts in self.catalogue.problems().items():
            yield from (f"{owner.title}: {text}" for text in texts)
        yield from self._targets.full()
        for at, text in self.planner.problems.items():
            frontend = self.catalogue.frontend(at)
            yield f"Service {frontend.name if frontend is not None else '?'} at {at}: {text}"

    # == one round ==

    def _plan(self, changed: Mapping[L4Address, Frontend | None], now: float) -> None:
        waiting = self.planner.problems
        before = {at: (self.planner.entry(at), self.planner.backend_ids(at)) for at in (*changed, *waiting)}
        plan = self.planner.update(changed, now)
        self._targets.write(plan)
        still = self.planner.problems
        told = []
        for at, (previous, backends) in before.items():
            if at in still:
                continue  # it is as it was
            new, entry = self.catalogue.frontend(at), self.planner.entry(at)
            old = self._known.pop(at, None)
            if new is not None:
                self._known[at] = new
            if previous is not None:
                self._left += self._gone(at, previous, backends)
            told.append(FrontendChange(old, new, _id_of(previous), _id_of(entry)))
        if told:
            self.on_change(told)

    def _gone(self, at: L4Address, previous: FrontendEntry, backends: Iterable[tuple[int, ...]]) -> Iterator[Left]:
        """The backends that the frontend led to, by these ids, and does not lead to any more."""
        now = self.planner.backend_ids(at)
        if now == backends:
            return
        remembered = self.planner.remembered(previous.affinity_id)
        for number in set(chain.from_iterable(backends)).difference(*now):
            backend = self.planner.backend(number)
            if backend is not None:
                affinity_id = previous.affinity_id if number not in remembered else 0
                yield Left(at, previous.service_id, number, backend, affinity_id)

    def still_gone(self, left: Iterable[Left]) -> list[Left]:
        """Those whose frontend has not taken the backend back meanwhile."""
        left = list(left)
        led = {
            (at, _id_of(self.planner.entry(at))): {backend.at for backend in _backends(self._known.get(at))}
            for at in {each.frontend for each in left}
        }
        return [each for each in left if each.backend not in led.get((each.frontend, each.service_id), ())]

    def _drain(self) -> CatalogueChanges:
        hosts, nodes, own = self._hosts.drain(), self._nodes.drain(), self._own_node.drain()
        settings = None
        if hosts or own or (nodes and self._settings.select_endpoints):
            settings = self._settings = self._settings_now()
        services, slices = _by_name(self._services.drain()), _by_name(self._slices.drain())
        pods = self._pods.drain()
        return CatalogueChanges(
            services=services,
            slices=slices,
            pods={change.key: change.new for change in pods} if self._settings.select_endpoints else {},
            host_ports=dict(_host_ports(self._endpoints.drain())),
            settings=settings,
        )

    def _settings_now(self) -> ServiceSettings:
        snapshot = self._intent.db.snapshot()
        own = next(iter(snapshot.all(self._intent.own_node)), None)
        zone = own.zone if own is not None else ""
        addresses = sorted(
            (host.address for host in snapshot.all(self._intent.host_addresses) if _serves(host.address)),
            key=lambda address: (address.version, int(address)),
        )
        places: dict[str, NodePlace] = {}
        if self._settings.select_endpoints:
            here = NodePlace(self._settings.node, zone)
            places = {str(address): here for address in addresses}
            for node in snapshot.all(self._intent.nodes):
                place = NodePlace(node.name, node.zone)
                places |= dict.fromkeys((node.name, *map(str, node.internal_ips)), place)
        return replace(self._settings, zone=zone, addresses=tuple(addresses), nodes=places)


def tell_all(*told: Callable[[list[FrontendChange]], None]) -> Callable[[list[FrontendChange]], None]:
    """One for `on_change` that tells several, in this order."""

    def tell(changes: list[FrontendChange]) -> None:
        for each in told:
            each(changes)

    return tell


def _serves(address: Address) -> bool:
    """Whether node ports are reached at an address of the node."""
    return not address.is_link_local and not address.is_loopback


def _backends(frontend: Frontend | None) -> Iterator[Backend]:
    if frontend is not None:
        yield from frontend.inside
        if frontend.outside is not frontend.inside:
            yield from frontend.outside


def _id_of(entry: FrontendEntry | None) -> int:
    return entry.service_id if entry is not None else 0


def _by_name(changes: Iterable[Change[T]]) -> dict[Name, T | None]:
    """By namespace and name, which are the keys of these tables."""
    return {cast("Name", change.key): change.new for change in changes}


def _host_ports(changes: Iterable[Change[Endpoint]]) -> Iterator[tuple[Name, tuple[HostPortMapping, ...]]]:
    """By pod; of changed endpoints that have host ports, or had any."""
    for change in changes:
        for endpoint in (change.old, change.new):
            if endpoint is not None and endpoint.host_ports:
                yield _pod_of(endpoint), ()
        if change.new is not None and change.new.host_ports:
            yield _pod_of(change.new), tuple(_mappings(change.new))


def _pod_of(endpoint: Endpoint) -> Name:
    """Nobody knows the pod yet of an endpoint that is taken up as the kernel remembers it."""
    return endpoint.namespace, endpoint.pod_name or endpoint.attachment


def _mappings(endpoint: Endpoint) -> Iterator[HostPortMapping]:
    for host_port in endpoint.host_ports:
        for address in endpoint.addresses:
            if host_port.address is None or host_port.address.version == address.version:
                yield HostPortMapping(
                    *_pod_of(endpoint),
                    host_port.port,
                    L4Address(address, host_port.target_port, host_port.protocol),
                    host_port.address,
                )

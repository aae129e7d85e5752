"""From intent to desired to realized: one round turns what changed in the intent tables into kernel entries.

            policies ─┐
          identities ─┼──► PolicyEngine ──► bits, rows, policies, cidrs, subject → policy id
   endpoints (labels)─┘                        │
            endpoints ──────────────┬──────────┤
       host addresses ──┬───────────┤          ▼
                        │           └──► ipcache, endpoint entries, links
              nodes ────┼──► Cluster ──────►┘  │
   remote endpoints ────┘      └──► nodes map, routes
                                               │
            services, slices, pods ──► Services ──► slots, backends, frontends
                                               │
        stages: bits → rows → policies → nodes → ipcache → routes → endpoints → services → links
        (removals in reverse)

A round never awaits and does all its writes before it returns, so whoever committed a change and then ran a round
knows that the kernel has it. The desired entries depend on the intent alone; numbers come from the engine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from pycilium.agent.earlier_agent import nodes_in_use
from pycilium.agent.endpoints.named_ports import IdentityPorts
from pycilium.agent.endpoints.process_targets import ProcessTargets
from pycilium.agent.entries import EndpointTarget
from pycilium.agent.intent import HostAddress, Intent
from pycilium.agent.ipcache import Ipcache, IpcacheTarget, network_of
from pycilium.agent.link_operations import LinkTarget
from pycilium.agent.nodes.api_servers import ApiServers
from pycilium.agent.nodes.cluster import Cluster, ClusterChanges, ClusterSettings
from pycilium.agent.services.controller import Services
from pycilium.agent.targets import Targets, in_words
from pycilium.model.endpoint import Endpoint
from pycilium.model.identity import Identity, ReservedIdentity
from pycilium.model.peer import Address, Network
from pycilium.model.policy import Subject
from pycilium.model.remote_endpoint import RemoteEndpoint
from pycilium.policy import PolicyChanges, PolicyEngine
from pycilium.reconcile import Reconciler, RoundResult, Status, Uncertain
from pycilium.tables import Change

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
T = TypeVar("T")

CLEANUPS = 4
"""Removals wait for one another, so they may need as many rounds: selector, prefix, bits, number."""
FROM_CONTAINER = "from_container"


class Controller:
    """Owns the policy engine and what is desired of each target; see the module's drawing."""

    def __init__(
        self,
        intent: Intent,
        engine: PolicyEngine,
        targets: Targets,
        settings: ClusterSettings | None = None,
        services: Services | None = None,
    ) -> None:
        self._intent, self.engine, self._targets = intent, engine, targets
        self._policies = intent.policies.changes()
        self._identities = intent.identities.changes()
        self._endpoints = intent.endpoints.changes()
        self._hosts = intent.host_addresses.changes()
        self._subjects: Counter[Subject] = Counter()
        self._policy_ids: dict[Subject, int] = {}
        self._ports = IdentityPorts()
        self._lost: set[int] = set()
        """Identities that are in the table no longer, and that somebody still has."""
        self._nodes = intent.nodes.changes()
        self._remote_endpoints = intent.remote_endpoints.changes()
        self.cluster = Cluster(settings or ClusterSettings(), nodes_in_use(targets))
        self.pod_cidrs_decided: Callable[[Iterable[Network]], None] = lambda _: None
        """Called in a round in which the nodes were decided anew, with the others' pod CIDRs."""
        self._slices = intent.slices.changes()
        self._api_servers = ApiServers(self.cluster.settings.kube_apiserver)
        self._ipcache = Ipcache(engine, self.cluster, targets.ipcache)
        self.services = services
        self.processes = ProcessTargets(intent, targets)

    def run(self, now: float) -> RoundResult:
        """Take in every change since the last round and write what follows from it."""
        result = self._run_once(now)
        for _ in range(CLEANUPS):
            if not (self.engine.cleanup_due or self.cluster.retry_due) or not self._targets.stages.in_sync:
                break
            result = self._run_once(now)
        return result

    def _run_once(self, now: float) -> RoundResult:
        endpoints = self._endpoints.drain()
        hosts = self._hosts.drain()
        added, removed = self._count_subjects(endpoints)
        remote = self._remote_endpoints.drain()
        cluster = self._desire_cluster(hosts, remote)
        policies, identities = self._policies.drain(), self._identities.drain()
        moved = self._api_servers.update(self._slices.drain())
        policies_gone = [change.old.key for change in policies if change.new is None and change.old is not None]
        changes = self.engine.update(
            policies_upserted=_upserted(policies),
            policies_removed=policies_gone,
            identities_upserted=(*_upserted(identities), *((self._own_identity(),) if moved or hosts else ())),
            identities_removed=self._unused_of(identities),
            ports_changed=self._ports.update(endpoints, remote),
            subjects_added=added,
            subjects_removed=removed,
        )
        self._desire_policy(changes)
        gone, placed = _local_addresses(endpoints, hosts)
        self._ipcache.update(gone, placed, cluster, changes.cidrs)
        if changes.cidrs and changes.subjects:
            self._introduce_cidr_identities(now)
        self._desire_endpoints(endpoints, changes)
        self.processes.desire(endpoints, self._policy_ids, policies_changed=bool(changes.subjects))
        self._attach_to_new_devices(endpoints, now)
        if self.services is not None:
            self.services.desire(now)
        result = self._targets.stages.run_round(now)
        if self.services is not None:
            result = _due_at(result, self.services.realized(now))
        if self._targets.stages.in_sync:
            self.engine.realized()
            self.cluster.realized()
        return result

    # == what the kernel holds, for those who ask ==

    def differences(self, endpoint: Endpoint) -> list[str]:
        """What the kernel lacks of what `endpoint` needs, in words; empty when all of it is there."""
        targets = self._targets
        if endpoint.is_process:
            return self.processes.differences(endpoint)
        missing = [
            in_words(targets.endpoints.of(address), address, f"address {address}") for address in endpoint.addresses
        ]
        missing.append(in_words(targets.links, endpoint.host_ifname, f"program on {endpoint.host_ifname}"))
        return [text for text in missing if text]

    def failing(self) -> Iterator[tuple[str, Hashable, Status]]:
        """Every entry that the kernel refuses, with its error."""
        return self._targets.stages.failing()

    def reread_routes(self) -> bool:
        """Take in what the kernel's routing table holds now; whether that is what is desired."""
        self._targets.routes.resync()
        return self._targets.routes.in_sync

    @property
    def in_sync(self) -> bool:
        """Whether the kernel holds exactly what is desired of endpoints, and all that they need."""
        return self._targets.stages.in_sync and self._targets.links.in_sync

    @property
    def reconcilers(self) -> tuple[Reconciler[Any, Any], ...]:
        """In the order of their stages."""
        return self._targets.stages.reconcilers

    def realized_prefixes(self) -> Iterator[tuple[Network, IpcacheTarget]]:
        """The ipcache as the kernel has it."""
        for reconciler in self._targets.ipcache:
            for key, entry in reconciler.tracker.realized.items():
                if not isinstance(entry, Uncertain):
                    yield network_of(key), entry

    def entry_counts(self) -> dict[str, int]:
        """How many entries the kernel holds of each map that is filled from here."""
        targets = self._targets
        counted: dict[str, Reconciler[Any, Any]] = {
            "identity_bits": targets.bits,
            "policy_rows": targets.rows,
            "policies": targets.policies,
            "nodes": targets.nodes,
        }
        for version, ipcache, endpoints in zip((4, 6), targets.ipcache, targets.endpoints, strict=True):
            counted |= {f"ipcache{version}": ipcache, f"endpoints{version}": endpoints}
        if targets.services is not None:
            counted |= {reconciler.name: reconciler for reconciler in targets.services.reconcilers}
        return {name: len(reconciler.tracker.realized) for name, reconciler in counted.items()}

    # == one round ==

    def _count_subjects(self, endpoints: Iterable[Change[Endpoint]]) -> tuple[list[Subject], list[Subject]]:
        before = set(self._subjects)
        for change in endpoints:
            if change.new is not None and change.new.sec_identity:
                self._subjects[change.new.subject] += 1
            if change.old is not None and change.old.sec_identity:
                self._subjects[change.old.subject] -= 1
        self._subjects = +self._subjects
        after = set(self._subjects)
        return list(after - before), list(before - after)

    def _unused_of(self, changes: Iterable[Change[Identity]]) -> list[int]:
        """Identities that are gone and that nobody has.

        One that somebody still has keeps its meaning until he has another: that the store lost it must not change a
        verdict, and whoever has it creates it again.
        """
        for change in changes:
            if change.new is not None:
                self._lost.discard(change.new.number)
            elif change.old is not None:
                self._lost.add(change.old.number)
        if not self._lost:
            return []
        snapshot = self._intent.db.snapshot()
        used = {endpoint.sec_identity for endpoint in snapshot.all(self._intent.endpoints)}
        unused = [number for number in self._lost if number not in used and not self.cluster.endpoints.has(number)]
        self._lost.difference_update(unused)
        return unused

    def _own_identity(self) -> Identity:
        hosts = self._intent.db.snapshot().all(self._intent.host_addresses)
        return self._api_servers.host_identity(host.address for host in hosts)

    def _desire_policy(self, changes: PolicyChanges) -> None:
        _desire(self._targets.bits, changes.bits)
        _desire(self._targets.rows, changes.rows)
        _desire(self._targets.policies, changes.policies)
        for subject, policy_id in changes.subjects.items():
            if policy_id is None:
                self._policy_ids.pop(subject, None)
            else:
                self._policy_ids[subject] = policy_id

    def _desire_cluster(
        self, hosts: Sequence[Change[HostAddress]], endpoints: Sequence[Change[RemoteEndpoint]]
    ) -> ClusterChanges:
        nodes = self._nodes.drain()
        snapshot = self._intent.db.snapshot()
        decided = bool(nodes or hosts or self.cluster.retry_due)
        changes = self.cluster.update(
            snapshot.all(self._intent.nodes) if decided else None,
            list(snapshot.all(self._intent.host_addresses)) if decided else (),
            endpoints,
        )
        if decided:
            self._targets.nodes.desired_replace(self.cluster.nodes)
            self._targets.routes.desired_replace(self.cluster.routes)
            self.pod_cidrs_decided(self.cluster.view.pod_cidrs)
        return changes

    def _introduce_cidr_identities(self, now: float) -> None:
        """Addresses get their new CIDR identity while their endpoints still have the old policies.

        Written together with the new policies, one endpoint after the other, there would be a moment in which a new
        policy met an address that it does not recognise yet: neither the old verdict nor the new.
        """
        endpoints = self._intent.db.snapshot().all(self._intent.endpoints)
        live = {address for endpoint in endpoints for address in endpoint.addresses}
        for reconciler in self._targets.endpoints:
            for address, entry in list(reconciler.tracker.realized.items()):
                if address not in live:
                    continue  # left by one that is gone: to be removed, not to be desired again
                number = self.engine.cidr_identity(address)
                if not isinstance(entry, Uncertain) and number != entry.cidr_identity:
                    reconciler.desired_set(address, replace(entry, cidr_identity=number))
        for each in self._targets.stages.reconcilers:
            if each is not self._targets.links:
                each.run_updates(now)

    def _desire_endpoints(self, endpoints: Iterable[Change[Endpoint]], changes: PolicyChanges) -> None:
        targets = self._targets
        for change in endpoints:
            if change.old is None:
                continue
            for address in change.old.addresses:
                if change.new is None or address not in change.new.addresses:
                    targets.endpoints.desired_delete(address)
            if change.new is None and not change.old.is_process:
                targets.links.desired_delete(change.old.host_ifname)
        if changes.subjects or changes.cidrs:
            live: Iterable[Endpoint] = self._intent.db.snapshot().all(self._intent.endpoints)
        else:
            live = [change.new for change in endpoints if change.new is not None]
        for endpoint in live:
            self._desire_endpoint(endpoint)

    def _attach_to_new_devices(self, endpoints: Iterable[Change[Endpoint]], now: float) -> None:
        """Programs of endpoints of which the kernel knows nothing yet, before their entries.

        With an entry an endpoint is reached, and what it answers before it has a program takes the way through the
        node's stack, which refuses it. A program that is exchanged waits for the entries that it needs, as ever.
        """
        links, new = self._targets.links, []
        for change in endpoints:
            endpoint = change.new
            if endpoint is None or endpoint.is_process or endpoint.host_ifname in links.tracker.realized:
                continue
            if not any(
                address in self._targets.endpoints.of(address).tracker.realized for address in endpoint.addresses
            ):
                new.append(endpoint.host_ifname)
        if new:
            links.run_updates(now, new)

    def _desire_endpoint(self, endpoint: Endpoint) -> None:
        policy_id = self._policy_ids.get(endpoint.subject)
        if endpoint.is_process or not endpoint.sec_identity or not endpoint.ifindex or policy_id is None:
            return
        for address in endpoint.addresses:
            self._targets.endpoints.desired_set(
                address,
                EndpointTarget(
                    ifindex=endpoint.ifindex,
                    sec_identity=endpoint.sec_identity,
                    cidr_identity=self.engine.cidr_identity(address),
                    policy_id=policy_id,
                    endpoint_id=endpoint.endpoint_id,
                    mac=endpoint.mac,
                    host_mac=endpoint.host_mac,
                ),
            )
        self._targets.links.desired_set(
            endpoint.host_ifname, LinkTarget(endpoint.ifindex, FROM_CONTAINER, own_device=True)
        )


def _local_addresses(
    endpoints: Sequence[Change[Endpoint]], hosts: Sequence[Change[HostAddress]]
) -> tuple[set[Address], dict[Address, int]]:
    """The addresses of this node that may be gone, and then those that have an identity."""
    gone = {address for change in endpoints if change.old is not None for address in change.old.addresses}
    gone |= {change.old.address for change in hosts if change.old is not None}
    new = [change.new for change in endpoints if change.new is not None and change.new.sec_identity]
    placed = {address: endpoint.sec_identity for endpoint in new for address in endpoint.addresses}
    placed |= {change.new.address: int(ReservedIdentity.HOST) for change in hosts if change.new is not None}
    return gone, placed


def _due_at(result: RoundResult, at: float | None) -> RoundResult:
    """With another round at that time at the latest."""
    due = [each for each in (result.next_due, at) if each is not None]
    return replace(result, next_due=min(due, default=None))


def _upserted(changes: Iterable[Change[T]]) -> list[T]:
    return [change.new for change in changes if change.new is not None]


def _desire(reconciler: Reconciler[K, V], entries: Mapping[K, V | None]) -> None:
    for key, value in entries.items():
        if value is None:
            reconciler.desired_delete(key)
        else:
            reconciler.desired_set(key, value)

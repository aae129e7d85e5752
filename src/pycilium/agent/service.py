"""What the agent answers over its API: the AgentService of `pycilium.api`, on the tables, the engine and the maps."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import islice
from typing import Any

import msgspec

from pycilium import __version__
from pycilium.agent import health_views, views
from pycilium.agent.config import AgentConfig
from pycilium.agent.controller import Controller
from pycilium.agent.deadman import Deadman
from pycilium.agent.endpoints import Endpoints
from pycilium.agent.explaining import Explainer
from pycilium.agent.flows import FlowIngestion
from pycilium.agent.health import NodeHealth
from pycilium.agent.intent import Intent
from pycilium.agent.loop import ControlLoop
from pycilium.agent.node_publishing import NodePublisher
from pycilium.agent.plumbing import Plumbing
from pycilium.agent.sources import Source
from pycilium.api import messages
from pycilium.api.cni_messages import CniGcRequest, CniRequest, CniResult, CniStatusRequest
from pycilium.api.health_messages import HealthResponse, HealthStatusResponse, LoadResponse
from pycilium.datapath import conntrack, layouts, nat
from pycilium.datapath.loader import Datapath
from pycilium.errors import AgentUnavailable, NotFound
from pycilium.hubble.store import FlowStore
from pycilium.model.drop_reason import drop_reason_text
from pycilium.model.endpoint import Endpoint
from pycilium.model.peer import Address
from pycilium.model.resources import to_plain
from pycilium.store import hide_password

SHOWN_ENTRIES = 100_000
NEED_ROOM = ("identity_bits", "policy_rows", "policies")
CONNTRACK_MAPS = ("ct4", "ct6")
IPCACHE_MAPS = ("ipcache4", "ipcache6")
NAMED_PROBLEMS = 10
NAT_MAPS = ("nat4", "nat6")


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything that an answer may be made from."""

    config: AgentConfig
    attach_mode: str
    intent: Intent
    sources: Sequence[Source[Any, Any]]
    controller: Controller
    loop: ControlLoop
    endpoints: Endpoints
    plumbing: Plumbing
    node: NodePublisher
    datapath: Datapath
    flows: FlowStore
    ingestion: FlowIngestion
    explainer: Explainer
    health: NodeHealth
    deadman: Deadman
    sizes: Mapping[str, int]
    """Room of each map, by name."""
    resources: Mapping[Any, Any]
    """The policies as users wrote them, by key."""


class Service:
    """AgentService and HealthService. Reads only, but for the CNI calls, which go to Endpoints."""

    def __init__(self, parts: Parts) -> None:
        self._parts, self._started = parts, time.monotonic()

    # == reading ==

    async def status(self) -> messages.StatusResponse:
        parts = self._parts
        problems = self._problems()
        state: messages.Health = "Ok" if not problems else "Warning"
        if parts.deadman.problems:
            state, problems = "Failure", [*parts.deadman.problems.values(), *problems]
        if not parts.loop.is_open:
            state, problems = "Failure", [*self._store_errors(), "the store has not been read yet"]
        store_errors = self._store_errors()
        return messages.StatusResponse(
            cilium=messages.Status(state=state, msg="; ".join(problems) or __version__),
            version=__version__,
            node_name=parts.config.node_name,
            kernel=platform.release(),
            attach_mode=parts.attach_mode,
            datapath_mode="veth",
            cluster=messages.ClusterStatus(
                cilium_health=self._health_summary(),
                nodes=(await self.nodes()).nodes_added,
                self=parts.config.node_name,
            ),
            kvstore=messages.Status(
                state="Failure" if store_errors else "Ok",
                msg="; ".join(store_errors) or hide_password(parts.config.store),
            ),
            kubernetes=messages.Status(state="Disabled"),
            hubble=self._hubble_status(),
            ipam=self._ipam_status(),
            masquerading=views.masquerading(parts.config),
            node_monitor=messages.MonitorStatus(seen=parts.flows.next, lost=parts.ingestion.lost),
            bpf_maps=messages.BpfMapStatus(
                maps=[messages.MapFill(name=each.name, size=each.size, entries=each.entries) for each in self._maps()]
            ),
            controllers=self._controllers(),
        )

    async def endpoints(self) -> Sequence[messages.EndpointView]:
        return [self._view(endpoint) for endpoint in self._parts.endpoints.all()]

    async def endpoint(self, reference: str) -> messages.EndpointView:
        for endpoint in self._parts.endpoints.all():
            if reference in _references(endpoint):
                return self._view(endpoint)
        raise NotFound(f"no endpoint {reference!r} on {self._parts.config.node_name}")

    async def identities(self) -> Sequence[messages.Identity]:
        snapshot = self._parts.intent.db.snapshot()
        known = sorted(snapshot.all(self._parts.intent.identities), key=lambda identity: identity.number)
        return [views.identity_view(identity) for identity in known]

    async def identity(self, number: int) -> messages.Identity:
        identity = self._parts.intent.db.snapshot().get(self._parts.intent.identities, number)
        if identity is None:
            raise NotFound(f"no identity {number}")
        return views.identity_view(identity)

    async def ip_entries(self) -> Sequence[messages.IpEntry]:
        snapshot = self._parts.intent.db.snapshot()
        owners = {
            address: messages.IpMetadata(name=endpoint.pod_name, namespace=endpoint.namespace, source="cni")
            for endpoint in snapshot.all(self._parts.intent.endpoints)
            for address in endpoint.addresses
        }
        cluster = self._parts.controller.cluster

        def owner(address: Address) -> messages.IpMetadata | None:
            remote = cluster.endpoints.holder(address)
            if address in owners or remote is None:
                return owners.get(address)
            return messages.IpMetadata(name=remote.name, namespace=remote.namespace, source="custom-resource")

        return [
            messages.IpEntry(
                cidr=str(prefix),
                identity=entry.sec_identity,
                host_ip=str(cluster.nodes[entry.node_id].address) if entry.node_id in cluster.nodes else "",
                metadata=owner(prefix.network_address) if prefix.prefixlen == prefix.max_prefixlen else None,
            )
            for prefix, entry in self._parts.controller.realized_prefixes()
        ]

    async def policy(self) -> messages.PolicyResponse:
        known = {policy.key for policy in self._parts.controller.engine.policies}
        plain = [to_plain(resource) for key, resource in sorted(self._parts.resources.items()) if key in known]
        return messages.PolicyResponse(
            revision=self._parts.controller.engine.revision, policy=msgspec.json.encode(plain).decode()
        )

    async def maps(self) -> Sequence[messages.BpfMap]:
        return self._maps()

    async def map(self, name: str) -> messages.BpfMap:
        shown = next((each for each in self._maps() if each.name == name), None)
        if shown is None:
            raise NotFound(f"no map {name!r}; there are {', '.join(sorted(layouts.MAPS))}")
        return msgspec.structs.replace(shown, cache=self._entries(name))

    async def nodes(self) -> messages.ClusterNodes:
        config, gateways = self._parts.config, self._parts.plumbing.gateways
        families = [
            messages.NodeFamily(enabled=True, ip=str(gateways[version]), alloc_range=cidr) if cidr else None
            for version, cidr in ((4, config.ipv4_pod_cidr), (6, config.ipv6_pod_cidr))
        ]
        address = messages.NodeAddressing(ipv4=families[0], ipv6=families[1])
        node = messages.Node(name=f"{config.cluster_name}/{config.node_name}", primary_address=address, source="local")
        others = sorted(self._parts.intent.db.snapshot().all(self._parts.intent.nodes), key=lambda other: other.name)
        views_of_others = [views.node_view(other, config.cluster_name) for other in others]
        return messages.ClusterNodes(self=config.node_name, nodes_added=[node, *views_of_others])

    async def config(self) -> messages.ConfigResponse:
        config = self._parts.config
        shown = msgspec.structs.replace(config, store=hide_password(config.store))
        return messages.ConfigResponse(spec=msgspec.to_builtins(shown), status={"pid": os.getpid()})

    async def explain(self, request: messages.ExplainRequest) -> messages.ExplainReply:
        return self._parts.explainer.answer(request)

    # == health ==

    async def health(self) -> HealthResponse:
        status = await self.status()
        loads = [f"{load:.2f}" for load in os.getloadavg()]
        return HealthResponse(
            cilium={"state": status.cilium.state, "msg": status.cilium.msg},
            uptime=f"{int(time.monotonic() - self._started)}s",
            system_load=LoadResponse(last1min=loads[0], last5min=loads[1], last15min=loads[2]),
        )

    async def health_status(self) -> HealthStatusResponse:
        health, config = self._parts.health, self._parts.config
        return health_views.health_view(
            config.node_name, health.report(), config.health_probe_interval_s, health.prober.probed_at_s
        )

    async def health_probe(self) -> HealthStatusResponse:
        await self._parts.health.probe_now()
        return await self.health_status()

    # == CNI ==

    async def cni_add(self, request: CniRequest) -> CniResult:
        self._require_open()
        return await self._parts.endpoints.add(request)

    async def cni_del(self, request: CniRequest) -> None:
        await self._parts.endpoints.delete(request.container_id, request.ifname)

    async def cni_check(self, request: CniRequest) -> None:
        await self._parts.endpoints.check(request)

    async def cni_gc(self, request: CniGcRequest) -> None:
        valid = {(attachment.container_id, attachment.ifname) for attachment in request.valid_attachments}
        await self._parts.endpoints.collect(str(request.config.get("name", "")), valid)

    async def cni_status(self, request: CniStatusRequest) -> None:  # noqa: ARG002  the protocol's
        self._require_open()
        full = [
            str(pool.cidr)
            for pool in (self._parts.endpoints.ipam.ipv4, self._parts.endpoints.ipam.ipv6)
            if pool is not None and pool.in_use >= pool.capacity
        ]
        if full:
            raise AgentUnavailable(f"pod CIDR {', '.join(full)} has no free address left")

    # == parts of the answers ==

    def _require_open(self) -> None:
        if not self._parts.loop.is_open:
            errors = self._store_errors() or ["the store has not been read yet"]
            raise AgentUnavailable(f"the agent is still starting: {'; '.join(errors)}")

    def _health_summary(self) -> messages.Status:
        health = self._parts.health
        if not health.enabled:
            return messages.Status(state="Disabled")
        problems = health.problems
        return messages.Status(
            state="Warning" if problems else "Ok", msg="; ".join(problems) or health_views.reachable(health.report())
        )

    def _view(self, endpoint: Endpoint) -> messages.EndpointView:
        return views.endpoint_view(endpoint, self._parts.controller.engine, self._parts.loop.differences(endpoint))

    def _store_errors(self) -> list[str]:
        return list(dict.fromkeys(source.error for source in self._parts.sources if source.error))

    def _problems(self) -> list[str]:
        parts = self._parts
        problems = self._store_errors()
        problems += [parts.node.problem] if parts.node.problem else []
        problems += _few([f"{key}: {why}" for source in parts.sources for key, why in source.rejected.items()])
        problems += _few(list(parts.controller.cluster.problems()))
        problems += [f"policy of {labels}: {why}" for labels, why in parts.controller.engine.problems().items()]
        problems += [f"{name}: {key}: {status.error}" for name, key, status in parts.controller.failing()]
        problems += self._too_full()
        return problems

    def _too_full(self) -> list[str]:
        """Maps of which more than half is in use, so that a restart would not find room for its new numbers."""
        sizes = self._parts.sizes
        return [
            f"map {name} holds {count} entries; with more than {sizes[name] // 2} a restart has no room for new ones: "
            f"raise its capacity in the agent's configuration"
            for name, count in self._parts.controller.entry_counts().items()
            if name in NEED_ROOM and count > sizes[name] // 2
        ]

    def _controllers(self) -> list[messages.ControllerStatus]:
        failing: dict[str, list[str]] = {}
        for name, key, status in self._parts.controller.failing():
            failing.setdefault(name, []).append(f"{key}: {status.error}")
        return [
            messages.ControllerStatus(
                name=reconciler.name,
                status=messages.ControllerDetail(
                    consecutive_failure_count=len(failing.get(reconciler.name, ())),
                    last_failure_msg="; ".join(failing.get(reconciler.name, ())[:3]),
                ),
            )
            for reconciler in self._parts.controller.reconcilers
        ]

    def _hubble_status(self) -> messages.HubbleStatus:
        flows = self._parts.flows
        return messages.HubbleStatus(
            state="Ok",
            observer=messages.ObserverStatus(
                current_flows=len(flows), max_flows=flows.capacity, seen_flows=flows.next, uptime=""
            ),
        )

    def _ipam_status(self) -> messages.IpamStatus:
        ipam = self._parts.endpoints.ipam
        used = [f"{pool.in_use}/{pool.capacity} of {pool.cidr}" for pool in (ipam.ipv4, ipam.ipv6) if pool is not None]
        pods = {endpoint.attachment: endpoint.qualified_pod_name for endpoint in self._parts.endpoints.all()}
        allocations = {
            str(address): pods.get(owner) or owner
            for owner, held in ipam.held.items()
            for address in (held.ipv4, held.ipv6)
            if address is not None
        }
        return messages.IpamStatus(
            allocations=allocations,
            ipv4=[str(held.ipv4) for held in ipam.held.values() if held.ipv4],
            ipv6=[str(held.ipv6) for held in ipam.held.values() if held.ipv6],
            status=", ".join(used),
        )

    def _maps(self) -> list[messages.BpfMap]:
        folder = f"{self._parts.config.bpf_root}/maps"
        entries = self._parts.controller.entry_counts()
        return [
            messages.BpfMap(
                path=f"{folder}/{name}",
                name=name,
                size=self._parts.sizes[name],
                entries=entries.get(name),
            )
            for name in sorted(layouts.MAPS)
        ]

    def _entries(self, name: str) -> list[messages.MapEntry]:
        if name == "metrics":
            return list(_metrics_entries(self._parts.datapath))
        if name in CONNTRACK_MAPS:
            return list(_connections(self._parts.datapath, name))
        if name in IPCACHE_MAPS:
            return self._ipcache(4 if name == "ipcache4" else 6)
        if name in NAT_MAPS:
            return list(_mappings(self._parts.datapath, name))
        spec = layouts.MAPS[name]
        if spec.key is None or spec.value is None:
            return []
        with self._parts.datapath.map(spec) as opened:
            return [
                messages.MapEntry(key=views.entry_text(key), value=views.entry_text(value))
                for _, (key, value) in zip(range(SHOWN_ENTRIES), opened.items(), strict=False)
            ]

    def _ipcache(self, version: int) -> list[messages.MapEntry]:
        """As the kernel has it, so far as the agent knows."""
        nodes = self._parts.controller.cluster.nodes
        prefixes = (
            (prefix, entry) for prefix, entry in self._parts.controller.realized_prefixes() if prefix.version == version
        )
        return [
            messages.MapEntry(key=str(prefix), value=views.ipcache_text(entry, nodes.get(entry.node_id)))
            for prefix, entry in islice(prefixes, SHOWN_ENTRIES)
        ]


def _few(problems: list[str]) -> list[str]:
    """The first few of problems of one sort: a node that goes can leave hundreds."""
    more = len(problems) - NAMED_PROBLEMS
    return problems if more <= 0 else [*problems[:NAMED_PROBLEMS], f"and {more} more"]


def _metrics_entries(datapath: Datapath) -> Iterable[messages.MapEntry]:
    directions = {1: "ingress", 2: "egress"}
    with contextlib.closing(datapath.percpu(layouts.METRICS)) as metrics:
        for index, (packets, octets) in sorted(metrics.sums().items()):
            if packets:
                reason, direction = index & 0xFF, directions.get(index >> 8, "unknown")
                text = drop_reason_text(reason) if reason else "Success"
                yield messages.MapEntry(
                    key=f"reason={reason} ({text}) direction={direction}", value=f"packets={packets} bytes={octets}"
                )


def _connections(datapath: Datapath, name: str) -> Iterable[messages.MapEntry]:
    with datapath.map(layouts.MAPS[name]) as opened:
        for _, connection in zip(range(SHOWN_ENTRIES), conntrack.connections(opened), strict=False):
            key = (
                f"{_protocol_name(connection.protocol)} {connection.source} {connection.source_port} -> "
                f"{connection.destination} {connection.destination_port}"
            )
            value = (
                f"state={connection.state.name.lower()} expires={connection.expires_s - int(time.monotonic())}s "
                f"identities={connection.source_identity}->{connection.destination_identity} "
                f"revisions={connection.egress_revision}/{connection.ingress_revision}"
            )
            yield messages.MapEntry(key=key, value=value)


def _mappings(datapath: Datapath, name: str) -> Iterable[messages.MapEntry]:
    with datapath.map(layouts.MAPS[name]) as opened:
        for _, mapping in zip(range(SHOWN_ENTRIES), nat.mappings(opened), strict=False):
            key = (
                f"{_protocol_name(mapping.protocol)} {mapping.inside} {mapping.inside_port} -> "
                f"{mapping.remote} {mapping.remote_port}"
            )
            value = (
                f"source={mapping.outside} {mapping.outside_port} used={int(time.monotonic()) - mapping.used_s}s ago"
            )
            yield messages.MapEntry(key=key, value=value)


def _references(endpoint: Endpoint) -> set[str]:
    """Every way in which Cilium's API names an endpoint."""
    addresses = {f"ipv{address.version}:{ip_address(address)}" for address in endpoint.addresses}
    return {
        str(endpoint.endpoint_id),
        f"cilium-local:{endpoint.endpoint_id}",
        f"pod-name:{endpoint.qualified_pod_name}",
        f"cni-attachment-id:{endpoint.attachment}",
        f"container-id:{endpoint.container_id}",
        *addresses,
    }


def _protocol_name(number: int) -> str:
    return {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6", 132: "SCTP"}.get(number, str(number))

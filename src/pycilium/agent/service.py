"""What the agent answers over its API: the AgentService of `pycilium.api`, on the tables, the engine and the maps."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from ipaddress import ip_address

import msgspec

from pycilium.agent import bpf_maps, views
from pycilium.agent.health import views as health_views
from pycilium.agent.nodes.publishing import internal_ips
from pycilium.agent.parts import Parts
from pycilium.agent.status import AgentStatus
from pycilium.api import messages
from pycilium.api.cni_messages import CniGcRequest, CniRequest, CniResult, CniStatusRequest
from pycilium.api.health_messages import HealthResponse, HealthStatusResponse, LoadResponse
from pycilium.api.process_messages import ProcessRequest
from pycilium.api.service_messages import ServiceView
from pycilium.datapath import layouts
from pycilium.errors import AgentUnavailable, NotFound
from pycilium.model.endpoint import Endpoint
from pycilium.model.peer import Address
from pycilium.model.resources import to_plain
from pycilium.store import hide_password


class Service:
    """AgentService and HealthService. Reads only, but for what makes and removes endpoints, which goes to those."""

    def __init__(self, parts: Parts) -> None:
        self._parts, self._status, self._started = parts, AgentStatus(parts), time.monotonic()

    # == reading ==

    async def status(self) -> messages.StatusResponse:
        await self._parts.operator_lease.look()
        return self._status.answer()

    async def endpoints(self) -> Sequence[messages.EndpointView]:
        return [self._view(endpoint) for endpoint in self._parts.endpoints.all()]

    async def endpoint(self, reference: str) -> messages.EndpointView:
        for endpoint in self._parts.endpoints.all():
            if reference in _references(endpoint):
                return self._view(endpoint)
        raise NotFound(f"no endpoint {reference!r} on {self._parts.config.node_name}")

    async def add_process(self, request: ProcessRequest) -> messages.EndpointView:
        self._require_open()
        request.check()
        return self._view(await self._parts.processes.add(request))

    async def identities(self) -> Sequence[messages.Identity]:
        snapshot = self._parts.intent.db.snapshot()
        known = sorted(snapshot.all(self._parts.intent.identities), key=lambda identity: identity.number)
        return [views.identity_view(identity) for identity in known]

    async def identity(self, number: int) -> messages.Identity:
        identity = self._parts.intent.db.snapshot().get(self._parts.intent.identities, number)
        if identity is None:
            raise NotFound(f"no identity {number}")
        return views.identity_view(identity)

    async def services(self) -> Sequence[ServiceView]:
        services = self._parts.controller.services
        return list(services.view()) if services is not None else []

    async def service(self, number: int) -> ServiceView:
        found = next((view for view in await self.services() if view.spec.id == number), None)
        if found is None:
            raise NotFound(f"no service {number} on {self._parts.config.node_name}")
        return found

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
        return bpf_maps.maps(self._parts)

    async def map(self, name: str) -> messages.BpfMap:
        shown = next((each for each in bpf_maps.maps(self._parts) if each.name == name), None)
        if shown is None:
            raise NotFound(f"no map {name!r}; there are {', '.join(sorted(layouts.MAPS))}")
        return msgspec.structs.replace(shown, cache=bpf_maps.entries(self._parts, name))

    async def nodes(self) -> messages.ClusterNodes:
        return self._status.nodes()

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
        if exhausted := self._parts.endpoints.ipam.exhausted():
            raise AgentUnavailable("; ".join(exhausted))

    # == parts of the answers ==

    def _require_open(self) -> None:
        if not self._parts.loop.is_open:
            errors = self._status.store_errors() or ["the store has not been read yet"]
            raise AgentUnavailable(f"the agent is still starting: {'; '.join(errors)}")

    def _view(self, endpoint: Endpoint) -> messages.EndpointView:
        if endpoint.is_process:
            hosts = self._parts.intent.db.snapshot().all(self._parts.intent.host_addresses)
            endpoint = views.with_addresses_of_node(endpoint, internal_ips(hosts, self._parts.config))
        return views.endpoint_view(endpoint, self._parts.controller.engine, self._parts.loop.differences(endpoint))


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

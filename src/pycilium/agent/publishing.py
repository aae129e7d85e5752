"""What this node tells the others through the store: its CiliumNode, and a CiliumEndpoint for each endpoint.

Published after the fact and retried until it holds; nothing on this node waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import cast

import structlog

from pycilium.agent.config import AgentConfig
from pycilium.agent.intent import Intent
from pycilium.errors import NotFound, StoreError
from pycilium.hubble.agent_events import AgentEventLog
from pycilium.hubble.directories import EndpointName
from pycilium.model.endpoint import Endpoint
from pycilium.model.resources import CiliumEndpoint, CiliumNode, ObjectMeta, Resource, ResourceKey
from pycilium.model.resources.cilium_objects import (
    AddressPair,
    EndpointIdentity,
    EndpointNetworking,
    EndpointState,
    EndpointStatus,
    ExternalIdentifiers,
    IpamSpec,
    NodeAddress,
    NodeSpec,
)
from pycilium.store import Store
from pycilium.tables import Change

log = structlog.get_logger()
RETRY_S = 1.0


class Publisher:
    """Follows the endpoints table; call `run` once the agent is ready."""

    def __init__(self, config: AgentConfig, intent: Intent, store: Store, events: AgentEventLog) -> None:
        self._config, self._intent, self._store, self._events = config, intent, store, events
        self._changes = intent.endpoints.changes()
        self._pending: dict[ResourceKey, CiliumEndpoint | None] = {}

    async def run(self) -> None:
        """Publish until cancelled."""
        changed = asyncio.Event()
        changed.set()
        self._intent.db.on_commit(lambda tables: changed.set() if "endpoints" in tables else None)
        await self._retried(self._node())
        await self._find_stale()
        while True:
            await changed.wait()
            changed.clear()
            self._take_in()
            while self._pending:
                key, wanted = next(iter(self._pending.items()))
                if not await self._publish(key, wanted):
                    await asyncio.sleep(RETRY_S)
                    continue
                if self._pending.get(key) is wanted:
                    del self._pending[key]

    def _take_in(self) -> None:
        now = time.time_ns()
        for change in self._changes.drain():
            self._announce(change, now)
            for endpoint in (change.old, change.new):
                if endpoint is not None:
                    self._pending[_key(endpoint)] = None
            if change.new is not None:
                self._pending[_key(change.new)] = self._resource(change.new)

    def _announce(self, change: Change[Endpoint], now: int) -> None:
        either = change.new or change.old
        if either is None or (change.old is None) == (change.new is None):
            return
        name = EndpointName(either.namespace, either.pod_name, self._config.cluster_name)
        labels = [str(label) for label in either.labels]
        tell = self._events.endpoint_created if change.old is None else self._events.endpoint_deleted
        tell(now, either.endpoint_id, name, labels)

    async def _find_stale(self) -> None:
        """CiliumEndpoints that an earlier agent of this node published and whose endpoint is gone."""
        with contextlib.suppress(StoreError):
            listed = await self._store.list(CiliumEndpoint)
            live = {_key(endpoint) for endpoint in self._intent.db.snapshot().all(self._intent.endpoints)}
            for resource in listed.items:
                networking = resource.status.networking if resource.status is not None else None
                if networking is not None and networking.node == self._config.node_name and resource.key not in live:
                    self._pending[resource.key] = None

    async def _publish(self, key: ResourceKey, wanted: CiliumEndpoint | None) -> bool:
        try:
            if wanted is not None:
                await self._store.apply([wanted])
            else:
                with contextlib.suppress(NotFound):
                    await self._store.delete(CiliumEndpoint, key.name, key.namespace)
        except StoreError as error:
            log.warning("endpoint not published yet", endpoint=str(key), error=str(error))
            return False
        return True

    async def _retried(self, resource: Resource) -> None:
        while True:
            try:
                await self._store.apply([resource])
            except StoreError as error:
                log.warning("not published yet", resource=str(resource.key), error=str(error))
                await asyncio.sleep(RETRY_S)
            else:
                return

    def _node(self) -> CiliumNode:
        cidrs = tuple(cidr for cidr in (self._config.ipv4_pod_cidr, self._config.ipv6_pod_cidr) if cidr)
        addresses = tuple(
            NodeAddress(
                type="CiliumInternalIP" if host.interface == "cilium_host" else "InternalIP", ip=str(host.address)
            )
            for host in self._intent.db.snapshot().all(self._intent.host_addresses)
        )
        return CiliumNode(
            metadata=ObjectMeta(name=self._config.node_name),
            spec=NodeSpec(addresses=addresses, ipam=IpamSpec(pod_cidrs=cidrs)),
        )

    def _resource(self, endpoint: Endpoint) -> CiliumEndpoint:
        pair = AddressPair(
            ipv4=str(endpoint.ipv4) if endpoint.ipv4 else "", ipv6=str(endpoint.ipv6) if endpoint.ipv6 else ""
        )
        status = EndpointStatus(
            id=endpoint.endpoint_id,
            external_identifiers=ExternalIdentifiers(
                container_id=endpoint.container_id,
                cni_attachment_id=endpoint.attachment,
                k8s_namespace=endpoint.namespace,
                k8s_pod_name=endpoint.pod_name,
                pod_name=endpoint.qualified_pod_name,
            ),
            identity=EndpointIdentity(
                id=endpoint.sec_identity, labels=tuple(sorted(str(label) for label in endpoint.labels))
            ),
            networking=EndpointNetworking(addressing=(pair,), node=self._config.node_name),
            state=cast("EndpointState", str(endpoint.state)),
        )
        return CiliumEndpoint(metadata=ObjectMeta(name=endpoint.pod_name, namespace=endpoint.namespace), status=status)


def _key(endpoint: Endpoint) -> ResourceKey:
    return ResourceKey("CiliumEndpoint", endpoint.namespace, endpoint.pod_name)

"""What this node tells the others of its pods: a CiliumEndpoint for each endpoint. Its CiliumNode: `node_publishing`.

Published after the fact and retried until it holds; nothing on this node waits for it. An endpoint whose identity is
this node's own, for want of the store, is published once it has one of the cluster.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from ipaddress import ip_network
from typing import cast

import structlog

from pycilium.agent.config import AgentConfig
from pycilium.agent.intent import Intent
from pycilium.agent.nodes.publishing import NodePublisher, node_ip
from pycilium.agent.sources import retry_delay_s
from pycilium.errors import AlreadyExists, InvalidResource, NotFound, ResourceUnreadable, StoreError
from pycilium.hubble.agent_events import AgentEventLog
from pycilium.hubble.directories import EndpointName
from pycilium.model.endpoint import Endpoint
from pycilium.model.identity import is_node_local
from pycilium.model.resources import CiliumEndpoint, ObjectMeta, OwnerReference, Pod, ResourceKey
from pycilium.model.resources.cilium_objects import (
    AddressPair,
    EndpointIdentity,
    EndpointNetworking,
    EndpointState,
    EndpointStatus,
    ExternalIdentifiers,
    NamedPort,
)
from pycilium.store import Store
from pycilium.tables import Change

log = structlog.get_logger()
RETRY_S = 1.0
DECIDING = {"endpoints", "host-addresses", "remote-endpoints", "pods"}
"""The tables that what is published depends on."""


class Publisher:
    """Follows the endpoints table and the node's address; call `run` once the agent is ready."""

    def __init__(
        self, config: AgentConfig, intent: Intent, store: Store, events: AgentEventLog, node: NodePublisher
    ) -> None:
        self._config, self._intent, self._store, self._events = config, intent, store, events
        self._node = node
        self._changes = intent.endpoints.changes()
        self._pods = intent.pods.changes()
        self._published = intent.remote_endpoints.changes(from_start=False)
        self._pending: dict[ResourceKey, CiliumEndpoint | None] = {}
        self._changed = asyncio.Event()
        self._node_ip = ""
        self._listed = False

    async def run(self) -> None:
        """Publish until cancelled."""
        self._changed.set()
        self._intent.db.on_commit(lambda tables: self._changed.set() if tables & DECIDING else None)
        await self._node.published.wait()  # until then the name may be another's, and what he published under it
        self._find_stale()
        while True:
            await self._changed.wait()
            self._changed.clear()
            self._take_in()
            while self._pending:
                key, wanted = next(iter(self._pending.items()))
                done = await self._publish(key, wanted)
                if self._pending.get(key) is wanted:
                    del self._pending[key]
                    if not done:
                        self._pending[key] = wanted  # last, so that it holds back no other
                if not done:
                    await asyncio.sleep(retry_delay_s(RETRY_S))

    async def publish_again(self) -> None:
        """Everything anew: this node was taken for dead and removed from the store."""
        await self._node.publish()
        self._want_all()
        self._changed.set()

    def endpoints_listed(self) -> None:
        """All that is published was read anew: what is missing may have been lost while nobody watched."""
        self._listed = True
        self._changed.set()

    def _take_in(self) -> None:
        hosts = self._intent.db.snapshot().all(self._intent.host_addresses)
        here = node_ip(hosts, self._config)
        if here != self._node_ip:
            self._node_ip = here
            self._want_all()
        self._want_what_is_lost()
        for pod in filter(_says_something_else, self._pods.drain()):
            for endpoint in self._intent.db.snapshot().by(self._intent.endpoints, "pod", _pod_index(pod)):
                self._want(endpoint)
        now = time.time_ns()
        for change in self._changes.drain():
            self._announce(change, now)
            for known in (change.old, change.new):
                if known is not None and not known.is_health:
                    self._pending[_key(known)] = None
            if change.new is not None:
                self._want(change.new)

    def _want_what_is_lost(self) -> None:
        """Also what came and went before anybody looked."""
        snapshot = self._intent.db.snapshot()
        touched = self._published.drain_keys()
        listed, self._listed = self._listed, False
        lost = {key for key in touched if snapshot.get(self._intent.remote_endpoints, key) is None}
        if lost or listed:
            for endpoint in snapshot.all(self._intent.endpoints):
                key = _key(endpoint)
                if key in lost or (listed and snapshot.get(self._intent.remote_endpoints, key) is None):
                    self._want(endpoint)

    def _want_all(self) -> None:
        for endpoint in self._intent.db.snapshot().all(self._intent.endpoints):
            self._want(endpoint)

    def _want(self, endpoint: Endpoint) -> None:
        if endpoint.is_health:
            return  # others learn of it by the node that it belongs to
        if is_node_local(endpoint.sec_identity):
            self._pending.pop(_key(endpoint), None)  # what was published of it stays until there is better
        else:
            self._pending[_key(endpoint)] = self._resource(endpoint)

    def _announce(self, change: Change[Endpoint], now: int) -> None:
        either = change.new or change.old
        if either is None or (change.old is None) == (change.new is None):
            return
        name = EndpointName(either.namespace, either.pod_name, self._config.cluster_name)
        labels = [str(label) for label in either.labels]
        tell = self._events.endpoint_created if change.old is None else self._events.endpoint_deleted
        tell(now, either.endpoint_id, name, labels)

    def _find_stale(self) -> None:
        """CiliumEndpoints that an earlier agent of this node published and whose endpoint is gone."""
        snapshot = self._intent.db.snapshot()
        live = {_key(endpoint) for endpoint in snapshot.all(self._intent.endpoints)}
        ours = {self._config.node_name, *(str(host.address) for host in snapshot.all(self._intent.host_addresses))}
        cidrs = [ip_network(cidr) for cidr in (self._config.ipv4_pod_cidr, self._config.ipv6_pod_cidr) if cidr]
        for published in snapshot.all(self._intent.remote_endpoints):
            # Its address tells, too: the node may have had another one itself.
            here = published.node in ours or any(address in cidr for address in published.addresses for cidr in cidrs)
            if here and published.key not in live:
                self._pending[published.key] = None

    async def _publish(self, key: ResourceKey, wanted: CiliumEndpoint | None) -> bool:
        try:
            if wanted is not None:
                await self._apply(wanted)
            else:
                with contextlib.suppress(NotFound):
                    await self._store.delete(CiliumEndpoint, key.name, key.namespace)
        except InvalidResource as error:
            log.error("endpoint cannot be published", endpoint=str(key), error=str(error))  # noqa: TRY400  foreseen
        except StoreError as error:
            log.warning("endpoint not published yet", endpoint=str(key), error=str(error))
            return False
        return True

    async def _apply(self, wanted: CiliumEndpoint) -> None:
        is_new = self._intent.db.snapshot().get(self._intent.remote_endpoints, wanted.key) is None
        try:
            await published(self._store, wanted, is_new=is_new)
        except ResourceUnreadable:  # ours by its name, and of no use to anybody as it is
            await self._store.delete(CiliumEndpoint, wanted.metadata.name, wanted.metadata.namespace)
            await self._store.apply([wanted])

    def _resource(self, endpoint: Endpoint) -> CiliumEndpoint:
        key = ResourceKey("Pod", endpoint.namespace, endpoint.pod_name)
        pod = self._intent.db.snapshot().get(self._intent.pods, key)
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
            networking=EndpointNetworking(addressing=(pair,) if endpoint.addresses else (), node=self._node_ip),
            named_ports=_named_ports(pod),
            state=cast("EndpointState", str(endpoint.state)),
        )
        metadata = ObjectMeta(name=endpoint.pod_name, namespace=endpoint.namespace, owner_references=_owners(pod))
        return CiliumEndpoint(metadata=metadata, status=status)


async def published(store: Store, wanted: CiliumEndpoint, *, is_new: bool) -> None:
    """Write it; with `is_new` nobody knows of one of this name, so that it is made without asking for it first."""
    if is_new:
        with contextlib.suppress(AlreadyExists):
            await store.create(wanted)
            return
    await store.apply([wanted])


def _named_ports(pod: Pod | None) -> tuple[NamedPort, ...]:
    """What it calls its ports: the target ports of Services may be such names."""
    ports = pod.named_ports if pod is not None else ()
    return tuple(NamedPort(name=each.name, protocol=each.protocol, port=each.port) for each in ports)


def _says_something_else(change: Change[Pod]) -> bool:
    """Of what is published."""
    was, is_now = ((pod.metadata.uid, pod.named_ports) if pod else None for pod in (change.old, change.new))
    return was != is_now


def _owners(pod: Pod | None) -> tuple[OwnerReference, ...]:
    """With its Pod an API server removes the endpoint, also one whose node does it no longer."""
    if pod is None or not pod.metadata.uid:
        return ()
    return (OwnerReference(api_version="v1", kind="Pod", name=pod.metadata.name, uid=pod.metadata.uid),)


def _pod_index(change: Change[Pod]) -> tuple[str, str]:
    pod = change.new or change.old
    return (pod.metadata.namespace, pod.metadata.name) if pod is not None else ("", "")


def _key(endpoint: Endpoint) -> ResourceKey:
    return ResourceKey("CiliumEndpoint", endpoint.namespace, endpoint.pod_name)

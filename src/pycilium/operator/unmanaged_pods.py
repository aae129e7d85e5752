"""Restarts pods that started without us: before the agent of their node was there, by another plugin.

Such a pod has no endpoint, so no policy holds for it and nobody knows its identity. It is deleted, for who made it to
make it again, which is then attached by our plugin; so only pods that somebody makes again are. An event says why.
Invariant: no more than one pod of an owner within `OWNER_REST_S`, so that a fault elsewhere is no storm of restarts.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import structlog

from pycilium.errors import CiliumError, Conflict, NotFound, StoreError
from pycilium.model.resources import CiliumEndpoint, CiliumNode, OwnerReference, Pod, ResourceKey
from pycilium.operator.election import LeaderStore
from pycilium.operator.observation import Observation

log = structlog.get_logger()

GRACE_S = 30.0
"""How long a running pod may have no endpoint: agents publish after the fact."""
OWNER_REST_S = 300.0
REASON = "UnmanagedByCilium"


class UnmanagedPods:
    """One leader's term. `tell` writes an event."""

    def __init__(
        self,
        leader: LeaderStore,
        interval_s: float,
        elapsed: Callable[[], float],
        tell: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        self._leader, self.interval_s, self._elapsed, self._tell = leader, interval_s, elapsed, tell
        self._unmanaged: Observation[ResourceKey] = Observation(interval_s)
        self._restarted_s: dict[str, float] = {}
        """By owner's uid."""
        self._left: set[str] = set()
        """Pods, by uid, of which it was said that nobody would make them again."""

    async def once(self) -> None:
        """One look, and what follows from it."""
        try:
            pods = (await self._leader.list(Pod)).items
            endpoints = await self._leader.list(CiliumEndpoint)
            nodes = await self._leader.list(CiliumNode)
        except StoreError as error:
            log.warning("pods cannot be looked through", error=str(error))
            self._unmanaged.interrupted()
            return
        managed = {each.key for each in endpoints.items} | {each.key for each in endpoints.unreadable}
        found = {pod.key: pod for pod in unmanaged(pods, managed, {node.metadata.name for node in nodes.items})}
        now = self._elapsed()
        ages_s = self._unmanaged.look({key: pod.metadata.uid for key, pod in found.items()}, now)
        self._restarted_s = {uid: at for uid, at in self._restarted_s.items() if now - at < OWNER_REST_S}
        for key, age_s in ages_s.items():
            if age_s >= GRACE_S:
                await self._settle(found[key], now)

    async def _settle(self, pod: Pod, now: float) -> None:
        owner = maker_of(pod)
        if owner is None:
            if pod.metadata.uid not in self._left:
                self._left.add(pod.metadata.uid)
                log.warning("pod started without us and nobody would make it again: delete it", pod=str(pod.key))
        elif owner.uid not in self._restarted_s and await self._restart(pod):
            self._restarted_s[owner.uid] = now

    async def _restart(self, pod: Pod) -> bool:
        try:
            await self._leader.delete(pod)
        except (Conflict, NotFound):
            return False  # it changed, or it went by itself: the next look tells
        except StoreError as error:
            log.warning("pod that started without us is not restarted yet", pod=str(pod.key), error=str(error))
            return False
        log.warning("pod restarted: it started without us", pod=str(pod.key), node=pod.node_name)
        try:
            await self._tell(event_of(pod, datetime.now(UTC)))
        except CiliumError as error:
            log.warning("event is not written", pod=str(pod.key), error=str(error))
        return True


def unmanaged(pods: Iterable[Pod], managed: set[ResourceKey], nodes: set[str]) -> list[Pod]:
    """Those that run in a network of their own, on a node that has an agent, and have no endpoint."""
    return [
        pod
        for pod in pods
        if pod.phase == "Running"
        and not pod.host_network
        and pod.metadata.deletion_timestamp is None
        and pod.node_name in nodes
        and ResourceKey("CiliumEndpoint", pod.metadata.namespace, pod.metadata.name) not in managed
    ]


def maker_of(pod: Pod) -> OwnerReference | None:
    """Who makes the pod again when it is deleted; None if nobody does. A kubelet's own pods are not made by the API."""
    controllers = (each for each in pod.metadata.owner_references if each.controller)
    return next((each for each in controllers if each.kind != "Node"), None)


def event_of(pod: Pod, now: datetime) -> dict[str, Any]:
    metadata, time = pod.metadata, f"{now:%Y-%m-%dT%H:%M:%SZ}"
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{metadata.name}.{int(now.timestamp() * 1e6):x}", "namespace": metadata.namespace},
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "Pod",
            "name": metadata.name,
            "namespace": metadata.namespace,
            "uid": metadata.uid,
        },
        "type": "Warning",
        "reason": REASON,
        "message": f"restarted: it started before Cilium was ready on node {pod.node_name}, so no policy held for it",
        "source": {"component": "cilium-operator"},
        "firstTimestamp": time,
        "lastTimestamp": time,
        "count": 1,
    }

"""Removes what nobody will remove any more: nodes that gave no sign of life for the grace time, endpoints without a
node, and, where no API server does it, endpoints whose pod is gone.

A sign of life is a new version of the node's Lease in `kube-node-lease` or of its CiliumNode. All of it is counted by
this operator's own looks at the store (`observation`): never from a time that somebody wrote, and never across a time
in which the store could not be read.

The lease goes first, at the version that was looked at: a node that renews it in that moment stays. A node that is back
later sees that it was removed, and publishes itself again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import TypeVar

import structlog

from pycilium.errors import Conflict, NotFound, StoreError
from pycilium.model.resources import CiliumEndpoint, CiliumNode, Lease, Pod, Resource, ResourceKey
from pycilium.operator.election import LeaderStore
from pycilium.operator.observation import Observation

K = TypeVar("K", bound=Hashable)
log = structlog.get_logger()

NODE_LEASES = "kube-node-lease"


class Removal:
    """One leader's term."""

    def __init__(
        self,
        leader: LeaderStore,
        grace_s: float,
        interval_s: float,
        elapsed: Callable[[], float],
        *,
        look_at_pods: bool = True,
    ) -> None:
        """`look_at_pods`: false where endpoints are owned by their Pods, so that the API server collects them."""
        self._leader, self._grace_s, self._elapsed, self._look_at_pods = leader, grace_s, elapsed, look_at_pods
        self.interval_s = min(interval_s, grace_s / 4)
        self._nodes: Observation[str] = Observation(self.interval_s)
        self._orphans: Observation[ResourceKey] = Observation(self.interval_s)
        self._pods: set[ResourceKey] = set()
        """Pods that were there at some time: an endpoint may also belong to a pod that no store ever knew."""

    async def once(self) -> None:
        """One look at everything, and what follows from it."""
        try:
            listed_nodes = await self._leader.list(CiliumNode)
            listed_leases = await self._leader.list(Lease, NODE_LEASES)
            endpoints = {endpoint.key: endpoint for endpoint in (await self._leader.list(CiliumEndpoint)).items}
            pods = await self._present_pods()
        except StoreError as error:
            log.warning("nodes cannot be looked through", error=str(error))
            self._nodes.interrupted()
            self._orphans.interrupted()
            return
        now = self._elapsed()
        nodes = {node.metadata.name: node for node in listed_nodes.items}
        leases = {lease.metadata.name: lease for lease in listed_leases.items}
        for unreadable in listed_leases.unreadable:
            nodes.pop(unreadable.key.name, None)  # nobody can say whether it lives
        for name in self._old(self._nodes.look(_signs_of_life(nodes, leases), now)):
            if await self._remove_node(nodes[name], leases.get(name)):
                removed = nodes.pop(name)
                for endpoint in _left_behind(removed, nodes.values(), endpoints.values()):
                    await self._remove(endpoint, f"endpoint of {name} removed")
        if listed_nodes.unreadable or listed_leases.unreadable:
            self._orphans.interrupted()  # a node that cannot be read is a node all the same
            return
        orphans = dict(self._orphans_among(endpoints.values(), nodes.values(), pods))
        for key in self._old(self._orphans.look(orphans, now)):
            await self._remove(endpoints[key], f"endpoint removed: {orphans[key]}")

    async def _present_pods(self) -> set[ResourceKey]:
        if not self._look_at_pods:
            return set()
        listed = await self._leader.list(Pod)
        return {pod.key for pod in listed.items} | {each.key for each in listed.unreadable}

    def _orphans_among(
        self, endpoints: Iterable[CiliumEndpoint], nodes: Iterable[CiliumNode], pods: set[ResourceKey]
    ) -> Iterable[tuple[ResourceKey, str]]:
        places = _places(nodes)
        seen = set()
        for endpoint in endpoints:
            pod = ResourceKey("Pod", endpoint.metadata.namespace, endpoint.metadata.name)
            if pod in pods or pod in self._pods:
                seen.add(pod)
            place = _place(endpoint)
            if place and place not in places:
                yield endpoint.key, f"there is no node {place}"
            elif pod in self._pods and pod not in pods:
                yield endpoint.key, "its pod is gone"
        self._pods = seen

    def _old(self, ages_s: Mapping[K, float]) -> list[K]:
        return [key for key, age_s in ages_s.items() if age_s >= self._grace_s]

    async def _remove_node(self, node: CiliumNode, lease: Lease | None) -> bool:
        if lease is not None and not await self._remove(lease, "lease of a node without signs of life removed"):
            return False
        return await self._remove(node, "node removed: it gave no sign of life")

    async def _remove(self, resource: Resource, why: str) -> bool:
        """Only at the version that was looked at: who is back meanwhile is left alone."""
        try:
            await self._leader.delete(resource)
        except (Conflict, NotFound):
            return False
        except StoreError as error:
            log.warning("not removed yet", resource=str(resource.key), error=str(error))
            return False
        log.warning(why, resource=str(resource.key))
        return True


def _place(endpoint: CiliumEndpoint) -> str:
    networking = endpoint.status.networking if endpoint.status else None
    return networking.node if networking else ""


def _places(nodes: Iterable[CiliumNode]) -> set[str]:
    """What endpoints may call their node: its name or any of its addresses."""
    return {place for node in nodes for place in (node.metadata.name, *(each.ip for each in node.spec.addresses))}


def _left_behind(
    removed: CiliumNode, others: Iterable[CiliumNode], endpoints: Iterable[CiliumEndpoint]
) -> list[CiliumEndpoint]:
    """The endpoints that were on `removed` and on no other node."""
    places = _places([removed]) - _places(others)
    return [endpoint for endpoint in endpoints if _place(endpoint) in places]


def _signs_of_life(nodes: Mapping[str, CiliumNode], leases: Mapping[str, Lease]) -> dict[str, tuple[str, str]]:
    """What changes while a node lives. Its status does not count: that is what we write."""
    return {
        name: (
            f"{node.metadata.uid} {node.metadata.generation}",
            leases[name].metadata.resource_version if name in leases else "",
        )
        for name, node in nodes.items()
    }

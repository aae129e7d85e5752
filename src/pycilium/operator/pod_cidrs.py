"""Gives nodes their pod CIDRs: follows all CiliumNodes and writes `spec.ipam.podCIDRs` where some are missing.

What is wrong (pools used up, a CIDR of two nodes) is written to the node's `status.ipam.operator-status.error`, and
taken away when it is right again; nodes that are not concerned are not touched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from ipaddress import ip_address, ip_network

import msgspec
import structlog

from pycilium.errors import Conflict, InvalidResource, NotFound, StoreError
from pycilium.ipam import ClusterPool, NodeClaim
from pycilium.ipam.cluster_pool import Prefix
from pycilium.model.resources import CiliumNode
from pycilium.model.resources.cilium_objects import IpamSpec
from pycilium.operator.election import LeaderStore
from pycilium.operator.following import keep_following
from pycilium.store import ResourceList, Store, Unreadable, WatchEvent

log = structlog.get_logger()

RETRY_S = 1.0
NODE_ADDRESSES = ("InternalIP", "ExternalIP")
_Step = ResourceList[CiliumNode] | WatchEvent[CiliumNode] | Unreadable


class PodCidrs:
    """One leader's term: begins with what the nodes have."""

    def __init__(self, store: Store, leader: LeaderStore, pool: ClusterPool, elapsed: Callable[[], float]) -> None:
        self._store, self._leader, self._pool, self._elapsed = store, leader, pool, elapsed
        self._nodes: dict[str, CiliumNode] = {}
        self._unreadable: dict[str, str] = {}
        """Nodes of which nobody can say what they have, unless it was known before; with the reason."""
        self._told: tuple[str, ...] = ()

    async def run(self) -> None:
        """Until cancelled, or until this operator leads no longer."""
        changed = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:

            def take_in(step: _Step) -> None:
                self._take_in(step)
                changed.set()

            tasks.create_task(keep_following(self._store, CiliumNode, take_in), name="nodes")
            await changed.wait()
            while True:
                changed.clear()
                wait_s = await self._settle()
                try:
                    async with asyncio.timeout(wait_s):
                        await changed.wait()
                except TimeoutError:
                    continue

    def _take_in(self, step: _Step) -> None:
        if isinstance(step, ResourceList):
            kept = {each.key.name: self._nodes.get(each.key.name) for each in step.unreadable}
            self._nodes = {name: node for name, node in kept.items() if node is not None}
            self._nodes |= {node.metadata.name: node for node in step.items}
            self._unreadable = {each.key.name: str(each) for each in step.unreadable if not kept[each.key.name]}
        elif isinstance(step, Unreadable):
            if step.key.name not in self._nodes:
                self._unreadable[step.key.name] = str(step)
        else:
            name = step.object.metadata.name
            self._unreadable.pop(name, None)
            self._nodes[name] = step.object
            if step.type == "DELETED":
                del self._nodes[name]

    async def _settle(self) -> float | None:
        """Write what follows from the nodes as they are known; gives when to look again if nothing changes before."""
        await self._read_again()
        now = self._elapsed()
        unknown = "; ".join(self._unreadable.values())
        plan = self._pool.plan([_claim(node) for node in self._nodes.values()], now, unknown)
        if plan.pool_problems != self._told:
            for text in plan.pool_problems:
                log.warning("cluster pool", problem=text)
            self._told = plan.pool_problems
        failed = False
        for name, cidrs in plan.given.items():
            failed |= not await self._give(name, cidrs)
        for name in list(self._nodes):
            failed |= not await self._tell(name, "; ".join(plan.problems.get(name, ())))
        if failed or self._unreadable:
            return RETRY_S
        return None if plan.next_due_s is None else max(0.0, plan.next_due_s - now)

    async def _read_again(self) -> None:
        """Of what could not be read a watch may not say that it was removed."""
        for name in list(self._unreadable):
            try:
                self._nodes[name] = await self._store.get(CiliumNode, name)
            except NotFound:
                pass
            except StoreError:
                continue
            del self._unreadable[name]

    async def _give(self, name: str, cidrs: tuple[Prefix, ...]) -> bool:
        """Whether nothing is left to be tried: a node that changed meanwhile comes by again by itself."""
        node = self._nodes[name]
        ipam = node.spec.ipam or IpamSpec()
        wanted = msgspec.structs.replace(ipam, pod_cidrs=(*ipam.pod_cidrs, *map(str, cidrs)))
        try:
            written = await self._leader.replace(
                msgspec.structs.replace(node, spec=msgspec.structs.replace(node.spec, ipam=wanted))
            )
        except (Conflict, NotFound):
            return False
        except (StoreError, InvalidResource) as error:
            log.warning("pod CIDRs not written yet", node=name, error=str(error))
            return False
        self._nodes[name] = written
        log.info("node has pod CIDRs", node=name, cidrs=" ".join(map(str, cidrs)))
        return True

    async def _tell(self, name: str, problem: str) -> bool:
        node = self._nodes[name]
        if _error_of(node) == problem:
            return True
        if problem:
            log.warning("node's pod CIDRs", node=name, problem=problem)
        patch = {"ipam": {"operator-status": {"error": problem} if problem else None}}
        try:
            self._nodes[name] = await self._leader.patch_status(CiliumNode, name, "", patch)
        except NotFound:
            return True
        except (StoreError, InvalidResource) as error:
            log.warning("node's status not written yet", node=name, error=str(error))
            return False
        return True


def _claim(node: CiliumNode) -> NodeClaim:
    return NodeClaim(
        name=node.metadata.name,
        created=node.metadata.creation_timestamp,
        cidrs=tuple(ip_network(cidr, strict=False) for cidr in (node.spec.ipam.pod_cidrs if node.spec.ipam else ())),
        addresses=tuple(ip_address(address.ip) for address in node.spec.addresses if address.type in NODE_ADDRESSES),
    )


def _error_of(node: CiliumNode) -> str:
    ipam = node.status.ipam if node.status else None
    return ipam.operator_status.error if ipam and ipam.operator_status else ""

"""The operator put together: opens the store, stands for election, and while it leads runs all of its work.

The work begins from nothing with each term: a leader knows only what it saw since it leads.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

import structlog

from pycilium.errors import LeadershipLost
from pycilium.install.kubernetes_cluster import Cluster
from pycilium.model.resources import CiliumEndpoint, CiliumIdentity, CiliumNode, Pod, Resource
from pycilium.operator import crds
from pycilium.operator.config import OperatorConfig, election_times, health_address, is_kubernetes, pools_of
from pycilium.operator.election import Election, LeaderStore
from pycilium.operator.endpoint_slices import EndpointSlices, NoEndpointSlices
from pycilium.operator.health import health_endpoint
from pycilium.operator.identity_collection import IdentityCollector
from pycilium.operator.lb_ipam import LbIpam
from pycilium.operator.looks import Look, repeat
from pycilium.operator.mirror import Mirror, slim_endpoint, slim_pod, whole
from pycilium.operator.pod_cidrs import PodCidrs
from pycilium.operator.policy_validity import PolicyValidity
from pycilium.operator.removal import Removal
from pycilium.operator.unmanaged_pods import UnmanagedPods
from pycilium.store import Leases, Selection, Store, open_store
from pycilium.store.kubernetes import machine_access
from pycilium.store.leases import elapsed_s

log = structlog.get_logger()


class Work(Protocol):
    """One part of what a leader does."""

    async def run(self) -> None:
        """Until cancelled, or until this operator leads no longer."""
        ...


async def run(config: OperatorConfig, stop: asyncio.Event) -> None:
    """Be an operator until `stop` is set. Raises what keeps it from starting."""
    async with contextlib.AsyncExitStack() as ending:
        if config.make_crds:
            async with Cluster(machine_access(config.store)) as cluster:
                await crds.ensure(cluster)
        store = open_store(config.store, only={Pod: Selection(labels=config.unmanaged_pod_selector)})
        ending.push_async_callback(store.close)
        # A process that has the name of another, or of its predecessor, must not have its lease too.
        holder = f"{config.name}_{uuid.uuid4()}"
        election = Election(Leases(store), config.lease_name, holder, election_times(config))
        address = health_address(config)
        if address is not None:
            health = health_endpoint(config.name, election, address)
            await health.start()
            ending.push_async_callback(health.stop)
        log.info("operator runs", holder=holder)
        standing = asyncio.create_task(election.run(lambda: lead(config, store, election)), name="election")
        stopped = asyncio.create_task(stop.wait(), name="stop")
        await asyncio.wait({standing, stopped}, return_when=asyncio.FIRST_COMPLETED)
        for task in (standing, stopped):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await standing
        log.info("operator ends")


async def lead(config: OperatorConfig, store: Store, election: Election) -> None:
    """All of a leader's work; ends when one part finds that this operator leads no longer."""
    mirror = Mirror(store, _followed(config))
    leader, pools = LeaderStore(store, election.leadership, mirror), pools_of(config)
    works: list[Work] = [LbIpam(store, leader), PolicyValidity(store, leader)]
    if config.endpoint_slices:
        slices = _endpoint_slices(config, store, leader, lambda: mirror.count(CiliumNode))
        mirror.tell(CiliumEndpoint, slices.endpoints_told)
        works.append(slices)
    elif is_kubernetes(config):
        works.append(NoEndpointSlices(leader))
    if pools.pools:
        works.append(PodCidrs(store, leader, pools, elapsed_s))
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(mirror.run(), name="mirror")
            await mirror.read()
            for work in works:
                tasks.create_task(work.run(), name=type(work).__name__)
            for look in _looks(config, leader):
                tasks.create_task(repeat(look), name=type(look).__name__)
    except ExceptionGroup as errors:
        lost, others = errors.split(LeadershipLost)
        if others is not None or lost is None:
            raise
        raise LeadershipLost(str(lost.exceptions[0])) from None


def _endpoint_slices(
    config: OperatorConfig, store: Store, leader: LeaderStore, nodes: Callable[[], int]
) -> EndpointSlices:
    limits, most = config.endpoint_slice_rate_limits, config.endpoint_slice_size
    return EndpointSlices(store, leader, limits, most, nodes, elapsed_s)


def _looks(config: OperatorConfig, leader: LeaderStore) -> list[Look]:
    looks: list[Look] = [
        IdentityCollector(leader, config.identity_grace_s, config.identity_gc_interval_s, elapsed_s),
        Removal(
            leader, config.node_grace_s, config.node_gc_interval_s, elapsed_s, look_at_pods=not is_kubernetes(config)
        ),
    ]
    if config.unmanaged_pod_interval_s is not None:
        looks.append(UnmanagedPods(leader, config.unmanaged_pod_interval_s, elapsed_s, partial(_write_event, config)))
    return looks


def _followed(config: OperatorConfig) -> Mapping[type[Resource], Callable[[Any], Resource]]:
    """The kinds that looks are taken at. Leases are not among them: a watch would tell of each sign of life."""
    followed: dict[type[Resource], Callable[[Any], Resource]] = {
        CiliumNode: whole,
        CiliumIdentity: whole,
        CiliumEndpoint: slim_endpoint,
    }
    if not is_kubernetes(config) or config.unmanaged_pod_interval_s is not None:
        followed[Pod] = slim_pod
    return followed


async def _write_event(config: OperatorConfig, event: dict[str, Any]) -> None:
    async with Cluster(machine_access(config.store)) as cluster:
        await cluster.create(event)

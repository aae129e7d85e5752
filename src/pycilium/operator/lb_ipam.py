"""Gives Services of type LoadBalancer their addresses: follows all Services and pools, and writes their statuses.

A Service is this module's business if its loadBalancerClass is none or one of Cilium's. What it got stands in
`status.loadBalancer.ingress`, whether that is all it asked for in the condition IPAMRequestSatisfied; a pool's
conditions say what it overlaps and how much of it is used. Without any pool nothing is written, but what an earlier
pool gave is taken away: another controller may give addresses then.

A status is patched, not replaced, so a leader that is one no longer may write after its successor. Should two Services
have one address then, the next plan takes it from one of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

import msgspec
import structlog

from pycilium.errors import InvalidResource, NotFound, StoreError
from pycilium.ipam.load_balancer import AddressPlan, PoolState, Unsatisfied, plan
from pycilium.model.peer import Address
from pycilium.model.resources import CiliumLoadBalancerIPPool, Resource, ResourceKey, Service
from pycilium.model.resources.base import Condition
from pycilium.model.resources.service import LoadBalancerIngress, LoadBalancerStatus, ServiceStatus
from pycilium.operator.election import LeaderStore
from pycilium.operator.following import keep_following
from pycilium.operator.lb_requests import pool_of, request_of
from pycilium.store import ResourceList, Store, Unreadable, WatchEvent

R = TypeVar("R", bound=Resource)
log = structlog.get_logger()

RETRY_S = 1.0
SATISFIED = "cilium.io/IPAMRequestSatisfied"
CONFLICT, TOTAL = "cilium.io/PoolConflict", "cilium.io/IPsTotal"
AVAILABLE, USED = "cilium.io/IPsAvailable", "cilium.io/IPsUsed"


class LbIpam:
    """One leader's term: begins with what the Services have."""

    def __init__(
        self,
        store: Store,
        leader: LeaderStore,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC).replace(microsecond=0),
    ) -> None:
        self._store, self._leader, self._clock = store, leader, clock
        self._services: dict[ResourceKey, Service] = {}
        self._pools: dict[ResourceKey, CiliumLoadBalancerIPPool] = {}
        self._read: set[type[Resource]] = set()

    async def run(self) -> None:
        """Until cancelled, or until this operator leads no longer."""
        changed = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for kind, known in ((Service, self._services), (CiliumLoadBalancerIPPool, self._pools)):
                told = partial(self._told, kind, known, changed)
                tasks.create_task(keep_following(self._store, kind, told), name=kind.__name__)
            while True:
                await changed.wait()
                changed.clear()
                if len(self._read) == 2 and not await self._settle():
                    await asyncio.sleep(RETRY_S)
                    changed.set()

    def _told(
        self,
        kind: type[Resource],
        known: dict[ResourceKey, Any],
        changed: asyncio.Event,
        step: ResourceList[Any] | WatchEvent[Any] | Unreadable,
    ) -> None:
        _take_in(known, step)
        self._read.add(kind)
        changed.set()

    async def _settle(self) -> bool:
        """Write what follows from everything as it is known; whether all of it was written."""
        pools = [pool_of(pool) for pool in self._pools.values()]
        requests = {key: request for key, each in self._services.items() if (request := request_of(each)) is not None}
        outcome = plan(pools, requests.values())
        written = True
        for key, service in list(self._services.items()):
            if key in requests and self._pools:
                owner = requests[key].owner
                wanted = _service_status(service, outcome.given[owner], outcome.unsatisfied.get(owner), self._clock())
            elif _condition(service.status.conditions, SATISFIED) is not None:
                wanted = _released(service)
            else:
                continue
            written &= await self._write(service, wanted)
        for pool in list(self._pools.values()):
            conditions = _pool_conditions(pool, outcome, self._clock())
            had = pool.status.conditions if pool.status else ()
            if conditions != had:
                patch = {"conditions": [msgspec.to_builtins(each) for each in conditions]}
                written &= await self._patch(self._pools, pool, patch)
        return written

    async def _write(self, service: Service, wanted: ServiceStatus) -> bool:
        if wanted == service.status:
            return True
        addresses = [each.ip for each in wanted.load_balancer.ingress]
        patch = {
            "loadBalancer": {"ingress": [msgspec.to_builtins(each) for each in wanted.load_balancer.ingress] or None},
            "conditions": [msgspec.to_builtins(each) for each in wanted.conditions] or None,
        }
        log.info("service's addresses", service=str(service.key), addresses=" ".join(addresses) or "none")
        return await self._patch(self._services, service, patch)

    async def _patch(self, known: dict[ResourceKey, R], resource: R, patch: Mapping[str, Any]) -> bool:
        key = resource.key
        try:
            written = await self._leader.patch_status(type(resource), key.name, key.namespace, patch)
        except NotFound:
            return True
        except (StoreError, InvalidResource) as error:
            log.warning("status not written yet", resource=str(key), error=str(error))
            return False
        if key in known:
            known[key] = written
        return True


def _take_in(known: dict[ResourceKey, R], step: ResourceList[R] | WatchEvent[R] | Unreadable) -> None:
    """One that cannot be read is as it was last."""
    if isinstance(step, ResourceList):
        kept = {each.key: known[each.key] for each in step.unreadable if each.key in known}
        known.clear()
        known.update(kept)
        known.update({each.key: each for each in step.items})
    elif isinstance(step, WatchEvent):
        if step.type == "DELETED":
            known.pop(step.object.key, None)
        else:
            known[step.object.key] = step.object


def _service_status(
    service: Service, given: Sequence[Address], why: Unsatisfied | None, now: datetime
) -> ServiceStatus:
    """Of addresses that it has already, all that is said of them stays as it is."""
    status = service.status
    had = {each.ip: each for each in status.load_balancer.ingress}
    condition = Condition(
        type=SATISFIED,
        status="False" if why else "True",
        reason=why.reason if why else "satisfied",
        message=why.message if why else "",
        last_transition_time=now,
    )
    return ServiceStatus(
        load_balancer=LoadBalancerStatus(
            ingress=tuple(had.get(str(each)) or LoadBalancerIngress(ip=str(each)) for each in given)
        ),
        conditions=_with_condition(status.conditions, condition),
    )


def _released(service: Service) -> ServiceStatus:
    return ServiceStatus(conditions=tuple(each for each in service.status.conditions if each.type != SATISFIED))


def _pool_conditions(pool: CiliumLoadBalancerIPPool, outcome: AddressPlan, now: datetime) -> tuple[Condition, ...]:
    state = outcome.pools[pool.metadata.name]
    conditions = pool.status.conditions if pool.status else ()
    for kind, status, reason, message in _said_of(state):
        conditions = _with_condition(
            conditions,
            Condition(
                type=kind,
                status=status,
                reason=reason,
                message=message,
                last_transition_time=now,
                observed_generation=pool.metadata.generation,
            ),
        )
    return conditions


def _said_of(state: PoolState) -> list[tuple[str, Any, str, str]]:
    conflict = (
        (CONFLICT, "True", "cidr_overlap", state.conflict) if state.conflict else (CONFLICT, "False", "resolved", "")
    )
    counts = ((TOTAL, state.total), (AVAILABLE, state.available), (USED, state.used))
    return [conflict, *((kind, "Unknown", "noreason", str(count)) for kind, count in counts)]


def _condition(conditions: Sequence[Condition], kind: str) -> Condition | None:
    return next((each for each in conditions if each.type == kind), None)


def _with_condition(conditions: Sequence[Condition], wanted: Condition) -> tuple[Condition, ...]:
    """The time is that of the last change of its status; what says the same as before stays as it is."""
    known = _condition(conditions, wanted.type)
    if known is None:
        return (*conditions, wanted)
    if known.status == wanted.status:
        wanted = msgspec.structs.replace(wanted, last_transition_time=known.last_transition_time)
    return tuple(wanted if each.type == wanted.type else each for each in conditions)

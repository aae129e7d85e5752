"""Says in the status of each Cilium policy whether agents take it: the condition `Valid`, with the reason if not.

    kubectl get cnp          NAME      AGE   VALID
                             allow     3s    True
                             broken    1s    False

It is judged as agents do, by decoding and building the rules. A NetworkPolicy has no status. Written once for each
thing there is to say of a policy, one after the other, and never again while that is what the status says: a policy
whose status is known costs nothing. Invariant: only what was read in this term is judged.

A status is patched, not replaced, so a leader that is one no longer may write after its successor; the next change of
the policy mends it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec
import structlog

from pycilium.errors import InvalidResource, NotFound, ResourceUnreadable, StoreError
from pycilium.model.resources import CiliumClusterwideNetworkPolicy, CiliumNetworkPolicy, ResourceKey
from pycilium.model.resources.cilium_policy import PolicyCondition
from pycilium.operator.election import LeaderStore
from pycilium.operator.following import keep_following
from pycilium.policy import parse_policy
from pycilium.store import ResourceList, Store, Unreadable, WatchEvent

log = structlog.get_logger()

RETRY_S = 1.0
VALID = "Valid"
KINDS: tuple[type[CiliumNetworkPolicy | CiliumClusterwideNetworkPolicy], ...] = (
    CiliumNetworkPolicy,
    CiliumClusterwideNetworkPolicy,
)
_Policy = CiliumNetworkPolicy | CiliumClusterwideNetworkPolicy
_Step = ResourceList[Any] | WatchEvent[Any] | Unreadable


@dataclass(frozen=True, slots=True)
class _Judged:
    """What is to be said of a policy, and the conditions that it has."""

    kind: type[_Policy]
    key: ResourceKey
    problem: str
    conditions: tuple[PolicyCondition, ...] = ()


class PolicyValidity:
    """One leader's term."""

    def __init__(
        self,
        store: Store,
        leader: LeaderStore,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC).replace(microsecond=0),
    ) -> None:
        self._store, self._leader, self._clock = store, leader, clock
        self._said: dict[ResourceKey, str] = {}
        """The problem of policies of which a store cannot tell what it has kept of that."""
        self._pending: dict[ResourceKey, _Judged] = {}
        self._judged = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled, or until this operator leads no longer."""
        async with asyncio.TaskGroup() as tasks:
            for kind in KINDS:
                tasks.create_task(keep_following(self._store, kind, partial(self._take_in, kind)), name=kind.__name__)
            while True:
                await self._judged.wait()
                self._judged.clear()
                if not await self._write():
                    await asyncio.sleep(RETRY_S)
                    self._judged.set()

    def _take_in(self, kind: type[_Policy], step: _Step) -> None:
        if isinstance(step, ResourceList):
            for each in (*step.items, *step.unreadable):
                self._judge(kind, each)
        elif isinstance(step, Unreadable):
            self._judge(kind, step)
        elif step.type == "DELETED":
            self._pending.pop(step.object.key, None)
            self._said.pop(step.object.key, None)
        else:
            self._judge(kind, step.object)

    def _judge(self, kind: type[_Policy], found: _Policy | Unreadable) -> None:
        if isinstance(found, Unreadable):
            judged = _Judged(kind, found.key, found.reason)
        else:
            judged = _Judged(kind, found.key, _problem(found), found.status.conditions if found.status else ())
        if _says(judged.conditions, judged.problem) or self._said.get(found.key) == judged.problem:
            self._pending.pop(found.key, None)
            return
        self._said.pop(found.key, None)
        if judged.problem:
            log.warning("policy is not valid", policy=str(found.key), reason=judged.problem)
        self._pending[found.key] = judged
        self._judged.set()

    async def _write(self) -> bool:
        """Whether all of it was."""
        written = True
        for judged in list(self._pending.values()):
            if self._pending.get(judged.key) is not judged:
                continue  # it has changed meanwhile
            if await self._patch(judged):
                self._pending.pop(judged.key, None)
            else:
                written = False
        return written

    async def _patch(self, judged: _Judged) -> bool:
        key = judged.key
        conditions = _with(judged, self._clock())
        patch = {"conditions": [msgspec.to_builtins(each) for each in conditions]}
        try:
            await self._leader.patch_status(judged.kind, key.name, key.namespace, patch)
        except NotFound:
            return True
        except (ResourceUnreadable, InvalidResource):
            self._said[key] = judged.problem  # written where the store can; there is no more to be done about it
        except StoreError as error:
            log.warning("status not written yet", policy=str(key), error=str(error))
            return False
        return True


def _problem(policy: _Policy) -> str:
    """Why agents set it aside; "" if they do not."""
    try:
        parse_policy(policy)
    except InvalidResource as error:
        return str(error)
    return ""


def _condition(problem: str, now: datetime) -> PolicyCondition:
    message = problem or "all of its rules are understood"
    return PolicyCondition(type=VALID, status="False" if problem else "True", message=message, last_transition_time=now)


def _says(conditions: Sequence[PolicyCondition], problem: str) -> bool:
    now = datetime.min.replace(tzinfo=UTC)
    wanted = _condition(problem, now)
    return any(msgspec.structs.replace(each, last_transition_time=now) == wanted for each in conditions)


def _with(judged: _Judged, now: datetime) -> tuple[PolicyCondition, ...]:
    """The time is that of the last change of its status."""
    wanted = _condition(judged.problem, now)
    known = next((each for each in judged.conditions if each.type == VALID), None)
    if known is None:
        return (*judged.conditions, wanted)
    if known.status == wanted.status:
        wanted = msgspec.structs.replace(wanted, last_transition_time=known.last_transition_time)
    return tuple(wanted if each.type == VALID else each for each in judged.conditions)

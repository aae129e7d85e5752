"""Removes identities that no endpoint has any more. When, is decided by `identity.collection`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import structlog

from pycilium.errors import Conflict, InvalidResource, NotFound, StoreError
from pycilium.identity import MARK, IdentityCollection, IdentityState
from pycilium.model.identity import cluster_identity_number
from pycilium.model.resources import CiliumEndpoint, CiliumIdentity
from pycilium.operator.election import LeaderStore

log = structlog.get_logger()


class IdentityCollector:
    """One leader's term: all that it saw, it saw itself."""

    def __init__(self, leader: LeaderStore, grace_s: float, interval_s: float, elapsed: Callable[[], float]) -> None:
        self._leader, self.interval_s, self._elapsed = leader, interval_s, elapsed
        self._collection = IdentityCollection(grace_s)

    async def once(self) -> None:
        """One look at everything, and what follows from it."""
        try:
            found = {
                number: identity
                for identity in (await self._leader.list(CiliumIdentity)).items
                if (number := cluster_identity_number(identity.metadata.name)) is not None
            }
            endpoints = await self._leader.list(CiliumEndpoint)
        except StoreError as error:
            log.warning("identities cannot be looked through", error=str(error))
            self._collection.interrupted()
            return
        if endpoints.unreadable:
            # Nobody can say whose identities those have.
            for unreadable in endpoints.unreadable:
                log.warning("identities are not collected", reason=str(unreadable))
            self._collection.interrupted()
            return
        used = {
            endpoint.status.identity.id
            for endpoint in endpoints.items
            if endpoint.status is not None and endpoint.status.identity is not None
        }
        states = {number: IdentityState(*_state(identity)) for number, identity in found.items()}
        decision = self._collection.observe(states, used, self._elapsed())
        for number in decision.mark:
            await self._write(self._leader.replace(marked(found[number])), "marked", number)
        for number in decision.unmark:
            await self._write(self._leader.replace(unmarked(found[number])), "used again", number)
        for number in decision.delete:
            await self._write(self._leader.delete(found[number]), "removed", number)

    async def _write(self, write: Awaitable[object], what: str, number: int) -> None:
        try:
            await write
        except (Conflict, NotFound):
            return  # somebody wants it, or it is gone: seen the next time
        except (StoreError, InvalidResource) as error:
            log.warning("identity not written", identity=number, error=str(error))
            self._collection.interrupted()
        else:
            log.info("identity written", identity=number, outcome=what)


def marked(identity: CiliumIdentity) -> CiliumIdentity:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return identity.with_metadata(annotations={**identity.metadata.annotations, MARK: now})


def unmarked(identity: CiliumIdentity) -> CiliumIdentity:
    left = {key: value for key, value in identity.metadata.annotations.items() if key != MARK}
    return identity.with_metadata(annotations=left)


def _state(identity: CiliumIdentity) -> tuple[str, bool]:
    return identity.metadata.resource_version, MARK in identity.metadata.annotations

"""Marks on identities that nobody seemed to use: seen when they are read, taken off before anybody here uses one.

The other half of `identity.collection`: whoever uses a marked identity makes a new version of it without the mark, so
that it is not deleted; one that was deleted first is created anew.
"""

from __future__ import annotations

import asyncio

import structlog

from pycilium.agent.intent import Intent
from pycilium.errors import CiliumError, Conflict, InvalidResource, NotFound
from pycilium.identity import MARK
from pycilium.model.identity import Identity, cluster_identity_number
from pycilium.model.labels import Labels
from pycilium.model.resources import CiliumIdentity
from pycilium.store import Store

log = structlog.get_logger()
RETRY_S = 1.0


def identity_of_resource(resource: CiliumIdentity) -> Identity:
    """The table's object for a CiliumIdentity, whose name is its number.

    InvalidResource for a number that the cluster does not give out: nobody redefines reserved or local identities.
    """
    name = resource.metadata.name
    number = cluster_identity_number(name)
    if number is None:
        raise InvalidResource(f"{name!r} is not the number of an identity of the cluster", path="metadata.name")
    return Identity(number, Labels.from_map(resource.security_labels))


class IdentityMarks:
    """Knows which identities bear a mark, as far as this node has read."""

    def __init__(self, store: Store, intent: Intent) -> None:
        self._store, self._intent = store, intent
        self._marked: set[int] = set()
        self._look = asyncio.Event()
        intent.db.on_commit(lambda tables: self._look.set() if self._marked and "endpoints" in tables else None)

    def identity(self, resource: CiliumIdentity) -> Identity:
        """As `identity_of_resource`, and its mark is noted."""
        identity = identity_of_resource(resource)
        if MARK in resource.metadata.annotations:
            self._marked.add(identity.number)
            self._look.set()
        else:
            self._marked.discard(identity.number)
        return identity

    async def run(self) -> None:
        """Keep marks off what endpoints of this node use, until cancelled."""
        while True:
            await self._look.wait()
            self._look.clear()
            snapshot = self._intent.db.snapshot()
            used = {endpoint.sec_identity for endpoint in snapshot.all(self._intent.endpoints)}
            for number in self._marked & used:
                if not await self.take_off(number):
                    log.warning("identity in use was removed from the store", identity=number)
            if self._marked & used:
                await asyncio.sleep(RETRY_S)
                self._look.set()

    async def take_off(self, number: int) -> bool:
        """False if the store has the identity no longer; while the store is away the mark stays, to be tried again."""
        if number not in self._marked:
            return True
        try:
            marked = await self._store.get(CiliumIdentity, str(number))
            left = {key: value for key, value in marked.metadata.annotations.items() if key != MARK}
            await self._store.replace(marked.with_metadata(annotations=left))
        except NotFound:
            self._marked.discard(number)
            return False
        except Conflict:
            return await self.take_off(number)
        except CiliumError as error:
            log.warning("identity's mark stays", identity=number, error=str(error))
            return True
        self._marked.discard(number)
        return True

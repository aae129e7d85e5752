"""Security identities of this node's pods: the number for a label set, from the table or freshly given out.

The decision which number is `identity.IdentityAllocator`'s; here is the I/O: creating the CiliumIdentity, which the
store lets only one node do per number, and telling the intent table at once instead of waiting for the watch.
"""

from __future__ import annotations

import asyncio
import contextlib
import time

from pycilium.agent.intent import Intent
from pycilium.errors import AlreadyExists, InvalidResource, NotFound, StoreError
from pycilium.identity import IdentityAllocator
from pycilium.model.identity import CLUSTER_IDENTITIES, RESERVED_IDENTITIES, Identity, cluster_identity_number
from pycilium.model.labels import Labels
from pycilium.model.resources import CiliumIdentity, ObjectMeta
from pycilium.store import Store

ATTEMPTS = 16


def identity_of_resource(resource: CiliumIdentity) -> Identity:
    """The table's object for a CiliumIdentity, whose name is its number.

    InvalidResource for a number that the cluster does not give out: nobody redefines reserved or local identities.
    """
    name = resource.metadata.name
    number = cluster_identity_number(name)
    if number is None:
        raise InvalidResource(f"{name!r} is not the number of an identity of the cluster", path="metadata.name")
    return Identity(number, Labels.from_map(resource.security_labels))


def is_cluster_identity(identity: Identity) -> bool:
    """Whether it comes from the store."""
    return identity.number in CLUSTER_IDENTITIES


def insert_reserved(intent: Intent) -> None:
    """Put the identities that never change into the table."""
    with intent.db.write() as txn:
        for identity in RESERVED_IDENTITIES:
            txn.insert(intent.identities, identity)


class Identities:
    """Gives out numbers; equal label sets asked for at once share one request."""

    def __init__(self, store: Store, intent: Intent) -> None:
        self._store, self._intent = store, intent
        self._allocator = IdentityAllocator()
        self._changes = intent.identities.changes()
        self._asking: dict[Labels, asyncio.Task[int]] = {}

    async def number_for(self, labels: Labels) -> int:
        """The number of `labels`; created if need be. StoreError if the store does not let us."""
        self._catch_up()
        proposal = self._allocator.propose(labels, time.monotonic())
        if proposal.known:
            return proposal.identity.number
        if labels not in self._asking:
            asking = asyncio.create_task(self._create(labels))
            self._asking[labels] = asking
            asking.add_done_callback(lambda _: self._asking.pop(labels, None))
        return await asyncio.shield(self._asking[labels])

    async def _create(self, labels: Labels) -> int:
        for _ in range(ATTEMPTS):
            self._catch_up()
            proposal = self._allocator.propose(labels, time.monotonic())
            if proposal.known:
                return proposal.identity.number
            await self._put(proposal.identity)
        raise StoreError(f"identity for {labels}: other nodes took every number that was tried; try again")

    async def _put(self, identity: Identity) -> None:
        """Create it in the store, or learn who has its number; either way the table knows afterwards."""
        resource = CiliumIdentity(
            metadata=ObjectMeta(
                name=str(identity.number), labels={"io.kubernetes.pod.namespace": identity.labels.namespace}
            ),
            security_labels=identity.labels.to_map(),
        )
        try:
            await self._store.create(resource)
        except AlreadyExists:
            with contextlib.suppress(NotFound):
                identity = identity_of_resource(await self._store.get(CiliumIdentity, str(identity.number)))
        with self._intent.db.write() as txn:
            txn.insert(self._intent.identities, identity)

    def _catch_up(self) -> None:
        for change in self._changes.drain():
            if change.new is not None:
                self._allocator.observe(change.new)
            elif change.old is not None:
                self._allocator.forget(change.old.number, time.monotonic())

"""Security identities of this node's pods: the number for a label set, from the table or freshly given out.

The decision which number is `identity.IdentityAllocator`'s; here is the I/O: creating the CiliumIdentity, which the
store lets only one node do per number, and telling the intent table at once instead of waiting for the watch.

While the store is away new labels get a number of this node's own. It is the same to every rule, as it has the same
labels; others never hear of it. Once the store is back `Endpoints` exchanges it for one of the cluster, which is in the
table, and so in the kernel, before any endpoint has it; the node's own number is dropped when nobody has had it for a
while.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Container, Iterable

import structlog

from pycilium.agent.endpoints.identity_marks import IdentityMarks, identity_of_resource
from pycilium.agent.intent import Intent
from pycilium.errors import (
    AlreadyExists,
    CiliumError,
    InvalidResource,
    NotFound,
    ResourceUnreadable,
    StoreError,
    StoreUnavailable,
)
from pycilium.identity import IdentityAllocator
from pycilium.model.identity import (
    CLUSTER_IDENTITIES,
    NODE_LOCAL_IDENTITIES,
    RESERVED_IDENTITIES,
    Identity,
)
from pycilium.model.labels import Labels
from pycilium.model.resources import CiliumIdentity, ObjectMeta
from pycilium.store import Store

log = structlog.get_logger()
ATTEMPTS = 16
PATIENCE_S = 2.0
"""How long a pod waits for the store before it starts with a number of this node's own."""
AWAY_S = 5.0
"""After it was waited for in vain, how long nobody waits again."""
KEPT_S = 60.0
"""How long a number of this node's own stays known after it was given out last."""


def is_cluster_identity(identity: Identity) -> bool:
    """Whether it comes from the store."""
    return identity.number in CLUSTER_IDENTITIES


def insert_reserved(intent: Intent) -> None:
    """Put the identities that never change into the table."""
    with intent.db.write() as txn:
        for identity in RESERVED_IDENTITIES:
            txn.insert(intent.identities, identity)


class Identities:
    """Gives out numbers; equal label sets asked for at once share one request.

    Args:
        store: where the cluster's are.
        intent: whose identities table is told of each.
        in_use: numbers of this node's own that the kernel may still know by the labels of an earlier agent's.
        clock: seconds.
    """

    def __init__(
        self,
        store: Store,
        intent: Intent,
        in_use: Container[int] = (),
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._intent, self._clock = store, intent, clock
        self._allocator = IdentityAllocator()
        self._changes = intent.identities.changes()
        self._asking: dict[Labels, asyncio.Task[int]] = {}
        self._away_until = 0.0
        self.marks = IdentityMarks(store, intent)
        self._own: dict[Labels, int] = {}
        self._given_at: dict[Labels, float] = {}
        self._next_own = (number for number in NODE_LOCAL_IDENTITIES if number not in in_use)

    def known(self, labels: Labels) -> int | None:
        """The number that the cluster has for `labels`, the lowest if it has several; None if it has none."""
        self._catch_up()
        proposal = self._allocator.propose(labels, self._clock())
        return proposal.identity.number if proposal.known else None

    async def announce(self, label_sets: Iterable[Labels]) -> bool:
        """See to it that the cluster has a number for each; whether it has one now that it did not have before.

        While the store is away none is new: what only this node knows is never sent. That there is none for some labels
        is told to whoever asks for their number.
        """
        unheard = [labels for labels in label_sets if self.known(labels) is None]
        for labels in unheard:
            with contextlib.suppress(CiliumError):
                await self.number_for(labels)
        return any(self.known(labels) is not None for labels in unheard)

    async def number_for(self, labels: Labels) -> int:
        """The number of `labels`; created if need be. One of this node's own while the store is away.

        StoreError if the store is there and does not let us; IdentitiesExhaustedError if none is left.
        """
        number = self.known(labels)
        if number is not None:
            with contextlib.suppress(StoreUnavailable, TimeoutError):
                async with asyncio.timeout(PATIENCE_S):
                    if not await self.marks.take_off(number):
                        await self._put(Identity(number, labels))
            return number
        if self._clock() < self._away_until:
            return self._own_number(labels)
        if labels not in self._asking:
            asking = asyncio.create_task(self._create(labels))
            self._asking[labels] = asking
            asking.add_done_callback(lambda done: self._answered(labels, done))
        asking = self._asking[labels]
        await asyncio.wait({asking}, timeout=PATIENCE_S)
        if asking.done() and not isinstance(asking.exception(), StoreUnavailable):
            return asking.result()
        self._away_until = self._clock() + AWAY_S
        return self._own_number(labels)

    def drop_unused(self) -> None:
        """Forget numbers of this node's own that no endpoint has any more."""
        snapshot = self._intent.db.snapshot()
        used = {endpoint.sec_identity for endpoint in snapshot.all(self._intent.endpoints)}
        now = self._clock()
        for labels, number in list(self._own.items()):
            if number not in used and now - self._given_at[labels] >= KEPT_S:
                del self._own[labels], self._given_at[labels]
                with self._intent.db.write() as txn:
                    txn.delete(self._intent.identities, number)

    def _own_number(self, labels: Labels) -> int:
        if labels not in self._own:
            self._own[labels] = next(self._next_own)
            self._tell(Identity(self._own[labels], labels))
        self._given_at[labels] = self._clock()
        return self._own[labels]

    def _answered(self, labels: Labels, asking: asyncio.Task[int]) -> None:
        self._asking.pop(labels, None)
        if not asking.cancelled():
            asking.exception()  # whoever waited has seen it; nobody may have

    async def _create(self, labels: Labels) -> int:
        for _ in range(ATTEMPTS):
            self._catch_up()
            proposal = self._allocator.propose(labels, self._clock())
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
            try:
                identity = identity_of_resource(await self._store.get(CiliumIdentity, str(identity.number)))
            except NotFound:
                pass
            except (ResourceUnreadable, InvalidResource) as error:  # nobody knows whose it is: it is not for us
                log.warning("number of an identity is passed over", reason=str(error))
                self._allocator.pass_over(identity.number, self._clock())
                return
        self._tell(identity)

    def _tell(self, identity: Identity) -> None:
        with self._intent.db.write() as txn:
            txn.insert(self._intent.identities, identity)

    def _catch_up(self) -> None:
        for change in self._changes.drain():
            if change.new is not None and is_cluster_identity(change.new):
                self._allocator.observe(change.new)
            elif change.new is None and change.old is not None:
                self._allocator.forget(change.old.number, self._clock())

"""Changes of resources in etcd: read, decide, write if nothing of what was read has changed since; else again.

What follows from more than its own keys hangs on a witness besides: a key that everybody writes who changes such a
thing, so that of two who decided on the same state only one is kept.

All keys of one change are read at one moment and written in one transaction, so it is kept whole or not at all, also
among writers that know nothing of one another. An answer that was lost is looked up (see keyspace: marks).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pycilium.errors import StoreUnavailable
from pycilium.model.resources import Resource, ResourceKey
from pycilium.model.resources.kinds import kind_for_word
from pycilium.store.etcd.connection import EtcdConnection
from pycilium.store.etcd.failures import Interrupted
from pycilium.store.etcd.keyspace import Keyspace, decoded, encoded
from pycilium.store.etcd.proto import etcd_pb2 as etcd
from pycilium.store.protocol import Unreadable

MAX_OPERATIONS = 128
"""How many keys one transaction may write: etcd's own limit, unless --max-txn-ops says otherwise."""

Found = Resource | Unreadable | None
Resources = Sequence[Found]
"""What some keys hold, in their order; None: nothing."""


@dataclass(frozen=True, slots=True)
class Held:
    """What a key held when it was read."""

    revision: int
    value: bytes
    resource: Found


_NOTHING = Held(0, b"", None)


@dataclass(frozen=True, slots=True)
class Witness:
    """A key of no resource, and the revision at which it was when the rest of the state was read."""

    key: bytes
    revision: int


class WitnessMoved(Exception):
    """Others changed meanwhile what was decided on: read it again."""


class Transactions:
    """Reads and changes a few keys together."""

    def __init__(self, connection: EtcdConnection, keyspace: Keyspace) -> None:
        self._connection = connection
        self._keyspace = keyspace

    async def read(self, keys: Sequence[ResourceKey]) -> Resources:
        """What the keys hold, at one moment."""
        held = await self._read(keys, self._connection.deadline())
        return [each.resource for each in held]

    async def change(
        self,
        keys: Sequence[ResourceKey],
        decide: Callable[[Resources], Resources],
        *,
        expect_nothing: bool = False,
        witness: Witness | None = None,
    ) -> tuple[Resources, Resources]:
        """Makes the keys hold what `decide` says, and returns what they held before and hold now.

        `decide` gets what the keys hold and returns the same objects where nothing is to change; what it raises ends
        the change. It may be asked again when others write meanwhile. With `expect_nothing` the first question is put
        without looking. With a witness it is asked once, and WitnessMoved raised if it is to be asked again.
        """
        deadline = self._connection.deadline()
        held = [_NOTHING for _ in keys] if expect_nothing else await self._read(keys, deadline)
        while True:
            plan = _Plan(self._keyspace, keys, held, decide([each.resource for each in held]), witness)
            if not plan.operations:
                return plan.before, plan.after
            try:
                response = await self._connection.txn(plan.request(), deadline, repeat=False)
            except Interrupted as interruption:
                held = await self._look_up(keys, deadline, interruption)
                if plan.is_kept(held):
                    return plan.before, plan.kept_as(held)
                if witness is not None:
                    raise WitnessMoved from None
            else:
                if response.succeeded:
                    return plan.before, plan.kept_at(response.header.revision)
                if witness is not None:
                    raise WitnessMoved
                held = _held(keys, response)

    async def witness(self, key: bytes) -> Witness:
        """The witness as it is now; to be asked before all that it stands for is read."""
        answer = await self._connection.range(etcd.RangeRequest(key=key), self._connection.deadline())
        return Witness(key, answer.kvs[0].mod_revision if answer.kvs else 0)

    async def _read(self, keys: Sequence[ResourceKey], deadline: float) -> list[Held]:
        request = etcd.TxnRequest(success=_reads(self._keyspace, keys))
        return _held(keys, await self._connection.txn(request, deadline, repeat=True))

    async def _look_up(self, keys: Sequence[ResourceKey], deadline: float, interruption: Interrupted) -> list[Held]:
        try:
            return await self._read(keys, deadline)
        except StoreUnavailable as error:
            what = ", ".join(str(key) for key in keys[:3]) + (", ..." if len(keys) > 3 else "")
            raise StoreUnavailable(
                f"{interruption}; the answer to a write of {what} was lost: it may have been kept or not, read again"
            ) from error


class _Plan:
    """One transaction: from what some keys held to what they are to hold."""

    def __init__(
        self,
        keyspace: Keyspace,
        keys: Sequence[ResourceKey],
        held: Sequence[Held],
        after: Resources,
        witness: Witness | None,
    ) -> None:
        self._witness = witness
        self.before: Resources = [each.resource for each in held]
        self.after = after
        self._keyspace = keyspace
        self._keys = keys
        self._held = held
        mark = secrets.token_hex(8)
        self._values = [
            encoded(resource, mark) if isinstance(resource, Resource) and resource is not each.resource else None
            for each, resource in zip(held, after, strict=True)
        ]
        self.operations = [
            _operation(keyspace.key(key), value)
            for key, value, each, resource in zip(keys, self._values, held, after, strict=True)
            if resource is not each.resource
        ]
        self._mark = mark

    def request(self) -> etcd.TxnRequest:
        compare = [
            etcd.Compare(target=etcd.Compare.MOD, key=self._keyspace.key(key), mod_revision=each.revision)
            for key, each in zip(self._keys, self._held, strict=True)
        ]
        witnessed = []
        if self._witness is not None:
            key, revision = self._witness.key, self._witness.revision
            compare.append(etcd.Compare(target=etcd.Compare.MOD, key=key, mod_revision=revision))
            witnessed.append(_operation(key, self._mark.encode()))
        return etcd.TxnRequest(
            compare=compare,
            success=[*self.operations, *witnessed],
            failure=_reads(self._keyspace, self._keys),
        )

    def is_kept(self, now: Sequence[Held]) -> bool:
        """Whether what the keys hold now shows that the plan was carried out."""
        if any(value is not None and each.value == value for value, each in zip(self._values, now, strict=True)):
            return True
        deleted = [
            each for each, after, was in zip(now, self.after, self._held, strict=True) if not after and was.resource
        ]
        return all(value is None for value in self._values) and all(each.resource is None for each in deleted)

    def kept_at(self, revision: int) -> Resources:
        return self._versioned([revision] * len(self._keys))

    def kept_as(self, now: Sequence[Held]) -> Resources:
        return self._versioned([each.revision for each in now])

    def _versioned(self, revisions: Sequence[int]) -> Resources:
        written = zip(self.after, self._values, revisions, strict=True)
        return [_at(revision, resource) if value is not None else resource for resource, value, revision in written]


def _at(revision: int, resource: Found) -> Found:
    return resource.with_metadata(resource_version=str(revision)) if isinstance(resource, Resource) else resource


def _operation(key: bytes, value: bytes | None) -> etcd.RequestOp:
    if value is None:
        return etcd.RequestOp(request_delete_range=etcd.DeleteRangeRequest(key=key))
    return etcd.RequestOp(request_put=etcd.PutRequest(key=key, value=value))


def _reads(keyspace: Keyspace, keys: Sequence[ResourceKey]) -> list[etcd.RequestOp]:
    return [etcd.RequestOp(request_range=etcd.RangeRequest(key=keyspace.key(key))) for key in keys]


def _held(keys: Sequence[ResourceKey], response: etcd.TxnResponse) -> list[Held]:
    held = []
    for key, answer in zip(keys, response.responses, strict=True):
        pairs = answer.response_range.kvs
        if pairs:
            resource = decoded(kind_for_word(key.kind), pairs[0])
            held.append(Held(pairs[0].mod_revision, pairs[0].value, resource))
        else:
            held.append(_NOTHING)
    return held

"""The Store protocol over etcd (version 3.4 or newer): for many machines.

Versions are etcd's revisions. What is written together is one transaction, up to etcd's limit; see `apply`.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar, cast

from pycilium.errors import AlreadyExists, NotFound, StoreError, StoreUnavailable, WatchExpired
from pycilium.model.resources import (
    Kind,
    Resource,
    ResourceKey,
    Service,
    ServiceCIDR,
    encode_json,
    kind_of,
    validate,
)
from pycilium.store import admission
from pycilium.store.etcd.address import EtcdAddress
from pycilium.store.etcd.connection import EtcdConnection, RevisionCompacted
from pycilium.store.etcd.keyspace import Keyspace, decoded
from pycilium.store.etcd.proto import etcd_pb2 as etcd
from pycilium.store.etcd.transactions import MAX_OPERATIONS, Found, Resources, Transactions, WitnessMoved
from pycilium.store.etcd.watches import Watches
from pycilium.store.protocol import Applied, ResourceList, Unreadable, WatchEvent, readable, whole
from pycilium.store.service_admission import KnownServices, ServiceAdmission

R = TypeVar("R", bound=Resource)
T = TypeVar("T")

PAGE = 1000
"""How many resources a list asks for at a time, all at one revision."""
MAX_TRANSACTION_BYTES = 1 << 20
"""Of resources that are written together; etcd refuses requests of 1.5 MiB."""
_LIST_ATTEMPTS = 5


class EtcdStore:
    """A Store in an etcd cluster. Nothing is connected before the first call.

    Args:
        address: which cluster, which keys in it, which credentials.
        timeout_s: how long a call looks for a member that answers before it is StoreUnavailable.
        clock: the time for creation timestamps.
    """

    def __init__(
        self,
        address: EtcdAddress,
        *,
        timeout_s: float = 5.0,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._connection = EtcdConnection(address, timeout_s=timeout_s)
        self._keyspace = Keyspace(address.prefix)
        self._transactions = Transactions(self._connection, self._keyspace)
        self._watches = Watches(self._connection)
        self._clock = clock

    async def list(self, kind: type[R], namespace: str | None = None) -> ResourceList[R]:
        return await self.list_as(kind, whole, namespace)

    async def list_as(self, kind: type[R], keep: Callable[[R], T], namespace: str | None = None) -> ResourceList[T]:
        known = kind_of(kind)
        for _ in range(_LIST_ATTEMPTS):
            try:
                return await self._listed(known, keep, namespace)
            except RevisionCompacted:  # between two pages: begin anew at the present revision
                continue
        raise StoreUnavailable(f"{self._connection.address} is compacted faster than a list of {known.plural} takes")

    async def get(self, kind: type[R], name: str, namespace: str = "") -> R:
        key = ResourceKey(kind_of(kind).name, namespace, name)
        (found,) = await self._transactions.read([key])
        return _present(kind, key, found)

    async def create(self, resource: R) -> R:
        uid, now = str(uuid.uuid4()), self._clock()

        def decide(held: Resources, services: ServiceAdmission) -> Resources:
            if held[0] is not None:
                raise AlreadyExists(f"{resource.key} exists already")
            return [admission.created(services.admit(None, resource), uid=uid, now=now)]

        _, (after,) = await self._admitted([resource.key], decide, expect_nothing=True)
        return cast("R", after)

    async def replace(self, resource: R) -> R:
        key = resource.key

        def decide(held: Resources, services: ServiceAdmission) -> Resources:
            stored = _present(type(resource), key, held[0])
            return [admission.replaced(stored, services.admit(stored, resource))]

        _, (after,) = await self._admitted([key], decide)
        return cast("R", after)

    async def patch_status(self, kind: type[R], name: str, namespace: str, patch: Mapping[str, Any]) -> R:
        key = ResourceKey(kind_of(kind).name, namespace, name)
        return await self._change(key, lambda found: admission.status_patched(_present(kind, key, found), patch))

    async def delete(self, kind: type[Resource], name: str, namespace: str = "", *, resource_version: str = "") -> None:
        key = ResourceKey(kind_of(kind).name, namespace, name)

        def decide(held: Resources) -> Resources:
            if held[0] is None:
                raise NotFound(f"{key} does not exist")
            if not isinstance(held[0], Unreadable):
                admission.check_deletable(held[0], resource_version)
            return [None]

        await self._transactions.change([key], decide)

    async def apply(self, resources: Sequence[Resource]) -> Sequence[Applied[Resource]]:
        """Creates or replaces each; all or nothing up to 128 resources and 1 MiB.

        More are checked all before any is written, then written in parts that are each all or nothing; an error tells
        how many were kept before it.
        """
        admission.refuse_doubles([resource.key for resource in resources])
        for resource in resources:
            validate(resource)
        parts = list(_parts(resources))
        if len(parts) > 1:
            for part in parts:
                await self._check(part)
        applied: list[Applied[Resource]] = []
        for part in parts:
            keys = [resource.key for resource in part]
            try:
                before, after = await self._admitted(keys, self._replacements(part))
            except StoreError as error:
                raise _after_parts(error, len(applied), len(resources)) from error
            applied += map(_applied, before, after)
        return applied

    async def delete_all(self, keys: Sequence[ResourceKey]) -> Sequence[ResourceKey]:
        """Deletes those that exist and returns which did; all or nothing for each 128 of them."""
        deleted: list[ResourceKey] = []
        distinct = list(dict.fromkeys(keys))
        for start in range(0, len(distinct), MAX_OPERATIONS):
            part = distinct[start : start + MAX_OPERATIONS]
            try:
                before, _ = await self._transactions.change(part, lambda held: [None] * len(held))
            except StoreError as error:
                raise _after_parts(error, start, len(distinct)) from error
            deleted += [key for key, resource in zip(part, before, strict=True) if resource is not None]
        return deleted

    async def watch(self, kind: type[R], from_version: str) -> AsyncGenerator[WatchEvent[R] | Unreadable, None]:
        known, version = kind_of(kind), admission.version_number(from_version)
        async with aclosing(self._watches.events(self._keyspace.span(known.name), version)) as events:
            async for event in events:
                yield _watch_event(known, event)

    async def close(self) -> None:
        self._connection.closed = True
        await self._watches.close()
        await self._connection.close()

    async def _listed(self, kind: Kind[R], keep: Callable[[R], T], namespace: str | None) -> ResourceList[T]:
        first, end = self._keyspace.span(kind.name, namespace)
        kept: list[tuple[str, str, T]] = []
        unreadable: list[Unreadable] = []
        revision = 0
        while True:
            request = etcd.RangeRequest(key=first, range_end=end, limit=PAGE, revision=revision)
            page = await self._connection.range(request, self._connection.deadline())
            revision = revision or page.header.revision
            for found in (decoded(kind, pair) for pair in page.kvs):
                if isinstance(found, Unreadable):
                    unreadable.append(found)
                else:
                    kept.append((found.metadata.namespace, found.metadata.name, keep(found)))
            if not page.more:
                break
            first = page.kvs[-1].key + b"\0"
            await asyncio.sleep(0)
        kept.sort(key=lambda each: each[:2])  # keys sort "a-b/x" before "a/x"
        return ResourceList(tuple(item for *_, item in kept), str(revision), tuple(unreadable))

    async def _change(self, key: ResourceKey, decide: Callable[[Found], R], *, expect_nothing: bool = False) -> R:
        _, (after,) = await self._transactions.change(
            [key], lambda held: [decide(held[0])], expect_nothing=expect_nothing
        )
        return cast("R", after)

    async def _check(self, resources: Sequence[Resource]) -> None:
        """Raises what is wrong with them, and writes nothing."""
        held = await self._transactions.read([resource.key for resource in resources])
        decide = self._replacements(resources)
        try:
            decide(held, _nothing_known())
        except _ServicesNeeded:
            known = await self._known_services()
            decide(held, ServiceAdmission(lambda: known))

    async def _admitted(
        self,
        keys: Sequence[ResourceKey],
        decide: Callable[[Resources, ServiceAdmission], Resources],
        *,
        expect_nothing: bool = False,
    ) -> tuple[Resources, Resources]:
        """Changes resources; all Services are read only if one of these must be given something."""
        with contextlib.suppress(_ServicesNeeded):
            return await self._transactions.change(
                keys, lambda held: decide(held, _nothing_known()), expect_nothing=expect_nothing
            )
        while True:
            witness = await self._transactions.witness(self._keyspace.service_witness)
            with contextlib.suppress(WitnessMoved):
                knowing = partial(_decide_knowing, decide, await self._known_services())
                return await self._transactions.change(keys, knowing, witness=witness)

    async def _known_services(self) -> KnownServices:
        services, cidrs = await self.list(Service), await self.list(ServiceCIDR)
        return KnownServices.of(services.items, cidrs.items)

    def _replacements(self, resources: Sequence[Resource]) -> Callable[[Resources, ServiceAdmission], Resources]:
        uids = [str(uuid.uuid4()) for _ in resources]
        now = self._clock()

        def decide(held: Resources, services: ServiceAdmission) -> Resources:
            return [
                admission.created(services.admit(None, resource), uid=uid, now=now)
                if there is None
                else admission.replaced(readable(there), services.admit(readable(there), resource))
                for there, resource, uid in zip(held, resources, uids, strict=True)
            ]

        return decide


class _ServicesNeeded(Exception):
    """What is to be written depends on all Services."""


def _decide_knowing(
    decide: Callable[[Resources, ServiceAdmission], Resources], known: KnownServices, held: Resources
) -> Resources:
    return decide(held, ServiceAdmission(lambda: known))


def _nothing_known() -> ServiceAdmission:
    def known() -> KnownServices:
        raise _ServicesNeeded

    return ServiceAdmission(known)


def _present(_kind: type[R], key: ResourceKey, found: Found) -> R:
    if found is None:
        raise NotFound(f"{key} does not exist")
    return cast("R", readable(found))


def _parts(resources: Sequence[Resource]) -> Iterator[list[Resource]]:
    """The resources in order, as many at a time as one transaction takes; Services leave room for their witness."""
    most = MAX_OPERATIONS - any(isinstance(resource, Service) for resource in resources)
    part: list[Resource] = []
    size = 0
    for resource in resources:
        more = len(encode_json(resource))
        if part and (len(part) == most or size + more > MAX_TRANSACTION_BYTES):
            yield part
            part, size = [], 0
        part.append(resource)
        size += more
    if part:
        yield part


def _applied(before: Found, after: Found) -> Applied[Resource]:
    assert isinstance(after, Resource)
    if before is None:
        return Applied("created", after)
    return Applied("unchanged" if after is before else "configured", after)


def _after_parts(error: StoreError, done: int, count: int) -> StoreError:
    return type(error)(f"{error}; the first {done} of {count} are done already") if done else error


def _watch_event(kind: Kind[R], event: etcd.Event) -> WatchEvent[R] | Unreadable:
    pair = event.kv
    if event.type == etcd.Event.PUT:
        now = decoded(kind, pair)
        if isinstance(now, Unreadable):
            return now
        return WatchEvent("ADDED" if pair.create_revision == pair.mod_revision else "MODIFIED", now)
    if not event.prev_kv.key:
        raise WatchExpired(
            f"{pair.key.decode(errors='replace')} was deleted, and what it held was compacted away: list again"
        )
    last = decoded(kind, event.prev_kv, version=pair.mod_revision)
    if isinstance(last, Unreadable):
        raise WatchExpired(f"{last.key}, which could not be read, was deleted: list again")
    return WatchEvent("DELETED", last)

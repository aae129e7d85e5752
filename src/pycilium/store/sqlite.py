"""The embedded store: the Store protocol over one SQLite file. Past one machine use another backend.

Blocking work runs on two threads, one that reads and one that writes, so that the loop never waits for a disk or a
lock. A watch reads the log of changes when a writer (of any process) wakes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from pycilium.errors import (
    AlreadyExists,
    InvalidResource,
    NotFound,
    StoreUnavailable,
    WatchExpired,
)
from pycilium.model.resources import (
    Kind,
    Resource,
    ResourceKey,
    decode_stored,
    encode_json,
    kind_of,
)
from pycilium.model.resources.kinds import kind_for_word
from pycilium.store import admission
from pycilium.store.kind_news import KindNews, Newest
from pycilium.store.protocol import Applied, ResourceList, Unreadable, WatchEvent, readable, whole
from pycilium.store.service_admission import ServiceAdmission
from pycilium.store.service_ledger import ServiceLedger
from pycilium.store.sqlite_file import ChangeBatch, ChangeRow, EventType, LogNews, Pages, SqliteFile, Transaction
from pycilium.store.wakeups import Wakeups

R = TypeVar("R", bound=Resource)
T = TypeVar("T")

DEFAULT_HISTORY = 10_000
"""How many changes are kept for watches at the least; at the most twice as many."""


class SqliteStore:
    """A Store in one file, for one machine.

    Args:
        path: the file; made, with its folder, if it is not there.
        history: how many changes watches may lag behind.
        lock_timeout_s: how long to wait for another process's write.
        clock: the time for creation timestamps.
    """

    def __init__(
        self,
        path: Path,
        *,
        history: int = DEFAULT_HISTORY,
        lock_timeout_s: float = 5.0,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._file = SqliteFile(path, history=history, lock_timeout_s=lock_timeout_s)
        self._clock = clock
        self._news = KindNews(Wakeups(path), self._newest)
        self._services = ServiceLedger()
        self._reader = ThreadPoolExecutor(1, "store-reader")
        self._writer = ThreadPoolExecutor(1, "store-writer")
        self._closed = False

    async def list(self, kind: type[R], namespace: str | None = None) -> ResourceList[R]:
        return await self.list_as(kind, whole, namespace)

    async def list_as(self, kind: type[R], keep: Callable[[R], T], namespace: str | None = None) -> ResourceList[T]:
        known = kind_of(kind)
        pages = await self._run(self._reader, lambda: self._file.pages(known.name, namespace))

        def read() -> list[R | Unreadable]:
            return [_decoded(known, row.body, row.namespace, row.name) for row in pages.read()]

        items: list[T] = []
        unreadable: list[Unreadable] = []
        try:
            while page := await self._run(self._reader, read):
                for found in page:
                    if isinstance(found, Unreadable):
                        unreadable.append(found)
                    else:
                        items.append(keep(found))
        finally:
            await self._finish(pages)
        return ResourceList(tuple(items), str(pages.version), tuple(unreadable))

    async def get(self, kind: type[R], name: str, namespace: str = "") -> R:
        def found() -> R:
            known = kind_of(kind)
            key = ResourceKey(known.name, namespace, name)
            body = self._file.read(key)
            if body is None:
                raise NotFound(f"{key} does not exist")
            return readable(_decoded(known, body, namespace, name))

        return await self._run(self._reader, found)

    async def create(self, resource: R) -> R:
        return await self._write_admitted(partial(self._create, resource=resource))

    async def replace(self, resource: R) -> R:
        return await self._write_admitted(partial(self._replace, resource=resource))

    async def patch_status(self, kind: type[R], name: str, namespace: str, patch: Mapping[str, Any]) -> R:
        def patched(transaction: Transaction) -> R:
            stored = self._present(transaction, kind_of(kind), namespace, name)
            return self._keep(transaction, stored, admission.status_patched(stored, patch))

        return await self._write(patched)

    async def delete(self, kind: type[Resource], name: str, namespace: str = "", *, resource_version: str = "") -> None:
        def deleted(transaction: Transaction) -> None:
            key = ResourceKey(kind_of(kind).name, namespace, name)
            stored = self._found(transaction, kind_of(kind), namespace, name)
            if stored is None:
                raise NotFound(f"{key} does not exist")
            if not isinstance(stored, Unreadable):
                admission.check_deletable(stored, resource_version)
            self._delete(transaction, key, stored)

        await self._write(deleted)

    async def apply(self, resources: Sequence[Resource]) -> Sequence[Applied[Resource]]:
        admission.refuse_doubles([resource.key for resource in resources])

        def applied(transaction: Transaction, services: ServiceAdmission) -> list[Applied[Resource]]:
            return [self._apply(transaction, services, resource) for resource in resources]

        return await self._write_admitted(applied)

    async def delete_all(self, keys: Sequence[ResourceKey]) -> Sequence[ResourceKey]:
        def deleted(transaction: Transaction) -> list[ResourceKey]:
            existed = []
            for key in keys:
                stored = self._found(transaction, kind_for_word(key.kind), key.namespace, key.name)
                if stored is not None:
                    self._delete(transaction, key, stored)
                    existed.append(key)
            return existed

        return await self._write(deleted)

    async def watch(self, kind: type[R], from_version: str) -> AsyncGenerator[WatchEvent[R] | Unreadable, None]:
        known, version = kind_of(kind), admission.version_number(from_version)

        def changed() -> tuple[Sequence[WatchEvent[R] | Unreadable], ChangeBatch]:
            batch = self._file.changes(known.name, version)
            return [_event(known, row) for row in batch.rows], batch

        with self._news.subscribed(known.name, version) as sleeper:
            told: Sequence[WatchEvent[R] | Unreadable] | None = None
            while True:
                if told is None:
                    sleeper.wake.clear()
                    events, batch = await self._run(self._reader, changed)
                    version, more = batch.up_to, batch.more
                else:
                    events, more = told, False
                for event in events:
                    yield event
                version, told = (version, None) if more else await sleeper.sleep(version)

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._news.wake_all()
            await asyncio.to_thread(self._shut_down)

    async def _newest(self, after: int, kinds: Sequence[str]) -> Newest:
        return await self._run(self._reader, lambda: _news(self._file.newest(after, kinds)))

    async def _finish(self, pages: Pages) -> None:
        """After what the reader is at with them, if this was cancelled meanwhile."""
        try:
            await asyncio.get_running_loop().run_in_executor(self._reader, pages.close)
        except RuntimeError:  # the store was closed, and the reader with it
            pages.close()

    def _shut_down(self) -> None:
        self._reader.shutdown()
        self._writer.shutdown()
        self._file.close()

    async def _write(self, change: Callable[[Transaction], T]) -> T:
        return await self._run(self._writer, lambda: self._file.write(change))

    async def _write_admitted(self, change: Callable[[Transaction, ServiceAdmission], T]) -> T:
        """Of what may be Services: they get what they need."""

        def admitted() -> T:
            with self._services.transaction():
                return self._file.write(lambda transaction: change(transaction, self._services.admission(transaction)))

        return await self._run(self._writer, admitted)

    async def _run(self, executor: ThreadPoolExecutor, call: Callable[[], T]) -> T:
        if self._closed:
            raise StoreUnavailable(f"{self._file.path} is closed")
        return await asyncio.get_running_loop().run_in_executor(executor, call)

    def _create(self, transaction: Transaction, services: ServiceAdmission, resource: R) -> R:
        if transaction.read(resource.key) is not None:
            raise AlreadyExists(f"{resource.key} exists already")
        resource = services.admit(None, resource)
        fresh = admission.created(resource, uid=str(uuid.uuid4()), now=self._clock())
        return _keep(transaction, "ADDED", fresh)

    def _replace(self, transaction: Transaction, services: ServiceAdmission, resource: R) -> R:
        metadata = resource.metadata
        stored = self._present(transaction, kind_of(resource), metadata.namespace, metadata.name)
        return self._keep(transaction, stored, admission.replaced(stored, services.admit(stored, resource)))

    def _apply(self, transaction: Transaction, services: ServiceAdmission, resource: Resource) -> Applied[Resource]:
        metadata = resource.metadata
        stored = self._stored(transaction, kind_of(resource), metadata.namespace, metadata.name)
        if stored is None:
            return Applied("created", self._create(transaction, services, resource))
        kept = self._keep(transaction, stored, admission.replaced(stored, services.admit(stored, resource)))
        return Applied("unchanged" if kept is stored else "configured", kept)

    def _keep(self, transaction: Transaction, stored: R, resource: R) -> R:
        return stored if resource is stored else _keep(transaction, "MODIFIED", resource)

    def _delete(self, transaction: Transaction, key: ResourceKey, stored: Resource | Unreadable) -> None:
        if isinstance(stored, Unreadable):
            transaction.write(key, "DELETED", b"")  # what is left of it helps nobody
        else:
            _keep(transaction, "DELETED", stored)

    def _present(self, transaction: Transaction, kind: Kind[R], namespace: str, name: str) -> R:
        stored = self._stored(transaction, kind, namespace, name)
        if stored is None:
            raise NotFound(f"{ResourceKey(kind.name, namespace, name)} does not exist")
        return stored

    def _stored(self, transaction: Transaction, kind: Kind[R], namespace: str, name: str) -> R | None:
        found = self._found(transaction, kind, namespace, name)
        return None if found is None else readable(found)

    def _found(self, transaction: Transaction, kind: Kind[R], namespace: str, name: str) -> R | Unreadable | None:
        body = transaction.read(ResourceKey(kind.name, namespace, name))
        return None if body is None else _decoded(kind, body, namespace, name)


def _decoded(kind: Kind[R], body: bytes, namespace: str, name: str) -> R | Unreadable:
    try:
        return decode_stored(kind, body)
    except InvalidResource as error:
        return Unreadable(ResourceKey(kind.name, namespace, name), error.reason)


def _event(kind: Kind[R], row: ChangeRow) -> WatchEvent[R] | Unreadable:
    """The change that a row tells of; WatchExpired if it does not even say of what."""
    try:
        return WatchEvent(row.type, decode_stored(kind, row.body))
    except InvalidResource as error:
        key = _key_in(kind.name, row.body)
        if key is None or row.type == "DELETED":
            raise WatchExpired(f"change {row.version} of a {kind.name} cannot be read: list again") from error
        return Unreadable(key, error.reason)


def _news(found: LogNews) -> Newest:
    """What the log says, with each change as the event that it is."""
    of_kinds = dict(found.of_kinds)
    rows: defaultdict[str, list[ChangeRow]] = defaultdict(list)
    for kind, row in found.rows:
        of_kinds[kind] = row.version
        rows[kind].append(row)
    events = {}
    for kind, changes in rows.items():
        known = kind_for_word(kind)
        with contextlib.suppress(WatchExpired):  # its watch finds out by itself
            events[kind] = [_event(known, row) for row in changes]
    return Newest(found.version, found.compacted, of_kinds, events)


def _key_in(kind: str, body: bytes) -> ResourceKey | None:
    """The name in a body that is no resource of ours, if it has one."""
    try:
        metadata = msgspec.json.decode(body, type=_Named).metadata
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return ResourceKey(kind, metadata.namespace, metadata.name)


class _NameParts(msgspec.Struct):
    name: str
    namespace: str = ""


class _Named(msgspec.Struct):
    metadata: _NameParts


def _keep(transaction: Transaction, event: EventType, resource: R) -> R:
    """Writes `resource` at the transaction's next version and returns it with that version."""
    kept = resource.with_metadata(resource_version=str(transaction.version + 1))
    transaction.write(resource.key, event, encode_json(kept))
    return kept

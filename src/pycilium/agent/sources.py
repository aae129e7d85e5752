"""From the store into the intent tables: one source per kind, list and then watch, for ever.

A source only writes what it saw. It lists, replaces what it owns in its table, then follows the watch; an expired
watch or a store that went away means: list again, later if need be. Until then the tables, and with them the kernel,
keep what was last known. `synced` is set once the first list has been taken in; the agent programs nothing before
every source is synced, so that a restart never takes an empty intent for the truth.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import structlog

from pycilium.errors import InvalidResource, StoreError
from pycilium.model.resources import Resource
from pycilium.store import ResourceList, Store, WatchEvent, follow
from pycilium.tables import Database, Table

R = TypeVar("R", bound=Resource)
T = TypeVar("T")
log = structlog.get_logger()

RETRY_FIRST_S, RETRY_MOST_S = 0.2, 10.0


@dataclass(slots=True)
class Source(Generic[R, T]):
    """One kind of resource and the table that it fills."""

    kind: type[R]
    table: Table[T]
    convert: Callable[[R], T]
    """The table's object for a resource; InvalidResource sets the resource aside, named, without touching others."""
    key: Callable[[R], Hashable]
    """The table's key for a resource, also one that cannot be converted."""
    owns: Callable[[T], bool] = lambda _: True
    """Which objects of the table come from here, where several sources share one."""
    synced: asyncio.Event = field(default_factory=asyncio.Event)
    rejected: dict[Hashable, str] = field(default_factory=dict)
    """Resources that could not be converted, with the reason: shown by status."""
    error: str = ""
    """Why the store cannot be read just now; empty while it can."""

    async def run(self, store: Store, db: Database) -> None:
        """Keep the table true to the store until cancelled."""
        delay = RETRY_FIRST_S
        while True:
            try:
                async for step in follow(store, self.kind):
                    if isinstance(step, ResourceList):
                        self._replace(db, step.items)
                        self.error, delay = "", RETRY_FIRST_S
                        self.synced.set()
                    else:
                        self._apply(db, step)
                    del step  # the next one may be long in coming
            except StoreError as error:
                if not self.error:
                    log.warning("store cannot be read", kind=self.kind.__name__, error=str(error))
                self.error = str(error)
            await asyncio.sleep(delay)
            delay = min(delay * 2, RETRY_MOST_S)

    def _replace(self, db: Database, resources: Sequence[R]) -> None:
        wanted = {self.key(resource) for resource in resources}
        self.rejected = {key: why for key, why in self.rejected.items() if key in wanted}
        converted = [made for made in map(self._convert, resources) if made is not None]
        with db.write() as txn:
            for key in [self.table.key(obj) for obj in txn.all(self.table) if self.owns(obj)]:
                if key not in wanted:
                    txn.delete(self.table, key)
            for obj in converted:
                txn.insert(self.table, obj)

    def _apply(self, db: Database, event: WatchEvent[R]) -> None:
        resource = event.object
        if event.type == "DELETED":
            self.rejected.pop(self.key(resource), None)
            with db.write() as txn:
                known = txn.get(self.table, self.key(resource))
                if known is not None and self.owns(known):
                    txn.delete(self.table, self.key(resource))
            return
        converted = self._convert(resource)
        if converted is not None:
            with db.write() as txn:
                txn.insert(self.table, converted)

    def _convert(self, resource: R) -> T | None:
        """What the table should hold. A resource that turned invalid keeps its last valid form: nothing is lost."""
        key = self.key(resource)
        try:
            converted = self.convert(resource)
        except InvalidResource as error:
            if self.rejected.get(key) != str(error):
                log.warning("resource set aside", kind=self.kind.__name__, key=str(key), reason=str(error))
            self.rejected[key] = str(error)
            return None
        self.rejected.pop(key, None)
        return converted

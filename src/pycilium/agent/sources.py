"""From the store into the intent tables: one source per kind, list and then watch, for ever.

A source only writes what it saw. It lists, replaces what it owns in its table, then follows the watch; an expired
watch or a store that went away means: list again, later if need be, and what is unchanged in the new list is no change
of the table. Until then the tables, and with them the kernel, keep what was last known. `synced` is set once the first
list has been taken in; the agent programs nothing before every source is synced, so that a restart never takes an empty
intent for the truth.

One resource that cannot be read or converted is set aside by its name; whatever was last known of it stays. Of each
resource only what the tables keep is in memory: a list is converted while it is read, and taken in when it is whole.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

import structlog

from pycilium.errors import InvalidResource, StoreError
from pycilium.model.resources import Resource, ResourceKey
from pycilium.store import ResourceList, Store, Unreadable, WatchEvent, follow_as
from pycilium.tables import Database, Table, WriteTransaction

R = TypeVar("R", bound=Resource)
T = TypeVar("T")
log = structlog.get_logger()

RETRY_FIRST_S, RETRY_MOST_S = 0.2, 10.0


def retry_delay_s(longest_s: float) -> float:
    """Up to `longest_s`, by chance: thousands of agents must not come back to a store in the same instant."""
    return longest_s * random.uniform(0.5, 1.0)  # noqa: S311  no secret


class Converted(NamedTuple):
    """What a resource is to a table: an object, nothing, or a problem."""

    key: Hashable
    object: Any | None
    problem: str = ""


@dataclass(slots=True)
class Source(Generic[R, T]):
    """One kind of resource and the table that it fills."""

    kind: type[R]
    table: Table[T]
    convert: Callable[[R], T | None]
    """The table's object for a resource, None if it has none; InvalidResource sets the resource aside, named."""
    key: Callable[[ResourceKey], Hashable] = lambda key: key
    """The table's key for a resource, also one that cannot be read or converted."""
    owns: Callable[[T], bool] = lambda _: True
    """Which objects of the table come from here, where several sources share one."""
    beside: tuple[Source[R, Any], ...] = ()
    """Sources of the same kind that fill other tables from this one's watch."""
    synced: asyncio.Event = field(default_factory=asyncio.Event)
    rejected: dict[Hashable, str] = field(default_factory=dict)
    """Resources that could not be converted, with the reason: shown by status."""
    error: str = ""
    """Why the store cannot be read just now; empty while it can."""
    listed: Callable[[], None] = lambda: None
    """Called when a whole list has been taken in: what changed before it may never have been seen."""

    async def run(self, store: Store, db: Database) -> None:
        """Keep the table true to the store until cancelled."""
        delay = RETRY_FIRST_S
        while True:
            try:
                async for step in follow_as(store, self.kind, self.convert_for_all):
                    self.take_in(db, step)
                    if isinstance(step, ResourceList):
                        self.error, delay = "", RETRY_FIRST_S
                        self.synced.set()
                        self.listed()
                    del step  # the next one may be long in coming
            except StoreError as error:
                if not self.error:
                    log.warning("store cannot be read", kind=self.kind.__name__, error=str(error))
                self.error = str(error)
            await asyncio.sleep(retry_delay_s(delay))
            delay = min(delay * 2, RETRY_MOST_S)

    def convert_for_all(self, resource: R) -> tuple[Converted, ...]:
        """What a resource is to this source's table and to those beside it."""
        return tuple(each.converted(resource) for each in (self, *self.beside))

    def converted(self, resource: R) -> Converted:
        """What a resource is to this source's table alone."""
        key = self.key(resource.key)
        try:
            return Converted(key, self.convert(resource))
        except InvalidResource as error:
            return Converted(key, None, str(error))

    def take_in(self, db: Database, step: ResourceList[tuple[Converted, ...]] | WatchEvent[R] | Unreadable) -> None:
        """What the store told, here and beside: all there is, or one change."""
        for place, each in enumerate((self, *self.beside)):
            if isinstance(step, ResourceList):
                each.replace(db, [converted[place] for converted in step.items], step.unreadable)
            else:
                each.apply(db, step)

    def replace(self, db: Database, listed: Sequence[Converted], unreadable: Sequence[Unreadable]) -> None:
        """Make these all that the table has from here."""
        wanted = {found.key for found in listed}
        wanted |= {self.key(each.key) for each in unreadable}
        self.rejected = {key: why for key, why in self.rejected.items() if key in wanted}
        for each in unreadable:
            self._set_aside(self.key(each.key), str(each))
        with db.write() as txn:
            for key in [self.table.key(obj) for obj in txn.all(self.table) if self.owns(obj)]:
                if key not in wanted:
                    txn.delete(self.table, key)
            for found in listed:
                self._take(txn, found)

    def apply(self, db: Database, event: WatchEvent[R] | Unreadable) -> None:
        """Take in one change."""
        if isinstance(event, Unreadable):
            self._set_aside(self.key(event.key), str(event))
            return
        with db.write() as txn:
            if event.type == "DELETED":
                key = self.key(event.object.key)
                self.rejected.pop(key, None)
                self._drop(txn, key)
            else:
                self._take(txn, self.converted(event.object))

    def _take(self, txn: WriteTransaction, found: Converted) -> None:
        """Put into the table what a resource says. One that turned invalid keeps its last valid form."""
        if found.problem:
            self._set_aside(found.key, found.problem)
            return
        self.rejected.pop(found.key, None)
        if found.object is None:
            self._drop(txn, found.key)
        else:
            txn.insert(self.table, found.object)

    def _drop(self, txn: WriteTransaction, key: Hashable) -> None:
        known = txn.get(self.table, key)
        if known is not None and self.owns(known):
            txn.delete(self.table, key)

    def _set_aside(self, key: Hashable, reason: str) -> None:
        if self.rejected.get(key) != reason:
            log.warning("resource set aside", kind=self.kind.__name__, key=str(key), reason=reason)
        self.rejected[key] = reason

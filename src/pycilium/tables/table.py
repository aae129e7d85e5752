"""One table's definition and one table's content.

A `Table` is a name with a key function and index functions; it holds nothing. A `TableState` is the content at one
revision and never changes: the next one shares all of its structure but the path to what changed.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from immutables import Map

if TYPE_CHECKING:
    from pycilium.tables.changes import Changes
    from pycilium.tables.database import Database

T = TypeVar("T")

Objects = Map[Hashable, Any]
"""Key → object."""
Index = Map[Hashable, Objects]
"""Value → the objects that have it, by key."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Table(Generic[T]):
    """A handle to a table of a database; made by `Database.table`."""

    name: str
    key: Callable[[T], Hashable]
    indexes: Mapping[str, Callable[[T], Iterable[Hashable]]]
    database: Database

    def changes(self, *, from_start: bool = True) -> Changes[T]:
        """A reader of this table's changes, told of every object that is there now if `from_start`."""
        return self.database.follow(self, from_start=from_start)

    def __repr__(self) -> str:
        return f"<table {self.name}>"


@dataclass(frozen=True, slots=True)
class TableState:
    """A table's content. `revision` is that of the commit that changed it last, 0 if none did."""

    objects: Objects
    indexes: Mapping[str, Index]
    revision: int = 0


def empty_state(table: Table[Any]) -> TableState:
    return TableState(Map(), {name: Map() for name in table.indexes})


class View:
    """Reading tables, from a snapshot or within a write transaction. The order of objects means nothing."""

    def _state(self, table: Table[Any]) -> TableState:
        raise NotImplementedError

    def get(self, table: Table[T], key: Hashable) -> T | None:
        found: T | None = self._state(table).objects.get(key)
        return found

    def all(self, table: Table[T]) -> Iterator[T]:
        return iter(self._state(table).objects.values())

    def by(self, table: Table[T], index: str, value: Hashable) -> Iterator[T]:
        """The objects for which the index function gave `value`, each once."""
        found: Objects | None = self._state(table).indexes[index].get(value)
        return iter(found.values() if found is not None else ())

    def count(self, table: Table[Any]) -> int:
        return len(self._state(table).objects)

    def revision(self, table: Table[Any]) -> int:
        """The revision of the commit that changed the table last, 0 if none did."""
        return self._state(table).revision

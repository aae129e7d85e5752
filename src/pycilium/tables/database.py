"""The database: all tables of one process, their revisions, snapshots and write transactions.

    with db.write() as txn:                     one commit, one revision, all or nothing
        txn.insert(pods, Pod(...))
    snapshot = db.snapshot()                    constant time; stays as it is for as long as it is kept
    for change in pods_changes.drain(): ...     what is new since the last time

Objects must be frozen: a table hands out the very object that was put in. Nothing here awaits, locks or does I/O; a
write transaction is a plain block without `await`, so no other writer can come between. By the house's rule each table
has one module that writes it.

Invariant: a snapshot is what the commits up to its revision made, wholly; no reader sees half a commit.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from immutables import Map, MapMutation

from pycilium.tables.changes import Changes
from pycilium.tables.table import Objects, Table, TableState, View, empty_state

T = TypeVar("T")

_States = Map[str, TableState]
_NO_OBJECTS: Objects = Map()


class Snapshot(View):
    """All tables at one revision."""

    def __init__(self, states: _States, at_revision: int) -> None:
        self._states = states
        self.at_revision = at_revision

    def _state(self, table: Table[Any]) -> TableState:
        return self._states[table.name]

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name}: {len(state.objects)}" for name, state in sorted(self._states.items()))
        return f"<snapshot at {self.at_revision}: {sizes}>"


class WriteTransaction(View):
    """What one `with db.write()` block does. It reads its own writes; nobody else does before the commit."""

    def __init__(self, states: _States) -> None:
        self._states = states
        self._working: dict[str, _Working] = {}

    def get(self, table: Table[T], key: Hashable) -> T | None:
        working = self._working.get(table.name)
        found: T | None = (working or self._states[table.name]).objects.get(key)
        return found

    def insert(self, table: Table[T], obj: T) -> T | None:
        """Puts `obj` under its key and returns what was there. An equal object there is left, and is no change."""
        key = table.key(obj)
        old = self.get(table, key)
        if old is None or old != obj:
            self._work_on(table).replace(table, key, old, obj)
        return old

    def delete(self, table: Table[T], key: Hashable) -> T | None:
        """Removes what is under `key` and returns it; None if there is nothing."""
        old = self.get(table, key)
        if old is not None:
            self._work_on(table).replace(table, key, old, None)
        return old

    def replace_all(self, table: Table[T], objs: Iterable[T]) -> None:
        """Makes `objs` the whole content of the table."""
        kept = {table.key(obj): obj for obj in objs}
        for key in [key for key in self._state(table).objects if key not in kept]:
            self.delete(table, key)
        for obj in kept.values():
            self.insert(table, obj)

    def changed(self) -> Mapping[str, _Working]:
        """The tables that were written to. For the database alone."""
        return self._working

    def _state(self, table: Table[Any]) -> TableState:
        working = self._working.get(table.name)
        return working.state() if working is not None else self._states[table.name]

    def _work_on(self, table: Table[Any]) -> _Working:
        working = self._working.get(table.name)
        if working is None:
            working = self._working[table.name] = _Working(self._states[table.name])
        return working


class _Working:
    """One table within a transaction: maps that change in place until somebody looks at them as a whole."""

    def __init__(self, state: TableState) -> None:
        self._revision = state.revision
        self.objects = state.objects.mutate()
        self._indexes = {name: index.mutate() for name, index in state.indexes.items()}
        self.replaced: dict[Hashable, Any] = {}
        """Each changed key and what was there before the transaction."""

    def replace(self, table: Table[Any], key: Hashable, old: Any, new: Any) -> None:
        if new is None:
            del self.objects[key]
        else:
            self.objects[key] = new
        for name, values_of in table.indexes.items():
            _reindex(self._indexes[name], key, old, new, values_of)
        self.replaced.setdefault(key, old)

    def state(self, revision: int | None = None) -> TableState:
        objects = self.objects.finish()
        indexes = {name: index.finish() for name, index in self._indexes.items()}
        self.objects = objects.mutate()
        self._indexes = {name: index.mutate() for name, index in indexes.items()}
        return TableState(objects, indexes, self._revision if revision is None else revision)


class Database:
    """All tables of one process; the composition root makes it and hands it down."""

    def __init__(self) -> None:
        self._tables: dict[str, Table[Any]] = {}
        self._states: _States = Map()
        self._revision = 0
        self._writing = False
        self._followers: dict[str, list[weakref.ref[Changes[Any]]]] = {}
        self._on_commit: list[Callable[[frozenset[str]], None]] = []

    @property
    def revision(self) -> int:
        """The number of commits that changed something."""
        return self._revision

    @property
    def tables(self) -> Mapping[str, Table[Any]]:
        return self._tables

    def table(
        self,
        name: str,
        *,
        key: Callable[[T], Hashable],
        indexes: Mapping[str, Callable[[T], Iterable[Hashable]]] | None = None,
    ) -> Table[T]:
        """Makes a table. An index function gives all values under which an object shall be found, or none."""
        if name in self._tables:
            raise ValueError(f"there is a table {name} already")
        table = Table(name, key, dict(indexes or {}), self)
        self._tables[name] = table
        self._followers[name] = []
        self._states = self._states.set(name, empty_state(table))
        return table

    def snapshot(self) -> Snapshot:
        return Snapshot(self._states, self._revision)

    @contextmanager
    def write(self) -> Iterator[WriteTransaction]:
        """A write transaction: committed at the end of the block, or undone wholly if the block raises."""
        if self._writing:
            raise RuntimeError("write transactions do not nest")
        self._writing = True
        try:
            txn = WriteTransaction(self._states)
            yield txn
            changed = self._commit(txn)
        finally:
            self._writing = False
        if changed:
            for callback in self._on_commit:
                callback(changed)

    def on_commit(self, callback: Callable[[frozenset[str]], None]) -> None:
        """Calls `callback` with the names of the changed tables after every commit that changed something.

        It is called within the writer's `with` statement and must not raise; it may write itself.
        """
        self._on_commit.append(callback)

    def follow(self, table: Table[T], *, from_start: bool) -> Changes[T]:
        """See `Table.changes`."""
        name = table.name

        def current(key: Hashable) -> T | None:
            found: T | None = self._states[name].objects.get(key)
            return found

        backlog: dict[Hashable, T | None] = dict.fromkeys(self._states[name].objects) if from_start else {}
        changes = Changes(current, backlog)
        followers = self._followers[name]
        followers.append(weakref.ref(changes, followers.remove))
        return changes

    def _commit(self, txn: WriteTransaction) -> frozenset[str]:
        changed = txn.changed()
        if changed:
            self._revision += 1
            for name, working in changed.items():
                self._states = self._states.set(name, working.state(self._revision))
                for follower in tuple(self._followers[name]):  # one may be forgotten meanwhile
                    if (changes := follower()) is not None:
                        changes.note(working.replaced)
        return frozenset(changed)


def _reindex(
    index: MapMutation[Hashable, Objects],
    key: Hashable,
    old: Any,
    new: Any,
    values_of: Callable[[Any], Iterable[Hashable]],
) -> None:
    """Brings `index` up to date after the object under `key` went from `old` to `new`."""
    after = set(values_of(new)) if new is not None else set()
    if old is not None:
        for value in set(values_of(old)) - after:
            left: Objects = index[value].delete(key)
            if left:
                index[value] = left
            else:
                del index[value]
    for value in after:
        index[value] = index.get(value, _NO_OBJECTS).set(key, new)

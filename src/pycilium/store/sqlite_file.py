"""The SQLite file behind the embedded store: its schema, and every statement that is run on it. Blocking.

One file, shared by all processes of a machine (WAL; writers take turns, readers never wait). A row is a resource as
JSON; the log of changes holds what watches need, bounded by `history`. Every foreign error becomes StoreUnavailable
that says what is wrong and what to do.

Invariant: `state.version` is the version of the newest change; `changes` holds every change after `state.compacted`.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from pycilium.errors import PermissionRequired, StoreUnavailable, WatchExpired
from pycilium.model.resources import ResourceKey
from pycilium.store.wakeups import waking_watchers

T = TypeVar("T")

EventType = Literal["ADDED", "MODIFIED", "DELETED"]

APPLICATION_ID = 0x63696C6D
"""Says in the file's header that it is a store of ours."""
SCHEMA_VERSION = 1
FILE_MODE = 0o600
"""Resources are nobody's business but root's: they say who may talk to whom."""
BATCH = 1000
"""How many changes a watch reads at once."""
TOLD_AT_ONCE = 100
"""How many changes are brought along by a look at what changed."""
PAGE = 500
"""How many resources a list reads at once."""

_SCHEMA = """
CREATE TABLE state (only INTEGER PRIMARY KEY CHECK (only = 0), version INTEGER NOT NULL, compacted INTEGER NOT NULL);
INSERT INTO state VALUES (0, 0, 0);
CREATE TABLE resources (
    kind TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (kind, namespace, name)
) WITHOUT ROWID;
CREATE TABLE changes (
    version INTEGER PRIMARY KEY, kind TEXT NOT NULL, type TEXT NOT NULL, body BLOB NOT NULL
);
CREATE INDEX changes_of_kind ON changes (kind, version);
"""


class Row(NamedTuple):
    """A stored resource: its name and its JSON."""

    namespace: str
    name: str
    body: bytes


class ChangeRow(NamedTuple):
    version: int
    type: EventType
    body: bytes


@dataclass(frozen=True, slots=True)
class ChangeBatch:
    """Changes of a kind, and the version up to which there are no others."""

    rows: Sequence[ChangeRow]
    up_to: int
    more: bool = False
    """Whether there may be others after that already."""


@dataclass(frozen=True, slots=True)
class LogNews:
    """The log's version, up to which version it is forgotten, and what changed of some kinds: each change, or of each
    kind the newest if they are many.
    """

    version: int
    compacted: int
    rows: Sequence[tuple[str, ChangeRow]] = ()
    of_kinds: Mapping[str, int] = field(default_factory=dict)


class Transaction:
    """What one write transaction may do; nothing of it is seen before the commit."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        (self.version,) = connection.execute("SELECT version FROM state").fetchone()

    def read(self, key: ResourceKey) -> bytes | None:
        return _read(self._connection, key)

    def read_all(self, kind: str) -> list[Row]:
        """Every resource of a kind, as this transaction sees them."""
        found = self._connection.execute("SELECT namespace, name, body FROM resources WHERE kind = ?", (kind,))
        return [Row(*row) for row in found]

    def changes_since(self, version: int, kinds: Sequence[str]) -> list[ChangeRow] | None:
        """The changes of these kinds after a version, in order, this transaction's too; None if not all are kept."""
        (compacted,) = self._connection.execute("SELECT compacted FROM state").fetchone()
        if not compacted <= version <= self.version:
            return None
        found = self._connection.execute(
            f"SELECT version, type, body FROM changes WHERE kind IN ({', '.join('?' * len(kinds))}) AND version > ? "  # noqa: S608
            "ORDER BY version",
            (*kinds, version),
        )
        return [ChangeRow(*row) for row in found]

    def write(self, key: ResourceKey, event: EventType, body: bytes) -> None:
        """Keeps (or deletes) a resource and logs it as the next version, which `body` must carry."""
        self.version += 1
        if event == "DELETED":
            self._connection.execute("DELETE FROM resources WHERE kind = ? AND namespace = ? AND name = ?", key)
        else:
            self._connection.execute("INSERT OR REPLACE INTO resources VALUES (?, ?, ?, ?)", (*key, body))
        self._connection.execute("INSERT INTO changes VALUES (?, ?, ?, ?)", (self.version, key.kind, event, body))

    def finish(self, history: int) -> None:
        self._connection.execute("UPDATE state SET version = ?", (self.version,))
        (compacted,) = self._connection.execute("SELECT compacted FROM state").fetchone()
        oldest = self.version - history
        if oldest - compacted >= history:  # rarely and much at once, so that it costs little for each write
            self._connection.execute("DELETE FROM changes WHERE version <= ?", (oldest,))
            self._connection.execute("UPDATE state SET compacted = ?", (oldest,))


class Pages:
    """The resources of a kind at one version, read a page at a time over a connection of their own.

    All bodies at once would take memory that a process does not get rid of. Used by one thread at a time.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        errors: Callable[[], AbstractContextManager[None]],
        kind: str,
        namespace: str | None,
    ) -> None:
        self._connection, self._errors = connection, errors
        where, values = ("AND namespace = ?", (kind, namespace)) if namespace is not None else ("", (kind,))
        try:
            connection.execute("BEGIN DEFERRED")
            (self.version,) = connection.execute("SELECT version FROM state").fetchone()
            statement = f"SELECT namespace, name, body FROM resources WHERE kind = ? {where} ORDER BY namespace, name"  # noqa: S608
            self._rows = connection.execute(statement, values)
        except BaseException:
            connection.close()
            raise

    def read(self) -> list[Row]:
        """The next ones; none if that was all."""
        with self._errors():
            return [Row(*row) for row in self._rows.fetchmany(PAGE)]

    def close(self) -> None:
        with suppress(sqlite3.Error):
            self._connection.close()


class SqliteFile:
    """The file, with a connection to read and one to write; each may be used from any thread, one at a time."""

    def __init__(self, path: Path, *, history: int, lock_timeout_s: float) -> None:
        self.path = path
        self._history = history
        self._lock_timeout_s = lock_timeout_s
        self._read_lock, self._write_lock = threading.Lock(), threading.Lock()
        with self._errors():
            _make_private(path)
            self._writer = self._connect()
            try:
                self._reader = self._connect()
                self._prepare()
            except BaseException:
                self.close()
                raise
            self._inode = path.stat().st_ino

    def read(self, key: ResourceKey) -> bytes | None:
        with self._reading() as connection:
            return _read(connection, key)

    def pages(self, kind: str, namespace: str | None) -> Pages:
        """Each resource of a kind, in order, as they are now; some hundreds at a time. To be closed."""
        with self._errors():
            self._check_same_file()
            return Pages(self._connect(), self._errors, kind, namespace)

    def changes(self, kind: str, after: int) -> ChangeBatch:
        """The next changes of a kind after a version; WatchExpired if some of those are no longer kept."""
        with self._reading() as connection:
            version, compacted = connection.execute("SELECT version, compacted FROM state").fetchone()
            if not compacted <= after <= version:
                raise WatchExpired(
                    f"{self.path}: changes are kept from version {compacted} to {version}, and {after} is not among "
                    f"them; list again and watch from there"
                )
            if after == version:
                return ChangeBatch((), version)
            found = connection.execute(
                "SELECT version, type, body FROM changes WHERE kind = ? AND version > ? ORDER BY version LIMIT ?",
                (kind, after, BATCH),
            )
            rows = [ChangeRow(*row) for row in found]
        full = len(rows) == BATCH
        return ChangeBatch(rows, rows[-1].version if full else version, more=full)

    def newest(self, after: int, kinds: Sequence[str]) -> LogNews:
        """What changed of these kinds after a version, as far as that is still kept."""
        with self._reading() as connection:
            version, compacted = connection.execute("SELECT version, compacted FROM state").fetchone()
            among = f"version > ? AND kind IN ({', '.join('?' * len(kinds))})"
            found = connection.execute(
                f"SELECT kind, version, type, body FROM changes NOT INDEXED WHERE {among} ORDER BY version LIMIT ?",  # noqa: S608
                (after, *kinds, TOLD_AT_ONCE + 1),
            ).fetchall()
            if len(found) <= TOLD_AT_ONCE:
                return LogNews(version, compacted, rows=[(kind, ChangeRow(*row)) for kind, *row in found])
            newest = connection.execute(
                f"SELECT kind, max(version) FROM changes WHERE {among} GROUP BY kind",  # noqa: S608
                (after, *kinds),
            )
            return LogNews(version, compacted, of_kinds=dict(newest))

    def write(self, change: Callable[[Transaction], T]) -> T:
        """Runs `change` in a transaction: all of it or, if it raises, nothing."""
        with self._write_lock, self._errors():
            self._check_same_file()
            with waking_watchers(self.path), _transaction(self._writer, "IMMEDIATE"):
                transaction = Transaction(self._writer)
                before = transaction.version
                result = change(transaction)
                if transaction.version != before:
                    transaction.finish(self._history)
            return result

    def close(self) -> None:
        for connection in (getattr(self, "_reader", None), getattr(self, "_writer", None)):
            if connection is not None:
                with suppress(sqlite3.Error):
                    connection.close()

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(
            self.path, timeout=self._lock_timeout_s, isolation_level=None, check_same_thread=False, cached_statements=64
        )

    def _prepare(self) -> None:
        connection = self._writer
        with _transaction(connection, "DEFERRED"):  # one moment: another process may be making the file right now
            (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            (application_id,) = connection.execute("PRAGMA application_id").fetchone()
            (schema_version,) = connection.execute("PRAGMA user_version").fetchone()
        if tables and application_id != APPLICATION_ID:
            raise StoreUnavailable(
                f"{self.path} is another program's database, not a store of resources: name another file"
            )
        if schema_version > SCHEMA_VERSION:
            raise StoreUnavailable(
                f"{self.path} was written by a newer version of pycilium (schema {schema_version}, this one knows "
                f"{SCHEMA_VERSION}): upgrade pycilium, or name another file"
            )
        if tables:
            self._check_intact(connection)
        else:
            self._share(connection)
            _create(connection)
        for each in (self._writer, self._reader):
            each.execute("PRAGMA synchronous = NORMAL")  # in WAL mode a crash of the machine costs no consistency

    def _share(self, connection: sqlite3.Connection) -> None:
        """Switches to WAL mode. SQLite does not wait its turn for this one, so we do."""
        give_up_at = time.monotonic() + self._lock_timeout_s
        while True:
            try:
                (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > give_up_at:
                    raise
                time.sleep(0.005)
            else:
                break
        if mode != "wal":
            raise StoreUnavailable(f"{self.path}: its file system does not let processes share it; name a local one")

    def _check_intact(self, connection: sqlite3.Connection) -> None:
        found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise StoreUnavailable(self._damaged(found))

    def _check_same_file(self) -> None:
        """Writing into a file that was deleted would lose everything in silence."""
        try:
            same = self.path.stat().st_ino == self._inode
        except FileNotFoundError:
            same = False
        if not same:
            raise StoreUnavailable(f"{self.path} was removed or replaced while it was in use: restart what uses it")

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._read_lock, self._errors():
            self._check_same_file()
            with _transaction(self._reader, "DEFERRED"):
                yield self._reader

    def _damaged(self, detail: str) -> str:
        return (
            f"{self.path} is damaged ({detail}): stop what uses it, then restore it from a copy, or remove it together "
            f"with {self.path.name}-wal and {self.path.name}-shm and apply your resources again"
        )

    def _full(self) -> str:
        return f"{self.path}: no space left on its file system: nothing was changed; free some space and try again"

    def _disk_is_full(self) -> bool:
        with suppress(OSError):
            return os.statvfs(self.path.parent).f_bavail == 0
        return False

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Maps what SQLite and the file system raise."""
        try:
            yield
        except sqlite3.Error as error:
            raise StoreUnavailable(self._explained(error)) from error
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StoreUnavailable(self._full()) from error
            raise StoreUnavailable(f"{self.path} cannot be used: {error.filename}: {error.strerror}") from error

    def _explained(self, error: sqlite3.Error) -> str:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without the extended part
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return (
                f"{self.path} has been locked by another process for {self._lock_timeout_s:g} s: nothing was changed; "
                f"`fuser {self.path}` shows who uses it"
            )
        if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and self._disk_is_full()):
            return self._full()
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return self._damaged(str(error))
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_AUTH):
            who = f"user {os.geteuid()}"
            return f"{self.path} cannot be opened for writing: {error}; {who} must be able to write it and its folder"
        if isinstance(error, sqlite3.ProgrammingError):
            return f"{self.path} is closed"
        return f"{self.path}: {error} ({getattr(error, 'sqlite_errorname', 'unknown')}): nothing was changed"


@contextmanager
def _transaction(connection: sqlite3.Connection, mode: str) -> Iterator[None]:
    connection.execute(f"BEGIN {mode}")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
        raise


def _make_private(path: Path) -> None:
    """Makes the file, if it is not there, for its owner alone; SQLite gives those beside it the same mode.

    A file that is there is only asked about: closing it would drop the locks that this process has on it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            with suppress(FileExistsError):
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE))
        allowed = os.access(path, os.R_OK | os.W_OK, effective_ids=True)
    except PermissionError:
        allowed = False
    if not allowed and os.geteuid() != 0:  # what root may not do has other reasons, which SQLite finds
        raise PermissionRequired(f"{path}: root is needed; run the command with sudo")


def _create(connection: sqlite3.Connection) -> None:
    with _transaction(connection, "IMMEDIATE"):
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if not tables:  # else another process was quicker
            for statement in filter(str.strip, _SCHEMA.split(";")):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _read(connection: sqlite3.Connection, key: ResourceKey) -> bytes | None:
    row: Any = connection.execute(
        "SELECT body FROM resources WHERE kind = ? AND namespace = ? AND name = ?", key
    ).fetchone()
    body: bytes | None = row[0] if row else None
    return body

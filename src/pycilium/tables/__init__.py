"""In-memory tables of frozen objects: keys, indexes, revisions, snapshots and changes. See `database` for the whole."""

from pycilium.tables.changes import Change, Changes
from pycilium.tables.database import Database, Snapshot, WriteTransaction
from pycilium.tables.table import Table, View

__all__ = ["Change", "Changes", "Database", "Snapshot", "Table", "View", "WriteTransaction"]

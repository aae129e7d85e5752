"""Which rules stand behind a row id, also when the row is long gone: flows outlive their rows.

Invariant: a row id has one meaning for ever. Equal contents get the same id again while the history remembers them.
"""

from __future__ import annotations

from collections import OrderedDict

from pycilium.model.policy import RuleRef
from pycilium.policy._rows import Row, RowContent


class RowHistory:
    """Gives rows their ids; remembers all that are in use and the latest `capacity` that were."""

    def __init__(self, max_row_id: int, capacity: int = 100_000) -> None:
        self._next = max_row_id + 1
        self._capacity = capacity
        self._ids: dict[RowContent, int] = {}
        self._contents: dict[int, RowContent] = {}
        self._rows: dict[int, Row] = {}
        self._users: dict[int, int] = {}
        self._gone: OrderedDict[int, None] = OrderedDict()

    def use(self, content: RowContent) -> Row:
        """The row with this content."""
        row_id = self._ids.get(content)
        if row_id is None:
            row_id = self._next
            self._next += 1
            self._ids[content] = row_id
            self._contents[row_id] = content
        if row_id not in self._rows:
            self._rows[row_id] = content.row(row_id)
        self._users[row_id] = self._users.get(row_id, 0) + 1
        self._gone.pop(row_id, None)
        return self._rows[row_id]

    def release(self, row_id: int) -> None:
        """One row less has this id."""
        self._users[row_id] -= 1
        if self._users[row_id]:
            return
        del self._users[row_id], self._rows[row_id]
        self._gone[row_id] = None
        while len(self._gone) > self._capacity:
            oldest, _ = self._gone.popitem(last=False)
            del self._ids[self._contents.pop(oldest)]

    def rules_for(self, row_id: int, selector: int) -> tuple[RuleRef, ...]:
        """The deciding rules; none for what is not known or was decided by no rule."""
        content = self._contents.get(row_id)
        return content.rules(selector) if content is not None else ()

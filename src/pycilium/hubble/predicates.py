"""What flow filters are made of: predicates over columns, and tables of answers that whole columns index."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pycilium.errors import CiliumError
from pycilium.hubble.columns import REPLY_YES, TYPE_TRACE_SOCK, Columns, Mask
from pycilium.hubble.directories import Directories, EndpointName
from pycilium.hubble.service_names import FrontendKey, ServiceName
from pycilium.hubble.store import FlowStore

_DENSE = 1 << 22
"""Values up to this number are looked up in a table."""
_YES, _NOT_FINAL, _NOT_ASKED = 1, 2, 4
"""How a table keeps answers: 0 no, 1 yes; from 2 on it has to ask (again)."""
_SCOPE_SHIFT = 24
"""An identity's upper byte is its scope; numbers are small within each."""


class FilterError(CiliumError):
    """A flow filter cannot be used; the message names the field and what would be right."""


@dataclass(frozen=True, slots=True)
class FilterContext:
    """What filters need besides the columns."""

    store: FlowStore
    directories: Directories
    node_name: str
    """`cluster/node`."""
    node_labels: tuple[str, ...] = ()


Predicate = Callable[[Columns, int], Mask]
"""(rows, sequence number of the first) → which of the rows match."""


def everything(rows: Columns, _first: int) -> Mask:
    return np.ones(len(rows.type), dtype=np.bool_)


def nothing(rows: Columns, _first: int) -> Mask:
    return np.zeros(len(rows.type), dtype=np.bool_)


def constant(holds: bool) -> Predicate:
    return everything if holds else nothing


def one_of(column: NDArray[Any], values: Iterable[int]) -> Mask:
    mask: Mask = np.zeros(len(column), dtype=np.bool_)
    limits = np.iinfo(column.dtype)
    wanted = [value for value in values if limits.min <= value <= limits.max]
    if len(wanted) > 8:
        return np.isin(column, np.array(wanted, dtype=column.dtype))
    for value in wanted:
        mask |= column == value
    return mask


def ip_only(mask: Mask, rows: Columns) -> Mask:
    """The mask without rows that are not IP, about whose addresses nothing can be said."""
    found: Mask = mask & (rows.family != 0)
    return found


class AnswerTable:
    """An answer per distinct value of a column, worked out when the value first shows.

    An answer that is not final yet is asked for again.
    """

    def __init__(self, answer: Callable[[int], bool], is_final: Callable[[int], bool] = lambda _value: True) -> None:
        self._answer = answer
        self._is_final = is_final
        self._answers = np.zeros(0, dtype=np.uint8)

    def forget(self) -> None:
        self._answers[:] = _NOT_ASKED

    def matches(self, column: NDArray[np.uint32]) -> Mask:
        if not len(column):
            return np.zeros(0, dtype=np.bool_)
        size = int(column.max()) + 1
        if size > _DENSE:
            values, positions = np.unique(column, return_inverse=True)
            sparse: Mask = np.array([self._answer(int(value)) for value in values], dtype=np.bool_)[positions]
            return sparse
        if size > len(self._answers):
            grown = np.full(max(size, 2 * len(self._answers)), _NOT_ASKED, dtype=np.uint8)
            grown[: len(self._answers)] = self._answers
            self._answers = grown
        found = self._answers[column]
        if found.max() >= _NOT_FINAL:
            self._ask(np.unique(column[found >= _NOT_FINAL]))
            found = self._answers[column] & np.uint8(_YES)
        return found.view(np.bool_)

    def _ask(self, values: NDArray[np.uint32]) -> None:
        for value in values.tolist():
            final = 0 if self._is_final(value) else _NOT_FINAL
            self._answers[value] = (_YES if self._answer(value) else 0) | final


def by_identity(column: str, answer: Callable[[tuple[str, ...]], bool], context: FilterContext) -> Predicate:
    """A predicate about the labels of the identity in a column; one that is not known has none, for now."""
    labels_of = context.directories.identities.labels
    tables: dict[int, AnswerTable] = {}

    def table(scope: int) -> AnswerTable:
        if scope not in tables:
            base = scope << _SCOPE_SHIFT
            tables[scope] = AnswerTable(
                lambda low: answer(labels_of(base | low) or ()), lambda low: labels_of(base | low) is not None
            )
        return tables[scope]

    def matches(rows: Columns, _first: int) -> Mask:
        identities: NDArray[np.uint32] = getattr(rows, column)
        mask = nothing(rows, 0)
        remote = identities >= 1 << _SCOPE_SHIFT
        if not remote.any():
            return ip_only(table(0).matches(identities), rows)
        scopes = (identities >> _SCOPE_SHIFT).astype(np.uint8)
        for scope in np.flatnonzero(np.bincount(scopes, minlength=256)):
            chosen = scopes == scope
            mask[chosen] = table(int(scope)).matches(identities[chosen] & ((1 << _SCOPE_SHIFT) - 1))
        return ip_only(mask, rows)

    return matches


def by_name(side: str, answer: Callable[[EndpointName], bool], context: FilterContext) -> Predicate:
    """A predicate about the endpoint's name; endpoints without one never match."""
    store = context.store

    def name_holds(number: int) -> bool:
        name = store.names[number]
        return name is not None and answer(name)

    table = AnswerTable(name_holds)
    generation = store.names_generation

    def matches(rows: Columns, _first: int) -> Mask:
        nonlocal generation
        if generation != store.names_generation:
            generation = store.names_generation
            table.forget()
        return ip_only(table.matches(getattr(rows, f"{side}_name")), rows)

    return matches


def by_service(side: str, answer: Callable[[ServiceName], bool], context: FilterContext) -> Predicate:
    """A predicate about the Service at one end; see FlowConverter for which that is."""
    services = context.directories.services
    revision, wanted, ids = -1, _Frontends([]), list[int]()

    def matches(rows: Columns, _first: int) -> Mask:
        nonlocal revision, wanted, ids
        if revision != services.revision:
            revision = services.revision
            found = list(services.frontends())
            wanted = _Frontends([key for key, _, name in found if answer(name)])
            ids = [service_id for _, service_id, name in found if service_id and answer(name)]
        end = (getattr(rows, f"{side}_high"), getattr(rows, f"{side}_low"), getattr(rows, f"{side}_port"))
        # A packet that was translated has at this end the Service that its number says, not the one of its address.
        told = (
            (rows.service_id != 0)
            & (rows.type != TYPE_TRACE_SOCK)
            & ((rows.is_reply == REPLY_YES) == (side == "source"))
        )
        mask = np.where(told, np.isin(rows.service_id, ids), wanted.has(*end, rows.protocol))
        return ip_only(mask, rows)

    return matches


class _Frontends:
    """A set of frontends that whole columns are looked up in."""

    def __init__(self, keys: list[FrontendKey]) -> None:
        self._ports = np.zeros(1 << 16, np.bool_)
        self._ports[[key.port for key in keys]] = True
        self._keys = set(keys)

    def has(
        self, high: NDArray[np.uint64], low: NDArray[np.uint64], port: NDArray[np.uint16], protocol: NDArray[np.uint8]
    ) -> Mask:
        """Which rows are one of them; few have such a port, and those are looked up one by one."""
        mask = np.zeros(len(port), np.bool_)
        at = np.flatnonzero(self._ports[port])
        rows = zip(high[at].tolist(), low[at].tolist(), port[at].tolist(), protocol[at].tolist(), strict=True)
        mask[at] = [row in self._keys for row in rows]
        return mask

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pycilium.hubble import query as query_module
from pycilium.hubble.predicates import everything
from pycilium.hubble.query import FlowQuery, Found, Reader
from pycilium.hubble.store import FlowStore, Loss, LossSource
from tests.unit.hubble.synthetic import directories, event, events


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that every test goes over several chunks."""
    monkeypatch.setattr(query_module, "CHUNK_ROWS", 4)
    monkeypatch.setattr(query_module, "TAKEN_ROWS", 3)


def store_of(count: int, capacity: int = 100) -> FlowStore:
    """Flows whose source port and time are their number."""
    store = FlowStore(capacity, directories().endpoints)
    add(store, count)
    return store


def add(store: FlowStore, count: int) -> None:
    numbers = range(store.next, store.next + count)
    store.ingest(events(*(event(source_port=number, time_ns=number) for number in numbers)), 0)


def told(parts: Any) -> list[int | str]:
    """Flows by their number, losses as `-count`."""
    said: list[int | str] = []
    for part in parts:
        if isinstance(part, Found):
            assert part.columns.source_port.tolist() == part.sequences
            said += part.sequences
        elif isinstance(part, Loss):
            said.append(f"-{part.count}")
    return said


def history(store: FlowStore, **query: Any) -> list[int | str]:
    return told(Reader(store, FlowQuery(query.pop("predicate", everything), **query), now_ns=0).history())


def even(rows: Any, first: int) -> np.ndarray:
    return rows.source_port % 2 == 0


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, list(range(10))),
        ({"number": 3}, [7, 8, 9]),
        ({"number": 3, "first": True}, [0, 1, 2]),
        ({"number": 5, "predicate": even}, [0, 2, 4, 6, 8]),
        ({"number": 4, "predicate": even}, [2, 4, 6, 8]),
        ({"number": 3, "first": True, "predicate": even}, [0, 2, 4]),
        ({"number": 99, "predicate": even}, [0, 2, 4, 6, 8]),
        ({"number": (1 << 64) - 1}, list(range(10))),
        ({"since_ns": 3, "until_ns": 6}, [3, 4, 5, 6]),
        ({"since_ns": 3, "number": 2}, [8, 9]),
        ({"since_ns": 3, "number": 2, "first": True}, [3, 4]),
        ({"until_ns": 6, "number": 2}, [5, 6]),
        ({"follow": True}, []),
        ({"follow": True, "number": 2}, [8, 9]),
        ({"follow": True, "since_ns": 7}, [7, 8, 9]),
    ],
    ids=lambda value: str(value).partition("<")[0],
)
def test_history_is_what_was_asked_for(query: dict, expected: list[int]) -> None:
    assert history(store_of(10), **query) == expected


def test_an_empty_store_has_no_history() -> None:
    assert history(store_of(0)) == []


class TestLosses:
    def store(self) -> FlowStore:
        store = store_of(4)
        store.lose(7, time_ns=4)
        add(store, 4)
        store.lose(9, time_ns=8)
        return store

    def test_are_told_where_they_happened(self) -> None:
        assert history(self.store()) == [0, 1, 2, 3, "-7", 4, 5, 6, 7, "-9"]

    def test_pass_every_filter(self) -> None:
        assert history(self.store(), predicate=even) == [0, 2, "-7", 4, 6, "-9"]

    def test_before_the_last_flows_that_were_asked_for_are_left_out(self) -> None:
        assert history(self.store(), number=3) == [5, 6, 7, "-9"]

    def test_after_the_first_flows_that_were_asked_for_are_left_out(self) -> None:
        assert history(self.store(), number=5, first=True) == [0, 1, 2, 3, "-7", 4]

    def test_outside_the_time_that_was_asked_for_are_left_out(self) -> None:
        assert history(self.store(), since_ns=5) == [5, 6, 7, "-9"]


class TestFollowing:
    def test_goes_on_where_the_history_ended(self) -> None:
        store = store_of(3)
        reader = Reader(store, FlowQuery(everything, number=2, follow=True), now_ns=0)
        seen = told(reader.history())
        assert not reader.has_news

        add(store, 2)
        store.lose(5, time_ns=0)
        add(store, 1)

        assert reader.has_news
        seen += told(reader.news())
        assert (seen, reader.has_news) == ([1, 2, 3, 4, "-5", 5], False)

    def test_a_loss_alone_is_news(self) -> None:
        store = store_of(3)
        reader = Reader(store, FlowQuery(everything, follow=True), now_ns=0)
        store.lose(5, time_ns=0)

        assert reader.has_news
        assert (told(reader.news()), reader.has_news) == (["-5"], False)

    def test_what_was_lost_before_is_not_told(self) -> None:
        store = store_of(3)
        store.lose(5, time_ns=0)
        reader = Reader(store, FlowQuery(everything, follow=True), now_ns=0)

        assert (told(reader.history()), reader.has_news, told(reader.news())) == ([], False, [])

    def test_takes_a_chunk_at_a_time(self) -> None:
        store = store_of(0)
        reader = Reader(store, FlowQuery(everything, follow=True), now_ns=0)
        add(store, 10)

        assert [told(reader.news()) for _ in range(3)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]

    def test_a_slow_follower_is_told_exactly_how_many_flows_it_missed(self) -> None:
        store = store_of(0, capacity=5)
        reader = Reader(store, FlowQuery(everything, follow=True), now_ns=77)
        add(store, 12)

        parts = list(reader.news()) + list(reader.news())
        assert told(parts) == ["-7", 7, 8, 9, 10, 11]
        assert isinstance(parts[0], Loss)
        assert (parts[0].source, parts[0].time_ns) == (LossSource.FLOW_STORE, 77)

    def test_flows_overwritten_while_the_history_is_read_are_told_as_lost(self) -> None:
        store = store_of(6, capacity=6)
        parts = Reader(store, FlowQuery(everything, number=6), now_ns=0).history()
        seen = []
        for part in parts:
            seen += told([part])
            if isinstance(part, Found) and 0 in part.sequences:
                add(store, 5)

        assert seen == [0, 1, 2, "-2", 5]

    def test_flows_overwritten_while_a_loss_is_told_are_counted_too(self) -> None:
        store = store_of(0, capacity=5)
        reader = Reader(store, FlowQuery(everything, follow=True), now_ns=0)
        add(store, 12)
        seen = []
        for part in reader.news():
            seen += told([part])
            if seen == ["-7"]:
                add(store, 2)

        assert seen == ["-7", "-2", 9, 10, 11, 12]

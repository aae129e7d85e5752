"""Names by address, for whoever changes them however often: what a dict would say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pycilium.datapath.layouts import EventType, FlowEvent
from pycilium.hubble import directories
from pycilium.hubble import store as flow_store
from pycilium.hubble.directories import EndpointName, EndpointTable
from pycilium.hubble.store import FlowStore


def address(number: int) -> bytes:
    return bytes(10) + b"\xff\xff" + bytes((10, 0, 0, number))


def name_of(store: FlowStore, number: int) -> EndpointName | None:
    events = np.zeros(1, FlowEvent.DTYPE)
    events["type"], events["family"] = EventType.TRACE, 4
    events["source"][0] = np.frombuffer(address(number), np.uint8)
    store.ingest(events, 0)
    row = store.take(np.arange(store.next - 1, store.next))
    return store.names[row.source_name[0]]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(flow_store, "MAX_RECENT", 3)
    monkeypatch.setattr(directories, "REMEMBERED_CHANGES", 4)


CHANGES = st.tuples(st.integers(0, 7), st.one_of(st.none(), st.sampled_from("abc")))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(CHANGES, max_size=12), max_size=12))
def test_a_flow_has_the_name_that_its_address_had_last(rounds):
    table = EndpointTable()
    store = FlowStore(100, table)
    oracle: dict[int, EndpointName] = {}
    for changes in rounds:
        for number, letter in changes:
            name = EndpointName("default", letter) if letter else None
            table.set_address(address(number), name)
            if name is None:
                oracle.pop(number, None)
            else:
                oracle[number] = name
        assert [name_of(store, number) for number in range(8)] == [oracle.get(number) for number in range(8)]

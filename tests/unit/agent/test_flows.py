"""Names of flows, and how events get from the ring to the store."""

from __future__ import annotations

import asyncio
import contextlib
import os

import numpy as np
import pytest

from pycilium.agent.flows import FlowIngestion, Names
from pycilium.agent.intent import Intent
from pycilium.datapath.layouts import EventType, FlowEvent
from pycilium.hubble.store import FlowStore
from tests.unit.agent.nodes.test_cluster import declare, joined, pod
from tests.unit.agent.test_controller import ENDPOINTS


class FakeReader:
    """A ring that tests fill; readable through a pipe."""

    def __init__(self) -> None:
        self.readable, self._wake = os.pipe()
        self.waiting: list[np.ndarray] = []
        self.lost_count = 0

    def put(self, *endpoint_ids: int, wake: bool = True, source: bytes = bytes(16)) -> None:
        events = np.zeros(len(endpoint_ids), FlowEvent.DTYPE)
        events["type"], events["family"] = EventType.TRACE, 4
        events["source_endpoint"] = endpoint_ids
        events["source"] = np.frombuffer(source, np.uint8)
        self.waiting.append(events)
        if wake:
            os.write(self._wake, b"x")

    def read(self) -> np.ndarray:
        taken, self.waiting = self.waiting, []
        with contextlib.suppress(BlockingIOError):
            os.read(self.readable, 4096)
        return np.concatenate(taken) if taken else np.zeros(0, FlowEvent.DTYPE)

    def lost(self) -> int:
        return self.lost_count

    def fileno(self) -> int:
        return self.readable

    def close(self) -> None:
        os.close(self.readable)
        os.close(self._wake)


@pytest.fixture
def reader():
    made = FakeReader()
    os.set_blocking(made.readable, False)
    yield made
    made.close()


def pod_names(store: FlowStore) -> list[str | None]:
    columns = store.take(np.arange(store.oldest, store.next))
    names = [store.names[index] for index in columns.source_name]
    return [name.pod_name if name is not None else None for name in names]


async def test_a_flow_under_way_keeps_the_name_of_the_pod_that_is_removed(reader):
    intent = Intent.new()
    names = Names(intent, "default")
    intent.db.on_commit(lambda _: names.refresh())
    store = FlowStore(100, names.endpoints)
    ingestion = FlowIngestion(reader, store, lambda: None)
    names.before_change = ingestion.drain
    with intent.db.write() as txn:
        txn.insert(intent.endpoints, ENDPOINTS[0])

    reader.put(ENDPOINTS[0].endpoint_id, wake=False)
    with intent.db.write() as txn:
        txn.delete(intent.endpoints, ENDPOINTS[0].endpoint_id)
    reader.put(ENDPOINTS[0].endpoint_id, wake=False)
    ingestion.drain()

    assert pod_names(store) == [ENDPOINTS[0].pod_name, None]


async def test_events_without_a_wakeup_of_their_own_are_read_soon_after_those_that_had_one(reader):
    names = Names(Intent.new(), "default")
    store = FlowStore(100, names.endpoints)
    told = asyncio.Event()
    ingestion = FlowIngestion(reader, store, told.set)
    ingestion.start()

    reader.put(1)
    await told.wait()
    told.clear()
    reader.put(2, wake=False)
    await asyncio.wait_for(told.wait(), 5)
    ingestion.stop()

    assert store.next == 2


async def test_an_agent_that_starts_among_flows_does_not_read_them_after_its_end(reader):
    ingestion = FlowIngestion(reader, FlowStore(100, Names(Intent.new(), "default").endpoints), lambda: None)
    reader.put(1)

    ingestion.start()

    is_watched_too = asyncio.get_running_loop().remove_reader(reader.fileno())
    ingestion.stop()
    assert not is_watched_too, "it comes again by a timer: woken as well it would have two, of which one is stopped"


async def test_lost_events_are_told_exactly_and_those_of_an_earlier_agent_are_not(reader):
    names = Names(Intent.new(), "default")
    store = FlowStore(100, names.endpoints)
    reader.lost_count = 7
    ingestion = FlowIngestion(reader, store, lambda: None)

    reader.lost_count = 12
    ingestion.drain()

    assert store.lost_total == 5
    assert ingestion.lost == 12


async def test_pods_of_other_nodes_have_names_for_as_long_as_they_have_the_address():
    agent = joined()
    names = Names(agent.intent, "default", agent.controller.cluster.endpoints)
    address = bytes(10) + b"\xff\xff" + bytes((10, 0, 1, 1))

    declare(agent, remote=[pod("web", "10.0.1.1")])
    names.refresh_remote()
    known = names.endpoints.addresses().get(address)
    declare(agent, gone=[("remote_endpoints", pod("web", "10.0.1.1").key)])
    names.refresh_remote()

    assert (known.namespace, known.pod_name) == ("b", "web")
    assert address not in names.endpoints.addresses()


async def test_a_flow_under_way_keeps_the_name_of_the_remote_pod_that_had_the_address(reader):
    agent = joined()
    names = Names(agent.intent, "default", agent.controller.cluster.endpoints)
    agent.intent.db.on_commit(names.committed)
    store = FlowStore(100, names.endpoints)
    ingestion = FlowIngestion(reader, store, lambda: None)
    names.before_change = ingestion.drain
    address = bytes(10) + b"\xff\xff" + bytes((10, 0, 1, 1))

    for name in ("web", "db"):
        with agent.intent.db.write() as txn:
            txn.insert(agent.intent.remote_endpoints, pod(name, "10.0.1.1", created_s=1 if name == "web" else 2))
        names.before_round()
        agent.run()
        names.refresh_remote()
        reader.put(0, wake=False, source=address)
    ingestion.drain()

    assert pod_names(store) == ["web", "db"]

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycilium.hubble import store as store_module
from pycilium.hubble.directories import EndpointName, EndpointTable
from pycilium.hubble.store import FlowStore, LossSource
from tests.unit.hubble.synthetic import address_bytes, client_to_web, event, events


def ports(store: FlowStore) -> list[int]:
    return [port for _, rows in store.segments(store.oldest, store.next) for port in rows.source_port.tolist()]


def batch(*numbers: int) -> np.ndarray:
    return events(*(event(source_port=number) for number in numbers))


class TestRing:
    def test_keeps_the_newest_flows_in_order(self) -> None:
        store = FlowStore(4, EndpointTable())
        for start in range(0, 9, 3):
            store.ingest(batch(start, start + 1, start + 2), 0)

        assert (ports(store), store.oldest, store.next, len(store)) == ([5, 6, 7, 8], 5, 9, 4)

    def test_a_batch_larger_than_the_store_leaves_its_end(self) -> None:
        store = FlowStore(3, EndpointTable())
        store.ingest(batch(*range(10)), 0)

        assert (ports(store), store.next) == ([7, 8, 9], 10)

    @given(capacity=st.integers(1, 7), sizes=st.lists(st.integers(0, 9), max_size=6))
    def test_holds_what_a_bounded_list_would(self, capacity: int, sizes: list[int]) -> None:
        store, expected = FlowStore(capacity, EndpointTable()), []
        for size in sizes:
            numbers = list(range(len(expected), len(expected) + size))
            store.ingest(batch(*numbers), 0)
            expected += numbers

        assert ports(store) == expected[-capacity:]
        assert store.take(np.arange(store.oldest, store.next)).source_port.tolist() == expected[-capacity:]

    def test_large_batches_are_taken_piece_by_piece(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(store_module, "BATCH_ROWS", 4)
        store = FlowStore(100, EndpointTable())
        count = store.ingest(events(*(event(source_port=port, verdict_flags=3) for port in range(10))), 0)

        assert count == 30
        assert ports(store) == [port for port in range(10) for _ in range(3)]

    def test_needs_room_for_a_flow(self) -> None:
        with pytest.raises(ValueError, match="at least one flow"):
            FlowStore(0, EndpointTable())


class TestNames:
    def test_a_reused_endpoint_id_does_not_rename_older_flows(self) -> None:
        endpoints = EndpointTable()
        endpoints.set_endpoint(10, EndpointName("default", "old"))
        store = FlowStore(10, endpoints)
        store.ingest(client_to_web(), 0)

        endpoints.set_endpoint(10, None)
        store.ingest(client_to_web(), 0)
        endpoints.set_endpoint(10, EndpointName("default", "new"))
        store.ingest(client_to_web(), 0)

        ((_, rows),) = store.segments(0, 3)
        names = [store.names[number] for number in rows.source_name]
        assert names == [EndpointName("default", "old"), None, EndpointName("default", "new")]

    def test_endpoints_of_other_nodes_are_found_by_address(self) -> None:
        endpoints = EndpointTable()
        for number in range(50):
            endpoints.set_address(address_bytes(f"10.9.0.{number}"), EndpointName("far", f"pod-{number}"))
        endpoints.set_address(address_bytes("fd00::9"), EndpointName("far", "six"))
        store = FlowStore(10, endpoints)
        store.ingest(events(event("10.9.0.7", "10.9.1.7"), event("fd00::9", "fd00::8")), 0)

        ((_, rows),) = store.segments(0, 2)
        assert [store.names[number] for number in rows.source_name] == [
            EndpointName("far", "pod-7"),
            EndpointName("far", "six"),
        ]
        assert rows.destination_name.tolist() == [0, 0]

    def test_names_out_of_use_are_dropped_and_the_rest_stays_right(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(store_module, "NAME_SLACK", 8)
        endpoints = EndpointTable()
        store = FlowStore(5, endpoints)
        for number in range(100):
            endpoints.set_endpoint(10, EndpointName("default", f"pod-{number}"))
            store.ingest(client_to_web(), 0)

        names = [store.names[number] for _, rows in store.segments(95, 100) for number in rows.source_name]
        assert names == [EndpointName("default", f"pod-{number}") for number in range(95, 100)]
        assert len(store.names) < 30
        assert store.names_generation > 0


class TestLosses:
    def test_are_told_in_order_and_add_up(self) -> None:
        store = FlowStore(10, EndpointTable())
        store.ingest(batch(1, 2), 0)
        store.lose(5, 100)
        store.ingest(batch(3), 0)
        store.lose(7, 200, LossSource.OBSERVER_QUEUE, cpu=3)

        told = [(loss.before, loss.count, loss.source, loss.cpu) for loss in store.losses_after(0, store.next)]
        assert told == [(2, 5, LossSource.KERNEL_RING, None), (3, 7, LossSource.OBSERVER_QUEUE, 3)]
        assert store.lost_total == 12

    def test_a_reader_is_told_each_loss_once(self) -> None:
        store = FlowStore(10, EndpointTable())
        store.lose(5, 100)
        told = store.losses_after(0, store.next)[-1].total
        store.lose(6, 100)

        assert [loss.count for loss in store.losses_after(told, store.next)] == [6]

    def test_a_reader_that_starts_later_is_not_told_of_earlier_ones(self) -> None:
        store = FlowStore(10, EndpointTable())
        store.lose(5, 100)
        store.ingest(batch(1, 2), 0)
        store.lose(6, 100)
        store.ingest(batch(3), 0)

        assert [store.lost_before(sequence) for sequence in (0, 1, 2, 3)] == [0, 5, 5, 11]

    def test_losses_that_are_not_kept_apart_still_add_up(self) -> None:
        store = FlowStore(2, EndpointTable())
        for number in range(10):
            store.lose(1 + number, 100)
            store.ingest(batch(number), 0)

        assert sum(loss.count for loss in store.losses_after(3, store.next)) == sum(range(1, 11)) - 3

    def test_nothing_lost_is_no_loss(self) -> None:
        store = FlowStore(2, EndpointTable())
        store.lose(0, 100)

        assert store.losses_after(0, 0) == []


class TestRate:
    def test_counts_the_flows_of_the_window(self) -> None:
        store = FlowStore(100, EndpointTable())
        store.ingest(events(*(event(time_ns=second * 10**9) for second in range(20))), 0)

        assert store.rate(now_ns=20 * 10**9, window_ns=10 * 10**9) == pytest.approx(0.9)

    def test_goes_by_what_is_kept_where_the_window_is_longer(self) -> None:
        store = FlowStore(10, EndpointTable())
        store.ingest(events(*(event(time_ns=second * 10**9) for second in range(20))), 0)

        assert store.rate(now_ns=20 * 10**9, window_ns=60 * 10**9) == pytest.approx(1.0)

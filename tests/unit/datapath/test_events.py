"""The reader of the event ring, with the kernel's part played on plain memory."""

from __future__ import annotations

import numpy as np
import pytest

from pycilium.datapath import layouts
from pycilium.datapath.events import ROW_BYTES, RingView, ring_memory
from pycilium.errors import LayoutMismatch

BUSY, DISCARD = 1 << 31, 1 << 30


class Kernel:
    """Writes records as the kernel does: into both mappings, with the header's flags as given."""

    def __init__(self, records: int, start: int = 0) -> None:
        self.records = records
        self.consumer, self.producer, self.rows = ring_memory(records)
        self.consumer[0] = self.producer[0] = start * ROW_BYTES
        self.view = RingView(self.consumer, self.producer, self.rows)

    def send(self, number: int, *, flags: int = 0, length: int = layouts.FlowEvent.SIZE) -> int:
        """The index of the record; its header can be changed by `header`."""
        index = int(self.producer[0]) // ROW_BYTES
        record = layouts.FlowEvent(source_identity=number, source_port=number).to_bytes()
        for row in (index % self.records, index % self.records + self.records):
            self.rows[row, 1:] = np.frombuffer(record, np.uint64)
        self.header(index, length | flags)
        self.producer[0] += ROW_BYTES
        return index

    def header(self, index: int, word: int) -> None:
        for row in (index % self.records, index % self.records + self.records):
            self.rows[row, 0] = word

    def read(self, limit: int | None = None) -> list[int]:
        return [int(number) for number in self.view.read(limit)["source_identity"]]


def test_an_empty_ring_gives_an_empty_array_of_events() -> None:
    events = Kernel(8).view.read()

    assert (len(events), events.dtype) == (0, layouts.FlowEvent.DTYPE)


def test_events_come_once_and_in_order() -> None:
    kernel = Kernel(8)
    for number in range(5):
        kernel.send(number)

    assert kernel.read() == [0, 1, 2, 3, 4]
    assert kernel.read() == []
    assert kernel.view.waiting == 0


def test_fields_are_those_of_the_record() -> None:
    kernel = Kernel(8)
    kernel.send(443)

    (event,) = kernel.view.read()

    assert layouts.FlowEvent.from_bytes(event.tobytes()) == layouts.FlowEvent(source_identity=443, source_port=443)


@pytest.mark.parametrize("start", [0, 5, 7, (1 << 40) + 3])
def test_a_stretch_over_the_end_of_the_ring_is_read_in_one_piece(start: int) -> None:
    kernel = Kernel(8, start)
    for number in range(8):
        kernel.send(number)

    assert kernel.read() == list(range(8))


def test_the_copy_does_not_change_when_the_ring_is_written_again() -> None:
    kernel = Kernel(4)
    kernel.send(1)
    events = kernel.view.read()

    for number in range(10, 14):
        kernel.send(number)

    assert events["source_identity"].tolist() == [1]
    assert events.flags.c_contiguous


def test_a_record_still_being_written_holds_back_all_after_it() -> None:
    kernel = Kernel(8)
    kernel.send(0)
    open_record = kernel.send(1, flags=BUSY)
    kernel.send(2)

    assert kernel.read() == [0]
    assert kernel.read() == []

    kernel.header(open_record, layouts.FlowEvent.SIZE)
    assert kernel.read() == [1, 2]


def test_discarded_records_are_skipped_and_passed() -> None:
    kernel = Kernel(8)
    for number in range(6):
        kernel.send(number, flags=DISCARD if number % 2 else 0)

    assert kernel.read() == [0, 2, 4]
    assert kernel.view.waiting == 0


def test_discarded_before_busy() -> None:
    kernel = Kernel(8)
    kernel.send(0, flags=DISCARD)
    kernel.send(1, flags=BUSY)

    assert kernel.read() == []
    assert kernel.view.waiting == 1


def test_a_limit_leaves_the_rest_for_the_next_read() -> None:
    kernel = Kernel(8)
    for number in range(5):
        kernel.send(number)

    assert kernel.read(limit=2) == [0, 1]
    assert kernel.read() == [2, 3, 4]


def test_a_record_of_another_size_is_a_layout_mismatch() -> None:
    kernel = Kernel(8)
    kernel.send(0, length=64)

    with pytest.raises(LayoutMismatch, match="a record of 64 bytes, not 120"):
        kernel.read()


def test_any_interleaving_of_sending_and_reading_gives_every_event_once() -> None:
    kernel, randoms = Kernel(16), np.random.default_rng(7)
    got: list[int] = []
    sent = 0

    while sent < 2000:
        for _ in range(int(randoms.integers(0, 16 - kernel.view.waiting + 1))):
            kernel.send(sent)
            sent += 1
        got += kernel.read(limit=int(randoms.integers(1, 20)))
    got += kernel.read()

    assert got == list(range(sent))

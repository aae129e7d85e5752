"""The ring reader against a real ring that a program fills."""

from __future__ import annotations

import select
from collections.abc import Iterator

import pytest

from pycilium.datapath import layouts
from pycilium.datapath.events import EventReader
from pycilium.datapath.loader import Datapath
from pycilium.errors import DatapathError

from .test_loader import PACKET, context

pytestmark = pytest.mark.root


@pytest.fixture
def reader(datapath: Datapath) -> Iterator[EventReader]:
    with EventReader.of(datapath) as opened:
        yield opened


def send(datapath: Datapath, count: int, *, first: int = 0, discard: int = 0) -> None:
    datapath.programs["probe_events"].test_run(PACKET, context=context(mark=first, priority=discard), repeat=count)


def numbers(reader: EventReader) -> list[int]:
    return reader.read()["source_identity"].tolist()  # type: ignore[no-any-return]


def test_events_arrive_in_order_with_their_fields(datapath: Datapath, reader: EventReader) -> None:
    send(datapath, 100)

    events = reader.read()

    assert events["source_identity"].tolist() == list(range(100))
    assert events["source_port"].tolist() == list(range(100))
    assert (events["time_ns"][1:] >= events["time_ns"][:-1]).all()
    assert events.dtype == layouts.FlowEvent.DTYPE


def test_the_ring_goes_round_many_times(datapath: Datapath, reader: EventReader) -> None:
    got: list[int] = []
    for first in range(0, 5000, 300):
        send(datapath, 300, first=first)
        got += numbers(reader)

    assert reader.capacity == 512
    assert got == list(range(5100))
    assert reader.lost() == 0


def test_what_finds_no_room_is_counted_exactly_and_the_rest_is_read(datapath: Datapath, reader: EventReader) -> None:
    send(datapath, 2000)

    got = numbers(reader)

    assert got == list(range(len(got)))
    assert 500 < len(got) <= reader.capacity
    assert reader.lost() == 2000 - len(got)

    send(datapath, 10, first=5000)
    assert numbers(reader) == list(range(5000, 5010))


def test_discarded_events_are_passed_over(datapath: Datapath, reader: EventReader) -> None:
    send(datapath, 10, discard=3)

    assert numbers(reader) == [1, 2, 4, 5, 7, 8]


def test_epoll_says_when_there_are_events(datapath: Datapath, reader: EventReader) -> None:
    with select.epoll() as poll:
        poll.register(reader.fileno(), select.EPOLLIN)
        assert poll.poll(0) == []

        send(datapath, 1)

        assert poll.poll(1) != []


def test_a_reader_opened_later_goes_on_where_the_last_one_stopped(datapath: Datapath, bpf_root: object) -> None:
    with EventReader.open(str(bpf_root)) as first:
        send(datapath, 5)
        assert len(first.read(limit=3)) == 3

    with EventReader.open(str(bpf_root)) as second:
        assert numbers(second) == [3, 4]


def test_a_closed_reader_says_so(datapath: Datapath, reader: EventReader) -> None:
    send(datapath, 1)
    events = reader.read()
    reader.close()

    with pytest.raises(DatapathError, match="closed"):
        reader.read()
    assert events["source_identity"].tolist() == [0]

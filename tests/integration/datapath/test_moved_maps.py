"""Entries that go along into a map that is made anew, while somebody still writes into the one before."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pycilium.datapath import bpf_syscall as bpf
from pycilium.datapath import layouts
from pycilium.datapath.codec import MapType
from pycilium.datapath.maps import RawMap
from pycilium.datapath.moved_maps import MovedMap

pytestmark = pytest.mark.root

Make = Callable[..., RawMap]


@pytest.fixture
def make() -> Iterator[Make]:
    with ExitStack() as stack:

        def made(name: str, size: int, kind: MapType | None = None) -> RawMap:
            spec = layouts.MAPS[name]
            fd = bpf.map_create(kind or spec.type, spec.key.size, spec.value.size, size)
            stack.callback(os.close, fd)
            return RawMap(fd, name)

        yield made


def connection(number: int) -> bytes:
    return layouts.Ct4Key(address_low=number).to_bytes()


def expiring(at_s: int, **fields: int) -> bytes:
    return replace(layouts.CtEntry(), expires_s=at_s, **fields).to_bytes()


def contents(of: RawMap) -> dict[bytes, bytes]:
    return {
        key.tobytes(): value.tobytes() for keys, values in of.chunks() for key, value in zip(keys, values, strict=True)
    }


@pytest.mark.parametrize("kind", [MapType.HASH, MapType.LRU_HASH])
@pytest.mark.parametrize("size", [64, 4096])
def test_what_was_written_between_two_turns_goes_along(make: Make, kind: MapType, size: int) -> None:
    old, new = make("ct4", 1024, kind), make("ct4", size)
    move = MovedMap("ct4", old, new, fresh=True)
    for number in range(20):
        old.update(connection(number), expiring(100))
    assert move.carry() == 0
    assert contents(new) == contents(old)

    old.update(connection(1), expiring(200, created_s=5))
    old.update(connection(30), expiring(100))
    old.delete(connection(2))
    assert move.carry() == 0

    assert contents(new) == contents(old)


def test_what_programs_have_written_into_the_new_map_stays(make: Make) -> None:
    old, new = make("ct4", 64), make("ct4", 64)
    for number in (1, 2, 3):
        old.update(connection(number), expiring(100))
    new.update(connection(1), expiring(300))
    new.update(connection(2), expiring(50))
    new.update(connection(4), expiring(50))

    MovedMap("ct4", old, new, fresh=False).carry()

    assert contents(new) == {
        connection(number): expiring(at_s) for number, at_s in ((1, 300), (2, 100), (3, 100), (4, 50))
    }


def test_a_smaller_map_gets_what_was_used_last(make: Make) -> None:
    old, new = make("ct4", 64), make("ct4", 8)
    for number in range(20):
        old.update(connection(number), expiring(100 + number))

    assert MovedMap("ct4", old, new, fresh=True).carry() == 12

    assert set(contents(new)) == {connection(number) for number in range(12, 20)}


def test_entries_of_an_array_that_is_smaller_are_left_out(make: Make) -> None:
    old, new = make("path_mtus", 64), make("path_mtus", 16)
    value = layouts.PathMtuEntry(expires_s=5).to_bytes()
    for number in (3, 40):
        old.update(number.to_bytes(4, "little"), value)

    MovedMap("path_mtus", old, new, fresh=True).carry()

    assert contents(new) == {(3).to_bytes(4, "little"): value}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    before=st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["write", "delete", "carry"]))),
    after=st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["old", "new", "carry"]))),
)
def test_in_the_end_there_is_what_was_written_last_however_often_it_was_copied(
    make: Make, before: list[tuple[int, str]], after: list[tuple[int, str]]
) -> None:
    old, new = make("ct4", 64), make("ct4", 128)
    move, wanted = MovedMap("ct4", old, new, fresh=True), dict[bytes, bytes]()
    move.carry()
    for time_s, (number, step) in enumerate(before):
        if step == "write":
            wanted[connection(number)] = expiring(time_s)
            old.update(connection(number), expiring(time_s))
        elif step == "delete":
            wanted.pop(connection(number), None)
            old.delete(connection(number))
        else:
            move.carry()
    move.carry()
    move.fresh = False
    for time_s, (number, step) in enumerate(after, start=1000):
        if step == "carry":
            move.carry()
        else:
            wanted[connection(number)] = expiring(time_s)
            (old if step == "old" else new).update(connection(number), expiring(time_s))
    move.carry()

    assert contents(new) == wanted

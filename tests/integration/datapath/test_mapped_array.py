"""Memory and map are the same thing, for the process that mapped it and for one that comes later."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pycilium.datapath import bpf_syscall as bpf
from pycilium.datapath import layouts
from pycilium.datapath.codec import MapSpec
from pycilium.datapath.mapped_array import MappedArray
from pycilium.datapath.maps import Map
from pycilium.errors import LayoutMismatch

pytestmark = pytest.mark.root

MMAPABLE = 1 << 10
SLOTS, BACKENDS = layouts.MAPS["service_slots"], layouts.MAPS["backends"]
BACKEND = layouts.BackendEntry(address=bytes(15) + b"\1", port=80, protocol=6, state=layouts.BackendState.ACTIVE)


def created(spec: MapSpec[int, Any]) -> Iterator[int]:
    fd = bpf.map_create(spec.type, spec.key.size, spec.value.size, 1000, flags=MMAPABLE, name=spec.name)
    yield fd
    os.close(fd)


@pytest.fixture
def slots_fd() -> Iterator[int]:
    yield from created(SLOTS)


@pytest.fixture
def backends_fd() -> Iterator[int]:
    yield from created(BACKENDS)


@pytest.mark.parametrize(("fixture", "spec", "value"), [("slots_fd", SLOTS, 77), ("backends_fd", BACKENDS, BACKEND)])
def test_memory_and_map_are_the_same(
    request: pytest.FixtureRequest, fixture: str, spec: MapSpec[int, Any], value: object
) -> None:
    fd: int = request.getfixturevalue(fixture)
    array = MappedArray.of(fd, spec)
    with Map(os.dup(fd), spec) as opened:
        array.write(999, value)
        opened.update(1, value)

        assert dict(opened.items()) == {1: value, 999: value}
        assert (array.read(1), array.read(999)) == (value, value)
        assert array.present().tolist() == [1, 999]


def test_what_one_process_left_in_a_pinned_map_the_next_finds(bpf_root: Path, backends_fd: int) -> None:
    bpf.object_pin(backends_fd, str(bpf_root / "backends"))
    MappedArray.of(backends_fd, BACKENDS).write(5, BACKEND)

    again = bpf.object_get(str(bpf_root / "backends"))
    found = MappedArray.of(again, BACKENDS)
    os.close(again)

    assert found.present().tolist() == [5]
    assert found.read(5) == BACKEND


def test_a_map_of_other_values_is_refused(slots_fd: int) -> None:
    with pytest.raises(LayoutMismatch, match="map backends in the kernel has type 2 and values of 4 bytes"):
        MappedArray.of(slots_fd, BACKENDS)

"""A mapped array reads back what was written, wherever its memory lies."""

from __future__ import annotations

import numpy as np
import pytest

from pycilium.datapath import layouts
from pycilium.datapath.mapped_array import MappedArray

BACKEND = layouts.BackendEntry(address=bytes(15) + b"\1", port=80, protocol=6, state=layouts.BackendState.ACTIVE)


def test_what_was_written_is_read_back_and_everything_else_is_zeros():
    backends = MappedArray.in_memory(layouts.MAPS["backends"], 8)

    backends.write(3, BACKEND)

    assert [backends.read(index) for index in range(8)] == [
        BACKEND if index == 3 else layouts.BackendEntry() for index in range(8)
    ]
    assert backends.present().tolist() == [3]


def test_a_run_is_written_as_one_array():
    slots = MappedArray.in_memory(layouts.MAPS["service_slots"], 16)

    slots.values[4:8] = np.array([7, 8, 7, 8], np.uint32)

    assert slots.values.tolist() == [0] * 4 + [7, 8, 7, 8] + [0] * 8
    assert slots.present().tolist() == [4, 5, 6, 7]


def test_one_field_is_written_alone():
    backends = MappedArray.in_memory(layouts.MAPS["backends"], 2)
    backends.write(1, BACKEND)

    backends.values["state"][1] = layouts.BackendState.TERMINATING

    assert backends.read(1).state == layouts.BackendState.TERMINATING
    assert backends.read(1).port == BACKEND.port


def test_there_is_nothing_past_the_end():
    slots = MappedArray.in_memory(layouts.MAPS["service_slots"], 4)

    with pytest.raises(IndexError):
        slots.read(4)
    with pytest.raises(IndexError):
        slots.write(4, 1)

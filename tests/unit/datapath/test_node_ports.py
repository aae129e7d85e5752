"""Ranges of ports as the kernel writes them, and its tables of sockets."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from pycilium.datapath.node_ports import merged_ranges, parsed_ranges, ports_in, ranges_text

RANGE = st.tuples(st.integers(1, 60), st.integers(0, 9)).map(lambda pair: (pair[0], pair[0] + pair[1]))

TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:7580 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1
   1: 0100007F:1F90 0100007F:D431 01 00000000:00000000 00:00000000 00000000     0        0 2 1
"""


def test_only_sockets_in_the_state_asked_for_count():
    assert list(ports_in(TCP, "0A")) == [30080]
    assert list(ports_in("", "0A")) == []


def test_ranges_read_and_write_as_the_kernel_does():
    assert parsed_ranges("") == []
    assert parsed_ranges("8080,30000-32767") == [(8080, 8080), (30000, 32767)]
    assert ranges_text([(8080, 8080), (30000, 32767)]) == "8080,30000-32767"


@given(st.lists(RANGE, max_size=6))
def test_merged_ranges_hold_the_same_ports_and_do_not_touch(ranges):
    merged = merged_ranges(ranges)

    assert {port for low, high in merged for port in range(low, high + 1)} == {
        port for low, high in ranges for port in range(low, high + 1)
    }
    assert all(before[1] + 1 < after[0] for before, after in itertools.pairwise(merged))

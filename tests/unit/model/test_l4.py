"""Port ranges as prefixes."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycilium.model.l4 import ANY_PORT, PortRange, Protocol


@given(st.integers(0, 65535), st.integers(0, 65535))
def test_prefixes_are_exactly_the_range_and_apart(one, other):
    first, last = sorted((one, other))

    covered = []
    for port, length in PortRange(6, first, last).prefixes():
        size = 1 << (16 - length)
        assert port % size == 0
        covered.append(range(port, port + size))

    assert covered[0].start == first
    assert covered[-1].stop == last + 1
    assert all(left.stop == right.start for left, right in pairwise(covered))
    assert len(covered) <= 30


@pytest.mark.parametrize(
    ("ports", "prefixes"),
    [
        (PortRange(6, 80, 80), ((80, 16),)),
        (PortRange(6), ((0, 0),)),
        (PortRange(6, 80, 90), ((80, 13), (88, 15), (90, 16))),
        (PortRange(6, 1024, 65535), ((1024, 6), (2048, 5), (4096, 4), (8192, 3), (16384, 2), (32768, 1))),
    ],
    ids=str,
)
def test_prefixes_are_the_least(ports, prefixes):
    assert ports.prefixes() == prefixes


@pytest.mark.parametrize(
    ("ports", "text"),
    [
        (ANY_PORT, "any protocol"),
        (PortRange(Protocol.TCP), "TCP"),
        (PortRange.single(Protocol.UDP, 53), "53/UDP"),
        (PortRange(Protocol.TCP, 80, 90), "80-90/TCP"),
        (PortRange.single(Protocol.ICMPV6, 128), "ICMPv6 type 128"),
        (PortRange.single(47, 0), "0/47"),
    ],
)
def test_read_as_people_write_them(ports, text):
    assert str(ports) == text


def test_any_port_covers_every_protocol():
    assert ANY_PORT.covers(1, 8)
    assert not PortRange(6, 80, 90).covers(17, 80)
    assert PortRange(6, 80, 90).covers(6, 90)

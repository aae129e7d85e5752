"""bbolt files are read as their writer meant them, whatever their shape."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycilium.agent.runtimes import bolt
from pycilium.errors import RuntimeUnreadable
from tests.unit.agent.runtimes.bolt_file import PAGE_BYTES, written

KEYS = st.binary(min_size=1, max_size=8)
BUCKETS = st.recursive(
    st.dictionaries(KEYS, st.binary(max_size=30), max_size=12),
    lambda inner: st.dictionaries(KEYS, inner | st.binary(max_size=30), max_size=12),
    max_leaves=20,
)


def _paths(bucket, before=()):
    for key, value in bucket.items():
        yield (*before, key), value
        if not isinstance(value, bytes):
            yield from _paths(value, (*before, key))


@given(BUCKETS, st.integers(1, 5) | st.just(50))
def test_every_value_is_found_where_it_was_put_and_a_bucket_is_no_value(content, fanout):
    file = written(content, max(2, fanout))
    for path, value in _paths(content):
        assert bolt.value(file, path) == (value if isinstance(value, bytes) else None)


@given(BUCKETS, st.lists(KEYS, min_size=1, max_size=3))
def test_what_was_not_put_there_is_not_found(content, path):
    there = dict(_paths(content)).get(tuple(path))
    assert bolt.value(written(content), path) == (there if isinstance(there, bytes) else None)


def test_a_value_longer_than_a_page_is_read_whole():
    value = bytes(range(256)) * 64
    assert bolt.value(written({b"a": {b"b": b"1", b"c": value}}), [b"a", b"c"]) == value


@pytest.mark.parametrize("damaged", [0, 1])
def test_of_two_headers_one_is_enough(damaged):
    file = bytearray(written({b"a": b"1"}))
    newer, older = file[16:PAGE_BYTES], file[PAGE_BYTES + 16 : 2 * PAGE_BYTES]
    assert newer != older
    file[PAGE_BYTES + 16 : 2 * PAGE_BYTES] = newer
    file[damaged * PAGE_BYTES + 40] ^= 1
    assert bolt.value(bytes(file), [b"a"]) == b"1"


@pytest.mark.parametrize("file", [b"", b"SQLite format 3", bytes(3 * PAGE_BYTES)])
def test_what_is_no_bbolt_file_is_refused(file):
    with pytest.raises(RuntimeUnreadable, match="no bbolt file"):
        bolt.value(file, [b"a"])


@given(BUCKETS, st.integers(2 * PAGE_BYTES, 4 * PAGE_BYTES), st.binary(min_size=1, max_size=64))
def test_a_damaged_file_gives_an_error_or_a_value_and_never_anything_else(content, place, noise):
    file = bytearray(written(content))
    file[place : place + len(noise)] = noise
    for path, _ in _paths(content):
        try:
            assert isinstance(bolt.value(bytes(file), path), bytes | None)
        except RuntimeUnreadable:
            continue

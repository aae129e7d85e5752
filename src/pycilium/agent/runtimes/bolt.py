"""Reading a bbolt file (the key-value store of programs in Go): one value, by the buckets that lead to it. Pure.

A file is pages; two of them, of which the newer good one counts, say where the root bucket starts. A bucket is a
B+tree of pages; a small one lies within the value that names it. All numbers are little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from pycilium.errors import RuntimeUnreadable

_MAGIC, _VERSION = 0xED0CDAED, 2
_PAGE = struct.Struct("<QHHI")  # id, flags, count, overflow
_META = struct.Struct("<IIIIQQQQQQ")  # magic, version, page size, flags, root page, sequence, freelist, end, txid, sum
_BRANCH_ELEMENT = struct.Struct("<IIQ")  # position of the key, its size, page
_LEAF_ELEMENT = struct.Struct("<IIII")  # flags, position of the key, its size, size of the value
_BUCKET = struct.Struct("<QQ")  # root page, sequence
_IS_BRANCH, _IS_LEAF = 1, 2
_IS_BUCKET = 1
_MAX_DEPTH = 64
_FNV_START, _FNV_PRIME = 0xCBF29CE484222325, 0x100000001B3


class Bytes(Protocol):
    """Bytes, or a file that is mapped."""

    def __getitem__(self, part: slice, /) -> bytes: ...

    def __len__(self) -> int: ...


class _Meta(NamedTuple):
    page_bytes: int
    root_page: int
    transaction: int


class _Page(NamedTuple):
    """A page, and where in the file its elements start: positions are counted from each element."""

    start: int
    flags: int
    elements: int


def value(file: Bytes, path: Sequence[bytes]) -> bytes | None:
    """The value of the key that is last in `path`, in the buckets before it; None if one of them is not there.

    Raises RuntimeUnreadable if the file is none of bbolt's, or damaged.
    """
    try:
        meta = _meta(file)
        start = meta.root_page * meta.page_bytes
        for place, key in enumerate(path):
            found = _search(file, meta, start, key)
            is_last = place == len(path) - 1
            if found is None or found.is_bucket == is_last:
                return None
            if is_last:
                return file[found.start : found.start + found.size]
            root, _ = _BUCKET.unpack(file[found.start : found.start + _BUCKET.size])
            start = root * meta.page_bytes if root else found.start + _BUCKET.size
    except (struct.error, RecursionError) as error:
        raise RuntimeUnreadable(f"the bbolt file is damaged or cut off: {error}") from error
    return None


class _Found(NamedTuple):
    start: int
    size: int
    is_bucket: bool


def _search(file: Bytes, meta: _Meta, start: int, key: bytes) -> _Found | None:
    for _ in range(_MAX_DEPTH):
        page = _page(file, start)
        if page.flags & _IS_LEAF:
            return _in_leaf(file, page, key)
        if not page.flags & _IS_BRANCH:
            break
        child = _in_branch(file, page, key)
        if child is None:
            return None
        start = child * meta.page_bytes
    raise RuntimeUnreadable("the bbolt file is damaged: a page is neither branch nor leaf")


def _in_branch(file: Bytes, page: _Page, key: bytes) -> int | None:
    """The page of the last element whose key is not above `key`; the first one's if all are."""
    low, high = 0, page.elements
    while low < high:
        middle = (low + high) // 2
        at = page.start + middle * _BRANCH_ELEMENT.size
        position, size, _ = _BRANCH_ELEMENT.unpack(file[at : at + _BRANCH_ELEMENT.size])
        if file[at + position : at + position + size] <= key:
            low = middle + 1
        else:
            high = middle
    if not page.elements:
        return None
    at = page.start + max(0, low - 1) * _BRANCH_ELEMENT.size
    child: int = _BRANCH_ELEMENT.unpack(file[at : at + _BRANCH_ELEMENT.size])[2]
    return child


def _in_leaf(file: Bytes, page: _Page, key: bytes) -> _Found | None:
    low, high = 0, page.elements
    while low < high:
        middle = (low + high) // 2
        at = page.start + middle * _LEAF_ELEMENT.size
        flags, position, key_bytes, value_bytes = _LEAF_ELEMENT.unpack(file[at : at + _LEAF_ELEMENT.size])
        there = file[at + position : at + position + key_bytes]
        if there == key:
            return _Found(at + position + key_bytes, value_bytes, bool(flags & _IS_BUCKET))
        if there < key:
            low = middle + 1
        else:
            high = middle
    return None


def _page(file: Bytes, start: int) -> _Page:
    _, flags, count, _ = _PAGE.unpack(file[start : start + _PAGE.size])
    return _Page(start + _PAGE.size, flags, count)


def _meta(file: Bytes) -> _Meta:
    """Of the two, the good one of the later transaction. The second one's place follows from the page's size."""
    first = _meta_at(file, 0)
    sizes = [first.page_bytes] if first else [1 << power for power in range(9, 17)]
    others = [_meta_at(file, size) for size in sizes]
    good = [meta for meta in (first, *others) if meta]
    if not good:
        raise RuntimeUnreadable("this is no bbolt file, or both its headers are damaged")
    return max(good, key=lambda meta: meta.transaction)


def _meta_at(file: Bytes, start: int) -> _Meta | None:
    raw = file[start + _PAGE.size : start + _PAGE.size + _META.size]
    if len(raw) < _META.size:
        return None
    magic, version, page_bytes, _, root, _, _, _, transaction, checksum = _META.unpack(raw)
    if (magic, version) != (_MAGIC, _VERSION) or checksum != _fnv(raw[:-8]):
        return None
    return _Meta(page_bytes, root, transaction)


def _fnv(data: bytes) -> int:
    """FNV-1a, of 64 bits."""
    total = _FNV_START
    for byte in data:
        total = (total ^ byte) * _FNV_PRIME & (1 << 64) - 1
    return total

"""Writes bbolt files, in the simplest way there is: every bucket a tree of pages of `fanout` elements each."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import TypeAlias

Bucket: TypeAlias = Mapping[bytes, "bytes | Bucket"]
PAGE_BYTES = 4096


def _fnv(data: bytes) -> int:
    total = 0xCBF29CE484222325
    for byte in data:
        total = (total ^ byte) * 0x100000001B3 % (1 << 64)
    return total


def written(content: Bucket, fanout: int = 3) -> bytes:
    pages: list[bytes] = [b"", b""]
    root = _bucket(pages, content, fanout)
    for place, (transaction, page) in enumerate(((7, root), (6, 0))):
        meta = struct.pack("<IIIIQQQQQ", 0xED0CDAED, 2, PAGE_BYTES, 0, page, 0, 0, len(pages), transaction)
        pages[place] = _page(place, 4, 0, meta + struct.pack("<Q", _fnv(meta)))
    return b"".join(page.ljust(PAGE_BYTES * (-(-len(page) // PAGE_BYTES)), b"\0") for page in pages)


def _page(number: int, flags: int, count: int, body: bytes) -> bytes:
    return struct.pack("<QHHI", number, flags, count, 0) + body


def _leaf(items: list[tuple[bytes, bytes, bool]]) -> bytes:
    elements, data = b"", b""
    for place, (key, value, is_bucket) in enumerate(items):
        position = (len(items) - place) * 16 + len(data)
        elements += struct.pack("<IIII", int(is_bucket), position, len(key), len(value))
        data += key + value
    return elements + data


def _bucket(pages: list[bytes], content: Bucket, fanout: int) -> int:
    """Its root page."""
    items: list[tuple[bytes, bytes, bool]] = []
    for key, value in sorted(content.items()):
        if isinstance(value, bytes):
            items.append((key, value, False))
        elif len(value) <= 1 and all(isinstance(each, bytes) for each in value.values()):
            inline = _page(0, 2, len(value), _leaf([(k, v, False) for k, v in value.items() if isinstance(v, bytes)]))
            items.append((key, struct.pack("<QQ", 0, 0) + inline, True))
        else:
            items.append((key, struct.pack("<QQ", _bucket(pages, value, fanout), 0), True))
    level = []
    for start in range(0, max(1, len(items)), fanout):
        part = items[start : start + fanout]
        level.append((part[0][0] if part else b"", _add(pages, 2, len(part), _leaf(part))))
    while len(level) > 1:
        parents = []
        for start in range(0, len(level), fanout):
            children = level[start : start + fanout]
            parents.append((children[0][0], _add(pages, 1, len(children), _branch(children))))
        level = parents
    return level[0][1]


def _branch(children: list[tuple[bytes, int]]) -> bytes:
    elements, data = b"", b""
    for place, (key, page) in enumerate(children):
        elements += struct.pack("<IIQ", (len(children) - place) * 16 + len(data), len(key), page)
        data += key
    return elements + data


def _add(pages: list[bytes], flags: int, count: int, body: bytes) -> int:
    # A page that is longer than one takes the numbers behind it, too.
    number = sum(-(-len(page) // PAGE_BYTES) for page in pages[2:]) + 2
    pages.append(_page(number, flags, count, body))
    return number

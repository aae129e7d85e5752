"""How map keys, map values and configuration become bytes and back; what the generated `layouts` is made of.

Byte order ends here: Python integers are always in host order, whatever the kernel keeps.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Generic, Literal, TypeVar

import numpy as np

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Codec(Generic[T]):
    """One type of key or value: `encode` and `decode` are exact inverses."""

    name: str
    size: int
    encode: Callable[[T], bytes]
    decode: Callable[[bytes], T]
    dtype: np.dtype[Any]
    signature: str


def integer(size: int) -> Codec[int]:
    """Unsigned integers of `size` bytes in host order: array indexes and counters."""

    def encode(value: int) -> bytes:
        return value.to_bytes(size, sys.byteorder)

    def decode(raw: bytes) -> int:
        return int.from_bytes(raw, sys.byteorder)

    return Codec(f"u{size * 8}", size, encode, decode, np.dtype(f"u{size}"), f"u{size * 8}")


U32 = integer(4)
U64 = integer(8)
NOTHING: Codec[None] = Codec("nothing", 0, lambda _: b"", lambda _: None, np.dtype("V0"), "")
"""Keys and values of a map that has none: a ring buffer."""


def integer_encoder(size: int, order: Literal["little", "big"], *, signed: bool) -> Callable[[int], bytes]:
    return lambda value: value.to_bytes(size, order, signed=signed)


def bytes_encoder(size: int) -> Callable[[bytes], bytes]:
    def encode(value: bytes) -> bytes:
        if len(value) != size:
            raise ValueError(f"{len(value)} bytes where {size} belong")
        return value

    return encode


class MapType(IntEnum):
    """Numbers of the kernel's enum bpf_map_type, those that are used."""

    NONE = 0
    HASH = 1
    ARRAY = 2
    PROG_ARRAY = 3
    PERCPU_HASH = 5
    PERCPU_ARRAY = 6
    LRU_HASH = 9
    LRU_PERCPU_HASH = 10
    LPM_TRIE = 11
    DEVMAP = 14
    RINGBUF = 27

    @property
    def is_array(self) -> bool:
        return self in {MapType.ARRAY, MapType.PERCPU_ARRAY, MapType.PROG_ARRAY}

    @property
    def is_percpu(self) -> bool:
        return self in {MapType.PERCPU_HASH, MapType.PERCPU_ARRAY, MapType.LRU_PERCPU_HASH}


@dataclass(frozen=True, slots=True)
class MapSpec(Generic[K, V]):
    """A map as the programs declare it; `max_entries` is the default that a configuration may replace."""

    name: str
    type: MapType
    key: Codec[K]
    value: Codec[V]
    max_entries: int


@dataclass(frozen=True, slots=True)
class ProgramSpec:
    """A program; `object` is the file's name without `.bpf.o`, `section` says what kind of hook it is for."""

    name: str
    object: str
    section: str


@dataclass(frozen=True, slots=True)
class Constant:
    """A configuration variable of the programs: `attribute` of `layouts.ProgramConfig` fills `variable`."""

    variable: str
    attribute: str
    signature: str
    encode: Callable[[Any], bytes]

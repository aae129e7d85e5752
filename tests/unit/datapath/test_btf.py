"""Object files read without a kernel: what they declare, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pycilium.datapath.btf import (
    Array,
    Enum,
    Field,
    MapDefinition,
    ObjectFile,
    ProgramDefinition,
    Scalar,
    Struct,
    Variable,
    byte_order,
    read_object,
    reads_as,
)
from pycilium.errors import LayoutMismatch

sys.path.insert(0, str(Path(__file__).parents[3] / "tools"))
import build_bpf

SOURCE = """
#include <linux/bpf.h>
#define SEC(name) __attribute__((section(name), used))
enum colour { COLOUR_RED = 1, COLOUR_BLUE = -2 };
struct inner { __be16 port; __u8 bytes[6]; };
struct key { __be32 address; __s16 number; __u16 low : 4, high : 12; struct inner inner; enum colour colour; };
struct {
    int (*type)[BPF_MAP_TYPE_LPM_TRIE];
    int (*max_entries)[12];
    int (*map_flags)[BPF_F_NO_PREALLOC];
    struct key *key;
    __u64 *value;
} table SEC(".maps");
const volatile __u8 config_small SEC(".rodata.config") = 1;
const volatile __be32 config_address SEC(".rodata.config");
static __attribute__((noinline)) int helper(struct __sk_buff *skb) { return skb->len > config_small; }
SEC("tc") int second(struct __sk_buff *skb) { return helper(skb) + (int)config_address; }
SEC("xdp") int first(struct xdp_md *xdp) { return xdp->data != 0; }
char LICENSE[] SEC("license") = "GPL";
"""

INNER = Struct("inner", 8, (Field("port", 0, Scalar(2, big_endian=True)), Field("bytes", 16, Array(Scalar(1), 6))))
COLOUR = Enum("colour", 4, (("COLOUR_RED", 1), ("COLOUR_BLUE", -2)))
KEY = Struct(
    "key",
    20,
    (
        Field("address", 0, Scalar(4, big_endian=True)),
        Field("number", 32, Scalar(2, signed=True)),
        Field("low", 48, Scalar(2), bits=4),
        Field("high", 52, Scalar(2), bits=12),
        Field("inner", 64, INNER),
        Field("colour", 128, COLOUR),
    ),
)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("btf")
    (folder / "a.bpf.c").write_text(SOURCE)
    build_bpf.compile_object(folder / "a.bpf.c", folder / "a.bpf.o")
    return (folder / "a.bpf.o").read_bytes()


@pytest.fixture(scope="module")
def declared(image: bytes) -> ObjectFile:
    return read_object(image)


def test_programs_are_the_entry_points_with_their_sections(declared: ObjectFile) -> None:
    assert set(declared.programs) == {ProgramDefinition("second", "tc"), ProgramDefinition("first", "xdp")}


def test_maps_have_attributes_and_types(declared: ObjectFile) -> None:
    assert declared.maps == (
        MapDefinition("table", {"type": 11, "max_entries": 12, "map_flags": 1}, key=KEY, value=Scalar(8)),
    )


def test_configuration_variables_have_the_linkers_offsets(declared: ObjectFile) -> None:
    assert set(declared.config) == {
        Variable("config_small", 0, Scalar(1)),
        Variable("config_address", 4, Scalar(4, big_endian=True)),
    }


def test_types_are_found_by_name(declared: ObjectFile) -> None:
    assert (declared.structs["key"], declared.structs["inner"]) == (KEY, INNER)
    assert declared.enums["colour"] == COLOUR


def test_the_signature_spells_offsets_byte_order_and_bitfields() -> None:
    assert KEY.signature == (
        "struct{address:be32@0 number:s16@4 low:u16@48.4bits high:u16@52.12bits "
        "inner:struct{port:be16@0 bytes:u8[6]@2 size=8}@8 colour:u32@16 size=20}"
    )


def entry(*names: str, width: int = 4) -> Struct:
    """Numbers in a row, within another structure."""
    inner = Struct("inner", 4 * len(names), tuple(Field(name, 32 * at, Scalar(width)) for at, name in enumerate(names)))
    return Struct("entry", inner.size, (Field("inner", 0, inner),))


def test_what_padding_has_become_may_be_read_of_what_was_written_before_but_not_the_other_way_round() -> None:
    before, now = entry("backend", "pad"), entry("backend", "affinity")

    assert reads_as(before, now)
    assert not reads_as(now, before)


@pytest.mark.parametrize(
    "now", [entry("backend", "service", "pad"), entry("frontend", "service"), entry("backend", "service", width=8)]
)
def test_what_else_differs_may_not_be_read_as_what_it_was(now: Struct) -> None:
    before = entry("backend", "service")

    assert reads_as(before, before)
    assert not reads_as(before, now)


def test_the_byte_order_is_that_of_the_machine(image: bytes) -> None:
    assert byte_order(image) == sys.byteorder


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda image: b"", "not a 64-bit ELF"),
        (lambda image: b"#!/bin/sh\n" * 20, "not a 64-bit ELF"),
        (lambda image: image[:70], "damaged"),
        (lambda image: image[:-100], "damaged"),
        (lambda image: image.replace(b".BTF\0", b".XXX\0"), "no BTF"),
    ],
    ids=["empty", "a script", "cut off after the header", "cut off at the end", "without BTF"],
)
def test_what_is_no_such_object_is_refused(image: bytes, damage, words: str) -> None:
    with pytest.raises(LayoutMismatch, match=words):
        read_object(damage(image))

"""The generator of layouts: what it makes of types, and what it refuses to make."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pycilium.datapath.btf import Array, Enum, Field, MapDefinition, ObjectFile, Scalar, Struct, Variable

sys.path.insert(0, str(Path(__file__).parents[3] / "tools"))
import gen_layouts

EMPTY = ObjectFile(programs=(), maps=(), config=(), structs={}, enums={})


def declaring(*, maps: tuple[MapDefinition, ...] = (), config: tuple[Variable, ...] = ()) -> ObjectFile:
    return ObjectFile(programs=(), maps=maps, config=config, structs={}, enums={})


@pytest.mark.parametrize(
    ("name", "values", "members"),
    [
        ("ct_state", ["CT_STATE_OPENING", "CT_STATE_CLOSED"], ["OPENING", "CLOSED"]),
        ("ct_flags", ["CT_ORIGIN_HIGH", "CT_FIN_REPLY"], ["ORIGIN_HIGH", "FIN_REPLY"]),
        ("metrics_limits", ["METRICS_ENTRIES"], ["ENTRIES"]),
        ("drop_reason", ["DROP_POLICY_DENIED", "DROP_POLICY_DENY"], ["DENIED", "DENY"]),
        ("size", ["SIZE_1", "SIZE_2"], ["SIZE_1", "SIZE_2"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_enumerators_lose_what_all_of_them_begin_with(name: str, values: list[str], members: list[str]) -> None:
    found = Enum(name, 4, tuple((value, number) for number, value in enumerate(values)))

    assert [member for member, _ in gen_layouts.member_names(found)] == members


def test_a_hole_in_a_structure_is_refused() -> None:
    inside = Struct("key", 8, (Field("a", 0, Scalar(2)), Field("b", 32, Scalar(4))))
    at_end = Struct("key", 8, (Field("a", 0, Scalar(4)), Field("b", 32, Scalar(2))))

    with pytest.raises(SystemExit, match="struct key has a hole before b"):
        gen_layouts.render_struct(inside)
    with pytest.raises(SystemExit, match="struct key has a hole at its end"):
        gen_layouts.render_struct(at_end)


def test_a_bitfield_is_refused() -> None:
    with pytest.raises(SystemExit, match="field low is a bitfield"):
        gen_layouts.render_struct(Struct("key", 2, (Field("low", 0, Scalar(2), bits=4),)))


def test_an_array_in_network_order_is_refused() -> None:
    ports = Struct("key", 4, (Field("ports", 0, Array(Scalar(2, big_endian=True), 2)),))

    with pytest.raises(SystemExit, match="no layout for be16 inside an array"):
        gen_layouts.render_struct(ports)


def test_objects_must_agree_on_a_map() -> None:
    one = MapDefinition("table", {"type": 1, "max_entries": 8}, Scalar(4), Scalar(4))
    other = MapDefinition("table", {"type": 1, "max_entries": 9}, Scalar(4), Scalar(4))
    generator = gen_layouts.Generator(EMPTY, {"a": declaring(maps=(one,)), "b": declaring(maps=(other,))})

    with pytest.raises(SystemExit, match=r"map table of b.bpf.o differs"):
        generator.maps()


def test_objects_must_agree_on_a_configuration_variable() -> None:
    one, other = Variable("config_x", 0, Scalar(4)), Variable("config_x", 0, Scalar(8))
    generator = gen_layouts.Generator(EMPTY, {"a": declaring(config=(one,)), "b": declaring(config=(other,))})

    with pytest.raises(SystemExit, match="variable config_x differs"):
        generator.config()

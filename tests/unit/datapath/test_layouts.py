"""The generated layouts: exact inverses, network order where it belongs, numpy and dataclass alike."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from typing import Any

import pytest

from pycilium.datapath import layouts
from pycilium.datapath.codec import MapType

STRUCTS = [getattr(layouts, "".join(part.capitalize() for part in name.split("_"))) for name in layouts.STRUCTS]


def random_bytes(layout: type[Any], seed: int) -> bytes:
    """Random content with zeros where the padding is."""
    raw = bytearray(random.Random(seed).randbytes(layout.SIZE))
    for offset, width in padding(layout.DTYPE):
        raw[offset : offset + width] = bytes(width)
    return bytes(raw)


def padding(dtype: Any, start: int = 0) -> Iterator[tuple[int, int]]:
    """(offset, width), also of the structures within."""
    for name, (inner, offset, *_) in (dtype.fields or {}).items():
        if name.startswith("pad"):
            yield start + offset, inner.itemsize
        else:
            yield from padding(inner, start + offset)


@pytest.mark.parametrize("layout", STRUCTS, ids=lambda layout: layout.__name__)
class TestEveryStructure:
    def test_bytes_survive_the_way_through_the_dataclass(self, layout: type[Any]) -> None:
        for seed in range(20):
            raw = random_bytes(layout, seed)

            assert layout.from_bytes(raw).to_bytes() == raw

    def test_defaults_are_all_zero(self, layout: type[Any]) -> None:
        assert layout().to_bytes() == bytes(layout.SIZE)

    def test_numpy_sees_the_same_values(self, layout: type[Any]) -> None:
        import numpy as np

        raw = random_bytes(layout, 1)
        value = layout.from_bytes(raw)
        row = np.frombuffer(raw, layout.DTYPE)[0]

        assert layout.DTYPE.itemsize == layout.SIZE
        for field in dataclasses.fields(layout):
            assert plain(row[field.name]) == plain(getattr(value, field.name)), field.name


def plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) or (hasattr(value, "to_bytes") and not isinstance(value, int)):
        return value.to_bytes() if dataclasses.is_dataclass(value) else value
    if isinstance(value, bytes | tuple):
        return list(value)
    if hasattr(value, "dtype") and value.dtype.names:
        return value.tobytes()
    return value.tolist() if hasattr(value, "tolist") else value


def test_addresses_and_ports_are_host_integers_in_python_and_network_order_in_the_kernel() -> None:
    key = layouts.Ct4Key(address_low=0x0A000001, address_high=0x0A000002, port_low=80, port_high=443, protocol=6)

    assert key.to_bytes() == bytes.fromhex("0a000001 0a000002 0050 01bb 06 000000")


def test_an_event_takes_128_bytes_of_the_ring_with_its_header() -> None:
    assert layouts.FlowEvent.SIZE + 8 == 128


def test_an_address_of_another_length_is_refused_by_the_configuration() -> None:
    constant = layouts.CONFIG["config_gateway_ipv6"]

    with pytest.raises(ValueError, match="4 bytes where 16 belong"):
        constant.encode(bytes(4))


def test_every_map_has_a_size_and_every_constant_an_attribute() -> None:
    assert all(spec.max_entries > 0 for spec in layouts.MAPS.values())
    assert {constant.attribute for constant in layouts.CONFIG.values()} == {
        field.name for field in dataclasses.fields(layouts.ProgramConfig)
    }
    assert layouts.MAPS["events"].type == MapType.RINGBUF


def test_map_names_fit_into_what_the_kernel_keeps() -> None:
    assert [name for name in layouts.MAPS if len(name) > 15] == []

"""What every map promises, as tests: a test class inherits them and says how to make a map.

The fake and the kernel's maps run the same ones, so a test on the fake says something about the kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pycilium.datapath import layouts
from pycilium.datapath.codec import MapSpec
from pycilium.datapath.maps import AnyMap, Fill, MapOperations, Translation
from pycilium.errors import DatapathError, MapFull

MakeMap = Callable[[MapSpec[Any, Any], int], AnyMap[Any, Any]]

HASH, LPM, ARRAY, LRU = layouts.ENDPOINTS4, layouts.IPCACHE4, layouts.POLICIES, layouts.AFFINITY


def entry(spec: MapSpec[Any, Any], number: int) -> tuple[Any, Any]:
    """A key and a value that is not all zero, different for each number."""
    if spec is HASH:
        return layouts.Endpoint4Key(address=number), layouts.EndpointEntry(ifindex=number + 1, mac=b"\2\0\0\0\0\1")
    if spec is LPM:
        return layouts.Ipcache4Key(32, number), layouts.IpcacheEntry(sec_identity=number + 1)
    if spec is LRU:
        return layouts.AffinityKey(affinity_id=number), layouts.AffinityEntry(backend_id=number + 1)
    return number, layouts.PolicyEntry(revision=number + 1, bank_count=1, banks=tuple(range(13)))


def entries(spec: MapSpec[Any, Any], count: int) -> dict[Any, Any]:
    return dict(entry(spec, number) for number in range(count))


ALL = pytest.mark.parametrize("spec", [HASH, LPM, ARRAY, LRU], ids=lambda spec: spec.type.name.lower())
BOUNDED = pytest.mark.parametrize("spec", [HASH, LPM], ids=lambda spec: spec.type.name.lower())


class MapContract:
    """Inherit and give a fixture `make_map`."""

    @ALL
    def test_what_was_never_written_is_absent(self, make_map: MakeMap, spec: MapSpec[Any, Any]) -> None:
        target = make_map(spec, 16)

        assert target.lookup(entry(spec, 3)[0]) is None
        assert list(target.items()) == []
        assert target.count() == 0

    @ALL
    def test_what_is_written_is_read_back(self, make_map: MakeMap, spec: MapSpec[Any, Any]) -> None:
        target = make_map(spec, 16)
        key, value = entry(spec, 3)

        target.update(key, value)

        assert target.lookup(key) == value
        assert list(target.items()) == [(key, value)]

    @ALL
    def test_writing_again_replaces(self, make_map: MakeMap, spec: MapSpec[Any, Any]) -> None:
        target = make_map(spec, 16)
        key, first = entry(spec, 3)
        second = entry(spec, 4)[1]

        target.update(key, first)
        target.update(key, second)

        assert dict(target.items()) == {key: second}

    @ALL
    def test_deleting_says_whether_there_was_something(self, make_map: MakeMap, spec: MapSpec[Any, Any]) -> None:
        target = make_map(spec, 16)
        key, value = entry(spec, 3)
        target.update(key, value)

        assert target.delete(key) is True
        assert target.delete(key) is False
        assert target.lookup(key) is None

    @ALL
    def test_batches_of_any_size_are_complete(self, make_map: MakeMap, spec: MapSpec[Any, Any]) -> None:
        target = make_map(spec, 10000)
        wanted = entries(spec, 5000)

        assert target.update_batch(wanted) == {}

        assert dict(target.items()) == wanted
        assert target.count() == 5000
        assert target.fill() == Fill(5000, 10000)

    @ALL
    def test_an_empty_batch_is_nothing(self, make_map: MakeMap, spec: MapSpec[Any, Any]) -> None:
        target = make_map(spec, 16)

        assert target.update_batch({}) == {}
        assert target.delete_batch([]) == {}

    @ALL
    def test_a_batch_of_deletions_passes_over_absent_keys(self, make_map: MakeMap, spec: MapSpec[Any, Any]) -> None:
        target = make_map(spec, 64)
        wanted = entries(spec, 20)
        target.update_batch({key: value for key, value in wanted.items() if key != entry(spec, 7)[0]})

        assert target.delete_batch([entry(spec, number)[0] for number in (5, 7, 19)]) == {}

        gone = {entry(spec, number)[0] for number in (5, 7, 19)}
        assert dict(target.items()) == {key: value for key, value in wanted.items() if key not in gone}

    @ALL
    def test_a_dump_has_the_entries_as_columns(self, make_map: MakeMap, spec: MapSpec[Any, Any]) -> None:
        target = make_map(spec, 16)
        wanted = entries(spec, 5)
        target.update_batch(wanted)

        keys, values = target.dump()

        assert (keys.dtype, values.dtype) == (spec.key.dtype, spec.value.dtype)
        decoded = {
            spec.key.decode(key.tobytes()): spec.value.decode(value.tobytes())
            for key, value in zip(keys, values, strict=True)
        }
        assert decoded == wanted

    @ALL
    def test_a_dump_of_nothing_has_the_right_columns(self, make_map: MakeMap, spec: MapSpec[Any, Any]) -> None:
        keys, values = make_map(spec, 16).dump()

        assert (len(keys), keys.dtype, len(values), values.dtype) == (0, spec.key.dtype, 0, spec.value.dtype)

    @BOUNDED
    def test_a_full_map_says_its_name_and_size(self, make_map: MakeMap, spec: MapSpec[Any, Any]) -> None:
        target = make_map(spec, 8)
        target.update_batch(entries(spec, 8))

        with pytest.raises(MapFull, match=rf"map {spec.name} is full \(8 entries\)"):
            target.update(*entry(spec, 8))

    @BOUNDED
    def test_what_no_longer_fits_fails_by_key_and_the_rest_is_written(
        self, make_map: MakeMap, spec: MapSpec[Any, Any]
    ) -> None:
        target = make_map(spec, 8)

        failures = target.update_batch(entries(spec, 11))

        assert {type(error) for error in failures.values()} == {MapFull}
        assert len(failures) == 3
        assert dict(target.items()) == {k: v for k, v in entries(spec, 11).items() if k not in failures}

    @BOUNDED
    def test_a_full_map_still_takes_other_values_for_its_keys(self, make_map: MakeMap, spec: MapSpec[Any, Any]) -> None:
        target = make_map(spec, 8)
        target.update_batch(entries(spec, 8))
        key, value = entry(spec, 2)[0], entry(spec, 5)[1]

        assert target.update_batch({key: value}) == {}

        assert target.lookup(key) == value

    def test_a_full_lru_map_lets_go_instead(self, make_map: MakeMap) -> None:
        target = make_map(LRU, 1024)

        assert target.update_batch(entries(LRU, 5000)) == {}

        assert 0 < target.count() <= 1024
        assert target.lookup(entry(LRU, 4999)[0]) == entry(LRU, 4999)[1]

    def test_an_array_has_no_entry_past_its_end(self, make_map: MakeMap) -> None:
        target = make_map(ARRAY, 8)

        with pytest.raises(DatapathError, match="no entry past 7"):
            target.update(*entry(ARRAY, 8))
        assert set(target.update_batch(entries(ARRAY, 10))) == {8, 9}
        assert target.count() == 8

    def test_an_array_entry_of_zeros_is_absent(self, make_map: MakeMap) -> None:
        target = make_map(ARRAY, 8)
        target.update(*entry(ARRAY, 2))

        target.update(2, layouts.PolicyEntry())

        assert target.lookup(2) is None
        assert target.count() == 0

    @ALL
    def test_operations_translate_both_ways(self, make_map: MakeMap, spec: MapSpec[Any, Any]) -> None:
        target = make_map(spec, 64)
        translation = Translation(
            to_key=lambda number: entry(spec, number)[0],
            to_value=lambda number: entry(spec, number)[1],
            from_key=lambda key: next(number for number in range(64) if entry(spec, number)[0] == key),
            from_value=lambda value: next(number for number in range(64) if entry(spec, number)[1] == value),
        )
        operations = MapOperations(target, translation)

        assert operations.update({number: number + 1 for number in range(5)}) == {}
        assert operations.delete([1, 3, 40]) == {}

        assert dict(operations.dump()) == {0: 1, 2: 3, 4: 5}

    @BOUNDED
    def test_operations_tell_failures_by_the_callers_keys(self, make_map: MakeMap, spec: MapSpec[Any, Any]) -> None:
        target = make_map(spec, 2)
        translation = Translation(
            to_key=lambda number: entry(spec, number)[0],
            to_value=lambda number: entry(spec, number)[1],
            from_key=lambda key: key,
            from_value=lambda value: value,
        )

        failures = MapOperations(target, translation).update({number: number for number in range(3)})

        assert set(failures) < {0, 1, 2}
        assert len(failures) == 1

    @ALL
    def test_operations_without_translation_take_layouts(self, make_map: MakeMap, spec: MapSpec[Any, Any]) -> None:
        operations: MapOperations[Any, Any] = MapOperations(make_map(spec, 64))
        wanted = entries(spec, 5)

        assert operations.update(wanted) == {}
        assert operations.delete([entry(spec, 0)[0]]) == {}

        assert dict(operations.dump()) == {k: v for k, v in wanted.items() if k != entry(spec, 0)[0]}

    @ALL
    def test_writing_the_same_twice_and_deleting_twice_changes_nothing(
        self, make_map: MakeMap, spec: MapSpec[Any, Any]
    ) -> None:
        target, wanted = make_map(spec, 64), entries(spec, 5)

        assert target.update_batch(wanted) == target.update_batch(wanted) == {}
        assert dict(target.items()) == wanted
        assert target.delete_batch(wanted) == target.delete_batch(wanted) == {}
        assert target.count() == 0

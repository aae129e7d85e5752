"""The fake map keeps the promises of a map."""

from __future__ import annotations

from typing import Any

import pytest

from pycilium.datapath import layouts
from pycilium.datapath.codec import MapSpec
from pycilium.errors import DatapathError
from pycilium.testing import FakeMap
from pycilium.testing.map_contract import MakeMap, MapContract


class TestFakeMap(MapContract):
    @pytest.fixture
    def make_map(self) -> MakeMap:
        def make(spec: MapSpec[Any, Any], max_entries: int) -> FakeMap[Any, Any]:
            return FakeMap(spec, max_entries)

        return make


def test_a_key_can_be_made_to_fail_until_healed() -> None:
    target = FakeMap(layouts.IPCACHE4)
    good, bad = layouts.Ipcache4Key(32, 1), layouts.Ipcache4Key(32, 2)
    error = DatapathError("as told")
    target.fail(bad, error)

    assert target.update_batch(dict.fromkeys((good, bad), layouts.IpcacheEntry(1))) == {bad: error}
    assert target.delete_batch([bad]) == {bad: error}

    target.heal()
    assert target.update_batch({bad: layouts.IpcacheEntry(1)}) == {}

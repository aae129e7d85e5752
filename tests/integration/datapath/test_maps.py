"""The kernel's own maps keep the promises of a map, with its batch commands and without."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from pycilium.datapath import bpf_syscall as bpf
from pycilium.datapath import conntrack, layouts
from pycilium.datapath.codec import MapSpec, MapType
from pycilium.datapath.conntrack import Collected, Connection
from pycilium.datapath.maps import Map, PerCpuArray, RawMap, possible_cpus
from pycilium.errors import DatapathError, LayoutMismatch
from pycilium.testing.map_contract import MakeMap, MapContract, entries

pytestmark = pytest.mark.root

NO_PREALLOC = 1


def create(spec: MapSpec[Any, Any], max_entries: int) -> int:
    flags = NO_PREALLOC if spec.type == MapType.LPM_TRIE else 0
    return bpf.map_create(spec.type, spec.key.size, spec.value.size, max_entries, flags=flags, name=spec.name)


@pytest.fixture
def make_map() -> Iterator[MakeMap]:
    made: list[Map[Any, Any]] = []

    def make(spec: MapSpec[Any, Any], max_entries: int) -> Map[Any, Any]:
        made.append(Map(create(spec, max_entries), spec))
        return made[-1]

    yield make
    for each in made:
        each.close()


class TestWithBatches(MapContract):
    pass


class TestWithoutBatches(MapContract):
    """As on a kernel that has none for the type."""

    @pytest.fixture(autouse=True)
    def no_batches(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> tuple[int, bytes | None]:
            raise OSError(bpf.ENOTSUPP, "not supported")

        monkeypatch.setattr(bpf, "map_lookup_batch", refuse)
        monkeypatch.setattr(bpf, "map_update_batch", lambda *_: (0, bpf.ENOTSUPP))
        monkeypatch.setattr(bpf, "map_delete_batch", lambda *_: (0, bpf.ENOTSUPP))


def test_a_map_of_another_layout_is_refused() -> None:
    fd = create(layouts.IPCACHE6, 8)

    with pytest.raises(LayoutMismatch, match=r"map ipcache4 in the kernel has type 11, key 20.*this version has.*8"):
        Map(fd, layouts.IPCACHE4)

    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        os.fstat(fd)


def test_entries_that_come_and_go_under_a_scan_are_given_at_most_once(make_map: MakeMap) -> None:
    target = make_map(layouts.ENDPOINTS4, 20000)
    wanted = entries(layouts.ENDPOINTS4, 10000)
    target.update_batch(wanted)
    seen: list[layouts.Endpoint4Key] = []

    for index, (key, _) in enumerate(target.items()):
        seen.append(key)
        if index % 3 == 0:
            target.delete(key)

    assert len(seen) == len(set(seen))
    assert target.count() == 10000 - len(seen[::3])


def test_counters_are_summed_over_all_cpus() -> None:
    fd = bpf.map_create(MapType.PERCPU_ARRAY, 4, 16, 8, name="metrics")
    per_cpu = b"".join(struct.pack("QQ", cpu + 1, 100) for cpu in range(possible_cpus()))
    bpf.map_update(fd, struct.pack("I", 3), per_cpu)
    counters = PerCpuArray(fd, layouts.METRICS)

    assert counters.lookup(3) == [layouts.MetricsEntry(cpu + 1, 100) for cpu in range(possible_cpus())]
    assert counters.sums() == {3: (sum(range(1, possible_cpus() + 1)), 100 * possible_cpus())}
    with pytest.raises(DatapathError, match="no entry 8"):
        counters.lookup(8)
    counters.close()


class TestConntrack:
    KEY = layouts.Ct4Key(0x0A000001, 0x0A000002, 80, 40000, 6)

    def test_the_collector_removes_what_expired_longer_ago_than_the_grace(self, make_map: MakeMap) -> None:
        ct4 = make_map(layouts.CT4, 65536)
        times = [100, 94, 95, 96, 5000] * 2000
        ct4.update_batch(
            {layouts.Ct4Key(number, 1): layouts.CtEntry(expires_s=time) for number, time in enumerate(times)}
        )
        assert isinstance(ct4, Map)

        collected = conntrack.collect(ct4.raw, now_s=100, grace_s=5)

        assert collected == Collected(alive=8000, removed=2000)
        assert 94 not in np.unique(ct4.dump()[1]["expires_s"])
        assert conntrack.collect(ct4.raw, now_s=100, grace_s=5) == Collected(alive=8000, removed=0)

    def test_the_newest_revision_is_the_latest_that_admitted_anything(self, make_map: MakeMap) -> None:
        ct4 = make_map(layouts.CT4, 64)
        assert isinstance(ct4, Map)
        assert conntrack.newest_revision(ct4.raw) == 0

        for number, (egress, ingress) in enumerate(((3, 0), (0, 7), (5, 5))):
            ct4.update(layouts.Ct4Key(number), layouts.CtEntry(egress_revision=egress, ingress_revision=ingress))

        assert conntrack.newest_revision(ct4.raw) == 7

    @pytest.mark.parametrize(
        ("flags", "source", "destination"),
        [
            (0, ("10.0.0.1", 80), ("10.0.0.2", 40000)),
            (layouts.CtFlags.ORIGIN_HIGH, ("10.0.0.2", 40000), ("10.0.0.1", 80)),
        ],
        ids=["opened by the lower end", "opened by the higher end"],
    )
    def test_connections_are_listed_from_the_end_that_opened_them(
        self, make_map: MakeMap, flags: int, source: tuple[str, int], destination: tuple[str, int]
    ) -> None:
        ct4 = make_map(layouts.CT4, 16)
        ct4.update(self.KEY, layouts.CtEntry(expires_s=9, created_s=2, source_identity=7, state=2, flags=int(flags)))
        assert isinstance(ct4, Map)

        (listed,) = conntrack.connections(ct4)

        assert listed == Connection(6, *source, *destination, 7, 0, layouts.CtState.ESTABLISHED, 2, 9, 0, 0)

    def test_ipv6_connections_are_listed_too(self, make_map: MakeMap) -> None:
        ct6 = make_map(layouts.CT6, 16)
        ct6.update(layouts.Ct6Key(bytes(15) + b"\1", bytes(15) + b"\2", 1, 2, 17), layouts.CtEntry(state=1))
        assert isinstance(ct6, Map)

        (listed,) = conntrack.connections(ct6)

        assert (listed.source, listed.destination, listed.protocol) == ("::1", "::2", 17)


def test_a_raw_map_of_any_kind_can_be_copied_row_by_row() -> None:
    raw = RawMap(create(layouts.POLICIES, 8), "policies")
    raw.update(struct.pack("I", 5), b"\1" + bytes(31))

    assert [
        (key.tobytes(), value.tobytes())
        for keys, values in raw.chunks()
        for key, value in zip(keys, values, strict=True)
    ] == [(struct.pack("I", 5), b"\1" + bytes(31))]
    raw.close()

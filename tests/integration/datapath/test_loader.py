"""Objects into a real kernel: configuration, pins, restarts, other sizes, other layouts."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from pycilium.datapath import bpf_syscall as bpf
from pycilium.datapath import bpffs, layouts
from pycilium.datapath.earlier_maps import AGENT, SCRATCH, STATE
from pycilium.datapath.loader import Datapath, DatapathConfig, load, open_pinned
from pycilium.errors import ConfigError, LayoutMismatch, MapFull, VerifierRejected

from .conftest import compile_probe

pytestmark = pytest.mark.root

PACKET = bytes(64)
KEY = layouts.Ipcache4Key(prefix_len=32, address=0x0A000001)


def context(*, mark: int = 0, priority: int = 0, cb: int = 0) -> bytes:
    """A struct __sk_buff with the fields that a test may set."""
    words = [0] * 48
    words[2], words[8], words[12] = mark, priority, cb
    return struct.pack("48I", *words)


def numbers(datapath: Datapath, names: Iterable[str]) -> dict[str, int]:
    """By which the kernel knows the maps."""
    return {name: bpf.map_info(datapath.map_fd(name)).id for name in names}


def test_programs_see_the_configuration_in_network_order_where_the_type_says_so(
    config: DatapathConfig, objects: Path
) -> None:
    constants = replace(layouts.ProgramConfig(), gateway_ipv4=0x0A000001, host_ifindex=7)

    with load(replace(config, constants=constants), objects) as datapath:
        result = datapath.programs["probe_config"].test_run(PACKET, context=context())

    assert result.retval == 7
    assert struct.unpack_from("I", result.context, 8) == (1,)


def test_programs_find_what_the_agent_wrote(datapath: Datapath) -> None:
    with datapath.map(layouts.IPCACHE4) as ipcache, datapath.map(layouts.ENDPOINTS4) as endpoints:
        ipcache.update(KEY, layouts.IpcacheEntry(sec_identity=4711))
        endpoints.update(layouts.Endpoint4Key(address=KEY.address), layouts.EndpointEntry(policy_id=9))

    result = datapath.programs["probe_lookup"].test_run(PACKET, context=context(cb=KEY.address))

    assert struct.unpack_from("5I", result.context, 48) == (KEY.address, 4711, 9, 0, 0)


def test_a_second_load_takes_over_maps_with_their_entries(
    config: DatapathConfig, objects: Path, map_names: frozenset[str]
) -> None:
    with load(config, objects) as first, first.map(layouts.IPCACHE4) as ipcache:
        ipcache.update(KEY, layouts.IpcacheEntry(sec_identity=1))
        before = numbers(first, map_names)

    with load(config, objects) as second, second.map(layouts.IPCACHE4) as ipcache:
        assert numbers(second, map_names) == before
        assert ipcache.lookup(KEY) == layouts.IpcacheEntry(sec_identity=1)


def test_pins_are_all_there_and_nothing_else(datapath: Datapath, bpf_root: Path, map_names: frozenset[str]) -> None:
    assert set(os.listdir(bpf_root / "maps")) == map_names
    assert set(os.listdir(bpf_root / "programs")) == set(datapath.programs)


def test_pins_of_what_no_object_has_any_more_are_removed(
    config: DatapathConfig, objects: Path, bpf_root: Path, map_names: frozenset[str]
) -> None:
    load(config, objects).close()
    os.rename(bpf_root / "maps" / "metrics", bpf_root / "maps" / "from_before")

    load(config, objects).close()

    assert set(os.listdir(bpf_root / "maps")) == map_names


@pytest.mark.parametrize("size", [512, 4096])
def test_another_size_keeps_the_entries(config: DatapathConfig, objects: Path, size: int) -> None:
    with load(config, objects) as first, first.map(layouts.IPCACHE4) as ipcache:
        ipcache.update(KEY, layouts.IpcacheEntry(sec_identity=1))
    resized = replace(config, map_entries={**config.map_entries, "ipcache4": size, "events": 1 << 17})

    with load(resized, objects) as second, second.map(layouts.IPCACHE4) as ipcache:
        assert ipcache.max_entries == size
        assert ipcache.lookup(KEY) == layouts.IpcacheEntry(sec_identity=1)


def test_a_size_that_the_entries_do_not_fit_is_refused_and_changes_nothing(
    config: DatapathConfig, objects: Path, bpf_root: Path
) -> None:
    keys = [layouts.Ipcache4Key(prefix_len=32, address=address) for address in range(100)]
    with load(config, objects) as first, first.map(layouts.IPCACHE4) as ipcache:
        assert ipcache.update_batch(dict.fromkeys(keys, layouts.IpcacheEntry())) == {}

    with pytest.raises(MapFull, match="ipcache4 is full"):
        load(replace(config, map_entries={**config.map_entries, "ipcache4": 10}), objects)

    with open_pinned(str(bpf_root)) as pinned, pinned.map(layouts.IPCACHE4) as ipcache:
        assert (ipcache.max_entries, ipcache.count()) == (1024, 100)


def test_every_map_is_written_by_one() -> None:
    assert sorted((*AGENT, *STATE, *SCRATCH)) == sorted(layouts.MAPS)


def test_maps_that_the_agent_writes_are_made_anew_together(
    config: DatapathConfig, objects: Path, map_names: frozenset[str]
) -> None:
    with load(config, objects) as first, first.map(layouts.ENDPOINTS6) as endpoints:
        endpoints.update(layouts.Endpoint6Key(bytes(16)), layouts.EndpointEntry(policy_id=9))
        before = numbers(first, map_names)

        resized = replace(config, map_entries={**config.map_entries, "ipcache4": 2048})
        with load(resized, objects) as second, second.map(layouts.ENDPOINTS6) as others:
            after = numbers(second, map_names)
            assert {name for name in map_names if before[name] != after[name]} == map_names & AGENT
            assert others.delete(layouts.Endpoint6Key(bytes(16)))

        assert endpoints.count() == 1


def test_a_map_of_another_layout_is_made_anew_and_what_programs_had_in_it_is_dropped_by_name(
    config: DatapathConfig, objects: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("pycilium.datapath.loader.check_layouts", lambda *_: None)
        words = '#define sec_identity renamed\n#define expires_s ends_s\n#include "abi/config.h"'
        with load(config, compile_probe(tmp_path / "other", ('#include "abi/config.h"', words))) as older:
            for spec, key, value in (
                (layouts.IPCACHE4, KEY, layouts.IpcacheEntry(1)),
                (layouts.CT4, layouts.Ct4Key(), layouts.CtEntry(expires_s=1)),
                (layouts.ENDPOINTS4, layouts.Endpoint4Key(1), layouts.EndpointEntry(policy_id=9)),
            ):
                with older.map(spec) as opened:
                    opened.update(key, value)

    with load(config, objects) as newer:
        counts = {}
        for name in ("ipcache4", "ct4", "endpoints4"):
            with newer.map(layouts.MAPS[name]) as opened:
                counts[name] = opened.count()

        assert [str(lost) for lost in newer.moved.lost] == [
            "map ct4 was made anew without 1 of its entries: this version keeps them in another form"
        ]
        assert counts == {"ipcache4": 0, "ct4": 0, "endpoints4": 0}
    with load(config, objects) as again:
        assert again.moved.lost == ()


def test_what_programs_may_still_write_into_stays_pinned_until_they_are_exchanged(
    config: DatapathConfig, objects: Path, bpf_root: Path, map_names: frozenset[str]
) -> None:
    load(config, objects).close()
    resized = replace(config, map_entries={**config.map_entries, "ct4": 512})

    load(resized, objects).close()
    assert set(os.listdir(bpf_root / "maps")) == {*map_names, "before-ct4"}
    with open_pinned(str(bpf_root)) as pinned:
        assert set(pinned.sizes()) == map_names
    with load(resized, objects) as datapath:
        assert datapath.moved.under_way
        datapath.moved.follow_up(done=True)
        assert not datapath.moved.under_way

    assert set(os.listdir(bpf_root / "maps")) == map_names


def test_an_object_that_differs_from_the_generated_layouts_is_refused(
    config: DatapathConfig, tmp_path: Path, bpf_root: Path
) -> None:
    other = compile_probe(
        tmp_path / "other", ('#include "maps/events.h"', '#define packet_bytes renamed\n#include "maps/events.h"')
    )

    with pytest.raises(LayoutMismatch, match=r"probe.bpf.o: struct flow_event"):
        load(config, other)

    assert list(bpf_root.rglob("*/*")) == []


def test_a_program_that_the_verifier_refuses_is_named_with_the_whole_log(
    config: DatapathConfig, tmp_path: Path
) -> None:
    other = compile_probe(tmp_path / "other", ("found ? found->sec_identity : 0", "found->sec_identity"))

    with pytest.raises(VerifierRejected, match="program probe_lookup") as caught:
        load(config, other)

    assert "map_value_or_null" in caught.value.log


def test_a_failed_load_leaves_what_was_pinned_as_it_was(
    config: DatapathConfig, objects: Path, tmp_path: Path, bpf_root: Path
) -> None:
    other = compile_probe(tmp_path / "other", ("found ? found->sec_identity : 0", "found->sec_identity"))
    with load(config, objects) as before, before.map(layouts.IPCACHE4) as ipcache:
        ipcache.update(KEY, layouts.IpcacheEntry(sec_identity=1))
        ids = {name: program.info().id for name, program in before.programs.items()}

    with pytest.raises(VerifierRejected):
        load(replace(config, map_entries={**config.map_entries, "ipcache4": 2048}), other)

    with open_pinned(str(bpf_root)) as pinned, pinned.map(layouts.IPCACHE4) as ipcache:
        assert {name: program.info().id for name, program in pinned.programs.items()} == ids
        assert dict(ipcache.items()) == {KEY: layouts.IpcacheEntry(sec_identity=1)}


@pytest.mark.parametrize(
    ("name", "size", "words"),
    [
        ("no_such", 1, "there is no map no_such"),
        ("ct4", 0, "cannot have a size of 0"),
        ("events", 100_000, "must be a power of two"),
    ],
)
def test_impossible_sizes_are_refused(config: DatapathConfig, objects: Path, name: str, size: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load(replace(config, map_entries={name: size}), objects)


def test_a_bpf_file_system_is_mounted_where_none_is(objects: Path, tmp_path: Path) -> None:
    root = tmp_path / "deep" / "folder"

    try:
        load(DatapathConfig(bpf_root=str(root)), objects).close()
        assert bpffs.is_bpffs(root)
    finally:
        bpffs.unmount(root)

    assert os.listdir(root) == []

"""Programs on real devices, by tcx links and by clsact filters: attach, exchange, move, detach."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pycilium.datapath import bpf_syscall as bpf
from pycilium.datapath import libbpf, links, trial
from pycilium.datapath.features import kernel_version
from pycilium.datapath.links import Attachment, Hook
from pycilium.datapath.loader import Datapath, DatapathConfig, load
from pycilium.errors import AttachError, UnsupportedFeature

pytestmark = pytest.mark.root

needs_tcx = pytest.mark.skipif(kernel_version() < (6, 6), reason="tcx links are of Linux 6.6")
TCX = pytest.param("tcx", marks=needs_tcx)


@pytest.fixture
def pin(bpf_root: Path) -> Path:
    return bpf_root / "links" / "probe0"


@pytest.fixture
def fds(datapath: Datapath) -> Iterator[tuple[int, int]]:
    return datapath.programs["probe_events"].fd, datapath.programs["probe_config"].fd


@pytest.mark.parametrize("mode", [TCX, "tc"])
@pytest.mark.parametrize("hook", Hook)
class TestEitherMode:
    def test_what_is_attached_is_found_and_detached_once(
        self, device: int, pin: Path, fds: tuple[int, int], mode: links.Mode, hook: Hook
    ) -> None:
        attached = links.attach(device, fds[0], pin, hook=hook, mode=mode)

        assert attached.mode == mode
        assert links.attachment(device, pin, hook=hook) == attached
        assert links.detach(device, pin, hook=hook) is True
        assert links.attachment(device, pin, hook=hook) is None
        assert links.detach(device, pin, hook=hook) is False
        assert not pin.exists()

    def test_attaching_again_exchanges_the_program_in_place(
        self, device: int, pin: Path, fds: tuple[int, int], mode: links.Mode, hook: Hook
    ) -> None:
        links.attach(device, fds[0], pin, hook=hook, mode=mode)
        before = attached_programs(device, hook)

        exchanged = links.attach(device, fds[1], pin, hook=hook, mode=mode)

        assert exchanged.program_id == bpf.program_info(fds[1]).id
        assert links.attachment(device, pin, hook=hook) == exchanged
        after = attached_programs(device, hook)
        assert len(after) == len(before) == 1
        assert [link for link, _ in after] == [link for link, _ in before]

    def test_a_device_that_is_not_there_is_told(
        self, device: int, pin: Path, fds: tuple[int, int], mode: links.Mode, hook: Hook
    ) -> None:
        with pytest.raises(AttachError, match=f"device 4711, {hook.value}: there is no such device"):
            links.attach(4711, fds[0], pin, hook=hook, mode=mode)

        assert not pin.exists()

    def test_detaching_from_a_device_that_is_gone_is_success(
        self, device: int, pin: Path, fds: tuple[int, int], mode: links.Mode, hook: Hook
    ) -> None:
        links.attach(device, fds[0], pin, hook=hook, mode=mode)
        subprocess.run(["ip", "link", "delete", "probe0"], check=True)

        links.detach(device, pin, hook=hook)

        assert not pin.exists()


def attached_programs(device: int, hook: Hook) -> list[tuple[int, int]]:
    """(link or handle, program) of all that is attached, by tcx and by tc."""
    found = list(bpf.query_links(device, hook.tcx)) if links.has_tcx() else []
    shown = subprocess.run(
        ["tc", "filter", "show", "dev", "probe0", hook.value], check=True, capture_output=True, text=True
    ).stdout
    return found + [(links.HANDLE, line.count("0xc111")) for line in shown.splitlines() if "handle" in line]


@needs_tcx
@pytest.mark.parametrize(("before", "after"), [("tcx", "tc"), ("tc", "tcx"), ("tc", "auto")])
def test_changing_the_mode_leaves_nothing_of_the_other(
    device: int, pin: Path, fds: tuple[int, int], before: links.Mode, after: links.Mode
) -> None:
    links.attach(device, fds[0], pin, mode=before)

    attached = links.attach(device, fds[0], pin, mode=after)

    assert len(attached_programs(device, Hook.INGRESS)) == 1
    assert links.attachment(device, pin) == attached


@needs_tcx
@pytest.mark.parametrize(("own_device", "left"), [(True, 0), (False, 1)])
def test_the_qdisc_goes_with_the_filter_only_from_a_device_of_our_own(
    device: int, pin: Path, fds: tuple[int, int], own_device: bool, left: int
) -> None:
    links.attach(device, fds[0], pin, mode="tc", own_device=own_device)
    assert clsact_count() == 1

    links.attach(device, fds[0], pin, mode="tcx", own_device=own_device)

    assert clsact_count() == left


def clsact_count() -> int:
    shown = subprocess.run(["tc", "qdisc", "show", "dev", "probe0"], check=True, capture_output=True, text=True)
    return shown.stdout.count("clsact")


def test_auto_prefers_tcx_where_the_kernel_has_it(device: int, pin: Path, fds: tuple[int, int]) -> None:
    assert links.has_tcx() == (kernel_version() >= (6, 6))
    assert links.attach(device, fds[0], pin).mode == ("tcx" if links.has_tcx() else "tc")


def test_tcx_where_the_kernel_has_none_is_told(
    device: int, pin: Path, fds: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "has_tcx", lambda: False)

    with pytest.raises(UnsupportedFeature, match=r"no tcx links; Linux 6\.6 or newer"):
        links.attach(device, fds[0], pin, mode="tcx")


@needs_tcx
def test_a_link_survives_the_process_by_its_pin(device: int, pin: Path, datapath: Datapath) -> None:
    attached = links.attach(device, datapath.programs["probe_events"].fd, pin)
    datapath.close()

    assert list(links.pinned_links(pin.parent)) == [attached]


def test_the_pin_of_another_device_is_not_mistaken_for_this_one(device: int, pin: Path, fds: tuple[int, int]) -> None:
    other = socket.if_nametoindex("probe1")
    links.attach(other, fds[0], pin)

    links.attach(device, fds[0], pin)

    assert len(attached_programs(device, Hook.INGRESS)) == 1


@needs_tcx
def test_pins_whose_device_is_gone_are_swept(device: int, pin: Path, fds: tuple[int, int]) -> None:
    links.attach(device, fds[0], pin)
    subprocess.run(["ip", "link", "delete", "probe0"], check=True)
    assert list(links.pinned_links(pin.parent)) == [
        Attachment(0, Hook.INGRESS, "tcx", bpf.program_info(fds[0]).id, str(pin))
    ]

    assert links.sweep(pin.parent) == 1

    assert list(links.pinned_links(pin.parent)) == []
    assert links.sweep(pin.parent) == 0


def test_a_filter_of_somebody_else_is_left_alone(device: int, pin: Path, fds: tuple[int, int]) -> None:
    libbpf.tc_attach(device, libbpf.TC_INGRESS, fds[1], handle=7, priority=7)

    links.attach(device, fds[0], pin, mode="tc")
    links.detach(device, pin)

    assert libbpf.tc_program(device, libbpf.TC_INGRESS, 7, 7) == bpf.program_info(fds[1]).id


@pytest.mark.parametrize("mode", [TCX, "tc"])
@pytest.mark.parametrize("size", [1024, 2048])
def test_a_program_whose_maps_are_others_by_now_is_not_put_back(
    device: int, pin: Path, datapath: Datapath, config: DatapathConfig, objects: Path, mode: links.Mode, size: int
) -> None:
    before = links.attach(device, datapath.programs["probe_lookup"].fd, pin, mode=mode)
    resized = replace(config, map_entries={**config.map_entries, "ipcache4": size})

    with load(resized, objects) as newer:
        trial.attach(device, newer.programs["probe_lookup"].fd, pin, hook=Hook.INGRESS, mode=mode).undo()

    assert links.attachment(device, pin) == (before if size == config.map_entries["ipcache4"] else None)

"""A BPF file system and a network namespace of each test's own; the probe object, compiled once per run."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pycilium.datapath import bpffs, btf
from pycilium.datapath.loader import Datapath, DatapathConfig, load

sys.path.insert(0, str(Path(__file__).parents[3] / "tools"))
import build_bpf

_CLONE_NEWNET = 0x40000000
PROBE = Path(__file__).parent / "probe.bpf.c"


def compile_probe(folder: Path, replace: tuple[str, str] = ("", "")) -> Path:
    """A folder with the probe object, its text changed by `replace`."""
    folder.mkdir(parents=True)
    source = folder / "probe.bpf.c"
    source.write_text(PROBE.read_text().replace(*replace) if replace[0] else PROBE.read_text())
    build_bpf.compile_object(source, folder / "probe.bpf.o")
    return folder


@pytest.fixture(scope="session")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_probe(tmp_path_factory.mktemp("probe") / "objects")


@pytest.fixture(scope="session")
def map_names(objects: Path) -> frozenset[str]:
    """The maps that the probe declares; the real programs may have more."""
    declared = btf.read_object((objects / "probe.bpf.o").read_bytes())
    return frozenset(definition.name for definition in declared.maps)


@pytest.fixture
def bpf_root(tmp_path: Path) -> Iterator[Path]:
    root = tmp_path / "bpf"
    bpffs.ensure(root)
    yield root
    bpffs.unmount(root)


@pytest.fixture
def config(bpf_root: Path) -> DatapathConfig:
    """Small maps: a test loads in milliseconds."""
    sizes = {"ct4": 1024, "ct6": 1024, "ipcache4": 1024, "ipcache6": 1024, "events": 1 << 16, "endpoints4": 64}
    return DatapathConfig(bpf_root=str(bpf_root), map_entries=sizes)


@pytest.fixture
def datapath(config: DatapathConfig, objects: Path) -> Iterator[Datapath]:
    with load(config, objects) as loaded:
        yield loaded


@pytest.fixture
def device() -> Iterator[int]:
    """The ifindex of one end of a veth pair in a network namespace that dies with the test."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    assert libc.unshare(_CLONE_NEWNET) == 0
    try:
        subprocess.run(["ip", "link", "add", "probe0", "type", "veth", "peer", "name", "probe1"], check=True)
        yield socket.if_nametoindex("probe0")
    finally:
        assert libc.setns(before, _CLONE_NEWNET) == 0
        os.close(before)

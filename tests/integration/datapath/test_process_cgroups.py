"""Cgroups as the kernel shows them, made for the test below the root of cgroup v2."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pycilium.datapath import process_cgroups
from pycilium.errors import InvalidResource
from pycilium.lab import cgroups

pytestmark = pytest.mark.root

NAME = f"pycilium-test-cgroups-{os.getpid()}"


@pytest.fixture
def root() -> Path:
    return process_cgroups.root()


@pytest.fixture
def cgroup(root: Path) -> Iterator[Path]:
    made = root / NAME
    cgroups.make(made / "inner")
    yield made
    cgroups.remove(made)


def test_it_is_named_from_the_root_on_however_it_is_written(root: Path, cgroup: Path) -> None:
    written = (str(cgroup), f"/{NAME}", NAME, f"/{NAME}/", f"{cgroup}/inner/..", f"/{NAME}/inner/..")

    assert {process_cgroups.name_of(each, root) for each in written} == {f"/{NAME}"}


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/", "the root holds every process"),
        ("", "is no cgroup"),
        ("/..", "is no cgroup"),
        ("/etc", "is no cgroup of version 2"),
    ],
)
def test_what_is_no_cgroup_is_refused(root: Path, path: str, why: str) -> None:
    with pytest.raises(InvalidResource, match=why):
        process_cgroups.name_of(path, root)


def test_one_that_is_made_anew_has_another_number_and_one_that_is_gone_none(root: Path, cgroup: Path) -> None:
    before = process_cgroups.id_of(f"/{NAME}/inner", root)
    (cgroup / "inner").rmdir()
    gone = process_cgroups.id_of(f"/{NAME}/inner", root)
    (cgroup / "inner").mkdir()

    assert gone == 0
    assert process_cgroups.id_of(f"/{NAME}/inner", root) not in (0, before)
    assert process_cgroups.id_of(f"/{NAME}/cgroup.procs", root) == 0


def test_a_process_below_with_another_network_is_found(root: Path, cgroup: Path) -> None:
    with cgroups.inside(cgroup / "inner"):
        own = subprocess.Popen(["sleep", "60"])
        other = subprocess.Popen(["unshare", "--net", "sleep", "60"])
    try:
        while process_cgroups.with_other_network(f"/{NAME}", root) is None:
            assert other.poll() is None
        assert process_cgroups.with_other_network(f"/{NAME}", root) == other.pid
    finally:
        for each in (own, other):
            each.kill()
            each.wait()

    assert process_cgroups.with_other_network(f"/{NAME}", root) is None

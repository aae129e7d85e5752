"""What a lab starts is in the lab's own cgroups, from the first instruction on, and nobody else is."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pycilium.datapath import cgroup_links
from pycilium.lab import cgroups

pytestmark = pytest.mark.root

LAB = f"test-cgroups-{os.getpid()}"


@pytest.fixture
def pod() -> Iterator[Path]:
    cgroup = cgroups.of_pod(LAB, "node1", "default", "web")
    assert cgroup is not None
    cgroups.make(cgroup)
    yield cgroup
    cgroups.remove(cgroups.of_lab(LAB))


def cgroup_of(pid: int | str) -> str:
    lines = Path(f"/proc/{pid}/cgroup").read_text(encoding="ascii").splitlines()
    return next(line for line in lines if line.startswith("0::"))


def test_a_process_is_born_inside_and_its_parent_is_where_it_was(pod: Path) -> None:
    before = cgroup_of("self")

    with cgroups.inside(pod):
        said = subprocess.run(["cat", "/proc/self/cgroup"], capture_output=True, text=True, check=True).stdout

    assert f"0::/cilium-lab-{LAB}/node1/default.web" in said.splitlines()
    assert cgroup_of("self") == before


def test_without_such_a_cgroup_everything_stays_where_it_is(pod: Path) -> None:
    before = cgroup_of("self")

    for nowhere in (None, pod / "nowhere"):
        with cgroups.inside(nowhere):
            assert cgroup_of("self") == before


def test_a_process_that_is_left_does_not_keep_it(pod: Path) -> None:
    with cgroups.inside(pod), subprocess.Popen(["sleep", "600"]) as left:
        try:
            cgroups.remove(cgroups.of_lab(LAB))
            assert cgroup_of(left.pid) == "0::/"
        finally:
            left.kill()

    assert not pod.parent.parent.exists()
    cgroups.remove(cgroups.of_lab(LAB))


def test_it_lies_in_the_root_and_has_no_controllers(pod: Path) -> None:
    assert pod.parent.parent.parent == cgroup_links.cgroup_root()
    assert (pod.parent / "cgroup.subtree_control").read_text(encoding="ascii").split() == []

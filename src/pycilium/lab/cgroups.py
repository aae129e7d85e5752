"""Cgroups of a lab, by which sockets are the node's or the pod's that they belong to: made, entered, removed.

    cilium-lab-LAB/NODE                     the node's own processes, its agent too
    cilium-lab-LAB/NODE/NAMESPACE.POD       a pod's

They lie in the root of cgroup v2 and have no controllers: they limit nothing, and the machine's own are as they were.
Where cgroup v2 is mounted nowhere there are none, and a lab's sockets are left alone.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from pycilium.datapath import cgroup_links
from pycilium.errors import AttachError, CiliumError

_moving = threading.Lock()


def of_lab(lab: str) -> Path | None:
    """None where cgroup v2 is mounted nowhere."""
    try:
        return cgroup_links.cgroup_root() / f"cilium-lab-{lab}"
    except AttachError:
        return None


def of_node(lab: str, node: str) -> Path | None:
    folder = of_lab(lab)
    return folder / node if folder else None


def of_pod(lab: str, node: str, namespace: str, name: str) -> Path | None:
    folder = of_node(lab, node)
    return folder / f"{namespace}.{name}" if folder else None


def make(cgroup: Path | None) -> None:
    """Idempotent."""
    if cgroup is None:
        return
    try:
        cgroup.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CiliumError(f"cgroup {cgroup}: cannot be made: {error.strerror}") from error


def remove(cgroup: Path | None) -> None:
    """Removes it with all below; processes that are left go to the root. Absent is success."""
    if cgroup is None or not cgroup.is_dir():
        return
    for entry in list(cgroup.iterdir()):
        if entry.is_dir():
            remove(entry)
    with contextlib.suppress(FileNotFoundError):
        for pid in (cgroup / "cgroup.procs").read_text(encoding="ascii").split():
            with contextlib.suppress(OSError):  # it has ended
                (cgroup_links.cgroup_root() / "cgroup.procs").write_text(pid, encoding="ascii")
        cgroup.rmdir()


def enter(cgroup: Path | None) -> None:
    """Moves this process, for good: before exec only. Without such a cgroup it stays where it is."""
    if cgroup is not None and cgroup.is_dir():
        (cgroup / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")


@contextlib.contextmanager
def inside(cgroup: Path | None) -> Iterator[None]:
    """What this process starts within the block belongs to the cgroup from its beginning; this process goes back."""
    if cgroup is None or not cgroup.is_dir():
        yield
        return
    with _moving:
        before = _own()
        enter(cgroup)
        try:
            yield
        finally:
            enter(before)


def _own() -> Path:
    """The cgroup of this process."""
    own = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    path = next((line.removeprefix("0::") for line in own if line.startswith("0::")), "/")
    return cgroup_links.cgroup_root() / path.lstrip("/")

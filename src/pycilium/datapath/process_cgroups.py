"""Cgroups (v2) of processes, as the kernel shows them: where one is, what it is called, whose processes are in it.

A cgroup is named by its path from the root on, such as /system.slice/nginx.service.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator
from pathlib import Path

from pycilium.datapath import cgroup_links
from pycilium.errors import AttachError, InvalidResource

_ROOT_ID = 1
"""The kernel's number of the root of all cgroups."""


def root() -> Path:
    """Where the root of all cgroups is. AttachError if only a part of them can be seen from here."""
    mounted = cgroup_links.cgroup_root()
    if cgroup_links.cgroup_id(mounted) != _ROOT_ID:
        raise AttachError(
            f"{mounted} shows only a part of the machine's cgroups: run the agent in the machine's cgroup namespace"
        )
    return mounted


def name_of(path: str, root: Path) -> str:
    """What the cgroup is called that somebody wrote as a path, of the file system or from the root of cgroups on.

    InvalidResource for what is no cgroup, or the root. It need not be there if it is written from the root on.
    """
    real = Path(os.path.realpath(path))
    within = real if real.is_relative_to(root.resolve()) else root.resolve() / path.strip().lstrip("/")
    within = Path(os.path.normpath(within))
    if not path.strip() or not within.is_relative_to(root.resolve()):
        raise InvalidResource(f"{path!r} is no cgroup: cgroups are below {root}", path="cgroup")
    if within == root.resolve():
        raise InvalidResource(
            "the root holds every process of the machine: name the cgroup of one service, such as "
            "/system.slice/nginx.service",
            path="cgroup",
        )
    if real.exists() and not real.is_relative_to(root.resolve()) and not within.exists():
        raise InvalidResource(
            f"{path} is no cgroup of version 2: those are below {root}, such as {root}/system.slice/nginx.service",
            path="cgroup",
        )
    return f"/{within.relative_to(root.resolve())}"


def id_of(cgroup: str, root: Path) -> int:
    """The kernel's number of the cgroup; 0 if there is none."""
    try:
        found = (root / cgroup.lstrip("/")).stat()
    except OSError:
        return 0
    return found.st_ino if stat.S_ISDIR(found.st_mode) and found.st_dev == root.stat().st_dev else 0


def with_ids(ids: Collection[int], root: Path) -> dict[int, str]:
    """The cgroups that have these numbers, by a look at all there are."""
    if not ids:
        return {}
    folders = (Path(place) for place, _, _ in os.walk(root))
    numbered = ((id_of(f"/{folder.relative_to(root)}", root), folder) for folder in folders)
    return {number: f"/{folder.relative_to(root)}" for number, folder in numbered if number in ids}


def own(root: Path) -> str:
    """That of this process."""
    lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    path = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "/")
    return path if (root / path.lstrip("/")).is_dir() else "/"


def with_other_network(cgroup: str, root: Path) -> int | None:
    """A process in the cgroup, or below it, whose network is not this process's own; None if there is none."""
    here = os.stat("/proc/self/ns/net")
    for pid in _processes(root / cgroup.lstrip("/")):
        try:
            there = os.stat(f"/proc/{pid}/ns/net")
        except OSError:
            continue  # it has ended
        if (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino):
            return pid
    return None


def _processes(folder: Path) -> Iterator[int]:
    for place, _, _ in os.walk(folder):
        try:
            listed = (Path(place) / "cgroup.procs").read_text(encoding="ascii").split()
        except OSError:
            continue  # it is gone, or holds threads alone
        yield from (pid for pid in map(int, listed) if pid)

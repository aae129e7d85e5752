"""Programs on the sockets of a cgroup (v2) and of all cgroups below it: one link per hook, pinned. Those that translate
go to one cgroup; the one that judges what processes of the node receive goes to each that is an endpoint.

A pinned link outlives the agent; attaching again exchanges its program in place, so that every call meets the old
program or the new one. It outlives its cgroup too: the kernel empties the link of one that is removed once the last of
its sockets is closed, and until then its program is run, and may be exchanged.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pycilium.datapath import bpf_syscall as bpf
from pycilium.datapath import layouts, link_pins
from pycilium.datapath.bpf_syscall import AttachType
from pycilium.datapath.loader import Program, replace_pins
from pycilium.errors import AttachError

HOOKS: Final = {
    "cgroup/connect4": AttachType.INET4_CONNECT,
    "cgroup/connect6": AttachType.INET6_CONNECT,
    "cgroup/post_bind4": AttachType.INET4_POST_BIND,
    "cgroup/post_bind6": AttachType.INET6_POST_BIND,
    "cgroup/sendmsg4": AttachType.UDP4_SENDMSG,
    "cgroup/sendmsg6": AttachType.UDP6_SENDMSG,
    "cgroup/recvmsg4": AttachType.UDP4_RECVMSG,
    "cgroup/recvmsg6": AttachType.UDP6_RECVMSG,
    "cgroup/getpeername4": AttachType.INET4_GETPEERNAME,
    "cgroup/getpeername6": AttachType.INET6_GETPEERNAME,
    "cgroup/sock_release": AttachType.INET_SOCK_RELEASE,
    "cgroup_skb/ingress": AttachType.INET_INGRESS,
}
"""By the section of the program."""

PROCESS_PROGRAM: Final = "process_in"
"""On what sockets of processes receive that are an endpoint."""
BELOW_PROGRAM: Final = "process_below"
"""Holds its place where a cgroup above has it."""
PROCESS_PROGRAMS: Final = (PROCESS_PROGRAM, BELOW_PROGRAM)
PROGRAMS: Final = tuple(
    name for name, spec in layouts.PROGRAMS.items() if spec.section in HOOKS and name not in PROCESS_PROGRAMS
)
"""All that translate at sockets."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """A program of ours on a cgroup; `cgroup_id` is 0 if that is gone, and its sockets too."""

    cgroup_id: int
    program_id: int
    pin: Path


def cgroup_root() -> Path:
    """Where cgroup v2 is mounted, which holds every process of the machine. AttachError if it is mounted nowhere."""
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        place, _, kind = line.partition(" - ")
        if kind.startswith("cgroup2 "):
            return Path(place.split()[4].replace("\\040", " "))
    raise AttachError("cgroup v2 is mounted nowhere: `mount -t cgroup2 none /sys/fs/cgroup` does it")


def cgroup_id(cgroup: Path) -> int:
    """The kernel's number of the cgroup. AttachError if there is none at the path."""
    try:
        return cgroup.stat().st_ino
    except OSError as error:
        raise AttachError(f"cgroup {cgroup}: {error.strerror}") from error


def attach(cgroup: Path, program: Program, pin: Path) -> None:
    """Attach the program, in place of an older one whose link is pinned there. Idempotent; AttachError says why not."""
    try:
        fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise AttachError(f"cgroup {cgroup}: {error.strerror}") from error
    try:
        if not exchange(pin, os.fstat(fd).st_ino, program):
            link_pins.unpin(pin)
            _create(fd, program, pin)
    except OSError as error:
        raise AttachError(f"cgroup {cgroup}, {program.name}: {error.strerror}") from error
    finally:
        os.close(fd)


def pinned(folder: Path) -> Iterator[Attachment]:
    """All links on cgroups that are pinned in `folder`."""
    for path, info in link_pins.pinned(folder, bpf.LINK_TYPE_CGROUP):
        yield Attachment(info.cgroup_id, info.program_id, path)


def is_attached(pin: Path, cgroup: int) -> bool:
    """Whether the pinned link is on the cgroup of this id: that, or one of its sockets, is still there."""
    info = link_pins.info_of(pin)
    return info is not None and (info.type, info.cgroup_id) == (bpf.LINK_TYPE_CGROUP, cgroup)


def exchange(pin: Path, cgroup: int, program: Program) -> bool:
    """Exchange the program of the pinned link; False if that is none of this cgroup and hook. AttachError says why not.

    So it is too if the last socket of a cgroup that is gone is closed meanwhile.
    """
    try:
        link = bpf.object_get(str(pin))
    except FileNotFoundError:
        return False
    try:
        return _exchanged(link, cgroup, program)
    except OSError as error:
        if error.errno == errno.ENOLINK:
            return False
        raise AttachError(f"{pin}: program {program.name} cannot be exchanged: {error.strerror}") from error
    finally:
        os.close(link)


def _exchanged(link: int, cgroup: int, program: Program) -> bool:
    info = bpf.link_info(link)
    if (info.type, info.cgroup_id, info.attach_type) != (bpf.LINK_TYPE_CGROUP, cgroup, _hook(program)):
        return False
    if info.program_id != program.info().id:
        bpf.link_update(link, program.fd)
    return True


def _hook(program: Program) -> AttachType:
    return HOOKS[layouts.PROGRAMS[program.name].section]


def _create(cgroup_fd: int, program: Program, pin: Path) -> None:
    link = bpf.link_create_cgroup(program.fd, cgroup_fd, _hook(program))
    try:
        pin.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_pins([(pin, link)])
    finally:
        os.close(link)

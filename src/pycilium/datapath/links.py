"""Programs attached to devices: tcx links where the kernel has them (6.6), cls_bpf filters on clsact before.

A tcx link is pinned, so it outlives the agent; attaching again exchanges its program in place. A filter needs no
pin: it lives with its device, and is exchanged in place because handle and priority are always ours. Both ways
every packet meets the old program or the new one, never none.

Devices are those of the calling thread's network namespace.
"""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Literal

from pycilium.datapath import bpf_syscall as bpf
from pycilium.datapath import libbpf, link_pins
from pycilium.datapath.loader import replace_pins
from pycilium.errors import AttachError, UnsupportedFeature

HANDLE = 0xC111
PRIORITY = 1
"""Which filter is ours: one of this handle and priority is exchanged and removed, any other is left alone."""

Mode = Literal["auto", "tcx", "tc"]


class Hook(Enum):
    """Where on a device, seen from the host: ingress is what the device receives."""

    INGRESS = "ingress"
    EGRESS = "egress"

    @property
    def tcx(self) -> bpf.AttachType:
        return bpf.AttachType.TCX_INGRESS if self is Hook.INGRESS else bpf.AttachType.TCX_EGRESS

    @property
    def tc(self) -> int:
        return libbpf.TC_INGRESS if self is Hook.INGRESS else libbpf.TC_EGRESS


@dataclass(frozen=True, slots=True)
class Attachment:
    """A program of ours on a device; `pin` is empty for a tc filter."""

    ifindex: int
    hook: Hook
    mode: Literal["tcx", "tc"]
    program_id: int
    pin: str = ""


def attach(
    ifindex: int,
    program_fd: int,
    pin_path: str | os.PathLike[str],
    *,
    hook: Hook = Hook.INGRESS,
    mode: Mode = "auto",
    own_device: bool = False,
) -> Attachment:
    """Attach the program, in place of whatever of ours is there. Idempotent; AttachError says device, hook and why.

    What the other mode left behind is removed, but only once the new program is in place; of a device that is ours
    altogether (`own_device`) the clsact qdisc too. A new tcx link makes the kernel wait for an RCU grace period,
    some 10 ms with the routing lock held, where a filter takes 0.1 ms: who is in a hurry attaches with mode "tc" and
    comes again later with "auto".
    """
    program_id = bpf.program_info(program_fd).id
    path = Path(pin_path)
    if mode == "tcx" and not has_tcx():
        raise UnsupportedFeature("tcx links", "6.6")
    with attach_errors(ifindex, hook):
        if mode == "tc" or not has_tcx():
            libbpf.tc_attach(ifindex, hook.tc, program_fd, HANDLE, PRIORITY)
            link_pins.unpin(path)
            return Attachment(ifindex, hook, "tc", program_id)
        if not _update(path, ifindex, hook, program_fd, program_id):
            _create(path, ifindex, hook, program_fd)
            if libbpf.tc_detach(ifindex, hook.tc, HANDLE, PRIORITY) and own_device:
                libbpf.tc_remove_hooks(ifindex)
    return Attachment(ifindex, hook, "tcx", program_id, str(path))


def detach(ifindex: int, pin_path: str | os.PathLike[str], *, hook: Hook = Hook.INGRESS) -> bool:
    """Take our program off the device, whichever way it is attached; False if there was none. Idempotent."""
    with attach_errors(ifindex, hook):
        return link_pins.unpin(Path(pin_path)) | libbpf.tc_detach(ifindex, hook.tc, HANDLE, PRIORITY)


def attachment(ifindex: int, pin_path: str | os.PathLike[str], *, hook: Hook = Hook.INGRESS) -> Attachment | None:
    """Our program on the device, None if there is none."""
    info = link_pins.info_of(Path(pin_path))
    if info is not None and belongs(info, ifindex, hook):
        return Attachment(ifindex, hook, "tcx", info.program_id, str(pin_path))
    with attach_errors(ifindex, hook):
        program_id = libbpf.tc_program(ifindex, hook.tc, HANDLE, PRIORITY)
    return None if program_id is None else Attachment(ifindex, hook, "tc", program_id)


def pinned_links(folder: str | os.PathLike[str]) -> Iterator[Attachment]:
    """All tcx links pinned in `folder`; ifindex 0 marks one whose device is gone. See `sweep`."""
    for path, info in link_pins.pinned(Path(folder), bpf.LINK_TYPE_TCX):
        hook = Hook.INGRESS if info.attach_type == bpf.AttachType.TCX_INGRESS else Hook.EGRESS
        yield Attachment(info.ifindex, hook, "tcx", info.program_id, str(path))


def sweep(folder: str | os.PathLike[str]) -> int:
    """Remove the pins of links whose device is gone; how many there were."""
    gone = [Path(link.pin) for link in pinned_links(folder) if link.ifindex == 0]
    return sum(link_pins.unpin(path) for path in gone)


@functools.cache
def has_tcx() -> bool:
    """Whether the kernel has tcx links: it asks about a device that cannot be, and an older kernel about nothing."""
    try:
        list(bpf.query_links(0x7FFFFFFF, bpf.AttachType.TCX_INGRESS))
    except OSError as error:
        return error.errno != errno.EINVAL
    return True


def _update(path: Path, ifindex: int, hook: Hook, program_fd: int, program_id: int) -> bool:
    """Exchange the program of the link pinned at `path`; False if that is none of this device and hook."""
    try:
        link = bpf.object_get(str(path))
    except FileNotFoundError:
        return False
    try:
        info = bpf.link_info(link)
        if not belongs(info, ifindex, hook):
            return False
        if info.program_id != program_id:
            bpf.link_update(link, program_fd)
        return True
    finally:
        os.close(link)


def belongs(info: bpf.LinkInfo, ifindex: int, hook: Hook) -> bool:
    """Also that the device is one of this namespace: numbers of devices repeat between namespaces."""
    if (info.type, info.ifindex, info.attach_type) != (bpf.LINK_TYPE_TCX, ifindex, hook.tcx):
        return False
    try:
        return any(link_id == info.id for link_id, _ in bpf.query_links(ifindex, hook.tcx))
    except OSError:
        return False


def _create(path: Path, ifindex: int, hook: Hook, program_fd: int) -> None:
    link = bpf.link_create_tcx(program_fd, ifindex, hook.tcx)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_pins([(path, link)])
    finally:
        os.close(link)


@contextmanager
def attach_errors(ifindex: int, hook: Hook) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = "there is no such device" if error.errno == errno.ENODEV else error.strerror
        raise AttachError(f"device {ifindex}, {hook.value}: {reason}") from error

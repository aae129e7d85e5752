"""Programs before the stack of a device: one XDP link per device, pinned, so that it outlives the agent.

Natively the device's driver runs the program; generically the kernel does on any device, later and slower. A device
takes one program, whoever's: where another has one, attaching fails. Attaching again exchanges the program in place.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pycilium.datapath import bpf_syscall as bpf
from pycilium.datapath import link_pins
from pycilium.datapath.loader import replace_pins
from pycilium.datapath.netlink import Netlink
from pycilium.datapath.trial import Trial, has_maps_of
from pycilium.errors import AttachError

Mode = Literal["native", "best-effort"]
"""best-effort: natively if the device's driver can, else generically."""

_GENERIC, _NATIVE = 1 << 1, 1 << 2  # XDP_FLAGS_SKB_MODE, XDP_FLAGS_DRV_MODE
_WAYS = {1: "native", 2: "generic", 3: "hardware", 4: "several"}  # XDP_ATTACHED_*


@dataclass(frozen=True, slots=True)
class Attachment:
    """A program of ours before a device; `ifindex` is 0 if that is gone."""

    ifindex: int
    program_id: int
    pin: Path


def attach(ifindex: int, program_fd: int, pin: Path, mode: Mode) -> Trial:
    """Attach the program on trial, in place of ours whose link is pinned there. AttachError says why not."""
    return _exchange(ifindex, program_fd, pin) or _create(ifindex, program_fd, pin, mode)


def pinned(folder: Path) -> Iterator[Attachment]:
    """All XDP links that are pinned in `folder`."""
    for path, info in link_pins.pinned(folder, bpf.LINK_TYPE_XDP):
        yield Attachment(info.ifindex, info.program_id, path)


def way_of(device: str) -> str:
    """`native` or `generic`: how the device of the caller's namespace runs its program; "" if it has none."""
    with Netlink.open() as node:
        found = node.link(device)
    return _WAYS.get(found.xdp, "") if found else ""


def _create(ifindex: int, program_fd: int, pin: Path, mode: Mode) -> Trial:
    try:
        link = bpf.link_create_xdp(program_fd, ifindex, _NATIVE)
    except OSError as error:
        if mode == "native":
            raise _failure(ifindex, "native", error) from error
        try:
            link = bpf.link_create_xdp(program_fd, ifindex, _GENERIC)
        except OSError as second:
            raise _failure(ifindex, "native and generic", second) from second

    def confirm() -> None:
        pin.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_pins([(pin, link)])

    def undo() -> None:
        with suppress(OSError):
            bpf.link_detach(link)

    return Trial(confirm, undo, (link,))


def _exchange(ifindex: int, program_fd: int, pin: Path) -> Trial | None:
    """None if no link of ours is pinned there, of this device."""
    try:
        link = bpf.object_get(str(pin))
    except FileNotFoundError:
        return None
    try:
        info = bpf.link_info(link)
        if (info.type, info.ifindex) != (bpf.LINK_TYPE_XDP, ifindex):
            os.close(link)
            return None
        before = bpf.program_get(info.program_id)
        may_return = has_maps_of(before, program_fd)
        bpf.link_update(link, program_fd)
    except OSError as error:
        os.close(link)
        raise _failure(ifindex, "the pinned link", error) from error

    def undo() -> None:
        with suppress(OSError):
            if may_return:
                bpf.link_update(link, before)
            else:
                link_pins.unpin(pin)

    return Trial(lambda: None, undo, (link, before))


def _failure(ifindex: int, way: str, error: OSError) -> AttachError:
    return AttachError(f"device {ifindex}, XDP ({way}): {error.strerror}")

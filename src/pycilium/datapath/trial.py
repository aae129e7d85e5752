"""A program on a device on trial: attached, but so that it can be taken back, and by itself where the kernel lets it.

    before              on trial                             confirmed            undone
    nothing             tcx link without a pin               pinned               detached
    our pinned link     its program exchanged, old one held  old one let go       old program put back
    our tc filter       the same                             the same             old program put back, or removed

A link without a pin goes with the process that holds it: an agent that dies on trial leaves nothing new. That is so
only for the first row; an exchanged program stays, as it would in any upgrade.

A program whose maps have been made anew (`earlier_maps`) is not put back: it would go on for ever by a policy of which
nobody keeps its maps. Instead there is none.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pycilium.datapath import bpf_syscall as bpf
from pycilium.datapath import libbpf, link_pins, links
from pycilium.datapath.links import HANDLE, PRIORITY, Hook
from pycilium.datapath.loader import replace_pins


@dataclass(slots=True)
class Trial:
    """Ends with `confirm` or `undo`, whichever is called first; later calls do nothing."""

    _confirm: Callable[[], object]
    _undo: Callable[[], object]
    _fds: tuple[int, ...] = ()
    _open: bool = field(default=True)

    def confirm(self) -> None:
        """The program stays, also when this process ends. DatapathError if it cannot be pinned."""
        self._end(self._confirm)

    def undo(self) -> None:
        """What was there before is there again. AttachError if the kernel refuses; a device that is gone is none."""
        self._end(self._undo)

    def _end(self, step: Callable[[], object]) -> None:
        if self._open:
            step()
            self._open = False
            for fd in self._fds:
                os.close(fd)


def attach(ifindex: int, program_fd: int, pin_path: str | os.PathLike[str], *, hook: Hook, mode: links.Mode) -> Trial:
    """As `links.attach`, on trial. What the other mode left is removed when the trial is confirmed."""
    path = Path(pin_path)
    with links.attach_errors(ifindex, hook):
        if mode == "tc" or not links.has_tcx():
            return _filter(ifindex, program_fd, path, hook)
        return _exchange(ifindex, program_fd, path, hook) or _create(ifindex, program_fd, path, hook)


def _create(ifindex: int, program_fd: int, path: Path, hook: Hook) -> Trial:
    link = bpf.link_create_tcx(program_fd, ifindex, hook.tcx)

    def confirm() -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_pins([(path, link)])
        _remove_filter(ifindex, hook)

    def undo() -> None:
        with suppress(OSError):  # detached already: its device is gone
            bpf.link_detach(link)

    return Trial(confirm, undo, (link,))


def _exchange(ifindex: int, program_fd: int, path: Path, hook: Hook) -> Trial | None:
    """None if no link of ours is pinned there, of this device and hook."""
    try:
        link = bpf.object_get(str(path))
    except FileNotFoundError:
        return None
    try:
        info = bpf.link_info(link)
        if not links.belongs(info, ifindex, hook):
            os.close(link)
            return None
        before = bpf.program_get(info.program_id)
        may_return = has_maps_of(before, program_fd)
        bpf.link_update(link, program_fd)
    except BaseException:
        os.close(link)
        raise

    def undo() -> None:
        with suppress(OSError):
            if may_return:
                bpf.link_update(link, before)
            else:
                link_pins.unpin(path)

    return Trial(lambda: _remove_filter(ifindex, hook), undo, (link, before))


def _filter(ifindex: int, program_fd: int, path: Path, hook: Hook) -> Trial:
    known = libbpf.tc_program(ifindex, hook.tc, HANDLE, PRIORITY)
    before = bpf.program_get(known) if known is not None else -1
    may_return = before >= 0 and has_maps_of(before, program_fd)
    libbpf.tc_attach(ifindex, hook.tc, program_fd, HANDLE, PRIORITY)

    def undo() -> None:
        with links.attach_errors(ifindex, hook):
            if may_return:
                libbpf.tc_attach(ifindex, hook.tc, before, HANDLE, PRIORITY)
            else:
                libbpf.tc_detach(ifindex, hook.tc, HANDLE, PRIORITY)

    return Trial(lambda: link_pins.unpin(path), undo, (before,) if before >= 0 else ())


def has_maps_of(program_fd: int, other_fd: int) -> bool:
    """Whether two programs share all maps of which both have one by that name, but for those of their own constants."""
    maps, others = bpf.program_maps(program_fd), bpf.program_maps(other_fd)
    return all(others.get(name, number) == number for name, number in maps.items() if "." not in name)


def _remove_filter(ifindex: int, hook: Hook) -> None:
    with suppress(OSError):
        libbpf.tc_detach(ifindex, hook.tc, HANDLE, PRIORITY)

"""Links of any kind where they are pinned: a file each, which keeps a program attached while nobody holds its link."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pycilium.datapath import bpf_syscall as bpf


def info_of(pin: Path) -> bpf.LinkInfo | None:
    """What the kernel says of the link that is pinned there; None if there is none."""
    try:
        link = bpf.object_get(str(pin))
    except OSError:
        return None
    try:
        return bpf.link_info(link)
    finally:
        os.close(link)


def pinned(folder: Path, kind: int | None = None) -> Iterator[tuple[Path, bpf.LinkInfo]]:
    """All links that are pinned in `folder`, in the order of their names; with `kind` only those of that type."""
    with suppress(FileNotFoundError):
        for path in sorted(folder.iterdir()):
            info = info_of(path)
            if info is not None and kind in (None, info.type):
                yield path, info


def unpin(pin: Path) -> bool:
    """Detach the link, whoever else holds it, and remove the pin; False if there was none. Idempotent."""
    try:
        link = bpf.object_get(str(pin))
    except FileNotFoundError:
        return False
    try:
        with suppress(OSError):  # detached already: its device or its cgroup is gone
            bpf.link_detach(link)
    finally:
        os.close(link)
    pin.unlink(missing_ok=True)
    return True

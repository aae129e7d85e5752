"""The BPF file system that pins live on: finds out whether a path lies on one, mounts one where none is.

Nothing is ever unmounted here except by `unmount`, which the owner of a mount of its own calls.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

from pycilium.errors import DatapathError, PermissionRequired

_USUAL = Path("/sys/fs/bpf")
_MAGIC = 0xCAFE4A11
_MNT_DETACH = 2
_STATFS_ROOM = 256
_LONG = ctypes.sizeof(ctypes.c_long)

_libc = ctypes.CDLL(None, use_errno=True)


def is_bpffs(path: str | Path) -> bool:
    """Whether the existing `path` lies on a BPF file system."""
    raw = ctypes.create_string_buffer(_STATFS_ROOM)
    if _libc.statfs(os.fsencode(path), raw) != 0:
        return False
    return int.from_bytes(raw.raw[:_LONG], sys.byteorder) & 0xFFFFFFFF == _MAGIC


def ensure(path: str | Path) -> None:
    """Make the folder `path`, on a BPF file system: the one it lies on, else one mounted there.

    Below /sys/fs/bpf, where sysfs lets nobody make folders, the mount goes to /sys/fs/bpf itself, as elsewhere.
    """
    folder = Path(path)
    if os.geteuid() != 0 and not is_bpffs(folder):
        raise PermissionRequired(f"{folder}: only root may make this folder and mount a BPF file system")
    if _USUAL in folder.parents and _USUAL.is_dir() and not is_bpffs(_USUAL):
        mount(_USUAL)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise DatapathError(f"{folder}: the folder for pinned maps cannot be made: {error.strerror}") from error
    if not is_bpffs(folder):
        mount(folder)


def mount(path: str | Path) -> None:
    """Mount a new BPF file system on the existing folder `path`."""
    if _libc.mount(b"bpffs", os.fsencode(path), b"bpf", 0, b"mode=0700") != 0:
        code = ctypes.get_errno()
        raise DatapathError(f"{path}: a BPF file system cannot be mounted: {os.strerror(code)}")


def unmount(path: str | Path) -> None:
    """Take away the BPF file system mounted on `path`, and with it every pin; absent is success."""
    if is_bpffs(path):
        _libc.umount2(os.fsencode(path), _MNT_DETACH)

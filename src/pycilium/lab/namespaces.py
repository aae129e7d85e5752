"""Network namespaces by name, as `ip netns` knows them (/run/netns): made, entered, removed.

Entering is `datapath.netns`'s: a thread goes in and ends there. What is opened or started inside (sockets, processes)
stays inside, and sysctls written there are the namespace's own.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from pycilium.datapath import netns
from pycilium.errors import AlreadyExists, CiliumError, NotFound, PermissionRequired

NETNS_ROOT = Path("/run/netns")

_CLONE_NEWNET = 0x40000000
_CLONE_NEWNS = 0x00020000
_MS_BIND = 0x1000
_MS_REC = 0x4000
_MS_PRIVATE = 1 << 18
_MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)
Result = TypeVar("Result")


def path_of(name: str) -> Path:
    return NETNS_ROOT / name


def exists(name: str) -> bool:
    return path_of(name).exists()


def create(name: str) -> None:
    """Makes the namespace `name`; AlreadyExists when the name is taken, by whomever."""
    path = path_of(name)
    with _said_for(name):
        path.parent.mkdir(mode=0o755, exist_ok=True)
        path.touch(mode=0o444, exist_ok=False)
        try:
            _in_new_thread(lambda: _unshare_and_bind(path))
        except BaseException:
            delete(name)
            raise


def delete(name: str) -> None:
    """Removes the name; the namespace itself goes once nothing runs in it. Absent is success."""
    path = path_of(name)
    if not path.exists():
        return
    _libc.umount2(os.fsencode(path), _MNT_DETACH)
    with _said_for(name), contextlib.suppress(FileNotFoundError):
        try:
            path.unlink()
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            _in_new_thread(lambda: _unlink_covered(path))


def run_in(name: str, function: Callable[[], Result]) -> Result:
    """What `function` gives when called inside the namespace, in a thread of its own. Its exceptions come through."""
    with netns.opened(str(path_of(name))) as fd:
        return netns.run_in(fd, function)


def enter(name: str) -> None:
    """Moves the calling thread into the namespace, for good: only before exec, or in a thread that ends there."""
    with _said_for(name):
        fd = os.open(path_of(name), os.O_RDONLY | os.O_CLOEXEC)
        try:
            _checked(_libc.setns(fd, _CLONE_NEWNET), "setns")
        finally:
            os.close(fd)


def unmount_below(folder: Path) -> None:
    """Detaches every file system mounted below `folder`, the deepest first."""
    prefix = f"{folder}/"
    mountinfo = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    points = [line.split()[4].replace("\\040", " ") for line in mountinfo.splitlines()]
    for point in sorted((point for point in points if point.startswith(prefix)), key=len, reverse=True):
        _libc.umount2(os.fsencode(point), _MNT_DETACH)


def write_sysctl(name: str, value: str) -> None:
    """Sets a sysctl of the calling thread's network namespace: call it inside run_in only."""
    Path("/proc/sys", name.replace(".", "/")).write_text(value, encoding="ascii")


def _unshare_and_bind(path: Path) -> None:
    _checked(_libc.unshare(_CLONE_NEWNET), "unshare")
    own = f"/proc/self/task/{threading.get_native_id()}/ns/net"
    _checked(_libc.mount(os.fsencode(own), os.fsencode(path), b"none", _MS_BIND, None), "mount")


def _unlink_covered(path: Path) -> None:
    """Unlinks a name whose mount another one covers.

    The first `ip netns add` of a machine mounts the folder over itself, and the mounts in it with it: of two equal ones
    only the upper can be reached. A file that is nowhere mounted in the caller's own mount namespace may be unlinked,
    and loses its mounts everywhere else by that.
    """
    root = os.fsencode(path.parent)
    _checked(_libc.unshare(_CLONE_NEWNS), "unshare")
    _checked(_libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None), "mount")
    while _libc.umount2(os.fsencode(path), _MNT_DETACH) == 0 or _libc.umount2(root, _MNT_DETACH) == 0:
        pass
    path.unlink()


def _in_new_thread(function: Callable[[], None]) -> None:
    """A thread that leaves its namespace must not be one that anybody uses afterwards."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        pool.submit(function).result()


def _checked(result: int, call: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")


@contextlib.contextmanager
def _said_for(name: str) -> Iterator[None]:
    try:
        yield
    except FileExistsError as error:
        raise AlreadyExists(f"network namespace {name} exists already; choose another name") from error
    except FileNotFoundError as error:
        raise NotFound(f"no network namespace {name}") from error
    except PermissionError as error:
        raise PermissionRequired(f"network namespace {name}: root is needed; run the command with sudo") from error
    except OSError as error:
        raise CiliumError(f"network namespace {name}: {error.strerror or error}") from error

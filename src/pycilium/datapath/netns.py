"""Network namespaces of others, entered from a thread that ends there.

A thread's namespace is its own, so nobody who calls these functions ever finds himself in another one, whatever fails.
What is opened inside (a socket, a file under /proc/sys) stays inside.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from pycilium.errors import DatapathError, NotFound, PermissionRequired

Result = TypeVar("Result")

_CLONE_NEWNET = 0x40000000
_NS_GET_NSTYPE = 0xB703
_SO_NETNS_COOKIE = 71
_OWN = "/proc/thread-self/ns/net"

_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def opened(path: str) -> Iterator[int]:
    """A descriptor of the network namespace at `path`. NotFound if there is nothing, DatapathError if it is none."""
    try:
        netns_fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NotFound(f"network namespace {path} does not exist") from error
    except OSError as error:
        raise DatapathError(f"network namespace {path} cannot be opened: {error.strerror}") from error
    try:
        if not _is_network_namespace(netns_fd):
            raise DatapathError(f"{path} is no network namespace")
        yield netns_fd
    finally:
        os.close(netns_fd)


def nameless() -> int:
    """A descriptor of a new network namespace, which ends with the last descriptor of it and its last socket.

    Nothing on a file system refers to it, so nothing of it outlives a process that is killed.
    """
    fds: list[int] = []

    def body() -> None:
        if not _libc.unshare(_CLONE_NEWNET):
            fds.append(os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC))

    thread = threading.Thread(target=body, name="netns", daemon=True)
    thread.start()
    thread.join()
    if not fds:
        raise PermissionRequired("making a network namespace needs root")
    return fds[0]


def is_own(netns_fd: int) -> bool:
    """Whether the caller is in that very namespace."""
    theirs, own = os.fstat(netns_fd), os.stat(_OWN)
    return (theirs.st_dev, theirs.st_ino) == (own.st_dev, own.st_ino)


def own_cookie() -> int:
    """The kernel's number of the caller's network namespace, which programs see too; 0 before Linux 5.14."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            return int.from_bytes(asking.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), sys.byteorder)
        except OSError:
            return 0


def run_in(netns_fd: int, function: Callable[[], Result]) -> Result:
    """What `function` returns or raises when called inside the namespace."""
    outcome: list[Any] = []

    def body() -> None:
        try:
            _enter(netns_fd)
            outcome.extend((True, function()))
        except BaseException as error:  # noqa: BLE001 - it is the caller's, not this thread's
            outcome.extend((False, error))

    thread = threading.Thread(target=body, name="netns", daemon=True)
    thread.start()
    try:
        thread.join()
    except BaseException:
        thread.join()  # an interruption must not undo what is still being done
        raise
    done, result = outcome
    if not done:
        raise result
    value: Result = result
    return value


def _is_network_namespace(fd: int) -> bool:
    try:
        return fcntl.ioctl(fd, _NS_GET_NSTYPE) == _CLONE_NEWNET
    except OSError:
        return False


def _enter(netns_fd: int) -> None:
    if not _libc.setns(netns_fd, _CLONE_NEWNET):
        return
    number = ctypes.get_errno()
    if number == errno.EPERM:
        raise PermissionRequired("entering a network namespace needs root")
    raise DatapathError(f"a network namespace cannot be entered: {os.strerror(number)}")

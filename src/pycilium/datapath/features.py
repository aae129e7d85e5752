"""What this machine can do: kernel, privileges, libbpf, and each BPF feature asked of the kernel itself.

`require` is the gate before anything is loaded: it raises the first thing that is missing, in words to act on.
`report` looks at everything and never raises, for `cilium status` and tests. A feature is asked for by using it,
never by the kernel's version: distributions backport. The version is only checked against the declared minimum.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from dataclasses import dataclass

from pycilium.datapath import bpf_syscall as bpf
from pycilium.datapath import libbpf, links, socket_diag
from pycilium.datapath.codec import MapType
from pycilium.errors import CiliumError, DatapathError, PermissionRequired, UnsupportedFeature

MINIMUM_KERNEL = (5, 10)
_CAP_NET_ADMIN, _CAP_SYS_ADMIN, _CAP_BPF = 12, 21, 39
_SCHED_CLS = 3
_REDIRECT_PEER = 155


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at; `detail` is what to do, or what stands in for it if it is not needed."""

    name: str
    available: bool
    needed: bool
    detail: str = ""

    @property
    def words(self) -> str:
        if self.available:
            return self.detail or "available"
        return f"not available here: {self.detail}" if self.detail else "not available here"


def kernel_version(release: str | None = None) -> tuple[int, int]:
    """(major, minor) of `release`, by default the running kernel's."""
    found = re.match(r"(\d+)\.(\d+)", release or os.uname().release)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def require_kernel(release: str | None = None) -> None:
    if kernel_version(release) < MINIMUM_KERNEL:
        raise UnsupportedFeature(f"eBPF as pycilium needs it (this is Linux {release or os.uname().release})", "5.10")


def require_privileges() -> None:
    """Root, or the capabilities that stand for it here."""
    held = _effective_capabilities()
    if held >> _CAP_SYS_ADMIN & 1 or (held >> _CAP_BPF & 1 and held >> _CAP_NET_ADMIN & 1):
        return
    raise PermissionRequired("root is needed to use eBPF (or the capabilities CAP_BPF and CAP_NET_ADMIN): use sudo")


def require() -> None:
    """Raise the first thing that is needed and missing."""
    require_kernel()
    require_privileges()
    libbpf.version()
    for name, minimum, probe in _NEEDED:
        if not probe():
            raise UnsupportedFeature(name, minimum)


def report() -> list[Check]:
    """Everything, needed or not."""
    major, minor = kernel_version()
    checks = [
        _checked(f"Linux {major}.{minor}", require_kernel),
        _checked("privileges", require_privileges),
        _checked("libbpf", _libbpf_version),
    ]
    if not all(check.available for check in checks[1:]):
        return checks  # without these no further question can be asked
    for name, minimum, probe in _NEEDED:
        available = probe()
        checks.append(Check(name, available, True, "" if available else f"Linux {minimum} or newer is needed"))
    for name, instead, probe in _WELCOME:
        available = probe()
        checks.append(Check(name, available, False, "" if available else instead))
    return checks


def _checked(name: str, require_it: Callable[[], str | None]) -> Check:
    try:
        return Check(name, available=True, needed=True, detail=require_it() or "")
    except CiliumError as error:
        return Check(name, available=False, needed=True, detail=str(error))


def _libbpf_version() -> str:
    return "version {}.{}".format(*libbpf.version())


def _effective_capabilities() -> int:
    with open("/proc/self/status", "rb") as file:
        line = next(line for line in file if line.startswith(b"CapEff:"))
    return int(line.split()[1], 16)


def _has_map(kind: MapType, key_size: int, value_size: int, max_entries: int, flags: int = 0) -> bool:
    try:
        os.close(bpf.map_create(kind, key_size, value_size, max_entries, flags=flags, name="probe"))
    except OSError as error:
        if error.errno == errno.EPERM:
            raise PermissionRequired("the kernel refuses to make BPF maps: is this inside a container?") from error
        if error.errno == errno.ENOSYS:
            raise DatapathError("the kernel was built without the bpf system call (CONFIG_BPF_SYSCALL)") from error
        return False
    return True


_NO_PREALLOC = 1


def has_ring_buffer() -> bool:
    return _has_map(MapType.RINGBUF, 0, 0, os.sysconf("SC_PAGE_SIZE"))


def has_prefix_maps() -> bool:
    return _has_map(MapType.LPM_TRIE, 8, 4, 1, _NO_PREALLOC)


def has_lru_maps() -> bool:
    return _has_map(MapType.LRU_HASH, 4, 4, 1)


def has_redirect_peer() -> bool:
    return libbpf.has_helper(_SCHED_CLS, _REDIRECT_PEER)


def has_prefix_batch() -> bool:
    """Whether prefix maps take batches; `maps` falls back to single writes."""
    try:
        fd = bpf.map_create(MapType.LPM_TRIE, 8, 4, 1, flags=_NO_PREALLOC, name="probe")
    except OSError:
        return False
    try:
        return bpf.map_update_batch(fd, bytes(8), bytes(4), 1) == (1, 0)
    finally:
        os.close(fd)


_Probe = Callable[[], bool]
_NEEDED: tuple[tuple[str, str, _Probe], ...] = (
    ("ring buffer map", "5.8", has_ring_buffer),
    ("longest-prefix map", "4.11", has_prefix_maps),
    ("LRU map", "4.10", has_lru_maps),
    ("bpf_redirect_peer helper", "5.10", has_redirect_peer),
)
_WELCOME: tuple[tuple[str, str, _Probe], ...] = (
    ("tcx links", "clsact filters are used (Linux 6.6 has tcx)", links.has_tcx),
    ("batches on prefix maps", "entries are written one at a time", has_prefix_batch),
    (
        "ending of UDP sockets",
        "connected ones keep a backend that is gone (CONFIG_INET_DIAG_DESTROY)",
        socket_diag.can_end_sockets,
    ),
)

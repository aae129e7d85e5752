"""The bpf(2) system call: every command on a file descriptor that pycilium uses.

Raw, because libbpf 1.1 knows neither tcx links nor the newer fields; loading of ELF objects is `libbpf`'s.
Functions raise OSError with the kernel's errno and give raw bytes: meaning is put on them by `maps`, `links` and
`loader`. All are safe to call from several threads.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

_NUMBERS = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "s390x": 351, "ppc64le": 361}
_ANY = 0
_LIVE_FRAMES = 1 << 1  # BPF_F_TEST_XDP_LIVE_FRAMES
FRAMES_AT_ONCE = 128
"""Of 256 that the kernel makes at the most: further ones are these again, as the program left them. And half of what
the far side of a veth pair holds, which drops what it has no room for."""

ENOTSUPP = 524
"""The kernel's own number for "this map has no such operation"; libc has no name for it."""


class _Command(IntEnum):
    MAP_CREATE = 0
    MAP_LOOKUP_ELEM = 1
    MAP_UPDATE_ELEM = 2
    MAP_DELETE_ELEM = 3
    MAP_GET_NEXT_KEY = 4
    PROG_LOAD = 5
    OBJ_PIN = 6
    OBJ_GET = 7
    PROG_TEST_RUN = 10
    PROG_GET_FD_BY_ID = 13
    MAP_GET_FD_BY_ID = 14
    OBJ_GET_INFO_BY_FD = 15
    PROG_QUERY = 16
    BTF_GET_FD_BY_ID = 19
    MAP_LOOKUP_BATCH = 24
    MAP_UPDATE_BATCH = 26
    MAP_DELETE_BATCH = 27
    LINK_CREATE = 28
    LINK_UPDATE = 29
    LINK_DETACH = 34


class AttachType(IntEnum):
    """Hooks that a link can name."""

    INET_INGRESS = 0
    INET4_CONNECT = 10
    INET6_CONNECT = 11
    INET4_POST_BIND = 12
    INET6_POST_BIND = 13
    UDP4_SENDMSG = 14
    UDP6_SENDMSG = 15
    UDP4_RECVMSG = 19
    UDP6_RECVMSG = 20
    INET4_GETPEERNAME = 29
    INET6_GETPEERNAME = 30
    INET_SOCK_RELEASE = 34
    XDP = 37
    TCX_INGRESS = 46
    TCX_EGRESS = 47


LINK_TYPE_CGROUP = 3
LINK_TYPE_XDP = 6
LINK_TYPE_TCX = 11
PROGRAM_TYPE_SCHED_CLS = 3
PROGRAM_TYPE_XDP = 6
_INSTRUCTION_BYTES = 8

_Fields = list[tuple[str, type]]
_U32, _U64, _BYTES = ctypes.c_uint32, ctypes.c_uint64, ctypes.c_char_p


class _Create(ctypes.Structure):
    _fields_: ClassVar[_Fields] = [
        ("type", _U32),
        ("key_size", _U32),
        ("value_size", _U32),
        ("max_entries", _U32),
        ("flags", _U32),
        ("inner_map_fd", _U32),
        ("numa_node", _U32),
        ("name", ctypes.c_char * 16),
    ]


class _Element(ctypes.Structure):
    _fields_: ClassVar[_Fields] = [("fd", _U32), ("key", _BYTES), ("value", _BYTES), ("flags", _U64)]


class _Batch(ctypes.Structure):
    _fields_: ClassVar[_Fields] = [
        ("start", ctypes.c_void_p),
        ("next", ctypes.c_void_p),
        ("keys", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("count", _U32),
        ("fd", _U32),
        ("element_flags", _U64),
        ("flags", _U64),
    ]


class _Object(ctypes.Structure):
    _fields_: ClassVar[_Fields] = [("path", _BYTES), ("fd", _U32), ("flags", _U32)]


class _Info(ctypes.Structure):
    _fields_: ClassVar[_Fields] = [("fd", _U32), ("size", _U32), ("info", ctypes.c_void_p)]


class _ProgramLoad(ctypes.Structure):
    _fields_: ClassVar[_Fields] = [
        ("type", _U32),
        ("instruction_count", _U32),
        ("instructions", _BYTES),
        ("license", _BYTES),
        ("log_level", _U32),
        ("log_size", _U32),
        ("log", ctypes.c_void_p),
        ("kernel_version", _U32),
        ("flags", _U32),
        ("name", ctypes.c_char * 16),
    ]


class _TestRun(ctypes.Structure):
    _fields_: ClassVar[_Fields] = [
        ("fd", _U32),
        ("retval", _U32),
        ("data_size_in", _U32),
        ("data_size_out", _U32),
        ("data_in", _BYTES),
        ("data_out", ctypes.c_void_p),
        ("repeat", _U32),
        ("duration", _U32),
        ("ctx_size_in", _U32),
        ("ctx_size_out", _U32),
        ("ctx_in", _BYTES),
        ("ctx_out", ctypes.c_void_p),
        ("flags", _U32),
        ("cpu", _U32),
        ("batch_size", _U32),
    ]


class _LinkCreate(ctypes.Structure):
    _fields_: ClassVar[_Fields] = [
        ("program_fd", _U32),
        ("target", _U32),  # ifindex or a cgroup's descriptor
        ("attach_type", _U32),
        ("flags", _U32),
        ("relative", _U32),
        ("expected_revision", _U64),
    ]


class _LinkUpdate(ctypes.Structure):
    _fields_: ClassVar[_Fields] = [("fd", _U32), ("program_fd", _U32), ("flags", _U32), ("old_program_fd", _U32)]


class _Query(ctypes.Structure):
    _fields_: ClassVar[_Fields] = [
        ("ifindex", _U32),
        ("attach_type", _U32),
        ("query_flags", _U32),
        ("attach_flags", _U32),
        ("program_ids", ctypes.c_void_p),
        ("count", _U32),
        ("program_attach_flags", ctypes.c_void_p),
        ("link_ids", ctypes.c_void_p),
        ("link_attach_flags", ctypes.c_void_p),
        ("revision", _U64),
    ]


class _ById(ctypes.Structure):
    _fields_: ClassVar[_Fields] = [("id", _U32), ("next_id", _U32), ("flags", _U32)]


class _MapInfo(ctypes.Structure):
    _fields_: ClassVar[_Fields] = [
        ("type", _U32),
        ("id", _U32),
        ("key_size", _U32),
        ("value_size", _U32),
        ("max_entries", _U32),
        ("flags", _U32),
        ("name", ctypes.c_char * 16),
        ("ifindex", _U32),
        ("btf_vmlinux_value_type_id", _U32),
        ("netns_dev", _U64),
        ("netns_ino", _U64),
        ("btf_id", _U32),
        ("btf_key_type_id", _U32),
        ("btf_value_type_id", _U32),
    ]


class _ProgramInfo(ctypes.Structure):
    _fields_: ClassVar[_Fields] = [
        ("type", _U32),
        ("id", _U32),
        ("tag", ctypes.c_uint8 * 8),
        ("jited_bytes", _U32),
        ("xlated_bytes", _U32),
        ("jited", _U64),
        ("xlated", _U64),
        ("load_time", _U64),
        ("created_by_uid", _U32),
        ("map_count", _U32),
        ("map_ids", _U64),
        ("name", ctypes.c_char * 16),
        ("between", ctypes.c_uint8 * 136),  # ifindex … recursion_misses: not used here
        ("verified_instructions", _U32),
        ("tail", _U32 * 3),
    ]


class _TcxLinkInfo(ctypes.Structure):
    _fields_: ClassVar[_Fields] = [("ifindex", _U32), ("attach_type", _U32)]


class _CgroupLinkInfo(ctypes.Structure):
    _fields_: ClassVar[_Fields] = [("cgroup_id", _U64), ("attach_type", _U32)]


class _LinkInfoOfType(ctypes.Union):
    _fields_: ClassVar[_Fields] = [("tcx", _TcxLinkInfo), ("cgroup", _CgroupLinkInfo)]


class _LinkInfo(ctypes.Structure):
    _fields_: ClassVar[_Fields] = [
        ("type", _U32),
        ("id", _U32),
        ("program_id", _U32),
        ("padding", _U32),
        ("of_type", _LinkInfoOfType),
        ("rest", _U64 * 3),
    ]


class _BtfInfo(ctypes.Structure):
    _fields_: ClassVar[_Fields] = [
        ("btf", ctypes.c_void_p),
        ("size", _U32),
        ("id", _U32),
        ("name", _U64),
        ("name_size", _U32),
        ("kernel", _U32),
    ]


@dataclass(frozen=True, slots=True)
class MapInfo:
    id: int
    name: str
    type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    btf_id: int
    btf_key_type_id: int
    btf_value_type_id: int


@dataclass(frozen=True, slots=True)
class ProgramInfo:
    """`verified_instructions` is 0 on kernels before 5.16, which do not say."""

    id: int
    name: str
    tag: str
    xlated_bytes: int
    jited_bytes: int
    verified_instructions: int


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """`ifindex` is 0 once the device is gone, `cgroup_id` once the cgroup is; each also of a link of another type."""

    id: int
    type: int
    program_id: int
    ifindex: int
    attach_type: int
    cgroup_id: int = 0


@dataclass(frozen=True, slots=True)
class TestRunResult:
    """What a program returned, and the packet and context as it left them."""

    __test__: ClassVar[bool] = False

    retval: int
    data: bytes
    context: bytes
    duration_ns: int


_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_uint]
_number = _NUMBERS.get(os.uname().machine, 0)


def _bpf(command: _Command, attributes: ctypes.Structure) -> int:
    while True:
        result: int = _syscall(_number, command, ctypes.addressof(attributes), ctypes.sizeof(attributes))
        if result >= 0:
            return result
        code = ctypes.get_errno()
        if code != errno.EINTR:
            raise OSError(code, _words(code))


def _words(code: int) -> str:
    return "the map has no such operation" if code == ENOTSUPP else os.strerror(code)


def map_create(kind: int, key_size: int, value_size: int, max_entries: int, *, flags: int = 0, name: str = "") -> int:
    return _bpf(_Command.MAP_CREATE, _Create(kind, key_size, value_size, max_entries, flags, 0, 0, name.encode()[:15]))


def map_lookup(fd: int, key: bytes, size: int) -> bytes | None:
    """The value under `key`, or None; `size` is the value's in user space (all CPUs of a per-CPU map)."""
    value = ctypes.create_string_buffer(size)
    try:
        _bpf(_Command.MAP_LOOKUP_ELEM, _Element(fd, key, ctypes.cast(value, _BYTES), 0))
    except FileNotFoundError:
        return None
    return value.raw


def map_update(fd: int, key: bytes, value: bytes, flags: int = _ANY) -> None:
    _bpf(_Command.MAP_UPDATE_ELEM, _Element(fd, key, value, flags))


def map_delete(fd: int, key: bytes) -> bool:
    """False if there was no such key."""
    try:
        _bpf(_Command.MAP_DELETE_ELEM, _Element(fd, key, None, 0))
    except FileNotFoundError:
        return False
    return True


def map_next_key(fd: int, key: bytes | None, size: int) -> bytes | None:
    """The key after `key`; the first for None and for a key that is gone; None at the end."""
    following = ctypes.create_string_buffer(size)
    try:
        _bpf(_Command.MAP_GET_NEXT_KEY, _Element(fd, key, ctypes.cast(following, _BYTES), 0))
    except FileNotFoundError:
        return None
    return following.raw


def map_lookup_batch(fd: int, cursor: bytes | None, keys: int, values: int, count: int) -> tuple[int, bytes | None]:
    """Fill `keys` and `values` (addresses) with up to `count` entries; (how many, cursor of the next call or None).

    OSError ENOSPC: a hash bucket holds more than `count` entries; nothing was consumed.
    """
    start = ctypes.create_string_buffer(cursor, max(len(cursor), 4)) if cursor is not None else None
    following = ctypes.create_string_buffer(256)
    attributes = _Batch(
        ctypes.addressof(start) if start is not None else None, ctypes.addressof(following), keys, values, count, fd
    )
    try:
        _bpf(_Command.MAP_LOOKUP_BATCH, attributes)
    except FileNotFoundError:
        return attributes.count, None
    return attributes.count, following.raw


def map_update_batch(fd: int, keys: bytes, values: bytes, count: int) -> tuple[int, int]:
    """Write `count` entries; (how many were written, errno of the one that stopped it or 0)."""
    attributes = _Batch(None, None, _address(keys), _address(values), count, fd)
    return _partial(_Command.MAP_UPDATE_BATCH, attributes, count)


def map_delete_batch(fd: int, keys: bytes, count: int) -> tuple[int, int]:
    """Delete `count` keys; (how many were deleted, errno of the one that stopped it or 0)."""
    return _partial(_Command.MAP_DELETE_BATCH, _Batch(None, None, _address(keys), None, count, fd), count)


def _address(raw: bytes) -> int | None:
    """Where `raw` lies; the caller keeps it alive."""
    return ctypes.cast(ctypes.c_char_p(raw), ctypes.c_void_p).value


def _partial(command: _Command, attributes: _Batch, count: int) -> tuple[int, int]:
    try:
        _bpf(command, attributes)
    except OSError as error:
        # Refused as a whole (no such operation), the kernel leaves the count as it was.
        done = attributes.count if attributes.count < count else 0
        return done, error.errno or errno.EIO
    return count, 0


def object_pin(fd: int, path: str) -> None:
    _bpf(_Command.OBJ_PIN, _Object(path.encode(), fd, 0))


def object_get(path: str) -> int:
    """A new descriptor of the map, program or link pinned at `path`."""
    return _bpf(_Command.OBJ_GET, _Object(path.encode(), 0, 0))


def _info(fd: int, into: ctypes.Structure) -> None:
    _bpf(_Command.OBJ_GET_INFO_BY_FD, _Info(fd, ctypes.sizeof(into), ctypes.addressof(into)))


def map_info(fd: int) -> MapInfo:
    raw = _MapInfo()
    _info(fd, raw)
    return MapInfo(
        id=raw.id,
        name=raw.name.decode(),
        type=raw.type,
        key_size=raw.key_size,
        value_size=raw.value_size,
        max_entries=raw.max_entries,
        flags=raw.flags,
        btf_id=raw.btf_id,
        btf_key_type_id=raw.btf_key_type_id,
        btf_value_type_id=raw.btf_value_type_id,
    )


def program_load(kind: int, instructions: bytes, *, name: str = "") -> int:
    """Loads a program made of raw instructions, in this machine's byte order, without maps; gives its descriptor."""
    attributes = _ProgramLoad(
        type=kind,
        instruction_count=len(instructions) // _INSTRUCTION_BYTES,
        instructions=instructions,
        license=b"Dual BSD/GPL",
        name=name.encode(),
    )
    return _bpf(_Command.PROG_LOAD, attributes)


def program_by_id(program_id: int) -> int:
    """A descriptor of a loaded program."""
    return _bpf(_Command.PROG_GET_FD_BY_ID, _ById(id=program_id))


def program_info(fd: int) -> ProgramInfo:
    raw = _ProgramInfo()
    _info(fd, raw)
    return ProgramInfo(
        id=raw.id,
        name=raw.name.decode(),
        tag=bytes(raw.tag).hex(),
        xlated_bytes=raw.xlated_bytes,
        jited_bytes=raw.jited_bytes,
        verified_instructions=raw.verified_instructions,
    )


def program_maps(fd: int) -> dict[str, int]:
    """The numbers of a program's maps by their names, of which the kernel keeps 15 characters."""
    sizes = _ProgramInfo()
    _info(fd, sizes)
    numbers = (_U32 * sizes.map_count)()
    _info(fd, _ProgramInfo(map_count=sizes.map_count, map_ids=ctypes.addressof(numbers)))
    found: dict[str, int] = {}
    for number in numbers:
        map_fd = _bpf(_Command.MAP_GET_FD_BY_ID, _ById(number))
        found[map_info(map_fd).name] = number
        os.close(map_fd)
    return found


def program_get(program_id: int) -> int:
    """A descriptor of the program that the kernel knows by this number; it stays loaded while that is open."""
    return _bpf(_Command.PROG_GET_FD_BY_ID, _ById(program_id))


def link_info(fd: int) -> LinkInfo:
    raw = _LinkInfo()
    _info(fd, raw)
    if raw.type == LINK_TYPE_CGROUP:
        cgroup = raw.of_type.cgroup
        return LinkInfo(raw.id, raw.type, raw.program_id, 0, cgroup.attach_type, cgroup.cgroup_id)
    tcx = raw.of_type.tcx
    if raw.type == LINK_TYPE_XDP:
        return LinkInfo(raw.id, raw.type, raw.program_id, tcx.ifindex, AttachType.XDP)
    return LinkInfo(raw.id, raw.type, raw.program_id, tcx.ifindex, tcx.attach_type)


def btf_blob(btf_id: int) -> bytes:
    """The BTF that the kernel keeps under `btf_id`."""
    fd = _bpf(_Command.BTF_GET_FD_BY_ID, _ById(btf_id))
    try:
        probe = _BtfInfo()
        _info(fd, probe)
        blob = ctypes.create_string_buffer(probe.size)
        _info(fd, _BtfInfo(ctypes.addressof(blob), probe.size))
        return blob.raw
    finally:
        os.close(fd)


def program_test_run(
    fd: int, data: bytes, *, context: bytes = b"", repeat: int = 1, room: int = 65536
) -> TestRunResult:
    """Run a program on the packet `data`; `context` is a struct __sk_buff or xdp_md, empty for none."""
    out, context_out = ctypes.create_string_buffer(room), ctypes.create_string_buffer(max(1, len(context)))
    attributes = _TestRun(fd=fd, data_size_in=len(data), data_size_out=room, data_in=data, repeat=repeat)
    attributes.data_out = ctypes.addressof(out)
    if context:
        attributes.ctx_in, attributes.ctx_size_in = context, len(context)
        attributes.ctx_out, attributes.ctx_size_out = ctypes.addressof(context_out), len(context)
    _bpf(_Command.PROG_TEST_RUN, attributes)
    return TestRunResult(
        retval=attributes.retval,
        data=out.raw[: attributes.data_size_out],
        context=context_out.raw[: attributes.ctx_size_out],
        duration_ns=attributes.duration,
    )


def program_send_frames(fd: int, frame: bytes, *, context: bytes) -> None:
    """Run an XDP program on FRAMES_AT_ONCE copies of `frame` as if a driver had them: what it decides of each is done.

    `context` is a struct xdp_md that names a device of the caller's network namespace. Of Linux 5.18.
    """
    attributes = _TestRun(fd=fd, data_size_in=len(frame), data_in=frame, flags=_LIVE_FRAMES)
    attributes.repeat = attributes.batch_size = FRAMES_AT_ONCE
    attributes.ctx_in, attributes.ctx_size_in = context, len(context)
    _bpf(_Command.PROG_TEST_RUN, attributes)


def link_create_tcx(program_fd: int, ifindex: int, attach_type: AttachType) -> int:
    """Attach after whatever is attached already; the device is looked up in the caller's network namespace."""
    return _bpf(_Command.LINK_CREATE, _LinkCreate(program_fd, ifindex, attach_type, 0, 0, 0))


def link_create_cgroup(program_fd: int, cgroup_fd: int, attach_type: AttachType) -> int:
    """Attach to a cgroup (v2) and all below, beside whatever is attached there already."""
    return _bpf(_Command.LINK_CREATE, _LinkCreate(program_fd, cgroup_fd, attach_type, 0, 0, 0))


def link_create_xdp(program_fd: int, ifindex: int, flags: int) -> int:
    """Attach before the stack of a device of the caller's network namespace; `flags` are XDP_FLAGS_*."""
    return _bpf(_Command.LINK_CREATE, _LinkCreate(program_fd, ifindex, AttachType.XDP, flags, 0, 0))


def link_update(fd: int, program_fd: int) -> None:
    """Exchange the link's program; every packet sees the old one or the new one."""
    _bpf(_Command.LINK_UPDATE, _LinkUpdate(fd, program_fd, 0, 0))


def link_detach(fd: int) -> None:
    """Take the link off its device, whoever else holds it."""
    _bpf(_Command.LINK_DETACH, _LinkUpdate(fd))


def query_links(ifindex: int, attach_type: AttachType, room: int = 64) -> Iterator[tuple[int, int]]:
    """(link id, program id) of what is attached by tcx to a device of the caller's network namespace, in order."""
    programs, links = (ctypes.c_uint32 * room)(), (ctypes.c_uint32 * room)()
    attributes = _Query(ifindex=ifindex, attach_type=attach_type, count=room)
    attributes.program_ids, attributes.link_ids = ctypes.addressof(programs), ctypes.addressof(links)
    _bpf(_Command.PROG_QUERY, attributes)
    yield from zip(links[: attributes.count], programs[: attributes.count], strict=True)

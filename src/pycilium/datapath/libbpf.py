"""libbpf.so.1 through ctypes: ELF objects into the kernel, and the tc hooks that netlink gives.

The one module that loads libbpf, at first use, so that commands that need none start without it.
What libbpf prints is kept per thread: it becomes the text of errors and the verifier's log. Objects are owned by
the `Object` that opened them; every other handle here is borrowed from it and dies with it.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import threading
from collections import deque
from collections.abc import Iterator
from types import TracebackType
from typing import Any, ClassVar, Self

from pycilium.datapath.codec import MapType
from pycilium.errors import DatapathError, PermissionRequired, VerifierRejected

_LIBRARY = "libbpf.so.1"
_MISSING = f"{_LIBRARY} is not installed: apt-get install libbpf1 (Debian, Ubuntu) or dnf install libbpf (Fedora)"
_LOG_BEGIN, _LOG_END = "-- BEGIN PROG LOAD LOG --", "-- END PROG LOAD LOG --"
_LINE_ROOM, _LOG_ROOM = 4096, 16 << 20

TC_INGRESS, TC_EGRESS = 1, 2
_TC_REPLACE = 1


class _OpenOptions(ctypes.Structure):
    _fields_: ClassVar[list[tuple[str, type]]] = [
        ("sz", ctypes.c_size_t),
        ("object_name", ctypes.c_char_p),
        ("relaxed_maps", ctypes.c_bool),
        ("pin_root_path", ctypes.c_char_p),
        ("unused", ctypes.c_uint32),
        ("kconfig", ctypes.c_char_p),
        ("btf_custom_path", ctypes.c_char_p),
        ("kernel_log_buf", ctypes.c_char_p),
        ("kernel_log_size", ctypes.c_size_t),
        ("kernel_log_level", ctypes.c_uint32),
    ]


class _TcHook(ctypes.Structure):
    _fields_: ClassVar[list[tuple[str, type]]] = [
        ("sz", ctypes.c_size_t),
        ("ifindex", ctypes.c_int),
        ("attach_point", ctypes.c_int),
        ("parent", ctypes.c_uint32),
    ]


class _TcOptions(ctypes.Structure):
    _fields_: ClassVar[list[tuple[str, type]]] = [
        ("sz", ctypes.c_size_t),
        ("prog_fd", ctypes.c_int),
        ("flags", ctypes.c_uint32),
        ("prog_id", ctypes.c_uint32),
        ("handle", ctypes.c_uint32),
        ("priority", ctypes.c_uint32),
    ]


class _Printed(threading.local):
    """What libbpf said in this thread since the last `clear`."""

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=64)


_printed = _Printed()
_PRINTER = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_vsnprintf = ctypes.CDLL(None).vsnprintf
_vsnprintf.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_void_p]


def _keep(level: int, template: bytes, arguments: int) -> int:
    if level == 0:  # warnings; the rest tells only what libbpf does
        room = ctypes.create_string_buffer(_LOG_ROOM if _LOG_BEGIN.encode() in template else _LINE_ROOM)
        _vsnprintf(room, len(room), template, arguments)
        _printed.lines.append(room.value.decode(errors="replace"))
    return 0


_printer = _PRINTER(_keep)  # libbpf holds it for as long as the process lives


_PROTOTYPES: dict[str, tuple[Any, list[Any]]] = {
    "libbpf_set_print": (ctypes.c_void_p, [_PRINTER]),
    "libbpf_major_version": (ctypes.c_uint32, []),
    "libbpf_minor_version": (ctypes.c_uint32, []),
    "bpf_object__open_mem": (ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p]),
    "bpf_object__load": (ctypes.c_int, [ctypes.c_void_p]),
    "bpf_object__close": (None, [ctypes.c_void_p]),
    "bpf_object__next_map": (ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_void_p]),
    "bpf_object__next_program": (ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_void_p]),
    "bpf_map__name": (ctypes.c_char_p, [ctypes.c_void_p]),
    "bpf_map__fd": (ctypes.c_int, [ctypes.c_void_p]),
    "bpf_map__type": (ctypes.c_int, [ctypes.c_void_p]),
    "bpf_map__key_size": (ctypes.c_uint32, [ctypes.c_void_p]),
    "bpf_map__value_size": (ctypes.c_uint32, [ctypes.c_void_p]),
    "bpf_map__max_entries": (ctypes.c_uint32, [ctypes.c_void_p]),
    "bpf_map__map_flags": (ctypes.c_uint32, [ctypes.c_void_p]),
    "bpf_map__is_internal": (ctypes.c_bool, [ctypes.c_void_p]),
    "bpf_map__set_max_entries": (ctypes.c_int, [ctypes.c_void_p, ctypes.c_uint32]),
    "bpf_map__reuse_fd": (ctypes.c_int, [ctypes.c_void_p, ctypes.c_int]),
    "bpf_map__initial_value": (ctypes.c_void_p, [ctypes.c_void_p, ctypes.POINTER(ctypes.c_size_t)]),
    "bpf_map__set_pin_path": (ctypes.c_int, [ctypes.c_void_p, ctypes.c_char_p]),
    "bpf_program__name": (ctypes.c_char_p, [ctypes.c_void_p]),
    "bpf_program__fd": (ctypes.c_int, [ctypes.c_void_p]),
    "libbpf_probe_bpf_helper": (ctypes.c_int, [ctypes.c_int, ctypes.c_int, ctypes.c_void_p]),
    "bpf_tc_hook_create": (ctypes.c_int, [ctypes.POINTER(_TcHook)]),
    "bpf_tc_hook_destroy": (ctypes.c_int, [ctypes.POINTER(_TcHook)]),
    "bpf_tc_attach": (ctypes.c_int, [ctypes.POINTER(_TcHook), ctypes.POINTER(_TcOptions)]),
    "bpf_tc_detach": (ctypes.c_int, [ctypes.POINTER(_TcHook), ctypes.POINTER(_TcOptions)]),
    "bpf_xdp_attach": (ctypes.c_int, [ctypes.c_int, ctypes.c_int, ctypes.c_uint32, ctypes.c_void_p]),
    "bpf_tc_query": (ctypes.c_int, [ctypes.POINTER(_TcHook), ctypes.POINTER(_TcOptions)]),
}


@functools.cache
def _library() -> Any:
    try:
        library = ctypes.CDLL(_LIBRARY, use_errno=True)
    except OSError as error:
        raise DatapathError(_MISSING) from error
    for name, (result, arguments) in _PROTOTYPES.items():
        function = getattr(library, name, None)
        if function is None:
            raise DatapathError(f"{_LIBRARY} is too old, it has no {name}: version 1.1 or newer is needed")
        function.restype, function.argtypes = result, arguments
    library.libbpf_set_print(_printer)
    return library


def version() -> tuple[int, int]:
    """(major, minor) of the installed libbpf; DatapathError names the package to install."""
    library = _library()
    return library.libbpf_major_version(), library.libbpf_minor_version()


def has_helper(program_type: int, number: int) -> bool:
    """Whether the kernel lets programs of that type call the helper."""
    return int(_library().libbpf_probe_bpf_helper(program_type, number, None)) == 1


class Map:
    """A map of an opened object. Until the object is loaded it can be resized, filled or taken from elsewhere."""

    def __init__(self, handle: int) -> None:
        self._handle = handle
        library = _library()
        self.name: str = library.bpf_map__name(handle).decode()
        self.internal: bool = library.bpf_map__is_internal(handle)
        """Holds the object's own sections, such as .rodata.config."""

    @property
    def fd(self) -> int:
        return int(_library().bpf_map__fd(self._handle))

    @property
    def type(self) -> MapType | int:
        number = int(_library().bpf_map__type(self._handle))
        return MapType(number) if number in set(MapType) else number

    @property
    def key_size(self) -> int:
        return int(_library().bpf_map__key_size(self._handle))

    @property
    def value_size(self) -> int:
        return int(_library().bpf_map__value_size(self._handle))

    @property
    def flags(self) -> int:
        return int(_library().bpf_map__map_flags(self._handle))

    @property
    def max_entries(self) -> int:
        return int(_library().bpf_map__max_entries(self._handle))

    def resize(self, max_entries: int) -> None:
        _check(_library().bpf_map__set_max_entries(self._handle, max_entries), f"map {self.name}: size {max_entries}")

    def reuse(self, fd: int) -> None:
        """Take the map behind `fd` instead of a new one; `fd` stays the caller's."""
        _check(_library().bpf_map__reuse_fd(self._handle, fd), f"map {self.name}: the pinned map cannot be reused")

    def never_pin(self) -> None:
        """Pinning is the loader's: an object's own wish for a pin is dropped."""
        _check(_library().bpf_map__set_pin_path(self._handle, None), f"map {self.name}")

    def write_initial(self, offset: int, raw: bytes) -> None:
        """Write into the section that this internal map will hold."""
        size = ctypes.c_size_t()
        start = _library().bpf_map__initial_value(self._handle, ctypes.byref(size))
        if not start or offset + len(raw) > size.value:
            raise DatapathError(f"map {self.name} has no room for {len(raw)} bytes at {offset}")
        ctypes.memmove(start + offset, raw, len(raw))


class Program:
    """A program of an object; `fd` is valid once the object is loaded."""

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self.name: str = _library().bpf_program__name(handle).decode()

    @property
    def fd(self) -> int:
        return int(_library().bpf_program__fd(self._handle))


class Object:
    """An opened object file; a context manager that closes it. What is pinned or duplicated outlives it."""

    def __init__(self, name: str, image: bytes) -> None:
        library = _library()
        self.name = name
        self._image = image  # libbpf reads from it until it is loaded
        _printed.lines.clear()
        options = _OpenOptions(sz=ctypes.sizeof(_OpenOptions), object_name=name.encode())
        self._handle: int | None = library.bpf_object__open_mem(image, len(image), ctypes.byref(options))
        if not self._handle:
            raise DatapathError(f"object {name} cannot be opened: {_said() or os.strerror(ctypes.get_errno())}")

    def maps(self) -> Iterator[Map]:
        handle = _library().bpf_object__next_map(self._handle, None)
        while handle:
            yield Map(handle)
            handle = _library().bpf_object__next_map(self._handle, handle)

    def programs(self) -> Iterator[Program]:
        handle = _library().bpf_object__next_program(self._handle, None)
        while handle:
            yield Program(handle)
            handle = _library().bpf_object__next_program(self._handle, handle)

    def load(self) -> None:
        """Create the maps and have the programs verified; VerifierRejected with the whole log."""
        _printed.lines.clear()
        result = _library().bpf_object__load(self._handle)
        if result >= 0:
            return
        for line in _printed.lines:
            if _LOG_BEGIN in line:
                raise VerifierRejected(_program_named(line), _log_in(line))
        if -result == errno.EPERM:
            raise PermissionRequired(f"object {self.name}: only root may load BPF programs")
        raise DatapathError(f"object {self.name} cannot be loaded: {os.strerror(-result)}: {_said()}")

    def close(self) -> None:
        if self._handle:
            _library().bpf_object__close(self._handle)
            self._handle = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _program_named(line: str) -> str:
    """The log begins with: libbpf: prog 'name': -- BEGIN …"""
    head = line.partition(_LOG_BEGIN)[0]
    return head.split("'")[1] if head.count("'") >= 2 else "unknown"


def _log_in(line: str) -> str:
    return line.partition(_LOG_BEGIN)[2].partition(_LOG_END)[0].strip("\n")


def _said() -> str:
    return "; ".join(line.removeprefix("libbpf: ").strip() for line in _printed.lines)


def _check(result: int, doing: str) -> None:
    if result < 0:
        raise DatapathError(f"{doing}: {os.strerror(-result)}")


def tc_attach(ifindex: int, direction: int, program_fd: int, handle: int, priority: int) -> None:
    """Attach by a cls_bpf filter in direct-action mode, in place of the one with the same handle and priority.

    Makes the clsact qdisc if there is none. OSError with the kernel's errno.
    """
    library, hook = _library(), _hook(ifindex, direction)
    made = library.bpf_tc_hook_create(ctypes.byref(hook))
    if made not in {0, -errno.EEXIST}:
        raise OSError(-made, os.strerror(-made))
    options = _options(handle, priority)
    options.prog_fd, options.flags = program_fd, _TC_REPLACE
    _raise(library.bpf_tc_attach(ctypes.byref(hook), ctypes.byref(options)))


def tc_detach(ifindex: int, direction: int, handle: int, priority: int) -> bool:
    """Remove the filter; False if there was none."""
    hook, options = _hook(ifindex, direction), _options(handle, priority)
    result = _library().bpf_tc_detach(ctypes.byref(hook), ctypes.byref(options))
    if -result in {errno.ENOENT, errno.EINVAL, errno.ENODEV}:  # no filter, no clsact, no device
        return False
    _raise(result)
    return True


def xdp_attach(ifindex: int, program_fd: int, flags: int) -> None:
    """Attach before the device's stack, by no link: it stays as long as the device. OSError as the kernel says."""
    _raise(_library().bpf_xdp_attach(ifindex, program_fd, flags, None))


def tc_remove_hooks(ifindex: int) -> None:
    """Remove the device's clsact qdisc and every filter on it, whoever made them; absent is success."""
    hook = _hook(ifindex, TC_INGRESS | TC_EGRESS)
    result = _library().bpf_tc_hook_destroy(ctypes.byref(hook))
    if -result not in {errno.ENOENT, errno.EINVAL, errno.ENODEV}:
        _raise(result)


def tc_program(ifindex: int, direction: int, handle: int, priority: int) -> int | None:
    """The id of the program that the filter runs, None if there is no such filter."""
    hook, options = _hook(ifindex, direction), _options(handle, priority)
    result = _library().bpf_tc_query(ctypes.byref(hook), ctypes.byref(options))
    if -result in {errno.ENOENT, errno.EINVAL, errno.ENODEV}:
        return None
    _raise(result)
    return int(options.prog_id)


def _hook(ifindex: int, direction: int) -> _TcHook:
    return _TcHook(sz=ctypes.sizeof(_TcHook), ifindex=ifindex, attach_point=direction)


def _options(handle: int, priority: int) -> _TcOptions:
    return _TcOptions(sz=ctypes.sizeof(_TcOptions), handle=handle, priority=priority)


def _raise(result: int) -> None:
    if result < 0:
        raise OSError(-result, os.strerror(-result))

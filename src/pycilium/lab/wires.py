"""A pair of devices as a wire: for its far side, when its near side has an XDP program of the driver's.

What leaves a machine by a wire has its checksums; in a pair it goes without, which an XDP program cannot mend. And the
far side of a pair takes what such a program sends back only if it has one itself.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct

from pycilium.datapath import bpf_syscall as bpf
from pycilium.datapath import libbpf
from pycilium.errors import AttachError

_SIOCETHTOOL, _ETHTOOL_STXCSUM = 0x8946, 0x17
_NATIVE = 1 << 2  # XDP_FLAGS_DRV_MODE
_PASSING = struct.pack("=BBhIBBhI", 0xB7, 0, 0, 2, 0x95, 0, 0, 0)
"""r0 = XDP_PASS; exit."""


def be_like_a_wire(device: str) -> None:
    """The far side of a pair, in the caller's network namespace. Idempotent; AttachError says why it cannot be."""
    try:
        compute_checksums(device)
        program = bpf.program_load(bpf.PROGRAM_TYPE_XDP, _PASSING, name="wire")
        try:
            libbpf.xdp_attach(socket.if_nametoindex(device), program, _NATIVE)
        finally:
            os.close(program)
    except OSError as error:
        raise AttachError(f"device {device}: cannot be made like a wire: {error.strerror}") from error


def compute_checksums(device: str) -> None:
    """As `ethtool -K DEVICE tx off` does."""
    value = ctypes.create_string_buffer(struct.pack("=II", _ETHTOOL_STXCSUM, 0))
    request = struct.pack("=16sQ16x", device.encode(), ctypes.addressof(value))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        fcntl.ioctl(channel, _SIOCETHTOOL, request)

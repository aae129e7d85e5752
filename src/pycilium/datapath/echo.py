"""ICMP echo in both families, from the namespace in which it was opened: one raw socket each, many requests at once.

Raw, because who may use the kernel's ping sockets is a setting of the node. The sockets are filtered to echo replies,
and a reply counts only if it bears the number that its request was given. When it came is the kernel's word, so that
an event loop that is busy makes no latency.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import struct
import time
from ipaddress import IPv4Address, IPv6Address
from typing import Self

from pycilium.errors import PermissionRequired

Address = IPv4Address | IPv6Address

_SO_TIMESTAMPNS = 35
_ICMP_FILTER, _ICMP6_FILTER, _SOL_RAW = 1, 1, 255
_REQUEST, _REPLY = {4: 8, 6: 128}, {4: 0, 6: 129}
_HEADER = struct.Struct("!BBHHH")
_TIME = struct.Struct("@ll")
_RECEIVE_BYTES = 2048
RESEND_S = 1.0
"""A request or reply that a busy network lost is not a node that is down."""


class Echo:
    """Send with `ping`; belongs to the event loop that it was opened in."""

    def __init__(self, sockets: dict[int, socket.socket]) -> None:
        self._sockets = sockets
        self._number = int.from_bytes(os.urandom(2), "big")
        self._sequence = itertools.count()
        self._waiting: dict[tuple[Address, int], asyncio.Future[int]] = {}
        for version, channel in sockets.items():
            asyncio.get_running_loop().add_reader(channel, self._readable, version)

    @classmethod
    def open(cls) -> Self:
        """PermissionRequired without root. A family that the kernel lacks is left out."""
        sockets: dict[int, socket.socket] = {}
        for version, open_one in ((4, _open_ipv4), (6, _open_ipv6)):
            try:
                sockets[version] = open_one()
            except PermissionError as error:
                raise PermissionRequired("raw sockets need root") from error
            except OSError:
                continue
        return cls(sockets)

    def close(self) -> None:
        for channel in self._sockets.values():
            asyncio.get_running_loop().remove_reader(channel)
            channel.close()

    async def ping(self, address: Address, timeout_s: float) -> int:
        """Nanoseconds until the answer. TimeoutError without one; OSError if it cannot even be sent."""
        channel = self._sockets.get(address.version)
        if channel is None:
            raise OSError(f"no IPv{address.version} on this node")
        async with asyncio.timeout(timeout_s):
            while True:
                with contextlib.suppress(TimeoutError):
                    return await asyncio.wait_for(self._once(channel, address), RESEND_S)

    async def _once(self, channel: socket.socket, address: Address) -> int:
        sequence = next(self._sequence) & 0xFFFF
        answered: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting[address, sequence] = answered
        try:
            sent = time.time_ns()
            with contextlib.suppress(BlockingIOError):  # its buffer is full: as good as lost
                channel.sendto(_request(address.version, self._number, sequence), (str(address), 0))
            return max(1, await answered - sent)
        finally:
            del self._waiting[address, sequence]

    def _readable(self, version: int) -> None:
        while True:
            try:
                data, extra, _, sender = self._sockets[version].recvmsg(_RECEIVE_BYTES, socket.CMSG_SPACE(_TIME.size))
            except OSError:
                return
            self._take(version, data, sender[0], _received_ns(extra))

    def _take(self, version: int, data: bytes, sender: str, now_ns: int) -> None:
        start = (data[0] & 0xF) * 4 if version == 4 else 0  # IPv4's raw sockets give the IP header too
        if len(data) < start + _HEADER.size:
            return
        kind, _, _, number, sequence = _HEADER.unpack_from(data, start)
        source: Address = IPv4Address(sender) if version == 4 else IPv6Address(sender.partition("%")[0])
        waiting = self._waiting.get((source, sequence))
        if kind == _REPLY[version] and number == self._number and waiting is not None and not waiting.done():
            waiting.set_result(now_ns)


def _request(version: int, number: int, sequence: int) -> bytes:
    """The kernel works out ICMPv6's checksum, for it knows the addresses; ICMP's is ours."""
    bare = _HEADER.pack(_REQUEST[version], 0, 0, number, sequence)
    if version == 6:
        return bare
    return _HEADER.pack(_REQUEST[version], 0, _checksum(bare), number, sequence)


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF ^ ((total + (total >> 16)) & 0xFFFF)


def _received_ns(extra: list[tuple[int, int, bytes]]) -> int:
    for level, kind, content in extra:
        if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS) and len(content) >= _TIME.size:
            seconds, nanoseconds = _TIME.unpack_from(content)
            return int(seconds) * 1_000_000_000 + int(nanoseconds)
    return time.time_ns()


def _open_ipv4() -> socket.socket:
    channel = socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMP)
    channel.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    channel.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", 0xFFFFFFFF & ~(1 << _REPLY[4])))
    return channel


def _open_ipv6() -> socket.socket:
    channel = socket.socket(socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMPV6)
    channel.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    words = [0xFFFFFFFF] * 8
    words[_REPLY[6] // 32] &= ~(1 << _REPLY[6] % 32)
    channel.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, struct.pack("=8I", *words))
    return channel

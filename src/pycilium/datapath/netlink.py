"""rtnetlink's socket: many changes in one system call, every one acknowledged; dumps.

`rtnetlink` has the messages. A socket belongs to the namespace in which it was opened, wherever it is used.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import socket
import struct
from collections.abc import Container, Iterator, Sequence
from types import TracebackType
from typing import NamedTuple, Self

from pycilium.datapath import netns, rtnetlink
from pycilium.datapath.rtnetlink import Link, LinkAddress, Neighbour, Query, Request, Route, aligned, attributes_in
from pycilium.errors import DatapathError, PermissionRequired

_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_DUMP, _NLM_F_DUMP_INTR = 0x1, 0x4, 0x300, 0x10
_NLM_F_ACK_TLVS, _NLM_F_CAPPED = 0x200, 0x100
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLMSGERR_ATTR_MSG = 1
_SOL_NETLINK, _NETLINK_CAP_ACK, _NETLINK_EXT_ACK = 270, 10, 11
_SIOCGIFINDEX = 0x8933

_HEADER = struct.Struct("=IHHII")
_ERRNO = struct.Struct("=i")
_RTMGRP_LINK, _RTMGRP_IPV4_IFADDR, _RTMGRP_IPV6_IFADDR = 0x1, 0x10, 0x100
_RECEIVE_BYTES = 1 << 18


class Outcome(NamedTuple):
    """`error` is an errno, 0 for success; `reason` what the kernel says of it."""

    request: Request
    error: int
    reason: str

    def raise_if_failed(self) -> None:
        if self.error in (errno.EPERM, errno.EACCES) and os.geteuid() != 0:
            raise PermissionRequired(f"{self.request.what}: root is needed")
        if self.error:
            reason = f": {self.reason}" if self.reason else ""
            raise DatapathError(f"cannot {self.request.what}: {os.strerror(self.error)}{reason}")


class Netlink:
    """An rtnetlink socket of one namespace. Blocks; belongs to one thread at a time."""

    def __init__(self, channel: socket.socket) -> None:
        """On a socket of `open_socket`, which it takes over."""
        self._socket = channel
        self._sequence = itertools.count(1)

    @classmethod
    def open(cls) -> Self:
        """Of the caller's namespace."""
        return cls(open_socket())

    @classmethod
    def open_in(cls, netns_fd: int) -> Self:
        """Of another namespace."""
        return cls(netns.run_in(netns_fd, open_socket))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._socket.close()

    def run(self, requests: Sequence[Request]) -> list[Outcome]:
        """Carry out `requests` in order, each whatever became of those before it: one outcome per request."""
        if not requests:
            return []
        numbered = {next(self._sequence): request for request in requests}
        self._socket.send(b"".join(_message(request, number) for number, request in numbered.items()))
        outcomes: dict[int, Outcome] = {}
        while len(outcomes) < len(numbered):
            for _, flags, number, payload in self._receive():
                if number in numbered:
                    outcomes[number] = Outcome(numbered[number], *_acknowledgement(flags, payload))
        return [outcomes[number] for number in numbered]

    def must(self, requests: Sequence[Request], unless: Container[int] = ()) -> None:
        """As `run`; DatapathError for the first that failed with an errno that is not in `unless`."""
        for outcome in self.run(requests):
            if outcome.error not in unless:
                outcome.raise_if_failed()

    def ifindex(self, name: str) -> int:
        """0 if there is no such interface."""
        try:
            answer = fcntl.ioctl(self._socket, _SIOCGIFINDEX, struct.pack("16sI20x", name.encode(), 0))
        except OSError:
            return 0
        return int(struct.unpack_from("=I", answer, 16)[0])

    def links(self) -> list[Link]:
        return [rtnetlink.link_in(payload) for payload in self.dump(rtnetlink.ALL_LINKS)]

    def link(self, name: str) -> Link | None:
        number = next(self._sequence)
        self._socket.send(_message(rtnetlink.get_link(name), number))
        found, done = None, False
        while not done:
            for kind, _, sequence, answer in self._receive():
                if sequence == number:
                    found = rtnetlink.link_in(answer) if kind == rtnetlink.RTM_NEWLINK else found
                    done = done or kind == _NLMSG_ERROR
        return found

    def addresses(self) -> list[LinkAddress]:
        return [rtnetlink.address_in(payload) for payload in self.dump(rtnetlink.ALL_ADDRESSES)]

    def neighbours(self) -> list[Neighbour]:
        found = map(rtnetlink.neighbour_in, self.dump(rtnetlink.ALL_NEIGHBOURS))
        return [neighbour for neighbour in found if neighbour]

    def routes(self) -> list[Route]:
        return [route for route in map(rtnetlink.route_in, self.dump(rtnetlink.ALL_ROUTES)) if route]

    def dump(self, query: Query) -> list[bytes]:
        """What the kernel lists, all of one moment."""
        while True:
            found, complete = self._dump_once(query)
            if complete:
                return found

    def _dump_once(self, query: Query) -> tuple[list[bytes], bool]:
        """What the kernel listed, and whether nothing changed while it did."""
        number = next(self._sequence)
        length = _HEADER.size + len(query.payload)
        self._socket.send(_HEADER.pack(length, query.type, _NLM_F_REQUEST | _NLM_F_DUMP, number, 0) + query.payload)
        found: list[bytes] = []
        complete = True
        while True:
            for kind, flags, sequence, payload in self._receive():
                if sequence != number:
                    continue
                complete = complete and not flags & _NLM_F_DUMP_INTR
                if kind == query.answer_type:
                    found.append(payload)
                elif kind in (_NLMSG_DONE, _NLMSG_ERROR):
                    _check_end(payload)
                    return found, complete

    def _receive(self) -> Iterator[tuple[int, int, int, bytes]]:
        data = self._socket.recv(_RECEIVE_BYTES)
        offset = 0
        while offset + _HEADER.size <= len(data):
            length, kind, flags, number, _ = _HEADER.unpack_from(data, offset)
            yield kind, flags, number, data[offset + _HEADER.size : offset + length]
            offset += aligned(length)


def address_news() -> socket.socket:
    """A socket that becomes readable whenever an address of the caller's namespace came or went. Non-blocking.

    What it carries is a hint only: read it empty and list the addresses again.
    """
    return _news(_RTMGRP_IPV4_IFADDR | _RTMGRP_IPV6_IFADDR)


def link_news() -> socket.socket:
    """The same for interfaces."""
    return _news(_RTMGRP_LINK)


def _news(groups: int) -> socket.socket:
    channel = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
    )
    channel.bind((0, groups))
    return channel


def open_socket(protocol: int = socket.NETLINK_ROUTE) -> socket.socket:
    """Of the caller's namespace. Others of netlink's protocols have the same form, and messages of their own."""
    channel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    channel.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
    channel.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
    return channel


def _message(request: Request, number: int) -> bytes:
    length = _HEADER.size + len(request.payload)
    flags = _NLM_F_REQUEST | _NLM_F_ACK | request.flags
    message = _HEADER.pack(length, request.type, flags, number, 0) + request.payload
    return message.ljust(aligned(length), b"\0")


def _acknowledgement(flags: int, payload: bytes) -> tuple[int, str]:
    error = -_ERRNO.unpack_from(payload)[0]
    if not flags & _NLM_F_ACK_TLVS:
        return error, ""
    # Behind the errno comes the request's header, and its body too unless the kernel was told to leave it out.
    start = 4 + _HEADER.size
    if not flags & _NLM_F_CAPPED:
        start = 4 + aligned(_HEADER.unpack_from(payload, 4)[0])
    text = attributes_in(payload, start).get(_NLMSGERR_ATTR_MSG, b"")
    return error, text.rstrip(b"\0").decode("utf-8", "replace")


def _check_end(payload: bytes) -> None:
    error = -_ERRNO.unpack_from(payload)[0] if payload else 0
    if error:
        raise DatapathError(f"the kernel ended a list: {os.strerror(error)}")

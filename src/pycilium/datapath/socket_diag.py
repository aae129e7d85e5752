"""Ending of connected UDP sockets whose backend is gone, so that their processes learn of it: nothing else tells them.

TCP finds out by itself, and an unconnected socket gets another backend with its next datagram. Only sockets that were
translated by the service that the backend left are ended: others, and one that a process connected to the backend's own
address, are none of our business.

The kernel can do it if it was built with CONFIG_INET_DIAG_DESTROY and CONFIG_INET_UDP_DIAG; `can_end_sockets` asks it.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections import defaultdict
from collections.abc import Collection, Iterable
from ipaddress import IPv6Address
from typing import Final, NamedTuple

from pycilium.datapath import layouts, netns
from pycilium.datapath.layouts import SocketFlowDirection, SocketFlowEntry, SocketFlowKey
from pycilium.datapath.maps import AnyMap
from pycilium.datapath.netlink import Netlink, open_socket
from pycilium.datapath.rtnetlink import Query, Request
from pycilium.errors import DatapathError, NotFound
from pycilium.model.peer import Address

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY, _SOCK_DESTROY = 20, 21
_CONNECTED = 1 << 1
"""States by which the kernel lists: TCP_ESTABLISHED, which a connected UDP socket has too."""
_MAPPED = bytes(10) + b"\xff\xff"

_REQUEST = struct.Struct("=BBBxI48s")
_ANSWER = struct.Struct("=BBBB48s")
_ID = struct.Struct("!HH16s16s")
"""inet_diag_sockid: ports and addresses; ifindex and cookie follow, in host order."""
_COOKIE = struct.Struct("=Q")
_COOKIE_AT = 40

HOST: Final = "/proc/self/ns/net"
"""The namespace of the agent itself."""


class Gone(NamedTuple):
    """A backend that left a service: an address and a port, and the numbers of both."""

    address: Address
    port: int
    service_id: int
    backend_id: int


_Numbers = dict[tuple[bytes, int], set[tuple[int, int]]]
"""By address and port: service ids with backend ids."""


class _Socket(NamedTuple):
    family: int
    id: bytes
    remote: tuple[bytes, int]
    """Address of 16 bytes, IPv4 in mapped form, and port."""
    cookie: int


def end_sockets(
    namespaces: Iterable[str], left: Collection[Gone], flows: AnyMap[SocketFlowKey, SocketFlowEntry]
) -> int:
    """End the UDP sockets that were connected to one of the backends through the service that it left; how many.

    Their processes read ECONNABORTED. `namespaces` are paths of network namespaces; one that is gone has no sockets.
    Blocks, for a millisecond per namespace. DatapathError if the kernel cannot.
    """
    gone: _Numbers = defaultdict(set)
    for each in left:
        gone[_sixteen_bytes(each.address), each.port].add((each.service_id, each.backend_id))
    return sum(_end_in(path, gone, flows) for path in namespaces) if gone else 0


def can_end_sockets() -> bool:
    """Whether the kernel ends sockets: asked to end one that cannot be, it either does not find it or refuses."""
    nobody = _Socket(socket.AF_INET, bytes(48), (bytes(16), 0), 0)
    try:
        with Netlink(open_socket(_NETLINK_SOCK_DIAG)) as channel:
            (outcome,) = channel.run([_destroy(nobody)])
    except OSError:
        return False
    return outcome.error == errno.ENOENT


def _end_in(path: str, gone: _Numbers, flows: AnyMap[SocketFlowKey, SocketFlowEntry]) -> int:
    try:
        with netns.opened(path) as fd:
            channel = Netlink(netns.run_in(fd, lambda: open_socket(_NETLINK_SOCK_DIAG)))
    except NotFound:
        return 0
    except OSError as error:
        raise DatapathError(f"the kernel lists no sockets: {error.strerror}") from error
    with channel:
        found = [
            each
            for family in (socket.AF_INET, socket.AF_INET6)
            for each in _listed(channel, family)
            if each.remote in gone and _came_by(each, flows) in gone[each.remote]
        ]
        outcomes = channel.run([_destroy(each) for each in found])
    for outcome in outcomes:
        if outcome.error != errno.ENOENT:  # closed meanwhile
            outcome.raise_if_failed()
    return sum(not outcome.error for outcome in outcomes)


def _listed(channel: Netlink, family: int) -> list[_Socket]:
    """The connected UDP sockets of a family."""
    request = _REQUEST.pack(family, socket.IPPROTO_UDP, 0, _CONNECTED, bytes(48))
    return [_socket_in(answer) for answer in channel.dump(Query(_SOCK_DIAG_BY_FAMILY, request, _SOCK_DIAG_BY_FAMILY))]


def _socket_in(answer: bytes) -> _Socket:
    family, _, _, _, identity = _ANSWER.unpack_from(answer)
    _, port, _, address = _ID.unpack_from(identity)
    (cookie,) = _COOKIE.unpack_from(identity, _COOKIE_AT)
    remote = _MAPPED + address[:4] if family == socket.AF_INET else address
    return _Socket(family, identity, (remote, port), cookie)


def _came_by(found: _Socket, flows: AnyMap[SocketFlowKey, SocketFlowEntry]) -> tuple[int, int] | None:
    """The numbers of the service and the backend that the socket was translated for; None: it was not."""
    address, port = found.remote
    key = layouts.SocketFlowKey(
        socket_cookie=found.cookie, address=address, port=port, direction=SocketFlowDirection.REVERSE
    )
    flow = flows.lookup(key)
    return None if flow is None else (flow.service_id, flow.backend_id)


def _destroy(found: _Socket) -> Request:
    payload = _REQUEST.pack(found.family, socket.IPPROTO_UDP, 0, 0, found.id)
    return Request(_SOCK_DESTROY, 0, payload, "end a UDP socket whose backend is gone")


def _sixteen_bytes(address: Address) -> bytes:
    return address.packed if isinstance(address, IPv6Address) else _MAPPED + address.packed

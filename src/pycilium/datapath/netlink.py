"""rtnetlink: messages about links, addresses, neighbours and routes, and a socket that sends many of them at once.

An ADD has about 6 ms for everything the agent does, if it is to be no slower than the reference plugin. pyroute2 takes
0.1 to 0.3 ms to encode one message, of which a pod needs fifteen, and 24 MB and 0.2 s to import; the dozen attributes
that are needed here take 5 us each with `struct`. So the messages are built here, sent in one system call per
namespace, and every one is acknowledged. The tests decode them with pyroute2.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import socket
import struct
from collections.abc import Container, Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from types import TracebackType
from typing import NamedTuple, Self

from pycilium.datapath import netns
from pycilium.errors import DatapathError, PermissionRequired

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30

IFF_UP, IFF_NOARP = 0x1, 0x80

_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_DUMP = 0x1, 0x4, 0x300
_NLM_F_REPLACE, _NLM_F_EXCL, _NLM_F_CREATE = 0x100, 0x200, 0x400
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_ACK_TLVS, _NLM_F_CAPPED = 0x200, 0x100
_NLMSGERR_ATTR_MSG = 1
_SOL_NETLINK, _NETLINK_CAP_ACK, _NETLINK_EXT_ACK = 270, 10, 11
_SIOCGIFINDEX = 0x8933

_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK, _IFLA_LINKINFO = 1, 3, 4, 5, 18
_IFLA_IFALIAS, _IFLA_AF_SPEC, _IFLA_NET_NS_FD = 20, 26, 28
_IFLA_NUM_TX_QUEUES, _IFLA_NUM_RX_QUEUES = 31, 32
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _VETH_INFO_PEER = 1, 2, 1
_IFLA_INET_CONF, _IFLA_INET6_ADDR_GEN_MODE = 1, 8
_ADDR_GEN_MODE_NONE = 1
IPV4_FORWARDING, IPV4_RP_FILTER = 1, 8

_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_IFA_F_NODAD, _IFA_F_PERMANENT, _IFA_F_NOPREFIXROUTE = 0x02, 0x80, 0x200
_NDA_DST, _NDA_LLADDR, _NUD_PERMANENT = 1, 2, 0x80
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PREFSRC = 1, 4, 5, 7
_RT_TABLE_MAIN, _RTPROT_BOOT, _RTN_UNICAST, _RTNH_F_ONLINK = 254, 3, 1, 4
_RT_SCOPE_UNIVERSE, _RT_SCOPE_LINK = 0, 253

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_IFINFO = struct.Struct("=BxHiII")
_IFADDR = struct.Struct("=BBBBI")
_NDMSG = struct.Struct("=BxxxiHBB")
_RTMSG = struct.Struct("=BBBBBBBBI")
_U32 = struct.Struct("=I")

_RECEIVE_BYTES = 1 << 18


class Request(NamedTuple):
    """One change. `what` says it to a user: "add address 10.0.0.5"."""

    type: int
    flags: int
    payload: bytes
    what: str


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


class Link(NamedTuple):
    ifindex: int
    name: str
    flags: int
    mac: bytes
    mtu_bytes: int
    kind: str
    peer_ifindex: int
    """Of the other side of a pair, in its own namespace; else 0."""
    alias: str


class LinkAddress(NamedTuple):
    ifindex: int
    address: Address
    prefix_len: int


class Neighbour(NamedTuple):
    ifindex: int
    address: Address
    mac: bytes
    permanent: bool


class Route(NamedTuple):
    """Of the main table."""

    destination: Network
    ifindex: int
    gateway: Address | None


class Netlink:
    """An rtnetlink socket of one namespace. Blocks; belongs to one thread at a time."""

    def __init__(self, channel: socket.socket) -> None:
        self._socket = channel
        self._sequence = itertools.count(1)

    @classmethod
    def open(cls) -> Self:
        """Of the caller's namespace."""
        return cls(_open_socket())

    @classmethod
    def open_in(cls, netns_fd: int) -> Self:
        """Of another namespace."""
        return cls(netns.run_in(netns_fd, _open_socket))

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
        return [_link(payload) for payload in self._dump(RTM_GETLINK, RTM_NEWLINK, _IFINFO.pack(0, 0, 0, 0, 0))]

    def link(self, name: str) -> Link | None:
        payload = _IFINFO.pack(0, 0, 0, 0, 0) + _text(_IFLA_IFNAME, name)
        number = next(self._sequence)
        self._socket.send(_message(Request(RTM_GETLINK, 0, payload, f"look up {name}"), number))
        found, done = None, False
        while not done:
            for kind, _, sequence, answer in self._receive():
                if sequence == number:
                    found = _link(answer) if kind == RTM_NEWLINK else found
                    done = done or kind == _NLMSG_ERROR
        return found

    def addresses(self) -> list[LinkAddress]:
        return [_address(payload) for payload in self._dump(RTM_GETADDR, RTM_NEWADDR, _IFADDR.pack(0, 0, 0, 0, 0))]

    def neighbours(self) -> list[Neighbour]:
        found = (_neighbour(payload) for payload in self._dump(RTM_GETNEIGH, RTM_NEWNEIGH, _NDMSG.pack(0, 0, 0, 0, 0)))
        return [neighbour for neighbour in found if neighbour]

    def routes(self) -> list[Route]:
        header = _RTMSG.pack(*[0] * 9)
        found = (_route(payload) for payload in self._dump(RTM_GETROUTE, RTM_NEWROUTE, header))
        return [route for route in found if route]

    def _dump(self, query: int, answer: int, header: bytes) -> list[bytes]:
        number = next(self._sequence)
        length = _HEADER.size + len(header)
        self._socket.send(_HEADER.pack(length, query, _NLM_F_REQUEST | _NLM_F_DUMP, number, 0) + header)
        found: list[bytes] = []
        while True:
            for kind, _, sequence, payload in self._receive():
                if sequence != number:
                    continue
                if kind == answer:
                    found.append(payload)
                elif kind in (_NLMSG_DONE, _NLMSG_ERROR):
                    return found

    def _receive(self) -> Iterator[tuple[int, int, int, bytes]]:
        data = self._socket.recv(_RECEIVE_BYTES)
        offset = 0
        while offset + _HEADER.size <= len(data):
            length, kind, flags, number, _ = _HEADER.unpack_from(data, offset)
            yield kind, flags, number, data[offset + _HEADER.size : offset + length]
            offset += _aligned(length)


# == changes ==


def create_veth(
    name: str, mac: bytes, peer_name: str, peer_mac: bytes, mtu_bytes: int, *, peer_netns_fd: int | None = None
) -> Request:
    """A pair; the peer is born in its namespace, complete. EEXIST if either name is taken. Both sides are down."""
    # One queue: a veth has no lock to spread, and every further queue costs memory and time at creation.
    both = _u32(_IFLA_MTU, mtu_bytes) + _u32(_IFLA_NUM_TX_QUEUES, 1) + _u32(_IFLA_NUM_RX_QUEUES, 1)
    peer = _ifinfo() + _text(_IFLA_IFNAME, peer_name) + _attribute(_IFLA_ADDRESS, peer_mac) + both
    if peer_netns_fd is not None:
        peer += _u32(_IFLA_NET_NS_FD, peer_netns_fd)
    info = _text(_IFLA_INFO_KIND, "veth") + _attribute(_IFLA_INFO_DATA, _attribute(_VETH_INFO_PEER, peer))
    payload = _ifinfo() + _text(_IFLA_IFNAME, name) + _attribute(_IFLA_ADDRESS, mac) + both
    payload += _attribute(_IFLA_LINKINFO, info)
    return Request(RTM_NEWLINK, _NLM_F_CREATE | _NLM_F_EXCL, payload, f"create {name}")


def set_link(
    name: str,
    *,
    flags: int = 0,
    alias: str | None = None,
    mtu_bytes: int | None = None,
    ipv4_settings: dict[int, int] | None = None,
) -> Request:
    """Change an interface. `flags` are switched on, before the rest is applied.

    `ipv4_settings` are the interface's own net.ipv4.conf values, by their number in the kernel.
    """
    payload = _ifinfo(flags=flags, change=flags) + _text(_IFLA_IFNAME, name)
    if alias is not None:
        payload += _attribute(_IFLA_IFALIAS, alias.encode())
    if mtu_bytes is not None:
        payload += _u32(_IFLA_MTU, mtu_bytes)
    if ipv4_settings:
        values = b"".join(_u32(number, value) for number, value in ipv4_settings.items())
        payload += _attribute(_IFLA_AF_SPEC, _attribute(socket.AF_INET, _attribute(_IFLA_INET_CONF, values)))
    return Request(RTM_NEWLINK, 0, payload, f"configure {name}")


def no_ipv6_address(name: str) -> Request:
    """Keep the kernel from giving the interface a link-local address once it is up. EAFNOSUPPORT if it has no IPv6."""
    mode = _attribute(_IFLA_INET6_ADDR_GEN_MODE, bytes([_ADDR_GEN_MODE_NONE]))
    payload = _ifinfo() + _text(_IFLA_IFNAME, name) + _attribute(_IFLA_AF_SPEC, _attribute(socket.AF_INET6, mode))
    return Request(RTM_NEWLINK, 0, payload, f"switch off the link-local address of {name}")


def delete_link(name: str) -> Request:
    """ENODEV if there is none."""
    return Request(RTM_DELLINK, 0, _ifinfo() + _text(_IFLA_IFNAME, name), f"delete {name}")


def add_address(ifindex: int, address: Address) -> Request:
    """Host-wide (/32, /128), usable at once: no duplicate address detection. Idempotent."""
    return _change_address(RTM_NEWADDR, _NLM_F_CREATE | _NLM_F_REPLACE, ifindex, address, address.max_prefixlen)


def delete_address(ifindex: int, address: Address, prefix_len: int) -> Request:
    return _change_address(RTM_DELADDR, 0, ifindex, address, prefix_len)


def set_neighbour(ifindex: int, address: Address, mac: bytes) -> Request:
    """A permanent one. Idempotent."""
    payload = _NDMSG.pack(_family(address), ifindex, _NUD_PERMANENT, 0, 0)
    payload += _attribute(_NDA_DST, address.packed) + _attribute(_NDA_LLADDR, mac)
    return Request(RTM_NEWNEIGH, _NLM_F_CREATE | _NLM_F_REPLACE, payload, f"set neighbour {address}")


def set_route(
    destination: Network, ifindex: int, *, gateway: Address | None = None, source: Address | None = None
) -> Request:
    """A route of the main table, the gateway being reachable on the link whatever the addresses say. Idempotent."""
    scope = _RT_SCOPE_LINK if gateway is None and destination.version == 4 else _RT_SCOPE_UNIVERSE
    flags = _RTNH_F_ONLINK if gateway is not None else 0
    family = _family(destination.network_address)
    payload = _RTMSG.pack(family, destination.prefixlen, 0, 0, _RT_TABLE_MAIN, _RTPROT_BOOT, scope, _RTN_UNICAST, flags)
    if destination.prefixlen:
        payload += _attribute(_RTA_DST, destination.network_address.packed)
    if gateway is not None:
        payload += _attribute(_RTA_GATEWAY, gateway.packed)
    if source is not None:
        payload += _attribute(_RTA_PREFSRC, source.packed)
    payload += _u32(_RTA_OIF, ifindex)
    return Request(RTM_NEWROUTE, _NLM_F_CREATE | _NLM_F_REPLACE, payload, f"set route to {destination}")


def delete_route(destination: Network, ifindex: int) -> Request:
    """ESRCH if there is none."""
    family = _family(destination.network_address)
    payload = _RTMSG.pack(family, destination.prefixlen, 0, 0, _RT_TABLE_MAIN, 0, 0, 0, 0)
    if destination.prefixlen:
        payload += _attribute(_RTA_DST, destination.network_address.packed)
    return Request(RTM_DELROUTE, 0, payload + _u32(_RTA_OIF, ifindex), f"delete route to {destination}")


def _change_address(kind: int, flags: int, ifindex: int, address: Address, prefix_len: int) -> Request:
    if address.version == 4:
        marks = _IFA_F_PERMANENT | _IFA_F_NOPREFIXROUTE
        payload = _IFADDR.pack(socket.AF_INET, prefix_len, 0, 0, ifindex) + _attribute(_IFA_LOCAL, address.packed)
    else:
        marks = _IFA_F_PERMANENT | _IFA_F_NOPREFIXROUTE | _IFA_F_NODAD
        payload = _IFADDR.pack(socket.AF_INET6, prefix_len, 0, 0, ifindex)
    payload += _attribute(_IFA_ADDRESS, address.packed) + _u32(_IFA_FLAGS, marks)
    verb = "add" if kind == RTM_NEWADDR else "delete"
    return Request(kind, flags, payload, f"{verb} address {address}")


# == bytes ==


def _open_socket() -> socket.socket:
    channel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    channel.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
    channel.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
    return channel


def _message(request: Request, number: int) -> bytes:
    length = _HEADER.size + len(request.payload)
    flags = _NLM_F_REQUEST | _NLM_F_ACK | request.flags
    message = _HEADER.pack(length, request.type, flags, number, 0) + request.payload
    return message.ljust(_aligned(length), b"\0")


def _acknowledgement(flags: int, payload: bytes) -> tuple[int, str]:
    error = -int.from_bytes(payload[:4], "little" if _U32.pack(1)[0] else "big", signed=True)
    if not flags & _NLM_F_ACK_TLVS:
        return error, ""
    # Behind the errno comes the request's header, and its body too unless the kernel was told to leave it out.
    start = 4 + _HEADER.size
    if not flags & _NLM_F_CAPPED:
        start = 4 + _aligned(_HEADER.unpack_from(payload, 4)[0])
    text = _attributes(payload, start).get(_NLMSGERR_ATTR_MSG, b"")
    return error, text.rstrip(b"\0").decode("utf-8", "replace")


def _ifinfo(flags: int = 0, change: int = 0) -> bytes:
    return _IFINFO.pack(socket.AF_UNSPEC, 0, 0, flags, change)


def _attribute(number: int, value: bytes) -> bytes:
    length = _ATTRIBUTE.size + len(value)
    return (_ATTRIBUTE.pack(length, number) + value).ljust(_aligned(length), b"\0")


def _u32(number: int, value: int) -> bytes:
    return _attribute(number, _U32.pack(value))


def _text(number: int, value: str) -> bytes:
    return _attribute(number, value.encode() + b"\0")


def _attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    found = {}
    while offset + _ATTRIBUTE.size <= len(data):
        length, number = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size:
            break
        found[number & 0x3FFF] = data[offset + _ATTRIBUTE.size : offset + length]
        offset += _aligned(length)
    return found


def _aligned(length: int) -> int:
    return (length + 3) & ~3


def _family(address: Address) -> int:
    return int(socket.AF_INET if address.version == 4 else socket.AF_INET6)


def _number(attributes: dict[int, bytes], number: int) -> int:
    value = attributes.get(number)
    return int(_U32.unpack(value)[0]) if value else 0


def _string(value: bytes | None) -> str:
    return (value or b"").rstrip(b"\0").decode("utf-8", "replace")


def _ip(packed: bytes) -> Address:
    return IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)


def _link(payload: bytes) -> Link:
    _, _, ifindex, flags, _ = _IFINFO.unpack_from(payload)
    attributes = _attributes(payload, _IFINFO.size)
    info = _attributes(attributes.get(_IFLA_LINKINFO, b""))
    return Link(
        ifindex=ifindex,
        name=_string(attributes.get(_IFLA_IFNAME)),
        flags=flags,
        mac=attributes.get(_IFLA_ADDRESS, b""),
        mtu_bytes=_number(attributes, _IFLA_MTU),
        kind=_string(info.get(_IFLA_INFO_KIND)),
        peer_ifindex=_number(attributes, _IFLA_LINK),
        alias=_string(attributes.get(_IFLA_IFALIAS)),
    )


def _address(payload: bytes) -> LinkAddress:
    _, prefix_len, _, _, ifindex = _IFADDR.unpack_from(payload)
    attributes = _attributes(payload, _IFADDR.size)
    return LinkAddress(ifindex, _ip(attributes.get(_IFA_LOCAL) or attributes[_IFA_ADDRESS]), prefix_len)


def _neighbour(payload: bytes) -> Neighbour | None:
    family, ifindex, state, _, _ = _NDMSG.unpack_from(payload)
    attributes = _attributes(payload, _NDMSG.size)
    if family not in (socket.AF_INET, socket.AF_INET6) or _NDA_DST not in attributes:
        return None
    mac = attributes.get(_NDA_LLADDR, b"")
    return Neighbour(ifindex, _ip(attributes[_NDA_DST]), mac, bool(state & _NUD_PERMANENT))


def _route(payload: bytes) -> Route | None:
    family, prefix_len, _, _, table, _, _, kind, _ = _RTMSG.unpack_from(payload)
    if table != _RT_TABLE_MAIN or kind != _RTN_UNICAST or family not in (socket.AF_INET, socket.AF_INET6):
        return None
    attributes = _attributes(payload, _RTMSG.size)
    packed = attributes.get(_RTA_DST, bytes(4 if family == socket.AF_INET else 16))
    destination = (IPv4Network if family == socket.AF_INET else IPv6Network)((packed, prefix_len))
    gateway = attributes.get(_RTA_GATEWAY)
    return Route(destination, _number(attributes, _RTA_OIF), _ip(gateway) if gateway else None)

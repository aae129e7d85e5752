"""rtnetlink's messages: what to change about links, addresses, neighbours and routes, and what a dump says of them.

Pure: bytes in, bytes out; `netlink` sends and receives. An ADD has about 6 ms for all that the agent does, if it is to
be no slower than the reference plugin. pyroute2 takes 0.1 to 0.3 ms to encode one message, of which a pod needs a
dozen, and 24 MB and 0.2 s to import; the few attributes that are needed here take 5 us a message with `struct`. So they
are built here, and the tests read them with pyroute2.
"""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import NamedTuple

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30

IFF_UP, IFF_NOARP = 0x1, 0x80

_NLM_F_REPLACE, _NLM_F_EXCL, _NLM_F_CREATE = 0x100, 0x200, 0x400

_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK, _IFLA_MASTER, _IFLA_LINKINFO = 1, 3, 4, 5, 10, 18
_IFLA_IFALIAS, _IFLA_AF_SPEC, _IFLA_NET_NS_FD = 20, 26, 28
_IFLA_NUM_TX_QUEUES, _IFLA_NUM_RX_QUEUES = 31, 32
_IFLA_XDP, _IFLA_XDP_ATTACHED = 43, 2
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _VETH_INFO_PEER = 1, 2, 1
_VXLAN_LEARNING, _VXLAN_PORT, _VXLAN_COLLECT_METADATA = 7, 15, 25
_VXLAN_UDP_ZERO_CSUM6_TX, _VXLAN_UDP_ZERO_CSUM6_RX = 19, 20
_IFLA_INET_CONF, _IFLA_INET6_ADDR_GEN_MODE = 1, 8
_ADDR_GEN_MODE_NONE = 1
IPV4_FORWARDING, IPV4_RP_FILTER = 1, 8

_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
IFA_F_SECONDARY, IFA_F_DADFAILED, IFA_F_DEPRECATED, IFA_F_TENTATIVE = 0x01, 0x08, 0x20, 0x40
"""The first says of an IPv4 address that it is a further one of its network, of an IPv6 one that it is temporary."""
_IFA_F_NODAD, _IFA_F_PERMANENT, _IFA_F_NOPREFIXROUTE = 0x02, 0x80, 0x200
_NDA_DST, _NDA_LLADDR = 1, 2
_NUD_REACHABLE, _NUD_PROBE, _NUD_PERMANENT = 0x02, 0x10, 0x80
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PREFSRC, _RTA_METRICS, _RTAX_MTU = 1, 4, 5, 7, 8, 2
_RT_TABLE_MAIN, _RTPROT_BOOT, _RTN_UNICAST, _RTNH_F_ONLINK = 254, 3, 1, 4
ROUTE_PROTOCOL = 176
"""Who made a route: says that a route to another node's pods is ours."""
_RT_SCOPE_UNIVERSE, _RT_SCOPE_LINK, _RT_SCOPE_NOWHERE = 0, 253, 255

_ATTRIBUTE = struct.Struct("=HH")
_IFINFO = struct.Struct("=BxHiII")
_IFADDR = struct.Struct("=BBBBI")
_NDMSG = struct.Struct("=BxxxiHBB")
_RTMSG = struct.Struct("=BBBBBBBBI")
_U32 = struct.Struct("=I")
_BE16 = struct.Struct(">H")


class Request(NamedTuple):
    """One message without its header. `what` says it to a user: "add address 10.0.0.5"."""

    type: int
    flags: int
    payload: bytes
    what: str


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
    kind_data: bytes = b""
    """Attributes of the kind."""
    xdp: int = 0
    """How a program runs before its stack: XDP_ATTACHED_*."""
    master_ifindex: int = 0
    """Of the bridge, say, that it is a port of; else 0."""


class Vxlan(NamedTuple):
    """Settings of a VXLAN device."""

    port: int
    external: bool
    """Each packet says its VNI and other end."""
    learning: bool
    ipv6_without_checksum: bool
    """Outer UDP over IPv6 may come, and goes, without one."""

    @classmethod
    def of_overlay(cls, port: int) -> Vxlan:
        return cls(port, external=True, learning=False, ipv6_without_checksum=True)


class LinkAddress(NamedTuple):
    ifindex: int
    address: Address
    prefix_len: int
    flags: int = 0
    """IFA_F_…"""


class Neighbour(NamedTuple):
    ifindex: int
    address: Address
    mac: bytes
    permanent: bool
    reachable: bool = False
    """It answered a moment ago."""


class Route(NamedTuple):
    """Of the main table."""

    destination: Network
    ifindex: int
    gateway: Address | None
    source: Address | None = None
    mtu_bytes: int = 0
    """0: that of the device."""
    protocol: int = 0
    """Who made it."""


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


def create_vxlan(name: str, wanted: Vxlan) -> Request:
    """Down. EEXIST if the name is taken; EOPNOTSUPP if the kernel has no VXLAN."""
    data = _attribute(_VXLAN_PORT, _BE16.pack(wanted.port))
    for number, value in (
        (_VXLAN_COLLECT_METADATA, wanted.external),
        (_VXLAN_LEARNING, wanted.learning),
        (_VXLAN_UDP_ZERO_CSUM6_TX, wanted.ipv6_without_checksum),
        (_VXLAN_UDP_ZERO_CSUM6_RX, wanted.ipv6_without_checksum),
    ):
        data += _attribute(number, bytes([value]))
    info = _text(_IFLA_INFO_KIND, "vxlan") + _attribute(_IFLA_INFO_DATA, data)
    payload = _ifinfo() + _text(_IFLA_IFNAME, name) + _attribute(_IFLA_LINKINFO, info)
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


def probe_neighbour(ifindex: int, address: Address) -> Request:
    """Ask a known neighbour anew whether it is there. EINVAL or ENOENT if it is not known."""
    payload = _NDMSG.pack(_family(address), ifindex, _NUD_PROBE, 0, 0) + _attribute(_NDA_DST, address.packed)
    return Request(RTM_NEWNEIGH, _NLM_F_REPLACE, payload, f"probe neighbour {address}")


def set_route(
    destination: Network,
    ifindex: int,
    *,
    gateway: Address | None = None,
    source: Address | None = None,
    mtu_bytes: int = 0,
    protocol: int = _RTPROT_BOOT,
) -> Request:
    """A route of the main table, the gateway being reachable on the link whatever the addresses say. Idempotent."""
    scope = _RT_SCOPE_LINK if gateway is None and destination.version == 4 else _RT_SCOPE_UNIVERSE
    flags = _RTNH_F_ONLINK if gateway is not None else 0
    family = _family(destination.network_address)
    payload = _RTMSG.pack(family, destination.prefixlen, 0, 0, _RT_TABLE_MAIN, protocol, scope, _RTN_UNICAST, flags)
    if destination.prefixlen:
        payload += _attribute(_RTA_DST, destination.network_address.packed)
    if gateway is not None:
        payload += _attribute(_RTA_GATEWAY, gateway.packed)
    if source is not None:
        payload += _attribute(_RTA_PREFSRC, source.packed)
    if mtu_bytes:
        payload += _attribute(_RTA_METRICS, _u32(_RTAX_MTU, mtu_bytes))
    payload += _u32(_RTA_OIF, ifindex)
    return Request(RTM_NEWROUTE, _NLM_F_CREATE | _NLM_F_REPLACE, payload, f"set route to {destination}")


def delete_route(destination: Network, ifindex: int = 0, *, protocol: int = 0) -> Request:
    """By the device, or by who made it. ESRCH if there is none."""
    family = _family(destination.network_address)
    payload = _RTMSG.pack(family, destination.prefixlen, 0, 0, _RT_TABLE_MAIN, protocol, _RT_SCOPE_NOWHERE, 0, 0)
    if destination.prefixlen:
        payload += _attribute(_RTA_DST, destination.network_address.packed)
    if ifindex:
        payload += _u32(_RTA_OIF, ifindex)
    return Request(RTM_DELROUTE, 0, payload, f"delete route to {destination}")


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


# == queries ==


class Query(NamedTuple):
    """A dump: what to ask, and how its answers begin."""

    type: int
    payload: bytes
    answer_type: int


ALL_LINKS = Query(RTM_GETLINK, _IFINFO.pack(0, 0, 0, 0, 0), RTM_NEWLINK)
ALL_ADDRESSES = Query(RTM_GETADDR, _IFADDR.pack(0, 0, 0, 0, 0), RTM_NEWADDR)
ALL_NEIGHBOURS = Query(RTM_GETNEIGH, _NDMSG.pack(0, 0, 0, 0, 0), RTM_NEWNEIGH)
ALL_ROUTES = Query(RTM_GETROUTE, _RTMSG.pack(*[0] * 9), RTM_NEWROUTE)


def get_link(name: str) -> Request:
    """Answered with an RTM_NEWLINK; ENODEV if there is none."""
    return Request(RTM_GETLINK, 0, _ifinfo() + _text(_IFLA_IFNAME, name), f"look up {name}")


def link_in(payload: bytes) -> Link:
    _, _, ifindex, flags, _ = _IFINFO.unpack_from(payload)
    attributes = attributes_in(payload, _IFINFO.size)
    info = attributes_in(attributes.get(_IFLA_LINKINFO, b""))
    return Link(
        ifindex=ifindex,
        name=_string(attributes.get(_IFLA_IFNAME)),
        flags=flags,
        mac=attributes.get(_IFLA_ADDRESS, b""),
        mtu_bytes=_number(attributes, _IFLA_MTU),
        kind=_string(info.get(_IFLA_INFO_KIND)),
        peer_ifindex=_number(attributes, _IFLA_LINK),
        alias=_string(attributes.get(_IFLA_IFALIAS)),
        kind_data=info.get(_IFLA_INFO_DATA, b""),
        xdp=attributes_in(attributes.get(_IFLA_XDP, b"")).get(_IFLA_XDP_ATTACHED, b"\0")[0],
        master_ifindex=_number(attributes, _IFLA_MASTER),
    )


def vxlan_in(link: Link) -> Vxlan:
    """The settings of a link of that kind."""
    data = attributes_in(link.kind_data)
    port = data.get(_VXLAN_PORT)

    def is_on(*numbers: int) -> bool:
        return all(any(data.get(number, b"")) for number in numbers)

    return Vxlan(
        port=_BE16.unpack(port)[0] if port else 0,
        external=is_on(_VXLAN_COLLECT_METADATA),
        learning=is_on(_VXLAN_LEARNING),
        ipv6_without_checksum=is_on(_VXLAN_UDP_ZERO_CSUM6_TX, _VXLAN_UDP_ZERO_CSUM6_RX),
    )


def address_in(payload: bytes) -> LinkAddress:
    _, prefix_len, flags, _, ifindex = _IFADDR.unpack_from(payload)
    attributes = attributes_in(payload, _IFADDR.size)
    if _IFA_FLAGS in attributes:
        (flags,) = _U32.unpack(attributes[_IFA_FLAGS])
    return LinkAddress(ifindex, _ip(attributes.get(_IFA_LOCAL) or attributes[_IFA_ADDRESS]), prefix_len, flags)


def neighbour_in(payload: bytes) -> Neighbour | None:
    family, ifindex, state, _, _ = _NDMSG.unpack_from(payload)
    attributes = attributes_in(payload, _NDMSG.size)
    if family not in (socket.AF_INET, socket.AF_INET6) or _NDA_DST not in attributes:
        return None
    mac = attributes.get(_NDA_LLADDR, b"")
    return Neighbour(
        ifindex, _ip(attributes[_NDA_DST]), mac, bool(state & _NUD_PERMANENT), bool(state & _NUD_REACHABLE)
    )


def route_in(payload: bytes) -> Route | None:
    family, prefix_len, _, _, table, protocol, _, kind, _ = _RTMSG.unpack_from(payload)
    if table != _RT_TABLE_MAIN or kind != _RTN_UNICAST or family not in (socket.AF_INET, socket.AF_INET6):
        return None
    attributes = attributes_in(payload, _RTMSG.size)
    packed = attributes.get(_RTA_DST, bytes(4 if family == socket.AF_INET else 16))
    destination = (IPv4Network if family == socket.AF_INET else IPv6Network)((packed, prefix_len))
    gateway, source = attributes.get(_RTA_GATEWAY), attributes.get(_RTA_PREFSRC)
    metrics = attributes_in(attributes.get(_RTA_METRICS, b""))
    return Route(
        destination=destination,
        ifindex=_number(attributes, _RTA_OIF),
        gateway=_ip(gateway) if gateway else None,
        source=_ip(source) if source else None,
        mtu_bytes=_number(metrics, _RTAX_MTU),
        protocol=protocol,
    )


# == bytes ==


def _ifinfo(flags: int = 0, change: int = 0) -> bytes:
    return _IFINFO.pack(socket.AF_UNSPEC, 0, 0, flags, change)


def _attribute(number: int, value: bytes) -> bytes:
    length = _ATTRIBUTE.size + len(value)
    return (_ATTRIBUTE.pack(length, number) + value).ljust(aligned(length), b"\0")


def _u32(number: int, value: int) -> bytes:
    return _attribute(number, _U32.pack(value))


def _text(number: int, value: str) -> bytes:
    return _attribute(number, value.encode() + b"\0")


def attributes_in(data: bytes, offset: int = 0) -> dict[int, bytes]:
    found = {}
    while offset + _ATTRIBUTE.size <= len(data):
        length, number = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size:
            break
        found[number & 0x3FFF] = data[offset + _ATTRIBUTE.size : offset + length]
        offset += aligned(length)
    return found


def aligned(length: int) -> int:
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

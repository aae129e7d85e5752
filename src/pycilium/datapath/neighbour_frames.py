"""Frames that tell a link of its own accord at which MAC an address is: gratuitous ARP, unsolicited advertisements.

Neighbours that know the address take the new MAC at once (RFC 5227, RFC 4861 7.2.6); those that do not, ask anyway.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address

from pycilium.errors import DatapathError, PermissionRequired

Address = IPv4Address | IPv6Address

_ETH_P_ARP, _ETH_P_IPV6 = 0x0806, 0x86DD
_BROADCAST, _ALL_NODES_MAC = b"\xff" * 6, bytes.fromhex("333300000001")
_ALL_NODES = IPv6Address("ff02::1").packed
_ARP = struct.Struct("!HHBBH6s4s6s4s")
_REQUEST, _ICMPV6, _HOP_LIMIT, _ADVERTISEMENT, _OVERRIDE, _TARGET_MAC = 1, 58, 255, 136, 0x20, 2


def frame(mac: bytes, address: Address) -> bytes:
    """What tells that `address` is at `mac` now."""
    return _gratuitous_arp(mac, address) if isinstance(address, IPv4Address) else _advertisement(mac, address)


def send(ifindex: int, frames: Iterable[bytes]) -> None:
    """Onto the link of a device of this namespace. DatapathError; PermissionRequired without root."""
    try:
        device = socket.if_indextoname(ifindex)
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as channel:
            channel.bind((device, 0))
            for each in frames:
                channel.send(each)
    except PermissionError as error:
        raise PermissionRequired("packet sockets need root") from error
    except OSError as error:
        raise DatapathError(f"device {ifindex}: cannot send: {error.strerror}") from error


def _gratuitous_arp(mac: bytes, address: IPv4Address) -> bytes:
    arp = _ARP.pack(1, 0x0800, 6, 4, _REQUEST, mac, address.packed, bytes(6), address.packed)
    return _BROADCAST + mac + struct.pack("!H", _ETH_P_ARP) + arp


def _advertisement(mac: bytes, address: IPv6Address) -> bytes:
    target = address.packed + struct.pack("!BB6s", _TARGET_MAC, 1, mac)
    bare = struct.pack("!BBHB3x", _ADVERTISEMENT, 0, 0, _OVERRIDE) + target
    pseudo = address.packed + _ALL_NODES + struct.pack("!II", len(bare), _ICMPV6)
    message = bare[:2] + struct.pack("!H", _checksum(pseudo + bare)) + bare[4:]
    header = struct.pack("!IHBB", 6 << 28, len(message), _ICMPV6, _HOP_LIMIT) + address.packed + _ALL_NODES
    return _ALL_NODES_MAC + mac + struct.pack("!H", _ETH_P_IPV6) + header + message


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF ^ total

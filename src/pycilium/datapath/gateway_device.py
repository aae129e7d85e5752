"""The node's gateway device: where packets between the node and its pods meet the datapath.

    cilium_host   gateway addresses (/32, /128), route to the pod CIDRs, NOARP; the `host` program hangs here
    cilium_net    the other end, bare

Idempotent from any half-made state; nothing else of the node is touched but what `Gateway.changes` says.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from pycilium.datapath import rtnetlink
from pycilium.datapath.netlink import Netlink
from pycilium.datapath.rtnetlink import (
    IFF_NOARP,
    IFF_UP,
    IPV4_FORWARDING,
    IPV4_RP_FILTER,
    ROUTE_PROTOCOL,
    Address,
    Link,
    Network,
    Request,
)
from pycilium.errors import DatapathError

HOST_NAME = "cilium_host"
PEER_NAME = "cilium_net"

_OUR_PREFIXES = ("cilium_", "lxc")
_SETTINGS = "/proc/sys/net"  # the caller's namespace


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayWanted:
    """A family that is off has no gateway and no CIDR."""

    mtu_bytes: int = 1500
    gateway_ipv4: IPv4Address | None = None
    ipv4_pod_cidr: IPv4Network | None = None
    gateway_ipv6: IPv6Address | None = None
    ipv6_pod_cidr: IPv6Network | None = None

    @property
    def families(self) -> tuple[tuple[Address, Network], ...]:
        pairs = ((self.gateway_ipv4, self.ipv4_pod_cidr), (self.gateway_ipv6, self.ipv6_pod_cidr))
        return tuple((gateway, cidr) for gateway, cidr in pairs if gateway and cidr)


@dataclass(frozen=True, slots=True)
class Gateway:
    """The device as it is now."""

    ifindex: int
    mac: bytes
    peer_ifindex: int
    changes: tuple[str, ...]
    """Each setting of the node, beyond the pair's own, that was changed: "net.ipv6.conf.all.forwarding 0 → 1"."""


def ensure(wanted: GatewayWanted, forwarding_devices: Iterable[str] = ()) -> Gateway:
    """Make the pair, or set right what is there.

    `forwarding_devices` are the node's own on which packets for pods arrive: they are made to forward IPv4. IPv6 knows
    forwarding for a whole namespace only; it is switched on if IPv6 is, and devices that learn routes from router
    advertisements keep doing so. Raises DatapathError if a name is taken by something else, or the kernel refuses.
    """
    with Netlink.open() as channel:
        _ensure_pair(channel, wanted)
        host, peer = channel.link(HOST_NAME), channel.link(PEER_NAME)
        if host is None or peer is None:
            raise DatapathError(f"{HOST_NAME} vanished while it was being made")
        channel.must(list(_stale(channel, host, wanted)), unless=(errno.ESRCH, errno.EADDRNOTAVAIL))
        channel.must(
            [
                *(rtnetlink.add_address(host.ifindex, gateway) for gateway, _ in wanted.families),
                *(rtnetlink.set_route(cidr, host.ifindex, source=gateway) for gateway, cidr in wanted.families),
            ]
        )
    changes = list(_forward_ipv4(forwarding_devices if wanted.gateway_ipv4 else ()))
    if wanted.gateway_ipv6:
        changes += _forward_ipv6()
    return Gateway(host.ifindex, host.mac, peer.ifindex, tuple(changes))


def is_ours(device: str) -> bool:
    """Whether a device of that name is pycilium's."""
    return device.startswith(_OUR_PREFIXES)


def remove() -> None:
    """Delete the pair; its addresses and routes go with it. Absent is success."""
    with Netlink.open() as channel:
        channel.must([rtnetlink.delete_link(HOST_NAME)], unless=(errno.ENODEV,))


def _ensure_pair(channel: Netlink, wanted: GatewayWanted) -> None:
    host, peer = channel.link(HOST_NAME), channel.link(PEER_NAME)
    if not _is_pair(host, peer):
        for link in (host, peer):
            if link is not None and link.kind != "veth":
                kind = link.kind or "physical"
                raise DatapathError(f"a device {link.name} exists that is not ours ({kind}): remove or rename it")
        leftover = [rtnetlink.delete_link(link.name) for link in (host, peer) if link is not None]
        channel.must(leftover, unless=(errno.ENODEV,))  # either takes the other along
        channel.must([rtnetlink.create_veth(HOST_NAME, _mac(HOST_NAME), PEER_NAME, _mac(PEER_NAME), wanted.mtu_bytes)])
    names = (HOST_NAME, PEER_NAME)
    channel.must([rtnetlink.no_ipv6_address(name) for name in names], unless=(errno.EAFNOSUPPORT,))
    channel.must(
        [
            rtnetlink.set_link(
                name,
                flags=IFF_NOARP | IFF_UP,
                mtu_bytes=wanted.mtu_bytes,
                ipv4_settings={IPV4_FORWARDING: 1, IPV4_RP_FILTER: 0},
            )
            for name in names
        ]
    )


def _is_pair(host: Link | None, peer: Link | None) -> bool:
    if host is None or peer is None or (host.kind, peer.kind) != ("veth", "veth"):
        return False
    return (host.peer_ifindex, peer.peer_ifindex) == (peer.ifindex, host.ifindex)


def _stale(channel: Netlink, host: Link, wanted: GatewayWanted) -> Iterator[Request]:
    """What an agent with another configuration left on the device."""
    gateways = {gateway for gateway, _ in wanted.families}
    cidrs = {cidr for _, cidr in wanted.families}
    for route in channel.routes():
        of_other_node = route.protocol == ROUTE_PROTOCOL  # those are the agent's to keep or remove
        if route.ifindex == host.ifindex and route.destination not in cidrs and not of_other_node:
            yield rtnetlink.delete_route(route.destination, host.ifindex)
    for entry in channel.addresses():
        if entry.ifindex == host.ifindex and entry.address not in gateways:
            yield rtnetlink.delete_address(host.ifindex, entry.address, entry.prefix_len)


def _forward_ipv4(devices: Iterable[str]) -> Iterator[str]:
    for device in devices:
        yield from _set(f"ipv4/conf/{device}/forwarding", "0", "1")


def _forward_ipv6() -> list[str]:
    changes: list[str] = []
    if _read("ipv6/conf/all/forwarding") == "0":
        # A router ignores advertisements unless told otherwise (2): without this the node loses its default route.
        for device in sorted(set(os.listdir(f"{_SETTINGS}/ipv6/conf")) - {"all", "default", "lo"}):
            if not is_ours(device):
                changes += _set(f"ipv6/conf/{device}/accept_ra", "1", "2")
    return [*changes, *_set("ipv6/conf/all/forwarding", "0", "1")]


def _set(setting: str, old: str, new: str) -> Iterator[str]:
    """Change `setting` if it is `old`, and say so."""
    if _read(setting) != old:
        return
    try:
        with open(f"{_SETTINGS}/{setting}", "w", encoding="ascii") as file:
            file.write(new)
    except OSError as error:
        raise DatapathError(f"cannot set {_dotted(setting)} to {new}: {error.strerror}") from error
    yield f"{_dotted(setting)} {old} → {new}"


def _read(setting: str) -> str:
    try:
        with open(f"{_SETTINGS}/{setting}", encoding="ascii") as file:
            return file.read().strip()
    except OSError as error:
        raise DatapathError(f"cannot read {_dotted(setting)}: {error.strerror}") from error


def _dotted(setting: str) -> str:
    """As sysctl writes it; a device with a dot in its name keeps the slashes."""
    return f"net/{setting}" if "." in setting else f"net.{setting}".replace("/", ".")


def _mac(name: str) -> bytes:
    digest = hashlib.sha256(name.encode()).digest()
    return bytes([digest[0] & 0xFC | 0x02]) + digest[1:6]

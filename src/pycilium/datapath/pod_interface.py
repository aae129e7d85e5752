"""A pod's interface: a veth pair whose far side is born in the pod's namespace, and everything the pod needs on it.

    node:  lxc<hash>   no address, no link-local, forwards        pod:  eth0   10.0.0.5/32, fd00:10::5/128
                                                                        default via the gateway, onlink
                                                                        gateway's neighbour: lxc<hash>'s MAC, permanent

Names and MACs are derived from the attachment (container id, interface), so that nothing has to be read back and
a repeated ADD finds what the first one made. Two system calls do the work, one batch of requests per namespace.
Every function blocks and may be called from any thread. What is half made is unmade.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from pycilium.datapath import netns, rtnetlink
from pycilium.datapath.netlink import Netlink, Outcome
from pycilium.datapath.rtnetlink import (
    IFF_UP,
    IPV4_FORWARDING,
    IPV4_RP_FILTER,
    Address,
    Link,
    Network,
    Request,
)
from pycilium.errors import DatapathError, EndpointConflict
from pycilium.model.endpoint import attachment_name, mac_text

PREFIX = "lxc"
_ALIAS_PREFIX = "cilium:"
_ALIAS_BYTES = 255
_LOOPBACK = "lo"


@dataclass(frozen=True, slots=True, kw_only=True)
class PodInterface:
    """What is wanted. A family is wanted if it has an address and a gateway."""

    container_id: str
    ifname: str
    netns: str
    mtu_bytes: int
    ipv4: IPv4Address | None = None
    ipv6: IPv6Address | None = None
    gateway_ipv4: IPv4Address | None = None
    gateway_ipv6: IPv6Address | None = None

    @property
    def host_ifname(self) -> str:
        return host_ifname(self.container_id, self.ifname)

    @property
    def mac(self) -> bytes:
        """The pod's own."""
        return _mac(self._digest[6:12])

    @property
    def host_mac(self) -> bytes:
        return _mac(self._digest[12:18])

    @property
    def families(self) -> tuple[tuple[Address, Address], ...]:
        """(address, gateway) of each family."""
        pairs = ((self.ipv4, self.gateway_ipv4), (self.ipv6, self.gateway_ipv6))
        return tuple((address, gateway) for address, gateway in pairs if address and gateway)

    @property
    def _digest(self) -> bytes:
        return _digest(self.container_id, self.ifname)


@dataclass(frozen=True, slots=True)
class HostSide:
    """The node's side of a pod's interface."""

    host_ifname: str
    ifindex: int
    mac: bytes
    """The pod's."""
    host_mac: bytes


def host_ifname(container_id: str, ifname: str) -> str:
    return PREFIX + _digest(container_id, ifname)[:6].hex()


def create(wanted: PodInterface) -> HostSide:
    """Make the interface, up and complete.

    Idempotent: one that is right is left alone, one that is not is made anew. Raises NotFound if the pod's namespace is
    gone, EndpointConflict if the pod has another interface of that name, DatapathError if the kernel refuses.
    """
    with netns.opened(wanted.netns) as netns_fd, Netlink.open() as outside:
        if netns.is_own(netns_fd):
            raise DatapathError(f"{wanted.netns} is the node's own network namespace, not a pod's")
        if not _create_pair(outside, wanted, netns_fd):
            if not check(wanted):
                return _host_side(outside, wanted)
            _delete(outside, wanted.host_ifname)
            if not _create_pair(outside, wanted, netns_fd):
                raise EndpointConflict(f"{wanted.netns} has an interface {wanted.ifname} already")
        try:
            with Netlink.open_in(netns_fd) as inside:
                _configure(inside, wanted, netns_fd)
            return _host_side(outside, wanted)
        except BaseException:
            _delete(outside, wanted.host_ifname)
            raise


def delete(name: str) -> None:
    """Remove the pair of which `name` is the node's side. Absent is success."""
    with Netlink.open() as outside:
        _delete(outside, name)


def exists(name: str, ifindex: int) -> bool:
    """Whether the node's side is there, and is the very one that was made then."""
    with Netlink.open() as outside:
        return outside.ifindex(name) == ifindex


def check(wanted: PodInterface) -> tuple[str, ...]:
    """What differs from what `create` makes, in words; empty if nothing does. Raises NotFound as `create`."""
    with netns.opened(wanted.netns) as netns_fd, Netlink.open() as outside, Netlink.open_in(netns_fd) as inside:
        return tuple(_differences(outside, inside, wanted))


def interfaces() -> list[Link]:
    """The node's sides of all pods' interfaces, also of those that nobody remembers."""
    with Netlink.open() as outside:
        return [link for link in outside.links() if _is_ours(link)]


def attachment_of(link: Link) -> str:
    """`container id:interface`, of one of our interfaces."""
    return link.alias.removeprefix(_ALIAS_PREFIX)


def _create_pair(outside: Netlink, wanted: PodInterface, netns_fd: int) -> bool:
    """False if one of the names is taken."""
    name = wanted.host_ifname
    created, *settings = outside.run(
        [
            rtnetlink.create_veth(
                *(name, wanted.host_mac, wanted.ifname, wanted.mac, wanted.mtu_bytes), peer_netns_fd=netns_fd
            ),
            rtnetlink.no_ipv6_address(name),
            # What the programs pass to the stack comes in here, and the way back is through cilium_host.
            rtnetlink.set_link(name, alias=_alias(wanted), ipv4_settings={IPV4_FORWARDING: 1, IPV4_RP_FILTER: 0}),
            rtnetlink.set_link(name, flags=IFF_UP),
        ]
    )
    if created.error == errno.EEXIST:
        if not outside.ifindex(name):
            raise EndpointConflict(f"{wanted.netns} has an interface {wanted.ifname} already, which is not ours")
        return False
    created.raise_if_failed()
    try:
        _raise_first(settings)
    except BaseException:
        _delete(outside, name)
        raise
    return True


def _configure(inside: Netlink, wanted: PodInterface, netns_fd: int) -> None:
    ifindex = inside.ifindex(wanted.ifname)
    outcomes = inside.run(_pod_requests(wanted, ifindex))
    # A namespace may have IPv6 switched off, as some runtimes do it: an address is asked for, so it is switched on.
    if wanted.ipv6 and any(outcome.error == errno.EACCES for outcome in outcomes):
        netns.run_in(netns_fd, lambda: _enable_ipv6(wanted.ifname))
        outcomes = inside.run(_pod_requests(wanted, ifindex))
    _raise_first(outcomes)


def _raise_first(outcomes: Iterable[Outcome]) -> None:
    for outcome in outcomes:
        # No IPv6 on this kernel or interface, so no IPv6 address either: as wanted.
        if outcome.error != errno.EAFNOSUPPORT or outcome.request.type != rtnetlink.RTM_NEWLINK:
            outcome.raise_if_failed()


def _pod_requests(wanted: PodInterface, ifindex: int) -> list[Request]:
    families = wanted.families
    return [
        rtnetlink.set_link(_LOOPBACK, flags=IFF_UP),
        # No link-local address: so no router solicitation and no detection of duplicates delay or disturb the pod.
        rtnetlink.no_ipv6_address(wanted.ifname),
        *(rtnetlink.add_address(ifindex, address) for address, _ in families),
        rtnetlink.set_link(wanted.ifname, flags=IFF_UP),
        *(rtnetlink.set_neighbour(ifindex, gateway, wanted.host_mac) for _, gateway in families),
        *(rtnetlink.set_route(_everywhere(gateway), ifindex, gateway=gateway) for _, gateway in families),
    ]


def _differences(outside: Netlink, inside: Netlink, wanted: PodInterface) -> Iterator[str]:
    host, pod = outside.link(wanted.host_ifname), inside.link(wanted.ifname)
    if host is None:
        yield f"{wanted.host_ifname} is missing"
    if pod is None:
        yield f"{wanted.ifname} is missing in {wanted.netns}"
    if host is None or pod is None:
        return
    if host.peer_ifindex != pod.ifindex or pod.peer_ifindex != host.ifindex:
        yield f"{wanted.host_ifname} and the pod's {wanted.ifname} are no pair"
    for link, mac in ((host, wanted.host_mac), (pod, wanted.mac)):
        yield from _link_differences(link, mac, wanted.mtu_bytes)
    addresses = {(entry.address, entry.prefix_len) for entry in inside.addresses() if entry.ifindex == pod.ifindex}
    neighbours = {(entry.address, entry.mac, entry.permanent) for entry in inside.neighbours()}
    routes = {(route.destination, route.ifindex, route.gateway) for route in inside.routes()}
    for address, gateway in wanted.families:
        if (address, address.max_prefixlen) not in addresses:
            yield f"{wanted.ifname} lacks address {address}"
        if (gateway, wanted.host_mac, True) not in neighbours:
            yield f"{wanted.ifname} lacks the permanent neighbour {gateway}"
        if (_everywhere(gateway), pod.ifindex, gateway) not in routes:
            yield f"{wanted.ifname} lacks the default route via {gateway}"


def _link_differences(link: Link, mac: bytes, mtu_bytes: int) -> Iterator[str]:
    if not link.flags & IFF_UP:
        yield f"{link.name} is down"
    if link.mac != mac:
        yield f"{link.name} has MAC {mac_text(link.mac)}, not {mac_text(mac)}"
    if link.mtu_bytes != mtu_bytes:
        yield f"{link.name} has MTU {link.mtu_bytes}, not {mtu_bytes}"


def _host_side(outside: Netlink, wanted: PodInterface) -> HostSide:
    ifindex = outside.ifindex(wanted.host_ifname)
    if not ifindex:
        raise DatapathError(f"{wanted.host_ifname} vanished while it was being made")
    return HostSide(wanted.host_ifname, ifindex, wanted.mac, wanted.host_mac)


def _delete(outside: Netlink, name: str) -> None:
    outside.must([rtnetlink.delete_link(name)], unless=(errno.ENODEV,))


def _enable_ipv6(ifname: str) -> None:
    path = f"/proc/sys/net/ipv6/conf/{ifname}/disable_ipv6"
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write("0")
    except OSError as error:
        raise DatapathError(f"the pod's namespace has no IPv6: {path}: {error.strerror}") from error


def _is_ours(link: Link) -> bool:
    return link.name.startswith(PREFIX) and link.kind == "veth" and link.alias.startswith(_ALIAS_PREFIX)


def _alias(wanted: PodInterface) -> str:
    return (_ALIAS_PREFIX + attachment_name(wanted.container_id, wanted.ifname))[:_ALIAS_BYTES]


def _everywhere(gateway: Address) -> Network:
    return IPv4Network("0.0.0.0/0") if gateway.version == 4 else IPv6Network("::/0")


def _digest(container_id: str, ifname: str) -> bytes:
    return hashlib.sha256(attachment_name(container_id, ifname).encode()).digest()


def _mac(six: bytes) -> bytes:
    """Locally administered, of one station."""
    return bytes([six[0] & 0xFC | 0x02]) + six[1:]

"""The lab's wires: an underlay bridge in a namespace of its own, and an eth0 for all who are on it.

```
   cilium-<lab>-world          cilium-<lab>-underlay          cilium-<lab>-node1
   lo: 1.1.1.1 8.8.8.8 …
   eth0 172.18.0.1  ─────────── world  br0  node1 ─────────── eth0 172.18.0.11
   pod CIDRs via the nodes              │   node2 ─────────── …
    load balancers on the link           │
                                         └── etcd, gate ────── eth0 172.18.0.2 (--store etcd, --store kubernetes:…)
```

Everything happens inside the lab's namespaces; the machine's own devices are not looked at.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator, Mapping

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from pycilium.lab import namespaces
from pycilium.lab.layout import WORLD_IPV4, WORLD_IPV6, LabRecord, NodeRecord
from pycilium.lab.plan import LOAD_BALANCERS, STORE_ETH0, UNDERLAY, WORLD_ETH0
from pycilium.lab.wires import be_like_a_wire

_HOST_LEN = {"ipv4": 32, "ipv6": 128}
_DEFAULT = {"ipv4": "0.0.0.0/0", "ipv6": "::/0"}
_FAMILY = {"ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}
_BRIDGE = "br0"
_IFA_F_NODAD = 0x02
_IFF_UP = 0x01

_SYSCTLS_OF_ALL = {
    "net.ipv4.conf.all.rp_filter": "0",
    "net.ipv4.conf.default.rp_filter": "0",
    "net.ipv6.conf.all.disable_ipv6": "0",
    "net.ipv6.conf.default.disable_ipv6": "0",
    "net.ipv6.conf.default.accept_ra": "0",
    "net.ipv6.conf.default.accept_dad": "0",
}
_SYSCTLS_OF_NODES = {
    "net.ipv4.ip_forward": "1",
    "net.ipv4.conf.all.promote_secondaries": "1",
    "net.ipv6.conf.all.forwarding": "1",
}


def make_underlay(record: LabRecord) -> None:
    """The bridge. Multicast snooping is off: it would hold neighbour discovery back until it has a querier."""

    def body() -> None:
        with IPRoute() as ip:
            ip.link("add", ifname=_BRIDGE, kind="bridge", br_mcast_snooping=0)
            ip.link("set", index=_index(ip, _BRIDGE), state="up", mtu=record.mtu_bytes)

    namespaces.run_in(record.underlay, body)


def make_world(record: LabRecord) -> None:
    """The world's eth0, the addresses it answers on, and its routes: pods behind nodes, load balancers on the link."""
    _make_host(record, "world", record.world, WORLD_ETH0, _SYSCTLS_OF_ALL)

    def body() -> None:
        with IPRoute() as ip:
            lo = _index(ip, "lo")
            for family, addresses in (("ipv4", WORLD_IPV4), ("ipv6", WORLD_IPV6)):
                if family in record.underlay_families:
                    for address in addresses:
                        _add_address(ip, lo, family, address, _HOST_LEN[family])
            eth0 = _index(ip, "eth0")
            for family in record.underlay_families:
                ip.route("replace", dst=LOAD_BALANCERS[family], oif=eth0, family=_FAMILY[family])
            for node in record.nodes:
                _route_pods_to(ip, node)

    namespaces.run_in(record.world, body)


def make_store(record: LabRecord, port: str, namespace: str) -> None:
    """The eth0 of where nodes reach their store."""
    _make_host(record, port, namespace, STORE_ETH0, _SYSCTLS_OF_ALL)


def make_node(record: LabRecord, node: NodeRecord) -> None:
    """The node's eth0, with the world as its default gateway; it forwards, as a Kubernetes node does."""
    addresses = {"ipv4": node.ipv4, "ipv6": node.ipv6}
    _make_host(record, node.name, node.namespace, addresses, {**_SYSCTLS_OF_ALL, **_SYSCTLS_OF_NODES}, node.mac)
    namespaces.run_in(node.namespace, lambda: _route_everything_to_the_world(record))


def readdress_node(record: LabRecord, old: NodeRecord, new: NodeRecord) -> None:
    """Gives the running node the new addresses instead of the old. Repeatable."""

    def body() -> None:
        with IPRoute() as ip:
            eth0 = _index(ip, "eth0")
            for family, before, after in (("ipv4", old.ipv4, new.ipv4), ("ipv6", old.ipv6, new.ipv6)):
                if before is None or after is None or before == after:
                    continue
                length = UNDERLAY[family].prefixlen
                with _tolerated(errno.EEXIST):
                    _add_address(ip, eth0, family, after, length)
                with _tolerated(errno.EADDRNOTAVAIL):
                    ip.addr("del", index=eth0, address=before, prefixlen=length, family=_FAMILY[family])
        _route_everything_to_the_world(record)

    namespaces.run_in(new.namespace, body)


def route_world_to(record: LabRecord, node: NodeRecord) -> None:
    """The world's routes to the node's pods, by the addresses that the node has now."""

    def body() -> None:
        with IPRoute() as ip:
            _route_pods_to(ip, node)

    namespaces.run_in(record.world, body)


def unroute_world_from(record: LabRecord, node: NodeRecord) -> None:
    """Takes the world's routes to the node's pods away. Absent is success."""

    def body() -> None:
        with IPRoute() as ip:
            for family, cidr, _ in _pod_routes(node):
                with _tolerated(errno.ESRCH):
                    ip.route("del", dst=cidr, family=_FAMILY[family])

    namespaces.run_in(record.world, body)


def set_cable(record: LabRecord, port: str, *, plugged: bool) -> None:
    """Pulls or plugs the cable at the underlay's port: eth0 at its other end loses or gets its carrier."""

    def body() -> None:
        with IPRoute() as ip:
            ip.link("set", index=_index(ip, port), state="up" if plugged else "down")

    namespaces.run_in(record.underlay, body)


def remove_cable(record: LabRecord, port: str) -> None:
    """Removes both ends of the cable. A namespace that is removed takes its own a little later. Absent is success."""

    def body() -> None:
        with IPRoute() as ip:
            for index in ip.link_lookup(ifname=port):
                with _tolerated(errno.ENODEV):
                    ip.link("del", index=index)

    namespaces.run_in(record.underlay, body)


def plugged_ports(record: LabRecord) -> dict[str, bool]:
    """Every port of the underlay, and whether its cable is plugged in."""

    def body() -> dict[str, bool]:
        with IPRoute() as ip:
            bridge = _index(ip, _BRIDGE)
            ports = ip.get_links(master=bridge)
            return {port.get_attr("IFLA_IFNAME"): bool(port["flags"] & _IFF_UP) for port in ports}

    return namespaces.run_in(record.underlay, body)


def port_index(port: str) -> int:
    """The index of a port; to be called inside the underlay's namespace."""
    with IPRoute() as ip:
        return _index(ip, port)


def _make_host(
    record: LabRecord,
    port: str,
    namespace: str,
    addresses: Mapping[str, str | None],
    sysctls: Mapping[str, str],
    mac: str | None = None,
) -> None:
    """A namespace on the underlay: eth0 with its addresses, and loopback."""
    _set_sysctls(record, namespace, sysctls)
    _plug_in(record, port, namespace, mac)

    def body() -> None:
        with IPRoute() as ip:
            eth0, lo = _index(ip, "eth0"), _index(ip, "lo")
            for family in record.underlay_families:
                if (address := addresses[family]) is not None:
                    _add_address(ip, eth0, family, address, UNDERLAY[family].prefixlen)
            for index in (lo, eth0):
                ip.link("set", index=index, state="up")

    namespaces.run_in(namespace, body)


def _plug_in(record: LabRecord, port: str, namespace: str, mac: str | None) -> None:
    """A cable: `port` on the underlay's bridge, eth0 in the namespace."""

    def body() -> None:
        fd = os.open(namespaces.path_of(namespace), os.O_RDONLY | os.O_CLOEXEC)
        try:
            with IPRoute() as ip:
                peer = {"ifname": "eth0", "net_ns_fd": fd, "mtu": record.mtu_bytes}
                peer |= {"address": mac} if mac else {}
                ip.link("add", ifname=port, kind="veth", mtu=record.mtu_bytes, peer=peer)
                ip.link("set", index=_index(ip, port), master=_index(ip, _BRIDGE), state="up")
            if record.load_balancing.acceleration != "disabled":
                be_like_a_wire(port)
        finally:
            os.close(fd)

    namespaces.run_in(record.underlay, body)


def _route_everything_to_the_world(record: LabRecord) -> None:
    with IPRoute() as ip:
        for family in record.underlay_families:
            ip.route("replace", dst=_DEFAULT[family], gateway=WORLD_ETH0[family], family=_FAMILY[family])


def _route_pods_to(ip: IPRoute, node: NodeRecord) -> None:
    for family, cidr, gateway in _pod_routes(node):
        ip.route("replace", dst=cidr, gateway=gateway, family=_FAMILY[family])


def _pod_routes(node: NodeRecord) -> list[tuple[str, str, str]]:
    """Family, pod CIDR and next hop, where the underlay speaks the family."""
    ways = (("ipv4", node.ipv4_pod_cidr, node.ipv4), ("ipv6", node.ipv6_pod_cidr, node.ipv6))
    return [(family, cidr, gateway) for family, cidr, gateway in ways if cidr and gateway]


def _add_address(ip: IPRoute, index: int, family: str, address: str, prefix_len: int) -> None:
    flags = {"flags": _IFA_F_NODAD} if family == "ipv6" else {}
    ip.addr("add", index=index, address=address, prefixlen=prefix_len, family=_FAMILY[family], **flags)


def _index(ip: IPRoute, ifname: str) -> int:
    return int(ip.link_lookup(ifname=ifname)[0])


def _set_sysctls(record: LabRecord, namespace: str, sysctls: Mapping[str, str]) -> None:
    families = {*record.ip_families, *record.underlay_families}

    def body() -> None:
        for name, value in sysctls.items():
            if name.split(".")[1] in families:
                namespaces.write_sysctl(name, value)

    namespaces.run_in(namespace, body)


@contextlib.contextmanager
def _tolerated(number: int) -> Iterator[None]:
    """Takes this error for success: what was asked for is so already."""
    try:
        yield
    except NetlinkError as error:
        if error.code != number:
            raise

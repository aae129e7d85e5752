"""The lab's wires: an underlay bridge in a namespace of its own, and an eth0 for every node and for the world.

```
   cilium-<lab>-world          cilium-<lab>-underlay          cilium-<lab>-node1
   lo: 1.1.1.1 8.8.8.8 …
   eth0 172.18.0.1  ─────────── world  br0  node1 ─────────── eth0 172.18.0.11
   pod CIDRs via the nodes                                    default via 172.18.0.1
```

Everything happens inside the lab's namespaces; the machine's own devices are not looked at.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

from pyroute2 import IPRoute

from pycilium.lab import namespaces
from pycilium.lab.layout import WORLD_IPV4, WORLD_IPV6, LabRecord, NodeRecord

WORLD_ETH0 = {"ipv4": "172.18.0.1", "ipv6": "fd00:172:18::1"}
_PREFIX_LEN = {"ipv4": 24, "ipv6": 64}
_HOST_LEN = {"ipv4": 32, "ipv6": 128}
_DEFAULT = {"ipv4": "0.0.0.0/0", "ipv6": "::/0"}
_FAMILY = {"ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}
_BRIDGE = "br0"
_IFA_F_NODAD = 0x02

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
    "net.ipv6.conf.all.forwarding": "1",
}


def make_underlay(record: LabRecord) -> None:
    """The bridge. Multicast snooping is off: it would hold neighbour discovery back until it has a querier."""

    def body() -> None:
        with IPRoute() as ip:
            ip.link("add", ifname=_BRIDGE, kind="bridge", br_mcast_snooping=0)
            ip.link("set", index=_index(ip, _BRIDGE), state="up")

    namespaces.run_in(record.underlay, body)


def make_world(record: LabRecord) -> None:
    """The world's eth0, the addresses it answers on, and its routes to the pods."""
    _set_sysctls(record, record.world, _SYSCTLS_OF_ALL)
    _plug_in(record.underlay, "world", record.world)

    def body() -> None:
        with IPRoute() as ip:
            eth0, lo = _index(ip, "eth0"), _index(ip, "lo")
            for family, addresses in (("ipv4", WORLD_IPV4), ("ipv6", WORLD_IPV6)):
                if family in record.ip_families:
                    _add_address(ip, eth0, family, WORLD_ETH0[family], _PREFIX_LEN[family])
                    for address in addresses:
                        _add_address(ip, lo, family, address, _HOST_LEN[family])
            _set_up(ip, [lo, eth0])
            for node in record.nodes:
                _route_pods_to(ip, node)

    namespaces.run_in(record.world, body)


def make_node(record: LabRecord, node: NodeRecord) -> None:
    """The node's eth0, with the world as its default gateway; it forwards, as a Kubernetes node does."""
    _set_sysctls(record, node.namespace, {**_SYSCTLS_OF_ALL, **_SYSCTLS_OF_NODES})
    _plug_in(record.underlay, node.name, node.namespace)

    def body() -> None:
        with IPRoute() as ip:
            eth0, lo = _index(ip, "eth0"), _index(ip, "lo")
            for family, address in (("ipv4", node.ipv4), ("ipv6", node.ipv6)):
                if address is not None:
                    _add_address(ip, eth0, family, address, _PREFIX_LEN[family])
            _set_up(ip, [lo, eth0])
            for family in record.ip_families:
                ip.route("add", dst=_DEFAULT[family], gateway=WORLD_ETH0[family], family=_FAMILY[family])

    namespaces.run_in(node.namespace, body)


def _plug_in(underlay: str, port: str, namespace: str) -> None:
    """A cable: `port` on the underlay's bridge, eth0 in the namespace."""

    def body() -> None:
        fd = os.open(namespaces.path_of(namespace), os.O_RDONLY | os.O_CLOEXEC)
        try:
            with IPRoute() as ip:
                ip.link("add", ifname=port, kind="veth", peer={"ifname": "eth0", "net_ns_fd": fd})
                ip.link("set", index=_index(ip, port), master=_index(ip, _BRIDGE), state="up")
        finally:
            os.close(fd)

    namespaces.run_in(underlay, body)


def _route_pods_to(ip: IPRoute, node: NodeRecord) -> None:
    for family, cidr, gateway in (
        ("ipv4", node.ipv4_pod_cidr, node.ipv4),
        ("ipv6", node.ipv6_pod_cidr, node.ipv6),
    ):
        if cidr is not None and gateway is not None:
            ip.route("add", dst=cidr, gateway=gateway, family=_FAMILY[family])


def _add_address(ip: IPRoute, index: int, family: str, address: str, prefix_len: int) -> None:
    flags = {"flags": _IFA_F_NODAD} if family == "ipv6" else {}
    ip.addr("add", index=index, address=address, prefixlen=prefix_len, family=_FAMILY[family], **flags)


def _set_up(ip: IPRoute, indexes: Sequence[int]) -> None:
    for index in indexes:
        ip.link("set", index=index, state="up")


def _index(ip: IPRoute, ifname: str) -> int:
    return int(ip.link_lookup(ifname=ifname)[0])


def _set_sysctls(record: LabRecord, namespace: str, sysctls: dict[str, str]) -> None:
    def body() -> None:
        for name, value in sysctls.items():
            if name.split(".")[1] in record.ip_families:
                namespaces.write_sysctl(name, value)

    namespaces.run_in(namespace, body)

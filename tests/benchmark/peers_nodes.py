"""Two nodes to measure between, without us: the bare underlay, and pods joined as flannel joins them.

flannel's way is a bridge on each node, its pods on it, and the way to the other node's pods either through a kernel
VXLAN device with static neighbours (its default) or by a plain route (its host-gw); iptables rules as flannel writes
them, hence conntrack. The underlay is that of our labs: a bridge, and an eth0 for each node.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.benchmark.peers import Pair, namespaces, run

CLUSTER = {4: "10.244.0.0/16", 6: "fd00:244::/48"}
VXLAN_PORT = 8472
VXLAN_OVERHEAD_BYTES = 50
UNDERLAY_MTU_BYTES = 1500


@dataclass(frozen=True, slots=True)
class Node:
    """One of the two nodes; its number is part of every address."""

    number: int
    netns: str
    pod: str

    @property
    def addresses(self) -> dict[int, str]:
        return {4: f"192.168.9.{self.number}", 6: f"fd00:9:9::{self.number}"}

    @property
    def pod_cidrs(self) -> dict[int, str]:
        return {4: f"10.244.{self.number}.0/24", 6: f"fd00:244:0:{self.number}::/64"}

    def pod_address(self, family: int, host: int) -> str:
        return f"10.244.{self.number}.{host}" if family == 4 else f"fd00:244:0:{self.number}::{host}"


@contextmanager
def bare_underlay() -> Iterator[Pair]:
    """The limit: from node to node, nothing between but the underlay."""
    with _nodes("under") as (client, server):
        yield Pair("bare underlay", client.netns, server.netns, server.addresses[4], server.addresses[6])


@contextmanager
def flannel_vxlan() -> Iterator[Pair]:
    """Pods of two nodes, as flannel joins them by default."""
    with _nodes("fv") as (client, server):
        for node in (client, server):
            _make_pod(node, UNDERLAY_MTU_BYTES - VXLAN_OVERHEAD_BYTES)
            _make_vtep(node)
        for node, other in ((client, server), (server, client)):
            _reach_by_vtep(node, other)
            _write_rules(node)
        yield from _checked("flannel, VXLAN", client, server)


@contextmanager
def flannel_host_gw() -> Iterator[Pair]:
    """Pods of two nodes on one link, as flannel's host-gw joins them."""
    with _nodes("fh") as (client, server):
        for node in (client, server):
            _make_pod(node, UNDERLAY_MTU_BYTES)
        for node, other in ((client, server), (server, client)):
            for family, cidr in other.pod_cidrs.items():
                run("ip", f"-{family}", "route", "add", cidr, "via", other.addresses[family], netns=node.netns)
            _write_rules(node)
        yield from _checked("flannel, host-gw", client, server)


@contextmanager
def joined_nodes(name: str) -> Iterator[tuple[str, Node, Node]]:
    """The underlay's namespace and two nodes with a pod each and a plain route to each other's, and no rules."""
    with _nodes(name) as (first, second):
        for node in (first, second):
            _make_pod(node, UNDERLAY_MTU_BYTES)
        for node, other in ((first, second), (second, first)):
            for family, cidr in other.pod_cidrs.items():
                run("ip", f"-{family}", "route", "add", cidr, "via", other.addresses[family], netns=node.netns)
        yield first.netns.removesuffix("-n1") + "-u", first, second


@contextmanager
def outside_host(underlay: str) -> Iterator[str]:
    """A host on the underlay that is no node; gives its namespace."""
    netns = f"{underlay}-outside"
    with namespaces(netns):
        peer = ("type", "veth", "peer", "name", "outside", "netns", underlay)
        run("ip", "link", "add", "eth0", "netns", netns, *peer)
        run("ip", "link", "set", "outside", "master", "br0", "up", netns=underlay)
        _give(netns, "eth0", "192.168.9.200/24", "fd00:9:9::200/64")
        yield netns


def _checked(name: str, client: Node, server: Node) -> Iterator[Pair]:
    yield Pair(name, client.pod, server.pod, server.pod_address(4, 2), server.pod_address(6, 2))
    for program in ("iptables", "ip6tables"):
        first_rule = run(program, "-L", "FLANNEL-FWD", "1", "-v", "-x", "-n", netns=server.netns).split()
        if not int(first_rule[0]):
            raise RuntimeError(f"{program} saw nothing of {name}'s traffic, or it is no peer")


@contextmanager
def _nodes(name: str) -> Iterator[tuple[Node, Node]]:
    """Two nodes, empty, on an underlay of their own."""
    prefix = f"bench-{name}{os.getpid()}"
    underlay = f"{prefix}-u"
    nodes = tuple(Node(number, f"{prefix}-n{number}", f"{prefix}-p{number}") for number in (1, 2))
    with namespaces(underlay, *(each for node in nodes for each in (node.netns, node.pod))):
        run("ip", "link", "add", "br0", "type", "bridge", "mcast_snooping", "0", netns=underlay)
        run("ip", "link", "set", "br0", "up", netns=underlay)
        for node in nodes:
            _plug_in(underlay, node)
        yield nodes[0], nodes[1]


def _plug_in(underlay: str, node: Node) -> None:
    peer = ("type", "veth", "peer", "name", f"n{node.number}", "netns", underlay)
    run("ip", "link", "add", "eth0", "netns", node.netns, *peer)
    run("ip", "link", "set", f"n{node.number}", "master", "br0", "up", netns=underlay)
    for setting in ("ipv4.ip_forward=1", "ipv6.conf.all.forwarding=1", "ipv4.conf.default.rp_filter=0"):
        run("sysctl", "-qw", f"net.{setting}", netns=node.netns)
    run("sysctl", "-qw", "net.netfilter.nf_conntrack_tcp_timeout_time_wait=10", netns=node.netns)
    _give(node.netns, "eth0", f"{node.addresses[4]}/24", f"{node.addresses[6]}/64")


def _make_pod(node: Node, mtu_bytes: int) -> None:
    """A bridge, and a pod on it whose default route it is."""
    mtu = ("mtu", str(mtu_bytes))
    run("ip", "link", "add", "cni0", *mtu, "type", "bridge", netns=node.netns)
    run("ip", "link", "add", "eth0", "netns", node.pod, *mtu, "type", "veth", "peer", "name", "v2", "netns", node.netns)
    run("ip", "link", "set", "v2", *mtu, "master", "cni0", "up", netns=node.netns)
    _give(node.netns, "cni0", f"{node.pod_address(4, 1)}/24", f"{node.pod_address(6, 1)}/64")
    _give(node.pod, "eth0", f"{node.pod_address(4, 2)}/24", f"{node.pod_address(6, 2)}/64")
    for family in (4, 6):
        run("ip", f"-{family}", "route", "add", "default", "via", node.pod_address(family, 1), netns=node.pod)


def _make_vtep(node: Node) -> None:
    for family, device in ((4, "flannel.1"), (6, "flannel-v6.1")):
        kind = ("type", "vxlan", "id", str(family), "dev", "eth0", "local", node.addresses[family])
        more = ("dstport", str(VXLAN_PORT + family), "nolearning")
        run("ip", "link", "add", device, *kind, *more, netns=node.netns)
        run("ip", "link", "set", device, "up", netns=node.netns)
        whole = 32 if family == 4 else 128
        run("ip", "addr", "add", f"{node.pod_address(family, 0)}/{whole}", "dev", device, netns=node.netns)


def _reach_by_vtep(node: Node, other: Node) -> None:
    for family, device in ((4, "flannel.1"), (6, "flannel-v6.1")):
        [link] = json.loads(run("ip", "-json", "link", "show", device, netns=other.netns))
        gateway, mac = other.pod_address(family, 0), link["address"]
        run("ip", "neigh", "add", gateway, "lladdr", mac, "dev", device, netns=node.netns)
        run("bridge", "fdb", "add", mac, "dev", device, "dst", other.addresses[family], netns=node.netns)
        route = (other.pod_cidrs[family], "via", gateway, "dev", device, "onlink")
        run("ip", f"-{family}", "route", "add", *route, netns=node.netns)


def _write_rules(node: Node) -> None:
    for family, program in ((4, "iptables"), (6, "ip6tables")):
        cluster, own = CLUSTER[family], node.pod_cidrs[family]
        multicast = "224.0.0.0/4" if family == 4 else "ff00::/8"
        for rule in (
            "-N FLANNEL-FWD",
            "-A FORWARD -j FLANNEL-FWD",
            f"-A FLANNEL-FWD -s {cluster} -j ACCEPT",
            f"-A FLANNEL-FWD -d {cluster} -j ACCEPT",
            "-t nat -N FLANNEL-POSTRTG",
            "-t nat -A POSTROUTING -j FLANNEL-POSTRTG",
            "-t nat -A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -j RETURN",
            f"-t nat -A FLANNEL-POSTRTG -s {own} -d {cluster} -j RETURN",
            f"-t nat -A FLANNEL-POSTRTG -s {cluster} -d {own} -j RETURN",
            f"-t nat -A FLANNEL-POSTRTG ! -s {cluster} -d {own} -j RETURN",
            f"-t nat -A FLANNEL-POSTRTG -s {cluster} ! -d {multicast} -j MASQUERADE --random-fully",
            f"-t nat -A FLANNEL-POSTRTG ! -s {cluster} -d {cluster} -j MASQUERADE --random-fully",
        ):
            run(program, *rule.split(), netns=node.netns)


def _give(netns: str, device: str, *addresses: str) -> None:
    for address in addresses:
        run("ip", "addr", "add", address, "dev", device, *(("nodad",) if ":" in address else ()), netns=netns)
    run("ip", "link", "set", device, "up", netns=netns)

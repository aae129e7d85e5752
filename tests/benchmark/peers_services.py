"""kube-proxy to measure against: pods on a node whose rules are those that kube-proxy would write (tests/kubeproxy).

    client ── node ── server        iptables by iptables-restore, or nftables by nft; hence conntrack

Pods are joined by a veth pair and a host route each. What a measurement went through is checked by conntrack: the
server's address must be the answer to the service's.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Literal

from pycilium.model.resources import Resource
from pycilium.model.resources.endpoint_slice import EndpointSlice
from pycilium.model.resources.service import Service
from tests.benchmark import service_set
from tests.benchmark.peers import PORT, Pair, namespaces, run
from tests.benchmark.peers_nodes import CLUSTER as NODES_CLUSTER
from tests.benchmark.peers_nodes import joined_nodes, outside_host
from tests.kubeproxy import iptables, nftables
from tests.kubeproxy.ports import Family, NodeFacts, ProxyPort, ports_of

Mode = Literal["iptables", "nftables"]
MODES: tuple[Mode, ...] = ("iptables", "nftables")
CLUSTER: dict[Family, str] = {4: "10.9.0.0/16", 6: "fd00:9::/48"}
FACTS = NodeFacts("node1", ("192.168.9.1", "fd00:9:9::1"), CLUSTER)
RESTORE: dict[Family, str] = {4: "iptables-legacy-restore", 6: "ip6tables-legacy-restore"}
"""The better peer: with thousands of chains the one that translates for nf_tables takes a hundred times as long to load."""
AT_ONCE = 1000
"""Services that nft is given at once, as what it takes grows with the square of them."""
UDP_REMEMBERED_S = 600
"""Until the end of a measurement, where conntrack is asked."""
_CONNTRACK = {"net.netfilter.nf_conntrack_tcp_timeout_time_wait": "10", "net.netfilter.nf_conntrack_max": "1048576"}
_FORWARDING = ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
_HOSTS = {"client": 1, "server": 2}


@dataclass(slots=True)
class Proxy:
    """Rules of one mode and family in one network namespace."""

    mode: Mode
    netns: str
    family: Family = 4
    facts: NodeFacts = FACTS
    before: nftables.Content | None = None
    seconds: float = 0.0
    """What the program took that loaded the last rules, without making their text."""

    def start(self) -> None:
        if self.mode == "iptables":
            self._load((RESTORE[self.family], "--noflush", "-w"), iptables.jumps())
        else:
            self._load(("nft", "-f", "-"), nftables.base(self.facts, self.family))

    def apply(self, resources: Sequence[Resource], changed: str = "") -> None:
        """`changed`: the name of the one Service that is not as it was."""
        ports = self._ports(resources)
        if self.mode == "iptables":
            some = [port for port in ports if port.service.metadata.name == changed] if changed else None
            text = iptables.rules(ports, self.facts, self.family, changed=some)
            self._load((RESTORE[self.family], "--noflush", "-w"), text)
            return
        after = nftables.content(ports, self.facts, self.family)
        self._load(("nft", "-f", "-"), nftables.change(self.family, self.before or nftables.Content({}, {}, {}), after))
        self.before = after

    def _ports(self, resources: Sequence[Resource]) -> list[ProxyPort]:
        services = [each for each in resources if isinstance(each, Service)]
        slices = [each for each in resources if isinstance(each, EndpointSlice)]
        return ports_of(services, slices, self.facts, self.family)

    def _load(self, argv: Sequence[str], text: str) -> None:
        started = time.monotonic()
        done = subprocess.run(
            ["nsenter", f"--net=/run/netns/{self.netns}", *argv],
            input=text,
            capture_output=True,
            text=True,
            check=False,
        )
        self.seconds = time.monotonic() - started
        if done.returncode:
            raise RuntimeError(f"{argv[0]}: exit {done.returncode}: {done.stderr[:2000]}")


@contextmanager
def kube_proxy(mode: Mode, count: int, family: Family = 4) -> Iterator[Pair]:
    """Two pods and `count` Services whose only endpoint is the server; the pair's address is that of the last Service."""
    with proxied_node(mode, family) as (proxy, pair):
        server, last = pair.address(family), service_set.cluster_ip(count - 1, family)
        resources = service_set.services(count, [server], PORT, FACTS.name, family=family)
        steps = range(AT_ONCE, count, AT_ONCE) if mode == "nftables" else ()
        for step in (*steps, count):
            proxy.apply(resources[: 2 * step])
        yield replace(pair.reaching(last), port=service_set.PORT)
        _check_translated(proxy.netns, last, server)


@contextmanager
def proxied_node(mode: Mode, family: Family = 4) -> Iterator[tuple[Proxy, Pair]]:
    """A node with kube-proxy's rules of one family and no Service yet, and two pods."""
    prefix = f"bench-kp{mode[:1]}{family}{os.getpid()}"
    node, client, server = (f"{prefix}-{part}" for part in ("n", "c", "s"))
    with namespaces(node, client, server):
        for setting in (*_FORWARDING, *(f"{name}={value}" for name, value in _CONNTRACK.items())):
            run("sysctl", "-qw", setting, netns=node)
        for name, netns in (("client", client), ("server", server)):
            _join(node, netns, _HOSTS[name])
        proxy = Proxy(mode, node, family)
        proxy.start()
        host = _HOSTS["server"]
        yield proxy, Pair(f"kube-proxy, {mode}", client, server, f"10.9.0.{host}", f"fd00:9::{host}")


@contextmanager
def kube_proxy_node_port(mode: Mode, family: Family, *, elsewhere: bool) -> Iterator[Pair]:
    """A client outside who asks the first node's port; the server's pod is on that node or, `elsewhere`, on the second.

    Nodes have a plain route to each other's pods. The Service that has the port is the only one.
    """
    with joined_nodes(f"np{mode[:1]}{elsewhere:d}{family}") as (underlay, first, second):
        place = second if elsewhere else first
        server, port = place.pod_address(family, 2), first.addresses[family]
        facts = NodeFacts("node1", (port,), NODES_CLUSTER)
        run("sysctl", "-qw", f"net.netfilter.nf_conntrack_udp_timeout={UDP_REMEMBERED_S}", netns=first.netns)
        proxy = Proxy(mode, first.netns, family, facts)
        proxy.start()
        on = "node2" if elsewhere else "node1"
        proxy.apply(service_set.services(1, [server], PORT, on, family=family, node_port=True))
        with outside_host(underlay) as client:
            pair = Pair(f"kube-proxy, {mode}", client, place.pod, "", "").reaching(port)
            yield replace(pair, port=service_set.NODE_PORT)
            _check_translated(first.netns, port, server)


def _join(node: str, pod: str, host: int) -> None:
    run("ip", "link", "add", "eth0", "netns", pod, "type", "veth", "peer", "name", f"v{host}", "netns", node)
    for netns, device, own, other in ((node, f"v{host}", 254, host), (pod, "eth0", host, 254)):
        for family, network, bits in ((4, "10.9.0.", 32), (6, "fd00:9::", 128)):
            nodad = ("nodad",) if family == 6 else ()
            run("ip", "addr", "add", f"{network}{own}/{bits}", "dev", device, *nodad, netns=netns)
        run("ip", "link", "set", device, "up", netns=netns)
        for family, network in ((4, "10.9.0."), (6, "fd00:9::")):
            run("ip", f"-{family}", "route", "add", f"{network}{other}", "dev", device, netns=netns)
    for family, gateway in ((4, "10.9.0.254"), (6, "fd00:9::254")):
        run("ip", f"-{family}", "route", "add", "default", "via", gateway, netns=pod)


def _check_translated(node: str, service: str, server: str) -> None:
    """The traffic must have gone through the rules, or the peer is none."""
    table = run("cat", "/proc/thread-self/net/nf_conntrack", netns=node)
    wanted = [f"dst={_as_in_conntrack(service)} ", f"src={_as_in_conntrack(server)} "]
    if not all(each in table for each in wanted):
        raise RuntimeError(f"conntrack of {node} knows nothing of {service}")


def _as_in_conntrack(address: str) -> str:
    return ip_address(address).exploded

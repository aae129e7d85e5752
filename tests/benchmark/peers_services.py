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
from typing import Literal

from pycilium.model.resources import Resource
from pycilium.model.resources.endpoint_slice import EndpointSlice
from pycilium.model.resources.service import Service
from tests.benchmark import service_set
from tests.benchmark.peers import PORT, Pair, namespaces, run
from tests.benchmark.peers_nodes import CLUSTER as NODES_CLUSTER
from tests.benchmark.peers_nodes import joined_nodes, outside_host
from tests.kubeproxy import iptables, nftables
from tests.kubeproxy.ports import NodeFacts, ProxyPort, ports_of

Mode = Literal["iptables", "nftables"]
CLUSTER = {4: "10.9.0.0/16", 6: "fd00:9::/48"}
FACTS = NodeFacts("node1", ("192.168.9.1", "fd00:9:9::1"), CLUSTER)
RESTORE = "iptables-legacy-restore"
"""The better peer: with thousands of chains the one that translates for nf_tables takes a hundred times as long to load."""
AT_ONCE = 1000
"""Services that nft is given at once, as what it takes grows with the square of them."""
_CONNTRACK = {"net.netfilter.nf_conntrack_tcp_timeout_time_wait": "10", "net.netfilter.nf_conntrack_max": "1048576"}
_HOSTS = {"client": 1, "server": 2}


@dataclass(slots=True)
class Proxy:
    """Rules of one mode in one network namespace, IPv4."""

    mode: Mode
    netns: str
    facts: NodeFacts = FACTS
    before: nftables.Content | None = None
    seconds: float = 0.0
    """What the program took that loaded the last rules, without making their text."""

    def start(self) -> None:
        if self.mode == "iptables":
            self._load((RESTORE, "--noflush", "-w"), iptables.jumps())
        else:
            self._load(("nft", "-f", "-"), nftables.base(self.facts, 4))

    def apply(self, resources: Sequence[Resource], changed: str = "") -> None:
        """`changed`: the name of the one Service that is not as it was."""
        ports = proxy_ports(resources, self.facts)
        if self.mode == "iptables":
            some = [port for port in ports if port.service.metadata.name == changed] if changed else None
            self._load((RESTORE, "--noflush", "-w"), iptables.rules(ports, self.facts, 4, changed=some))
            return
        after = nftables.content(ports, self.facts, 4)
        self._load(("nft", "-f", "-"), nftables.change(4, self.before or nftables.Content({}, {}, {}), after))
        self.before = after

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


def proxy_ports(resources: Sequence[Resource], facts: NodeFacts) -> list[ProxyPort]:
    return ports_of(
        [each for each in resources if isinstance(each, Service)],
        [each for each in resources if isinstance(each, EndpointSlice)],
        facts,
        4,
    )


@contextmanager
def kube_proxy(mode: Mode, count: int) -> Iterator[Pair]:
    """Two pods and `count` Services whose only endpoint is the server; the pair's address is that of the last Service."""
    with proxied_node(mode) as (proxy, pair):
        resources = service_set.services(count, [pair.ipv4], PORT, FACTS.name)
        steps = range(AT_ONCE, count, AT_ONCE) if mode == "nftables" else ()
        for step in (*steps, count):
            proxy.apply(resources[: 2 * step])
        yield replace(pair, ipv4=service_set.cluster_ip(count - 1, 4), port=service_set.PORT)
        _check_translated(proxy.netns, service_set.cluster_ip(count - 1, 4), pair.ipv4)


@contextmanager
def proxied_node(mode: Mode) -> Iterator[tuple[Proxy, Pair]]:
    """A node with kube-proxy's rules and no Service yet, and two pods."""
    prefix = f"bench-kp{mode[:1]}{os.getpid()}"
    node, client, server = (f"{prefix}-{part}" for part in ("n", "c", "s"))
    with namespaces(node, client, server):
        for setting in ("net.ipv4.ip_forward=1", *(f"{name}={value}" for name, value in _CONNTRACK.items())):
            run("sysctl", "-qw", setting, netns=node)
        for name, netns in (("client", client), ("server", server)):
            _join(node, netns, _HOSTS[name])
        proxy = Proxy(mode, node)
        proxy.start()
        yield proxy, Pair(f"kube-proxy, {mode}", client, server, f"10.9.0.{_HOSTS['server']}", "")


@contextmanager
def kube_proxy_node_port(mode: Mode, *, elsewhere: bool) -> Iterator[Pair]:
    """A client outside who asks the first node's port; the server's pod is on that node or, `elsewhere`, on the second.

    Nodes have a plain route to each other's pods. The Service that has the port is the only one.
    """
    with joined_nodes(f"np{mode[:1]}{elsewhere:d}") as (underlay, first, second):
        place = second if elsewhere else first
        server = place.pod_address(4, 2)
        facts = NodeFacts("node1", (first.addresses[4],), NODES_CLUSTER)
        proxy = Proxy(mode, first.netns, facts)
        proxy.start()
        proxy.apply(service_set.services(1, [server], PORT, "node2" if elsewhere else "node1", node_port=True))
        with outside_host(underlay) as client:
            pair = Pair(f"kube-proxy, {mode}", client, place.pod, first.addresses[4], "")
            yield replace(pair, port=service_set.NODE_PORT)
            _check_translated(first.netns, first.addresses[4], server)


def _join(node: str, pod: str, host: int) -> None:
    run("ip", "link", "add", "eth0", "netns", pod, "type", "veth", "peer", "name", f"v{host}", "netns", node)
    for netns, device, address, other in ((node, f"v{host}", "10.9.0.254", host), (pod, "eth0", f"10.9.0.{host}", 254)):
        run("ip", "addr", "add", f"{address}/32", "dev", device, netns=netns)
        run("ip", "link", "set", device, "up", netns=netns)
        run("ip", "route", "add", f"10.9.0.{other}", "dev", device, netns=netns)
    run("ip", "route", "add", "default", "via", "10.9.0.254", netns=pod)


def _check_translated(node: str, service: str, server: str) -> None:
    """The traffic must have gone through the rules, or the peer is none."""
    table = run("cat", "/proc/thread-self/net/nf_conntrack", netns=node)
    if f"dst={service} " not in table or f"src={server} " not in table:
        raise RuntimeError(f"conntrack of {node} knows nothing of {service}")

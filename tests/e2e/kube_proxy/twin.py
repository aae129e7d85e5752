"""The other side: the wires of one of our labs, pods on plain veth pairs and routes, and kube-proxy's rules on each node.

Nodes, world and their addresses are the lab's; only who serves Services differs. Pods are attached as simple
plugins do it (a veth pair and a host route each, no bridge, as bridged packets would pass the rules by), and each node
has a route to each other's pods.
"""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Literal

from pycilium.lab import labs, namespaces
from pycilium.lab.layout import LabRecord, NodeRecord
from pycilium.lab.plan import UpOptions
from pycilium.model.resources import Resource
from pycilium.model.resources.endpoint_slice import EndpointSlice
from pycilium.model.resources.service import Service
from tests.e2e.kube_proxy import services
from tests.e2e.kube_proxy.probes import Probe
from tests.e2e.kube_proxy.side import PODS, WORLD, ip_batch, quiet_about_nothing, route_services, run_with
from tests.kubeproxy import conntrack, iptables, nftables
from tests.kubeproxy.ports import NodeFacts, ProxyPort, ports_of

Mode = Literal["iptables", "nftables"]
CLUSTER = {4: "10.0.0.0/16", 6: "fd00:10::/48"}
_PROGRAMS = {4: "iptables-restore", 6: "ip6tables-restore"}


@contextmanager
def twin(mode: Mode, node_count: int) -> Iterator[Twin]:
    """A twin with its pods and probes; nothing of it is left afterwards."""
    name = f"twin-{secrets.token_hex(3)}"
    with ExitStack() as stack:
        record = labs.up(UpOptions(name=name, node_count=node_count, with_agents=False), lambda _: None)
        stack.callback(labs.down, name)
        yield Twin(record, mode, stack)


class Twin:
    """See `Side`."""

    def __init__(self, record: LabRecord, mode: Mode, stack: ExitStack) -> None:
        self.name = f"kube-proxy, {mode}"
        self._record, self._mode = record, mode
        self.node_names = [node.name for node in record.nodes]
        self.addresses = {node.name: {4: str(node.ipv4), 6: str(node.ipv6)} for node in record.nodes}
        self.pods: dict[str, tuple[str, Mapping[int, str]]] = {}
        self._netns = {WORLD: record.world} | {node.name: node.namespace for node in record.nodes}
        for node in record.nodes:
            _prepare(node, record)
        for pod, index in PODS.items():
            self._add_pod(pod, record.nodes[min(index, len(record.nodes) - 1)], stack)
        route_services(record)
        self.names = self._named()
        self._facts = {node.name: _facts(node) for node in record.nodes}
        self._written: dict[tuple[str, int], set[str] | nftables.Content] = {}
        for node in record.nodes:
            self._start_proxy(node)
        self.probes = {place: Probe(place, _starter(netns)) for place, netns in self._netns.items()}
        for probe in self.probes.values():
            stack.callback(probe.close)
        for pod in self.pods:
            self.probes[pod].serve(services.TARGET_PORT)

    def apply(self, resources: Sequence[Resource]) -> None:
        wanted = [each for each in resources if isinstance(each, Service)]
        slices = [each for each in resources if isinstance(each, EndpointSlice)]
        for node in self._record.nodes:
            for family in (4, 6):
                self._write(node, family, ports_of(wanted, slices, self._facts[node.name], family))

    def _write(self, node: NodeRecord, family: int, ports: list[ProxyPort]) -> None:
        facts, key = self._facts[node.name], (node.name, family)
        before = self._written.get(key)
        if self._mode == "iptables":
            chains = iptables.own_chains(iptables.rules(ports, facts, family))
            ended = sorted(before - chains) if isinstance(before, set) else []
            text = iptables.rules(ports, facts, family, ended=ended)
            run_with(node.namespace, (_PROGRAMS[family], "--noflush", "-w"), text)
            self._written[key] = chains
        else:
            after = nftables.content(ports, facts, family)
            known = before if isinstance(before, nftables.Content) else nftables.Content({}, {}, {})
            run_with(node.namespace, ("nft", "-f", "-"), nftables.change(family, known, after))
            self._written[key] = after
        namespaces.run_in(node.namespace, lambda: conntrack.forget_stale_flows(ports, family))

    def _start_proxy(self, node: NodeRecord) -> None:
        for family in (4, 6):
            if self._mode == "iptables":
                run_with(node.namespace, (_PROGRAMS[family], "--noflush", "-w"), iptables.jumps())
            else:
                base = nftables.base(self._facts[node.name], family, services.CLUSTER_CIDRS[family])
                run_with(node.namespace, ("nft", "-f", "-"), base)

    def _add_pod(self, pod: str, node: NodeRecord, stack: ExitStack) -> None:
        netns, host = f"{self._record.name}-{pod}", len(self.pods) + 10
        addresses = {4: f"10.0.{node.number}.{host}", 6: f"fd00:10:0:{node.number}::{host:x}"}
        namespaces.create(netns)
        stack.callback(namespaces.delete, netns)
        ip_batch(node.namespace, f"link add pod{host} type veth peer name eth0 netns {netns}\nlink set pod{host} up")
        ip_batch(netns, "link set lo up\nlink set eth0 up")
        for family, address in addresses.items():
            whole, gateway = (32, f"10.0.{node.number}.1") if family == 4 else (128, f"fd00:10:0:{node.number}::1")
            nodad = "nodad" if family == 6 else ""
            ip_batch(
                node.namespace,
                f"address add {gateway}/{whole} dev pod{host} {nodad}\nroute add {address}/{whole} dev pod{host}",
            )
            ip_batch(
                netns,
                f"address add {address}/{whole} dev eth0 {nodad}\nroute add {gateway}/{whole} dev eth0\n"
                f"route add default via {gateway} dev eth0",
            )
        self.pods[pod] = (node.name, addresses)
        self._netns[pod] = netns

    def _named(self) -> dict[str, str]:
        found = {address: pod for pod, (_, addresses) in self.pods.items() for address in addresses.values()}
        for node in self._record.nodes:
            own = (*node.addresses, f"10.0.{node.number}.1", f"fd00:10:0:{node.number}::1")
            found |= dict.fromkeys(own, node.name)
        return found | {"172.18.0.1": WORLD, "fd00:172:18::1": WORLD, "127.0.0.1": "loopback", "::1": "loopback"}


def _prepare(node: NodeRecord, record: LabRecord) -> None:
    """What kube-proxy and a network plugin set on their node, and the ways to the other nodes' pods."""
    namespaces.run_in(node.namespace, lambda: namespaces.write_sysctl("net.ipv4.conf.all.route_localnet", "1"))
    for name in ("nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"):  # a slow machine takes longer
        namespaces.run_in(node.namespace, lambda name=name: namespaces.write_sysctl(f"net.netfilter.{name}", "600"))
    quiet_about_nothing(node.namespace)
    for family, program, cidr in ((4, "iptables", node.ipv4_pod_cidr), (6, "ip6tables", node.ipv6_pod_cidr)):
        rule = f"-t nat -A POSTROUTING -s {cidr} ! -d {CLUSTER[family]} -j MASQUERADE"
        run_with(node.namespace, (program, "-w", *rule.split()), "")
    routes = [
        f"route add {cidr} via {gateway}"
        for other in record.nodes
        if other.name != node.name
        for cidr, gateway in ((other.ipv4_pod_cidr, other.ipv4), (other.ipv6_pod_cidr, other.ipv6))
    ]
    if routes:
        ip_batch(node.namespace, "\n".join(routes))


def _facts(node: NodeRecord) -> NodeFacts:
    return NodeFacts(node.name, node.addresses, CLUSTER)


def _starter(netns: str) -> Callable[[Sequence[str]], subprocess.Popen[str]]:
    def start(argv: Sequence[str]) -> subprocess.Popen[str]:
        return namespaces.run_in(
            netns, lambda: subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )

    return start

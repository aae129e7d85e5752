"""A lab whose agents leave Services of nodes and of clients outside to kube-proxy, whose rules are on each node."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from pycilium.model.resources.endpoint_slice import EndpointSlice
from pycilium.model.resources.service import Service
from tests.e2e.kube_proxy.side import run_with
from tests.e2e.lab import NODE, WORLD, Lab, Pod, eventually
from tests.e2e.service_traffic import NamedServer, client_in
from tests.kubeproxy import iptables
from tests.kubeproxy.ports import NodeFacts, ports_of

pytestmark = pytest.mark.root
PORT, TARGET, NODE_PORT, WORLD_PORT = 80, 8080, 30080, 7071
CLUSTER_IP = {4: "10.96.0.10", 6: "fd00:96::10"}
LOCAL_PORT = {"Cluster": NODE_PORT, "Local": NODE_PORT + 1}
CLUSTER = {4: "10.0.0.0/16", 6: "fd00:10::/48"}
RESTORE = {4: "iptables-restore", 6: "ip6tables-restore"}
NODES = {"node1": tuple(NODE.values()), "node2": ("172.18.0.12", "fd00:172:18::12")}
FAMILIES = pytest.mark.parametrize("family", [4, 6])
KINDS = pytest.mark.parametrize("kind", ["tcp", "udp"])


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    lab = Lab(f"e2e-{secrets.token_hex(3)}")
    lab.cilium("lab", "up", "--nodes", "2", "--no-kube-proxy-replacement")
    yield lab
    lab.down()


@pytest.fixture(scope="module", autouse=True)
def pods(lab: Lab) -> Iterator[dict[str, Pod]]:
    """`web` and `local`: one pod on each node behind a Service of both, of one node's behind one of that node alone."""
    made = {
        "client": lab.add_pod("client", node="node1"),
        "web-0": lab.add_pod("web-0", node="node1"),
        "web-1": lab.add_pod("web-1", node="node2"),
    }
    servers = [NamedServer(pod, TARGET) for pod in made.values() if pod.name != "client"]
    resources = [
        *_service("web", CLUSTER_IP, "Cluster", made["web-0"], made["web-1"]),
        *_service("local", {4: "10.96.0.11", 6: "fd00:96::11"}, "Local", made["web-0"]),
    ]
    lab.apply(*resources)
    _write_rules(lab, resources)
    assert eventually(lambda: lab.cilium("service", "list", "--node", "node1").stdout.count("fd00:96::1") >= 4)
    yield made
    for server in servers:
        server.close()


def _service(name: str, addresses: dict[int, str], policy: str, *pods: Pod) -> Iterator[dict[str, Any]]:
    ports = [
        {"name": kind.lower(), "port": PORT, "targetPort": TARGET, "nodePort": LOCAL_PORT[policy], "protocol": kind}
        for kind in ("TCP", "UDP")
    ]
    yield {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "type": "NodePort",
            "clusterIP": addresses[4],
            "clusterIPs": list(addresses.values()),
            "ipFamilies": ["IPv4", "IPv6"],
            "ipFamilyPolicy": "RequireDualStack",
            "externalTrafficPolicy": policy,
            "ports": ports,
        },
    }
    for family in addresses:
        yield {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": f"{name}-{family}",
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": name},
            },
            "addressType": f"IPv{family}",
            "endpoints": [
                {
                    "addresses": [pod.address[family]],
                    "conditions": {"ready": True},
                    "nodeName": "node2" if pod.name == "web-1" else "node1",
                }
                for pod in pods
            ],
            "ports": [{"name": kind.lower(), "port": TARGET, "protocol": kind} for kind in ("TCP", "UDP")],
        }


def _write_rules(lab: Lab, resources: list[dict[str, Any]]) -> None:
    services = [msgspec.convert(each, Service) for each in resources if each["kind"] == "Service"]
    slices = [msgspec.convert(each, EndpointSlice) for each in resources if each["kind"] == "EndpointSlice"]
    for node, addresses in NODES.items():
        facts = NodeFacts(node, addresses, CLUSTER)
        for family, program in RESTORE.items():
            rules = iptables.rules(ports_of(services, slices, facts, family), facts, family)
            for text in (iptables.jumps(), rules):
                run_with(f"cilium-{lab.name}-{node}", (program, "--noflush", "-w"), text)


@FAMILIES
@KINDS
@pytest.mark.parametrize("place", ["client", "node:node1"])
def test_cluster_ips_lead_to_pods_of_all_nodes(lab: Lab, family: int, kind: str, place: str) -> None:
    """A pod's packets by our programs, those of the node's own processes by kube-proxy."""
    with client_in(lab, place) as client:
        assert {client.ask(kind, CLUSTER_IP[family], PORT) for _ in range(12)} == {"web-0", "web-1"}


@FAMILIES
@KINDS
def test_a_pod_reaches_node_ports_of_both_nodes(lab: Lab, family: int, kind: str) -> None:
    with client_in(lab, "client") as client:
        for addresses in NODES.values():
            address = addresses[0 if family == 4 else 1]
            assert {client.ask(kind, address, NODE_PORT) for _ in range(12)} == {"web-0", "web-1"}


@FAMILIES
@KINDS
def test_clients_outside_reach_node_ports_by_kube_proxy(lab: Lab, family: int, kind: str) -> None:
    with client_in(lab, "world") as client:
        assert {client.ask(kind, NODE[family], NODE_PORT) for _ in range(12)} == {"web-0", "web-1"}


@FAMILIES
@KINDS
def test_a_local_policy_keeps_the_clients_address(lab: Lab, family: int, kind: str) -> None:
    with client_in(lab, "world") as client:
        assert client.seen_as(kind, NODE[family], LOCAL_PORT["Local"]) == {4: "172.18.0.1", 6: "fd00:172:18::1"}[family]


@FAMILIES
def test_a_pods_connection_to_the_world_is_none_that_kube_proxys_rules_drop(
    lab: Lab, pods: dict[str, Pod], family: int
) -> None:
    """Of which conntrack saw one direction alone."""
    world = NamedServer(Pod("world", "", lab.world_netns, {}), WORLD_PORT)
    try:
        with client_in(lab, "client") as client:
            assert client.ask("tcp", WORLD[family], WORLD_PORT) == "world"
    finally:
        world.close()


def test_no_program_is_on_sockets_and_status_says_who_translates(lab: Lab) -> None:
    said = " ".join(lab.cilium("status", "--verbose").stdout.split())

    assert "KubeProxyReplacement: False [Random, for pods alone; for others kube-proxy]" in said
    assert "Socket LB: Disabled" in said
    assert not list((lab.folder / "node1" / "bpf").rglob("cgroup*"))

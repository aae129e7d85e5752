"""Services in a lab: from every place, by every kind of address, while backends come and go and agents die."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.e2e.lab import WORLD, Lab, Pod, app, eventually, policy
from tests.e2e.service_traffic import Client, NamedServer, client_in

pytestmark = pytest.mark.root
PORT, TARGET, NODE_PORT, HOST_PORT = 80, 8080, 30080, 8088
CLUSTER_IP = {4: "10.96.0.10", 6: "fd00:96::10"}
NODES = {"one": ("node1",), "three": ("node1", "node2", "node3")}
LABS = {"one": (), "three": ("--nodes", "3", "--store", "etcd")}
NODE_ADDRESS = {4: "172.18.0.1{}", 6: "fd00:172:18::1{}"}
FAMILIES = pytest.mark.parametrize("family", [4, 6])
KINDS = pytest.mark.parametrize("kind", ["tcp", "udp"])
WAYS = pytest.mark.parametrize("sockets", [True, False], ids=["at sockets", "per packet"])


@pytest.fixture(scope="module", params=LABS)
def size(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def lab(size: str) -> Iterator[Lab]:
    lab = Lab(f"e2e-{secrets.token_hex(3)}")
    lab.cilium("lab", "up", *LABS[size])
    yield lab
    lab.down()


@pytest.fixture(scope="module")
def pods(lab: Lab, size: str) -> Iterator[dict[str, Pod]]:
    """A client on the first node; web-0 and web-1 as far apart as can be, behind the Service that `serve` makes."""
    last = NODES[size][-1]
    made = {
        "client": lab.add_pod("client", node="node1", app="client"),
        "web-0": lab.add_pod("web-0", node="node1", app="web"),
        "web-1": lab.add_pod("web-1", node=last, app="web"),
    }
    servers = [NamedServer(made[name], TARGET) for name in ("web-0", "web-1")]
    yield made
    for server in servers:
        server.close()


@pytest.fixture(scope="module")
def web(lab: Lab, pods: dict[str, Pod]) -> str:
    """The Service of both; its name."""
    lab.apply(service("web", CLUSTER_IP, selector={"app": "web"}, node_port=NODE_PORT))
    assert eventually(lambda: len(backends(lab, CLUSTER_IP[6])) == 2)
    return "web"


def service(name: str, addresses: dict[int, str], node_port: int = 0, **spec: Any) -> dict[str, Any]:
    ports = [
        {"name": kind.lower(), "port": PORT, "targetPort": TARGET, "protocol": kind}
        | ({"nodePort": node_port} if node_port else {})
        for kind in ("TCP", "UDP")
    ]
    families = {4: "IPv4", 6: "IPv6"}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "type": "NodePort" if node_port else "ClusterIP",
            "clusterIP": next(iter(addresses.values())),
            "clusterIPs": list(addresses.values()),
            "ipFamilies": [families[version] for version in addresses],
            "ipFamilyPolicy": "RequireDualStack" if len(addresses) == 2 else "SingleStack",
            "ports": ports,
            **spec,
        },
    }


def slice_of(name: str, *endpoints: tuple[Pod, dict[str, bool]]) -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{name}-1",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [pod.address[4]], "conditions": conditions} for pod, conditions in endpoints],
        "ports": [{"name": kind.lower(), "port": TARGET, "protocol": kind} for kind in ("TCP", "UDP")],
    }


def backends(lab: Lab, address: str, node: str = "node1") -> list[str]:
    """The backends of a TCP frontend as a node's agent lists them."""
    listed = json.loads(lab.run("cilium", "service", "list", "--node", node, "-o", "json").stdout)
    return [
        f"{backend['ip']} {backend['state']}"
        for one in listed
        if one["spec"]["frontend-address"]["ip"] == address and one["spec"]["frontend-address"]["protocol"] == "TCP"
        for backend in one["spec"]["backend-addresses"]
    ]


def answered_by(ask: Callable[[], str], times: int = 12) -> set[str]:
    return {ask() for _ in range(times)}


BOTH = {"web-0", "web-1"}


@FAMILIES
@KINDS
@WAYS
def test_a_pod_reaches_a_service_by_its_cluster_ip(lab: Lab, web: str, family: int, kind: str, sockets: bool) -> None:
    with client_in(lab, "client", sockets=sockets) as client:
        found = answered_by(lambda: client.ask(kind, CLUSTER_IP[family], PORT), 24)
        peer = client.peer(kind, CLUSTER_IP[family], PORT)

    assert found == BOTH
    assert peer == [CLUSTER_IP[family], PORT]


@FAMILIES
@KINDS
def test_a_node_reaches_a_service_by_its_cluster_ip(lab: Lab, web: str, family: int, kind: str, size: str) -> None:
    with client_in(lab, f"node:{NODES[size][-1]}") as client:
        assert answered_by(lambda: client.ask(kind, CLUSTER_IP[family], PORT), 24) == BOTH


@FAMILIES
@KINDS
def test_clients_outside_reach_a_node_port_of_every_node(lab: Lab, web: str, family: int, kind: str, size: str) -> None:
    with client_in(lab, "world") as client:
        for number in range(1, len(NODES[size]) + 1):
            address = NODE_ADDRESS[family].format(number)
            assert answered_by(lambda at=address: client.ask(kind, at, NODE_PORT), 16) == BOTH


@KINDS
def test_nodes_and_pods_reach_node_ports_of_every_node(lab: Lab, web: str, kind: str, size: str) -> None:
    for place in ("client", "node:node1"):
        with client_in(lab, place) as client:
            for number in range(1, len(NODES[size]) + 1):
                assert client.ask(kind, NODE_ADDRESS[4].format(number), NODE_PORT) in BOTH


@WAYS
def test_a_pod_reaches_itself_through_its_own_service(lab: Lab, web: str, pods: dict[str, Pod], sockets: bool) -> None:
    with client_in(lab, "web-0", sockets=sockets) as client:
        assert answered_by(lambda: client.ask("tcp", CLUSTER_IP[4], PORT)) == BOTH


@WAYS
def test_a_pods_connection_to_a_service_without_backends_is_refused_at_once(
    lab: Lab, pods: dict[str, Pod], sockets: bool
) -> None:
    lab.apply(service("empty", {4: "10.96.0.20"}, selector={"app": "nobody"}))
    with client_in(lab, "client", sockets=sockets) as client:
        eventually(lambda: client.ask("tcp", "10.96.0.20", PORT) == "ECONNREFUSED")

        outcome, seconds = client.timed("tcp", "10.96.0.20", PORT)

    assert outcome == "ECONNREFUSED"
    assert seconds < 5


@WAYS
def test_a_client_keeps_its_backend_while_the_service_says_so(lab: Lab, pods: dict[str, Pod], sockets: bool) -> None:
    """By whatever address it comes."""
    addresses = ["10.96.0.21", *(f"203.0.113.{number}" for number in range(21, 25))]
    lab.apply(
        service(
            "sticky",
            {4: addresses[0]},
            selector={"app": "web"},
            sessionAffinity="ClientIP",
            externalIPs=addresses[1:],
        )
    )
    assert eventually(lambda: all(len(backends(lab, address)) == 2 for address in addresses))

    with client_in(lab, "client", sockets=sockets) as client:
        found = {client.ask("tcp", address, PORT) for address in addresses for _ in range(4)}
    assert len(found) == 1


def test_a_terminating_backend_keeps_its_connections_and_gets_no_new_ones(lab: Lab, pods: dict[str, Pod]) -> None:
    ready, leaving = {"ready": True}, {"ready": False, "serving": True, "terminating": True}
    one, other = pods["web-0"], pods["web-1"]
    lab.apply(service("drained", {4: "10.96.0.22"}), slice_of("drained", (one, ready)))
    assert eventually(lambda: backends(lab, "10.96.0.22") == [f"{one.address[4]} active"])
    with client_in(lab, "client") as client:
        assert client.hold("kept", "tcp", "10.96.0.22", PORT) == "web-0"
        lab.apply(slice_of("drained", (one, leaving), (other, ready)))
        assert eventually(lambda: f"{one.address[4]} terminating" in backends(lab, "10.96.0.22"))

        found = answered_by(lambda: client.ask("tcp", "10.96.0.22", PORT))
        kept = client.again("kept")

    assert (found, kept) == ({"web-1"}, "web-0")


def test_datagrams_go_elsewhere_once_their_backend_is_gone(lab: Lab, pods: dict[str, Pod]) -> None:
    ready = {"ready": True}
    lab.apply(service("moved", {4: "10.96.0.23"}), slice_of("moved", (pods["web-0"], ready)))
    with client_in(lab, "client") as at_sockets, client_in(lab, "client", sockets=False) as per_packet:
        assert eventually(lambda: at_sockets.send("10.96.0.23", PORT) == "web-0")
        assert eventually(lambda: per_packet.send("10.96.0.23", PORT) == "web-0")

        lab.apply(slice_of("moved", (pods["web-1"], ready)))

        assert eventually(lambda: at_sockets.send("10.96.0.23", PORT) == "web-1")
        assert eventually(lambda: per_packet.send("10.96.0.23", PORT) == "web-1")


def test_a_policy_judges_what_goes_through_a_service_by_the_pod_behind_it(lab: Lab, web: str) -> None:
    lab.apply(policy("web-from-nobody", endpointSelector=app("web"), ingress=[{"fromEndpoints": [app("nobody")]}]))
    try:
        with client_in(lab, "client") as at_sockets, client_in(lab, "client", sockets=False) as per_packet:
            for client in (at_sockets, per_packet):
                assert eventually(lambda one=client: one.ask("tcp", CLUSTER_IP[4], PORT, 0.5) == "TimeoutError")
    finally:
        lab.cilium("delete", "cnp", "web-from-nobody")


def test_a_host_port_leads_to_its_pod_from_outside_and_from_its_node(lab: Lab, pods: dict[str, Pod]) -> None:
    lab.cilium("lab", "pod", "add", "port", "--node", "node1", "--host-port", f"{HOST_PORT}:{TARGET}")
    pod = Pod("port", "default", f"cilium-{lab.name}-default.port", {})
    server = NamedServer(pod, TARGET)
    try:
        for place in ("world", "node:node1"):
            with client_in(lab, place) as client:
                assert eventually(lambda one=client: one.ask("tcp", NODE_ADDRESS[4].format(1), HOST_PORT) == "port")
    finally:
        server.close()
        lab.remove_pod(pod)
    with client_in(lab, "world") as client:
        assert eventually(lambda: client.ask("tcp", NODE_ADDRESS[4].format(1), HOST_PORT) == "ECONNREFUSED")


def test_services_without_cluster_ips_are_harmless(lab: Lab, web: str) -> None:
    headless = service("headless", {4: "None"}, selector={"app": "web"})
    del headless["spec"]["clusterIPs"]
    external = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "elsewhere", "namespace": "default"},
        "spec": {"type": "ExternalName", "externalName": "example.com"},
    }
    lab.apply(headless, external)
    with client_in(lab, "client") as client:
        assert client.ask("tcp", CLUSTER_IP[4], PORT) in BOTH
    names = {one["spec"]["flags"]["name"] for one in lab.json("cilium", "service", "list")}

    assert not names & {"headless", "elsewhere"}


def test_two_services_that_claim_one_address_are_named(lab: Lab, web: str) -> None:
    shared = {"externalIPs": ["203.0.113.7"]}
    lab.apply(service("first", {4: "10.96.0.61"}, selector={"app": "web"}, **shared))
    lab.apply(service("rival", {4: "10.96.0.62"}, selector={"app": "nobody"}, **shared))
    try:
        assert eventually(lambda: "default/rival" in lab.cilium("status", "--verbose", check=False).stdout)
        with client_in(lab, "client") as client:
            assert client.ask("tcp", "203.0.113.7", PORT) in BOTH
    finally:
        lab.cilium("delete", "service", "first")
        lab.cilium("delete", "service", "rival")


def test_a_cluster_ip_that_another_service_has_is_refused(lab: Lab, web: str) -> None:
    rival = [service("rival", {4: CLUSTER_IP[4]}, selector={"app": "nobody"})]

    refused = lab.run("cilium", "apply", "-f", "-", text=json.dumps(rival), check=False)

    assert refused.returncode == 1
    assert f"{CLUSTER_IP[4]} is taken: Service default/web has it" in refused.stderr


@pytest.mark.parametrize("algorithm", ["random", "maglev"])
def test_an_agent_that_is_killed_under_load_sends_no_connection_elsewhere(
    lab: Lab, pods: dict[str, Pod], algorithm: str
) -> None:
    address = {"random": "10.96.0.24", "maglev": "10.96.0.25"}[algorithm]
    made = service(f"kept-{algorithm}", {4: address}, selector={"app": "web"}, node_port=0, sessionAffinity="ClientIP")
    made["metadata"]["annotations"] = {"service.cilium.io/lb-algorithm": algorithm}
    lab.apply(made)
    assert eventually(lambda: len(backends(lab, address)) == 2)
    with client_in(lab, "client") as at_sockets, client_in(lab, "client", sockets=False) as per_packet:
        clients = (at_sockets, per_packet)
        held = [_held(client, address) for client in clients]
        before = _tables(lab)

        lab.cilium("lab", "agent", "kill")
        during = [_asked_again(client, address) for client in clients]
        lab.cilium("lab", "agent", "start")
        time.sleep(1.0)
        after = [_asked_again(client, address) for client in clients]

    assert held == during == after
    assert _tables(lab) == before


def _held(client: Client, address: str) -> list[str]:
    """Who answers connections that stay, over TCP and UDP, and then a new one, which affinity leads."""
    return [client.hold(f"{kind} {address}", kind, address, PORT) for kind in ("tcp", "udp")] + [
        client.ask("tcp", address, PORT)
    ]


def _asked_again(client: Client, address: str) -> list[str]:
    return [client.again(f"{kind} {address}") for kind in ("tcp", "udp")] + [client.ask("tcp", address, PORT)]


def _tables(lab: Lab) -> Any:
    """The frontends with their ids and the backends of their slots, as the kernel has them."""
    return lab.json("cilium-dbg", "bpf", "lb", "list")


def test_hubble_names_the_service_of_a_connection(lab: Lab, web: str) -> None:
    with client_in(lab, "client", sockets=False) as client:
        client.ask("tcp", CLUSTER_IP[4], PORT)

    def seen() -> bool:
        said = lab.run("hubble", "observe", "--to-service", "default/web", "--last", "20", "-o", "json").stdout
        flows = [json.loads(line)["flow"] for line in said.splitlines()]
        return any(flow["destination_service"]["name"] == "web" for flow in flows)

    assert eventually(seen)


def test_a_world_that_is_no_service_is_reached_as_ever(lab: Lab, web: str) -> None:
    with client_in(lab, "client") as client:
        assert client.timed("tcp", WORLD[4], 80)[0] != "ECONNREFUSED"

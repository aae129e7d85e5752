"""SCTP through Services, policies and out into the world, by the kernel's own sockets.

The world and most pods compute their checksums themselves, as machines do whose hardware knows no CRC32c: else most would
never be computed in a lab, and none be looked at. Those of one pod are left to be filled in on the way.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from pycilium.lab import wires
from tests.e2e.lab import WORLD, Lab, Pod, app, eventually, inside, policy, ports
from tests.e2e.service_traffic import Client, NamedServer, client_in
from tests.e2e.test_services import CLUSTER_IP, NODE_ADDRESS, NODE_PORT, PORT, TARGET, answered_by, service
from tests.sctp import sctp_socket, skip_without_sockets, tell

pytestmark = pytest.mark.root
FAMILIES = pytest.mark.parametrize("family", [4, 6])
BOTH = {"web-0", "web-1"}
PATIENCE_S = 20.0
"""An emulated processor takes its time."""
DENIED_S = 2.0
HEARTBEATS_S = 4.0
"""Within it, an end has heard from all addresses that the other has named, or has not."""
LONG_IP, LONG_TARGET, LONG_NODE_PORT = {4: "10.96.0.77", 6: "fd00:96::77"}, 9132, 30132
SPEECH = bytes(range(256)) * 256


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    skip_without_sockets()
    lab = Lab(f"e2e-sctp-{secrets.token_hex(3)}")
    lab.cilium("lab", "up", "--nodes", "2", timeout_s=600)
    inside(lab.world_netns, lambda: wires.compute_checksums("eth0"))
    yield lab
    lab.down()


@pytest.fixture(scope="module")
def pods(lab: Lab) -> Iterator[dict[str, Pod]]:
    """A client and a backend on one node, the other backend on the other; the Service is there."""
    made = {
        "client": lab.add_pod("client", node="node1", app="client"),
        "web-0": lab.add_pod("web-0", node="node1", app="web"),
        "web-1": lab.add_pod("web-1", node="node2", app="web", side="far"),
    }
    for name in ("client", "web-0"):
        inside(made[name].netns, lambda: wires.compute_checksums("eth0"))
    servers = [NamedServer(made[name], TARGET, sctp=True) for name in ("web-0", "web-1")]
    web = service("web", CLUSTER_IP, selector={"app": "web"})
    web["spec"]["type"] = "NodePort"
    web["spec"]["ports"] = [{"port": PORT, "targetPort": TARGET, "nodePort": NODE_PORT, "protocol": "SCTP"}]
    lab.apply(web, long_service())
    assert is_served_everywhere(lab)
    yield made
    for server in servers:
        server.close()


def long_service() -> dict[str, Any]:
    """Of the pod on the other node alone."""
    long = service("long", LONG_IP, selector={"side": "far"})
    long["spec"]["type"] = "NodePort"
    port = {"port": PORT, "targetPort": LONG_TARGET, "nodePort": LONG_NODE_PORT, "protocol": "SCTP"}
    long["spec"]["ports"] = [port]
    return long


def answered(client: Client, address: str, port: int = NODE_PORT) -> set[str]:
    return answered_by(lambda: client.ask("sctp", address, port, PATIENCE_S))


def is_served_everywhere(lab: Lab) -> bool:
    """Each node has both backends of both families."""
    ways = [NODE_ADDRESS[family].format(node) for node in (1, 2) for family in (4, 6)]
    with client_in(lab, "world", sockets=False) as client:
        return all(eventually(lambda at=at: answered(client, at) == BOTH, timeout_s=60) for at in ways)


@FAMILIES
@pytest.mark.parametrize("place", ["client", "web-0"])
def test_pods_reach_a_service_by_its_cluster_ip(lab: Lab, pods: dict[str, Pod], place: str, family: int) -> None:
    """A pod of the Service reaches itself, too."""
    with client_in(lab, place, sockets=False) as client:
        assert answered(client, CLUSTER_IP[family], PORT) == BOTH


@FAMILIES
@pytest.mark.parametrize("node", [1, 2])
def test_clients_outside_reach_a_node_port(lab: Lab, pods: dict[str, Pod], node: int, family: int) -> None:
    """The port is another one at the backend, and so may the client's be, if its pod is on another node."""
    with client_in(lab, "world", sockets=False) as client:
        assert answered(client, NODE_ADDRESS[family].format(node)) == BOTH


@FAMILIES
def test_what_is_long_arrives_whole_in_both_directions(lab: Lab, pods: dict[str, Pod], family: int) -> None:
    """From outside, to the pod of a node that was not called."""
    server, client = (
        inside(netns, lambda: sctp_socket(family, PATIENCE_S)) for netns in (pods["web-1"].netns, lab.world_netns)
    )
    with closing(server), closing(client):
        server.bind(("", LONG_TARGET))
        server.listen()
        client.connect((NODE_ADDRESS[family].format(1), LONG_NODE_PORT))
        accepted, _ = server.accept()
        with closing(accepted):
            accepted.settimeout(PATIENCE_S)
            tell(client, accepted, SPEECH)
            tell(accepted, client, SPEECH)


@FAMILIES
def test_pods_reach_the_world_as_their_node(lab: Lab, pods: dict[str, Pod], family: int) -> None:
    """Two of them from the same port to the same one: the second gets another."""
    server = inside(lab.world_netns, lambda: sctp_socket(family, PATIENCE_S))
    clients = [inside(pods[name].netns, lambda: sctp_socket(family, PATIENCE_S)) for name in ("client", "web-0")]
    with closing(server), closing(clients[0]), closing(clients[1]):
        server.bind((WORLD[family], LONG_TARGET))
        server.listen()
        seen = []
        for client in clients:
            client.bind(("", 36412))
            client.connect((WORLD[family], LONG_TARGET))
            accepted, peer = server.accept()
            with closing(accepted):
                client.sendall(b"?")
                assert accepted.recv(16) == b"?"
            seen.append(peer[:2])

    assert [address for address, _ in seen] == [NODE_ADDRESS[family].format(1)] * 2
    assert seen[0][1] == 36412 != seen[1][1]


@FAMILIES
def test_an_association_lasts(lab: Lab, pods: dict[str, Pod], family: int) -> None:
    with closing(inside(pods["client"].netns, lambda: sctp_socket(family, PATIENCE_S))) as client:
        client.connect((CLUSTER_IP[family], PORT))
        for _ in range(3):
            client.sendall(b"who\n")
            assert client.recv(256)
            time.sleep(HEARTBEATS_S)


def test_a_policy_that_allows_a_port_of_sctp_allows_that_alone(lab: Lab, pods: dict[str, Pod]) -> None:
    addresses = list(pods["web-0"].address.values())
    lab.apply(policy("web", endpointSelector=app("web"), ingress=[{"toPorts": ports(f"{TARGET}/SCTP")}]))
    try:
        with client_in(lab, "client", sockets=False) as client:
            assert eventually(
                lambda: all(client.ask("tcp", at, TARGET, DENIED_S) == "TimeoutError" for at in addresses),
                timeout_s=PATIENCE_S,
            )
            assert {client.ask("sctp", at, TARGET, PATIENCE_S) for at in addresses} == {"web-0"}
            assert answered(client, CLUSTER_IP[4], PORT) == answered(client, CLUSTER_IP[6], PORT) == BOTH

            lab.apply(policy("web", endpointSelector=app("web"), ingress=[{"toPorts": ports(f"{TARGET}/TCP")}]))

            assert eventually(lambda: client.ask("tcp", addresses[0], TARGET, DENIED_S) == "web-0", timeout_s=60)
            assert {client.ask("sctp", at, TARGET, DENIED_S) for at in addresses} == {"TimeoutError"}
    finally:
        lab.delete_policies()


def test_hubble_shows_flows_of_sctp_with_their_service(lab: Lab, pods: dict[str, Pod]) -> None:
    with client_in(lab, "client", sockets=False) as client:
        client.ask("sctp", CLUSTER_IP[4], PORT, PATIENCE_S)

    def seen() -> bool:
        words = ("--protocol", "sctp", "--to-service", "default/web", "--last", "20", "-o", "json")
        flows = [json.loads(line)["flow"] for line in lab.run("hubble", "observe", *words).stdout.splitlines()]
        return any(flow["l4"]["SCTP"]["destination_port"] == TARGET for flow in flows)

    assert eventually(seen, timeout_s=PATIENCE_S)

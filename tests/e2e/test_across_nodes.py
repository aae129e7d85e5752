"""Pods of different nodes reach each other, by every protocol, in every way of routing; and policy knows who they are."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.e2e.lab import (
    WORLD,
    Lab,
    Pod,
    answers_udp,
    app,
    connects,
    eventually,
    inside,
    pings,
    policy,
    run_inside,
    serving,
)

pytestmark = pytest.mark.root
PORT = 8080
BULK_BYTES, CHUNK_BYTES = 4 << 20, 1 << 16


@dataclass(frozen=True)
class Way:
    """One way of making a cluster, and which families its pods and its underlay have."""

    options: tuple[str, ...]
    pods: tuple[int, ...]
    underlay: tuple[int, ...]
    mtu_bytes: int


WAYS = {
    "tunnel": Way((), (4, 6), (4, 6), 1450),
    "native": Way(("--routing-mode", "native"), (4, 6), (4, 6), 1500),
    "tunnel-over-ipv6": Way(("--underlay-family", "ipv6"), (4, 6), (6,), 1430),
    "ipv6-pods-over-ipv4": Way(("--ip-families", "ipv6", "--underlay-family", "ipv4"), (6,), (4,), 1450),
}


@pytest.fixture(scope="module", params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    return WAYS[request.param]


@pytest.fixture(scope="module")
def lab(way: Way) -> Iterator[Lab]:
    lab = Lab(f"e2e-{secrets.token_hex(3)}")
    lab.cilium("lab", "up", "--nodes", "2", *way.options)
    yield lab
    lab.down()


@pytest.fixture(scope="module")
def pods(lab: Lab) -> Iterator[tuple[Pod, Pod]]:
    """A client on one node, a server on the other; the routes between them are there."""
    client, server = (
        lab.add_pod("client", node="node1", app="client"),
        lab.add_pod("server", node="node2", app="server"),
    )
    with serving(server.netns, PORT), serving(client.netns, PORT), serving(netns_of(lab, "node2"), PORT):
        for address in server.address.values():
            assert eventually(lambda address=address: connects(client.netns, address, PORT), timeout_s=15)
        yield client, server


def netns_of(lab: Lab, node: str) -> str:
    return f"cilium-{lab.name}-{node}"


def reaches(netns: str, address: str) -> tuple[bool, bool, bool]:
    return connects(netns, address, PORT), answers_udp(netns, address, PORT), pings(netns, address)


def test_pods_reach_each_other(pods, way):
    client, server = pods
    for family in way.pods:
        assert reaches(client.netns, server.address[family]) == (True, True, True)
        assert reaches(server.netns, client.address[family]) == (True, True, True)


def test_a_pod_reaches_the_other_node(lab, pods, way):
    addresses = {4: "172.18.0.12", 6: "fd00:172:18::12"}
    for family in set(way.pods) & set(way.underlay):
        assert reaches(pods[0].netns, addresses[family]) == (True, True, True)


def test_a_node_reaches_the_pods_of_the_other(lab, pods, way):
    for family in way.pods:
        assert reaches(netns_of(lab, "node1"), pods[1].address[family]) == (True, True, True)


def test_pods_of_both_nodes_reach_the_world_if_their_nodes_do(pods, way):
    for family in set(way.pods) & set(way.underlay):
        for pod in pods:
            assert connects(pod.netns, WORLD[family], 80)


def test_much_data_passes_both_ways(pods, way):
    client, server = pods
    for family in way.pods:
        assert inside(client.netns, lambda family=family: echoed_bytes(server.address[family])) == BULK_BYTES


def test_the_largest_packet_of_the_mtu_arrives_whole_and_a_larger_one_is_refused(pods, way):
    client, server = pods
    for family in way.pods:
        fits = way.mtu_bytes - (28 if family == 4 else 48)

        def unfragmented(size: int, family: int = family) -> bool:
            words = ("ping", "-c1", "-W2", "-M", "do", "-s", str(size), server.address[family])
            return run_inside(client.netns, *words).returncode == 0

        assert (unfragmented(fits), unfragmented(fits + 1)) == (True, False)


def test_large_packets_arrive_in_fragments(pods, way):
    client, server = pods
    for family in way.pods:
        done = run_inside(client.netns, "ping", "-c2", "-W2", "-s", "4000", server.address[family])

        assert done.returncode == 0, done.stdout


def test_policy_knows_pods_of_the_other_node_by_their_labels(lab, pods, way):
    client, server = pods
    stranger = lab.add_pod("stranger", node="node1", app="stranger")
    addresses = [server.address[family] for family in way.pods]
    for address in addresses:
        assert eventually(lambda address=address: connects(stranger.netns, address, PORT))
    lab.apply(policy("server", endpointSelector=app("server"), ingress=[{"fromEndpoints": [app("client")]}]))
    try:
        for address in addresses:
            assert eventually(lambda address=address: connects(stranger.netns, address, PORT, 0.3), wanted=False)
            assert connects(client.netns, address, PORT)
        words = ("hubble", "observe", "--verdict", "DROPPED", "--from-pod", "default/stranger")
        assert eventually(lambda: "default/server" in lab.run(*words).stdout)
    finally:
        lab.delete_policies()
        lab.remove_pod(stranger)


def test_a_pod_that_comes_later_is_known_to_the_other_node_by_its_labels(lab, pods, way):
    _, server = pods
    lab.apply(policy("server", endpointSelector=app("server"), ingress=[{"fromEndpoints": [app("late")]}]))
    late = lab.add_pod("late", node="node1", app="late")
    try:
        for family in way.pods:
            assert eventually(lambda family=family: connects(late.netns, server.address[family], PORT))
    finally:
        lab.delete_policies()
        lab.remove_pod(late)


def echoed_bytes(address: str) -> int:
    """Sends much and reads it back; how much came."""
    received = 0
    with socket.create_connection((address, PORT), timeout=10) as connection:
        for end in range(CHUNK_BYTES, BULK_BYTES + 1, CHUNK_BYTES):
            connection.sendall(bytes(CHUNK_BYTES))
            while received < end and (part := connection.recv(CHUNK_BYTES)):
                received += len(part)
    return received

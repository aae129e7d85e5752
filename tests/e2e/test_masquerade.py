"""Pods and the world: real sockets on both sides of the node's address, while the agent and the address change."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from tests.e2e.lab import NODE, WORLD, Lab, Pod, eventually, inside, run_inside

pytestmark = pytest.mark.root
PORT = 7070
KIND = {4: socket.AF_INET, 6: socket.AF_INET6}
FAMILIES = pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])


@pytest.fixture(scope="module")
def pods(lab: Lab) -> tuple[Pod, Pod]:
    return lab.add_pod("one"), lab.add_pod("two")


@contextmanager
def listening(lab: Lab, family: int) -> Iterator[socket.socket]:
    """In the world."""
    with closing(
        inside(lab.world_netns, lambda: socket.create_server((WORLD[family], PORT), family=KIND[family]))
    ) as server:
        server.settimeout(5)
        yield server


@contextmanager
def connected(server: socket.socket, netns: str, family: int, port: int = 0) -> Iterator[tuple[socket.socket, ...]]:
    """Client and server side of one connection; `port` is the client's."""

    def connect() -> socket.socket:
        client = socket.socket(KIND[family])
        client.settimeout(5)
        client.bind(("", port))
        client.connect((WORLD[family], PORT))
        return client

    with closing(inside(netns, connect)) as client:
        accepted, _ = server.accept()
        with closing(accepted):
            accepted.settimeout(5)
            yield client, accepted


def talk(client: socket.socket, accepted: socket.socket, word: bytes) -> None:
    """There and back."""
    client.sendall(word)
    assert accepted.recv(100) == word
    accepted.sendall(word * 2)
    assert client.recv(100) == word * 2


@FAMILIES
def test_pods_and_node_have_the_same_port_to_the_same_server(lab, pods, family):
    """Three connections of which the world sees one address, and no two with one port."""
    with listening(lab, family) as server:
        places = [pods[0].netns, lab.node_netns, pods[1].netns]
        with (
            connected(server, places[0], family, 33333) as first,
            connected(server, places[1], family, 33333) as own,
            connected(server, places[2], family, 33333) as second,
        ):
            for number, pair in enumerate((first, own, second, first, own, second)):
                talk(*pair, b"%d" % number)
            seen = [pair[1].getpeername()[:2] for pair in (first, own, second)]

    assert {address for address, _ in seen} == {NODE[family]}
    assert len({port for _, port in seen}) == 3


@FAMILIES
@pytest.mark.parametrize("ending", ["restart", "kill"])
def test_a_connection_to_the_world_outlives_the_agent(clean_lab, pods, family, ending):
    with listening(clean_lab, family) as server, connected(server, pods[0].netns, family) as pair:
        talk(*pair, b"before")
        if ending == "kill":
            clean_lab.cilium("lab", "agent", "kill")
            talk(*pair, b"meanwhile")
            clean_lab.cilium("lab", "agent", "start")
        else:
            clean_lab.cilium("lab", "agent", "restart")
        talk(*pair, b"after")


def test_mappings_are_listed(lab, pods):
    with listening(lab, 4) as server, connected(server, pods[0].netns, 4, 34343):
        listed = lab.json("cilium-dbg", "bpf", "nat", "list")

    assert f"source={NODE[4]} 34343" in listed[f"TCP {pods[0].address[4]} 34343 -> {WORLD[4]} {PORT}"][0]


@FAMILIES
def test_large_packets_to_the_world_arrive_in_fragments(pods, family):
    done = run_inside(pods[0].netns, "ping", "-c2", "-W2", "-s", "4000", WORLD[family])
    assert done.returncode == 0, done.stdout


@FAMILIES
def test_a_pod_hears_that_a_port_of_the_world_is_closed(pods, family):
    def send() -> None:
        with closing(socket.socket(KIND[family], socket.SOCK_DGRAM)) as client:
            client.settimeout(5)
            client.connect((WORLD[family], 9))
            client.send(b"x")
            client.recv(1)

    with pytest.raises(ConnectionRefusedError):
        inside(pods[0].netns, send)


@FAMILIES
def test_the_world_still_reaches_pods_under_their_own_address(lab, pods, family):
    """Where it knows a way to them: replies are not masqueraded."""

    def serve() -> socket.socket:
        return socket.create_server((pods[0].address[family], PORT), family=KIND[family])

    with closing(inside(pods[0].netns, serve)) as server:
        client = inside(lab.world_netns, lambda: socket.create_connection((pods[0].address[family], PORT), timeout=5))
        with closing(client), closing(server.accept()[0]) as accepted:
            accepted.settimeout(5)
            talk(client, accepted, b"hello")


def test_pods_leave_with_a_new_address_of_the_node_at_once(lab, pods):
    """IPv6, for the kernel drops all IPv4 addresses of a network together with the first one."""
    fresh, old = "fd00:172:18::99", NODE[6]

    def readdress(to: str, instead_of: str) -> None:
        run_inside(lab.node_netns, "ip", "address", "add", f"{to}/64", "dev", "eth0", "nodad")
        run_inside(lab.node_netns, "ip", "address", "del", f"{instead_of}/64", "dev", "eth0")

    def seen() -> str:
        asked = run_inside(pods[0].netns, "curl", "-gs", "--max-time", "2", f"http://[{WORLD[6]}]/")
        return asked.stdout.strip().rpartition(" ")[2]

    assert seen() == old
    readdress(fresh, old)
    try:
        assert eventually(lambda: seen() == fresh)
    finally:
        readdress(old, fresh)
    assert eventually(lambda: seen() == old)

"""Backends on other nodes that answer clients outside by themselves (DSR), with and without XDP before them.

The client is the lab's world, what it calls is a port of node1, and the backends are on node2 and node3. All are on one
link, so the Ethernet source of an answer says which node it has left last.
"""

from __future__ import annotations

import json
import secrets
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from tests.e2e.lab import NODE, Lab, Pod, Server, eventually, inside, run_inside
from tests.e2e.service_traffic import Client, NamedServer, client_in
from tests.e2e.test_services import CLUSTER_IP, NODE_PORT, TARGET, answered_by, backends, service

pytestmark = pytest.mark.root

SETUPS = {
    "an option, before the stack": ("--load-balancer-mode", "dsr", "--acceleration", "native"),
    "an outer header, hybrid": (
        *("--routing-mode", "native", "--load-balancer-mode", "hybrid", "--dsr-dispatch", "ipip"),
    ),
}
FAMILIES = pytest.mark.parametrize("family", [4, 6])
ECHO_IP, ECHO_PORT, ECHO_TARGET = {4: "10.96.0.77", 6: "fd00:96::77"}, 30777, 7777
OUTSIDE = {4: "172.18.0.1", 6: "fd00:172:18::1"}
"""The client's own addresses."""
BIG = bytes(range(256)) * 4096
ETH_P_ALL, FRAME_BYTES = 3, 256


@pytest.fixture(scope="module", params=SETUPS)
def setup(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def lab(setup: str) -> Iterator[Lab]:
    lab = Lab(f"e2e-dsr-{secrets.token_hex(3)}")
    lab.cilium("lab", "up", "--nodes", "3", *SETUPS[setup])
    yield lab
    lab.down()


@pytest.fixture(scope="module")
def pods(lab: Lab) -> Iterator[dict[str, Pod]]:
    made = {f"web-{number}": lab.add_pod(f"web-{number}", node=f"node{number}", app="web") for number in (2, 3)}
    servers: list[NamedServer | Server] = [NamedServer(pod, TARGET) for pod in made.values()]
    servers += [Server(pod.netns, ECHO_TARGET) for pod in made.values()]
    echo = service("echo", ECHO_IP, selector={"app": "web"}, node_port=ECHO_PORT)
    for port in echo["spec"]["ports"]:
        port["targetPort"] = ECHO_TARGET
    lab.apply(service("web", CLUSTER_IP, selector={"app": "web"}, node_port=NODE_PORT), echo)
    for address in (CLUSTER_IP[6], ECHO_IP[6]):
        assert eventually(lambda at=address: len(backends(lab, at)) == 2)
    yield made
    for server in servers:
        server.close()


@pytest.fixture
def client(lab: Lab, pods: dict[str, Pod]) -> Iterator[Client]:
    with client_in(lab, "world") as client:
        yield client


def senders(lab: Lab, act: Callable[[], object], port: int = NODE_PORT) -> set[str]:
    """The nodes that the frames came from which the world got from that port while it acted."""
    macs = {mac_of(f"cilium-{lab.name}-{node}"): node for node in ("node1", "node2", "node3")}
    opened = inside(lab.world_netns, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)))
    with closing(opened) as link:
        act()
        link.setblocking(False)
        found = set()
        while True:
            try:
                frame = link.recv(FRAME_BYTES)
            except BlockingIOError:
                return {macs[mac] for mac in found}
            if _source_port(frame) == port:
                found.add(frame[6:12].hex(":"))


def mac_of(netns: str) -> str:
    shown = json.loads(run_inside(netns, "ip", "-json", "link", "show", "eth0").stdout)
    return str(shown[0]["address"])


def _source_port(frame: bytes) -> int:
    """Of TCP or UDP without options; 0 of all else."""
    (ether_type,) = struct.unpack_from("!H", frame, 12)
    protocol, at = {0x0800: (frame[23], 34), 0x86DD: (frame[20], 54)}.get(ether_type, (0, 0))
    return int(struct.unpack_from("!H", frame, at)[0]) if protocol in (6, 17) else 0


@FAMILIES
@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_a_backend_elsewhere_sees_the_client_and_answers_it_past_the_node_that_was_called(
    lab: Lab, setup: str, client: Client, family: int, kind: str
) -> None:
    at = NODE[family]
    answers: set[str] = set()
    nodes = senders(lab, lambda: answers.update(answered_by(lambda: client.ask(kind, at, NODE_PORT))))

    assert answers == {"web-2", "web-3"}
    is_direct = kind == "tcp" or "hybrid" not in setup
    assert nodes == ({"node2", "node3"} if is_direct else {"node1"})
    assert (client.seen_as(kind, at, NODE_PORT) == OUTSIDE[family]) == is_direct


@FAMILIES
def test_answers_of_any_size_arrive(lab: Lab, pods: dict[str, Pod], family: int) -> None:
    def exchange() -> bytes:
        with socket.create_connection((NODE[family], ECHO_PORT), timeout=5) as connection:
            connection.settimeout(5)
            sent, received = 0, b""
            while len(received) < len(BIG):
                sent += connection.send(BIG[sent : sent + 16384]) if sent < len(BIG) else 0
                received += connection.recv(1 << 20) if sent == len(BIG) or len(received) < sent else b""
            return received

    received: list[bytes] = []
    nodes = senders(lab, lambda: received.append(inside(lab.world_netns, exchange)), ECHO_PORT)

    assert received == [BIG]
    assert "node1" not in nodes


@FAMILIES
def test_a_datagram_that_leaves_no_room_for_what_was_called_is_told_of_and_smaller_ones_arrive(
    lab: Lab, pods: dict[str, Pod], family: int
) -> None:
    def exchange() -> tuple[str, int]:
        with socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as made:
            made.settimeout(1)
            made.connect((NODE[family], ECHO_PORT))
            if family == 4:
                made.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER: IP_PMTUDISC_DO
            said = ""
            for bytes_ in (1472 if family == 4 else 1452, 1200):
                try:
                    made.send(b"x" * bytes_)
                    got = len(made.recv(4096))
                except OSError as error:
                    said, got = type(error).__name__ + str(error.errno), 0
            return said, got

    said, got = inside(lab.world_netns, exchange)

    assert got == 1200, said


def test_connections_last_while_agents_restart(lab: Lab, client: Client) -> None:
    held = {
        name: client.hold(name, "tcp", NODE[family], NODE_PORT)
        for family in (4, 6)
        for name in (f"{family}-{number}" for number in range(4))
    }
    for node in ("node1", "node2"):
        lab.cilium("lab", "agent", "kill", "--node", node)
        assert {name: client.again(name) for name in held} == held
        lab.cilium("lab", "agent", "start", "--node", node)
        assert {name: client.again(name) for name in held} == held


def test_when_a_backend_goes_the_other_one_takes_all_and_keeps_its_connections(
    lab: Lab, pods: dict[str, Pod], client: Client
) -> None:
    held = {name: client.hold(name, "tcp", NODE[4], NODE_PORT) for name in map(str, range(8))}
    kept = {name for name, backend in held.items() if backend == "web-3"}
    assert kept

    lab.remove_pod(pods["web-2"])

    assert eventually(lambda: answered_by(lambda: client.ask("tcp", NODE[4], NODE_PORT, 0.5)) == {"web-3"})
    assert eventually(lambda: answered_by(lambda: client.ask("udp", NODE[4], NODE_PORT, 0.5)) == {"web-3"})
    assert {client.again(name) for name in kept} == {"web-3"}

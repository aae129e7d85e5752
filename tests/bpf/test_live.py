"""The programs attached to real devices: packets reach whom they should, through redirects and the node's stack."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from pycilium.datapath import bpffs
from pycilium.datapath.layouts import Aggregation, TracePoint
from pycilium.datapath.loader import DatapathConfig, load
from tests.bpf.conftest import SMALL_MAPS, constants, new_namespace
from tests.bpf.live import UPLINK4, UPLINK6, LiveNode
from tests.bpf.node import DB, GATEWAY4, GATEWAY6, INGRESS, WEB, WORLD4, WORLD6, Node

pytestmark = pytest.mark.root

FAMILIES = pytest.mark.parametrize("family", [4, 6])
PLACES = {
    "db": (DB.ipv4, DB.ipv6),
    "web": (WEB.ipv4, WEB.ipv6),
    "node": (GATEWAY4, GATEWAY6),
    "world": (WORLD4, WORLD6),
}


def address(place: str, family: int) -> str:
    return PLACES[place][0 if family == 4 else 1]


@pytest.fixture(scope="module")
def live() -> Iterator[LiveNode]:
    namespaces = {name: new_namespace() for name in ("node", "world", "web", "db")}
    built = LiveNode(namespaces)
    built.build()
    yield built
    for fd in namespaces.values():
        os.close(fd)


@pytest.fixture(scope="module")
def attached(live: LiveNode, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    root = tmp_path_factory.mktemp("live")
    bpffs.ensure(root)
    try:
        with load(
            DatapathConfig(str(root), constants(live.devices, aggregation=Aggregation.MEDIUM), SMALL_MAPS)
        ) as loaded:
            live.attach(loaded, Path(root) / "links")
            node = Node(loaded, live.namespaces["node"], live.devices)
            yield node
            node.close()
    finally:
        bpffs.unmount(root)


@pytest.fixture
def node(attached: Node) -> Node:
    attached.reset()
    attached.masquerade("uplink", ipv4=UPLINK4[0], ipv6=UPLINK6[0])
    return attached


@contextmanager
def connected(live: LiveNode, source: str, to: str, family: int) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a TCP connection: the one that opened it, the one that took it."""
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    with ExitStack() as stack:
        server = stack.enter_context(
            live.within(to, lambda: socket.create_server((address(to, family), 0), family=kind))
        )
        client = live.within(source, lambda: socket.create_connection(server.getsockname()[:2], timeout=5))
        stack.enter_context(client)
        peer, _ = server.accept()
        yield client, stack.enter_context(peer)


def receive(peer: socket.socket, size: int) -> None:
    """All of it, as it comes; TimeoutError if nothing comes any more."""
    while size:
        part = peer.recv(size)
        assert part, f"closed, {size} bytes early"
        size -= len(part)


def ping(live: LiveNode, source: str, to: str, *options: str) -> str:
    done = live.run(source, "ping", "-n", "-c", "1", "-W", "2", *options, to)
    return done.stdout + done.stderr


@FAMILIES
@pytest.mark.parametrize(
    ("source", "to"),
    [("web", "db"), ("web", "node"), ("web", "world"), ("world", "web"), ("node", "web")],
)
def test_ping(live: LiveNode, node: Node, family: int, source: str, to: str) -> None:
    answer = ping(live, source, address(to, family))
    assert " 0% packet loss" in answer, (answer, node.reader.read())


@FAMILIES
@pytest.mark.parametrize(("source", "to"), [("web", "db"), ("web", "world"), ("world", "web"), ("node", "web")])
def test_ping_in_fragments(live: LiveNode, node: Node, family: int, source: str, to: str) -> None:
    answer = ping(live, source, address(to, family), "-s", "4000")
    assert " 0% packet loss" in answer, answer


@FAMILIES
@pytest.mark.parametrize(
    ("source", "to"), [("web", "db"), ("web", "world"), ("world", "web"), ("node", "db"), ("db", "node")]
)
def test_tcp(live: LiveNode, node: Node, family: int, source: str, to: str) -> None:
    with connected(live, source, to, family) as (client, peer):
        peer.settimeout(5)
        for size in (1, 100_000):
            client.sendall(bytes(size))
            receive(peer, size)


@FAMILIES
@pytest.mark.parametrize(("source", "to"), [("web", "db"), ("web", "node"), ("web", "world"), ("world", "web")])
def test_refusal_is_heard_of(live: LiveNode, node: Node, family: int, source: str, to: str) -> None:
    """The error to a datagram for a closed port is related to it, though nobody may open anything to WEB."""
    if source == "web":
        node.row(WEB, INGRESS, 112)
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    with live.within(source, lambda: socket.socket(kind, socket.SOCK_DGRAM)) as client:
        client.settimeout(2)
        client.connect((address(to, family), 9))
        client.send(b"x")
        with pytest.raises(ConnectionRefusedError):
            client.recv(1)


@FAMILIES
def test_world_learns_that_its_hops_are_used_up(live: LiveNode, node: Node, family: int) -> None:
    assert "Time" in ping(live, "world", address("web", family), "-t", "1")


@FAMILIES
def test_pod_learns_that_its_hops_are_used_up(live: LiveNode, node: Node, family: int) -> None:
    assert "Time" in ping(live, "web", address("world", family), "-t", "1")


@FAMILIES
def test_revoking_cuts_a_live_connection(live: LiveNode, node: Node, family: int) -> None:
    with connected(live, "web", "db", family) as (client, peer):
        peer.settimeout(0.3)
        client.send(b"1")
        assert peer.recv(1) == b"1"

        node.row(DB, INGRESS, 211)
        node.policy(DB, revision=21)
        client.send(b"2")
        with pytest.raises(TimeoutError):
            peer.recv(1)

        node.allow_all(DB, revision=22)
        peer.settimeout(5)
        assert peer.recv(1) == b"2", "the sender tries again, and now it may"


def test_events_name_the_way_that_packets_take(live: LiveNode, node: Node) -> None:
    for to in ("db", "node", "world"):
        ping(live, "web", address(to, 4))
    points = {event["subtype"] for event in node.reader.read() if event["ifindex"] == live.devices["web"]}
    assert points == {TracePoint.TO_ENDPOINT, TracePoint.TO_HOST, TracePoint.TO_STACK}

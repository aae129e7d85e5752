"""Two nodes with real SCTP sockets: associations to services, from pods and from outside, to other ports everywhere.

Who sends computes the checksums, but for one pod: as machines do whose hardware knows no CRC32c. Else none would be looked
at where they arrive.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from pycilium.datapath.layouts import ServiceFlags
from pycilium.lab import wires
from tests.bpf.conftest import new_namespace
from tests.bpf.live_nodes import API, NODE1, LiveNodes
from tests.bpf.node import WEB, Pod
from tests.bpf.packets import address
from tests.bpf.services import CLUSTER_IP, NODE_PORT, PORT, Services
from tests.sctp import sctp_socket, skip_without_sockets, tell

pytestmark = pytest.mark.root

FAMILIES = pytest.mark.parametrize("family", [4, 6])
WAYS = pytest.mark.parametrize(("mode", "family"), [("tunnel", 4), ("tunnel", 6), ("native", 4)])
"""IPv6 has no neighbour with an IPv4 address: natively that takes routes, which are the agent's."""
SPEECH = bytes(range(256)) * 200
PATIENCE_S = 20.0
ROUTER = {4: NODE1.router4, 6: NODE1.router6}
OWN = {4: NODE1.ipv4, 6: NODE1.ipv6}
GATEWAY = {4: NODE1.gateway4, 6: NODE1.gateway6}
DIRECT_PORT = NODE_PORT + 2


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveNodes]:
    skip_without_sockets()
    namespaces = {name: new_namespace() for name in ("node1", "node2", "router", "web", "api")}
    with ExitStack() as stack:
        for fd in namespaces.values():
            stack.callback(os.close, fd)
        made = LiveNodes(namespaces, stack, tmp_path_factory.mktemp("nodes"))
        for place, device in (("web", "eth0"), ("router", "to1"), ("router", "to2")):
            made.within(place, lambda device=device: wires.compute_checksums(device))
        yield made


def services_of(live: LiveNodes, mode: str) -> Services:
    live.route(mode, 4)
    return Services(live.nodes["node1"])


def serve(live: LiveNodes, pod: Pod, family: int) -> socket.socket:
    server = live.within(pod.name, lambda: sctp_socket(family, PATIENCE_S))
    server.bind((address(pod, family), 0))
    server.listen()
    return server


def seen_as(live: LiveNodes, server: socket.socket, source: str, own: str, to: tuple[str, int]) -> str:
    """The address that the server sees of a client that has this one; both have said a lot to each other."""
    family = 6 if ":" in own else 4
    with closing(live.within(source, lambda: sctp_socket(family, PATIENCE_S))) as client:
        client.bind((own, 0))
        client.connect(to)
        accepted, peer = server.accept()
        with closing(accepted):
            accepted.settimeout(PATIENCE_S)
            assert client.getpeername()[:2] == to
            tell(client, accepted, SPEECH)
            tell(accepted, client, SPEECH)
    return str(peer[0])


@WAYS
def test_a_pod_and_a_backend_on_another_node(live: LiveNodes, mode: str, family: int) -> None:
    services = services_of(live, mode)
    with closing(serve(live, API, family)) as server:
        backend = services.backend(address(API, family), server.getsockname()[1], kind="sctp")
        services.cluster_ip(family, backend, kind="sctp")

        own = address(WEB, family)
        assert seen_as(live, server, "web", own, (CLUSTER_IP[family], PORT)) == own


@FAMILIES
def test_what_a_pod_left_to_a_device_to_compute_was_wrong_at_a_backend_on_another_node(
    live: LiveNodes, family: int
) -> None:
    """Its ports are others by then."""
    live.route("tunnel", 4)
    services = Services(live.nodes["node2"])
    with closing(serve(live, WEB, family)) as server:
        backend = services.backend(address(WEB, family), server.getsockname()[1], kind="sctp")
        services.cluster_ip(family, backend, kind="sctp")

        own = address(API, family)
        assert seen_as(live, server, "api", own, (CLUSTER_IP[family], PORT)) == own


@FAMILIES
def test_packets_that_the_kernel_is_to_cut_end_no_machine(live: LiveNodes, family: int) -> None:
    """Linux panics over one whose first chunk was pulled to its header. The pod that answers leaves the cutting to others."""
    live.route("tunnel", 4)
    with closing(serve(live, API, family)) as server:
        own = address(WEB, family)
        assert seen_as(live, server, "web", own, server.getsockname()[:2]) == own


@FAMILIES
def test_a_pod_and_itself(live: LiveNodes, family: int) -> None:
    services = services_of(live, "tunnel")
    own = address(WEB, family)
    with closing(serve(live, WEB, family)) as server:
        services.cluster_ip(family, services.backend(own, server.getsockname()[1], kind="sctp"), kind="sctp")

        assert seen_as(live, server, "web", own, (CLUSTER_IP[family], PORT)) == GATEWAY[family]


def called_from_outside(
    live: LiveNodes, services: Services, pod: Pod, family: int, port: int = NODE_PORT, *, is_direct: bool = False
) -> str:
    flags = ServiceFlags.EXTERNAL | (ServiceFlags.DSR if is_direct else ServiceFlags(0))
    with closing(serve(live, pod, family)) as server:
        backend = services.backend(address(pod, family), server.getsockname()[1], kind="sctp")
        services.frontend(OWN[family], port, (backend,), (backend,), kind="sctp", flags=flags)

        return seen_as(live, server, "router", ROUTER[family], (OWN[family], port))


@FAMILIES
def test_from_outside_to_a_pod_of_the_node(live: LiveNodes, family: int) -> None:
    assert called_from_outside(live, services_of(live, "tunnel"), WEB, family) == ROUTER[family]


@WAYS
def test_from_outside_to_a_pod_of_another_node(live: LiveNodes, mode: str, family: int) -> None:
    assert called_from_outside(live, services_of(live, mode), API, family) == GATEWAY[family]


@FAMILIES
def test_a_backend_on_another_node_answers_directly_through_the_overlay(live: LiveNodes, family: int) -> None:
    services = services_of(live, "tunnel")
    flags = ServiceFlags.EXTERNAL | ServiceFlags.DSR
    Services(live.nodes["node2"]).frontend({4: "0.0.0.0", 6: "::"}[family], DIRECT_PORT, kind="sctp", flags=flags)

    assert called_from_outside(live, services, API, family, DIRECT_PORT, is_direct=True) == ROUTER[family]

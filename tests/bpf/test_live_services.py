"""Two nodes with real sockets: connections to services, from pods and from outside, to backends of every place."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from pycilium.datapath.layouts import ServiceFlags
from tests.bpf.conftest import SMALL_MAPS, new_namespace
from tests.bpf.live_nodes import API, NODE1, LiveNodes
from tests.bpf.node import WEB
from tests.bpf.services import CLUSTER_IP, NODE_PORT, PORT, Services

pytestmark = pytest.mark.root

FAMILIES = pytest.mark.parametrize("family", [4, 6])
WAYS = pytest.mark.parametrize(("mode", "family"), [("tunnel", 4), ("tunnel", 6), ("native", 4)])
"""IPv6 has no neighbour with an IPv4 address: natively that takes routes, which are the agent's."""
KINDS = {4: socket.AF_INET, 6: socket.AF_INET6}
SPEECH = bytes(range(256)) * 4000
DIRECT_PORT = NODE_PORT + 1
"""Known to both nodes, for good: no other test's clients may meet it."""


def _nodes(folder: Path, **config: object) -> Iterator[LiveNodes]:
    namespaces = {name: new_namespace() for name in ("node1", "node2", "router", "web", "api")}
    with ExitStack() as stack:
        for fd in namespaces.values():
            stack.callback(os.close, fd)
        yield LiveNodes(namespaces, stack, folder, **config)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveNodes]:
    yield from _nodes(tmp_path_factory.mktemp("nodes"))


@pytest.fixture(scope="module")
def without_overlay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveNodes]:
    yield from _nodes(tmp_path_factory.mktemp("native"), overlay_ifindex=0)


@pytest.fixture(scope="module")
def wrapping(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveNodes]:
    """Where what tells the backend's node what a client has called is in an outer header."""
    yield from _nodes(tmp_path_factory.mktemp("wrapping"), dsr_outer_family=4)


def serve(live: LiveNodes, place: str, address: str, family: int) -> socket.socket:
    return live.within(place, lambda: socket.create_server((address, 0), family=KINDS[family]))


def talk(live: LiveNodes, server: socket.socket, source: str, to: tuple[str, int]) -> str:
    """Much is said there and back; the address that the server saw."""
    server.settimeout(5)
    with closing(live.within(source, lambda: socket.create_connection(to, timeout=5))) as client:
        accepted, seen = server.accept()
        with closing(accepted):
            accepted.settimeout(5)
            assert client.getpeername()[:2] == to
            for near, far in ((client, accepted), (accepted, client)):
                near.sendall(SPEECH[:60000])
                heard = b""
                while len(heard) < 60000:
                    heard += far.recv(65536)
                assert heard == SPEECH[:60000]
    return str(seen[0])


def services_of(live: LiveNodes, mode: str) -> Services:
    live.route(mode, 4)
    return Services(live.nodes["node1"])


def pod_address(pod: object, family: int) -> str:
    return str(getattr(pod, f"ipv{family}"))


@WAYS
def test_a_pod_and_a_backend_on_another_node(live: LiveNodes, mode: str, family: int) -> None:
    services = services_of(live, mode)
    with closing(serve(live, "api", pod_address(API, family), family)) as server:
        backend = services.backend(pod_address(API, family), server.getsockname()[1])
        services.cluster_ip(family, backend)

        assert talk(live, server, "web", (CLUSTER_IP[family], PORT)) == pod_address(WEB, family)


@FAMILIES
def test_a_pod_and_itself(live: LiveNodes, family: int) -> None:
    services = services_of(live, "tunnel")
    with closing(serve(live, "web", pod_address(WEB, family), family)) as server:
        services.cluster_ip(family, services.backend(pod_address(WEB, family), server.getsockname()[1]))

        seen = talk(live, server, "web", (CLUSTER_IP[family], PORT))

    assert seen == (NODE1.gateway4 if family == 4 else NODE1.gateway6)


@FAMILIES
def test_a_pod_and_a_process_of_the_node(live: LiveNodes, family: int) -> None:
    services = services_of(live, "tunnel")
    own = NODE1.ipv4 if family == 4 else NODE1.ipv6
    with closing(serve(live, "node1", own, family)) as server:
        services.cluster_ip(family, services.backend(own, server.getsockname()[1]))

        assert talk(live, server, "web", (CLUSTER_IP[family], PORT)) == pod_address(WEB, family)


@FAMILIES
def test_from_outside_to_a_pod_of_the_node(live: LiveNodes, family: int) -> None:
    services = services_of(live, "tunnel")
    own = NODE1.ipv4 if family == 4 else NODE1.ipv6
    with closing(serve(live, "web", pod_address(WEB, family), family)) as server:
        backend = services.backend(pod_address(WEB, family), server.getsockname()[1])
        services.frontend(own, NODE_PORT, (backend,), (backend,), flags=ServiceFlags.EXTERNAL)

        seen = talk(live, server, "router", (own, NODE_PORT))

    assert seen == (NODE1.router4 if family == 4 else NODE1.router6)


@WAYS
def test_from_outside_to_a_pod_of_another_node(live: LiveNodes, mode: str, family: int) -> None:
    services = services_of(live, mode)
    own = NODE1.ipv4 if family == 4 else NODE1.ipv6
    with closing(serve(live, "api", pod_address(API, family), family)) as server:
        backend = services.backend(pod_address(API, family), server.getsockname()[1])
        services.frontend(own, NODE_PORT, (backend,), (backend,), flags=ServiceFlags.EXTERNAL)

        seen = talk(live, server, "router", (own, NODE_PORT))

    assert seen == (NODE1.gateway4 if family == 4 else NODE1.gateway6)


def answers_directly(live: LiveNodes, mode: str, family: int) -> None:
    """A backend on the other node, to a client outside, which is what it sees."""
    services = services_of(live, mode)
    flags = ServiceFlags.EXTERNAL | ServiceFlags.DSR
    own = NODE1.ipv4 if family == 4 else NODE1.ipv6
    Services(live.nodes["node2"]).frontend({4: "0.0.0.0", 6: "::"}[family], DIRECT_PORT, flags=flags)
    with closing(serve(live, "api", pod_address(API, family), family)) as server:
        backend = services.backend(pod_address(API, family), server.getsockname()[1])
        services.frontend(own, DIRECT_PORT, (backend,), (backend,), flags=flags)

        seen = talk(live, server, "router", (own, DIRECT_PORT))

    assert seen == (NODE1.router4 if family == 4 else NODE1.router6)


@FAMILIES
def test_a_backend_on_another_node_answers_directly_through_the_overlay(live: LiveNodes, family: int) -> None:
    answers_directly(live, "tunnel", family)


def test_a_backend_on_another_node_answers_directly_natively(without_overlay: LiveNodes) -> None:
    answers_directly(without_overlay, "native", 4)


def test_an_outer_header_around_what_was_called(wrapping: LiveNodes) -> None:
    answers_directly(wrapping, "native", 4)


@FAMILIES
@pytest.mark.parametrize("source", ["web", "router"])
def test_a_service_without_backends_refuses_at_once(live: LiveNodes, source: str, family: int) -> None:
    services = services_of(live, "tunnel")
    own = NODE1.ipv4 if family == 4 else NODE1.ipv6
    services.frontend(own, NODE_PORT, flags=ServiceFlags.EXTERNAL)

    with pytest.raises(ConnectionRefusedError):
        live.within(source, lambda: socket.create_connection((own, NODE_PORT), timeout=5))


@FAMILIES
def test_a_pod_of_another_node_and_a_host_port(live: LiveNodes, family: int) -> None:
    """Only the pod's node knows of it, so it is that node which translates what comes through the overlay."""
    services = services_of(live, "tunnel")
    own = NODE1.ipv4 if family == 4 else NODE1.ipv6
    with closing(serve(live, "web", pod_address(WEB, family), family)) as server:
        backend = services.backend(pod_address(WEB, family), server.getsockname()[1])
        flags = ServiceFlags.EXTERNAL | ServiceFlags.OWN_NODE
        services.frontend(own, NODE_PORT, (backend,), (backend,), flags=flags)

        assert talk(live, server, "api", (own, NODE_PORT)) == pod_address(API, family)


@FAMILIES
@pytest.mark.parametrize("client", ["web", "router"])
def test_one_port_of_a_client_reaches_a_backend_by_two_frontends(live: LiveNodes, family: int, client: str) -> None:
    services = services_of(live, "tunnel")
    own = NODE1.ipv4 if family == 4 else NODE1.ipv6
    place, pod = ("api", API) if client == "web" else ("web", WEB)
    with ExitStack() as stack:
        server = stack.enter_context(closing(serve(live, place, pod_address(pod, family), family)))
        server.settimeout(5)
        backend = services.backend(pod_address(pod, family), server.getsockname()[1])
        for port in (NODE_PORT, NODE_PORT + 2):
            services.frontend(own, port, (backend,), (backend,), flags=ServiceFlags.EXTERNAL)
        held = []
        for port in (NODE_PORT, NODE_PORT + 2):
            made = live.within(client, lambda port=port: connected_from(2345, (own, port), family))
            accepted, _ = server.accept()
            held.append((stack.enter_context(closing(made)), stack.enter_context(closing(accepted))))

        for made, accepted in held:
            made.sendall(b"ask")
            assert accepted.recv(9) == b"ask"
            accepted.sendall(b"answer")
            assert made.recv(9) == b"answer"


@FAMILIES
def test_a_pods_connection_to_a_backend_itself_from_the_port_of_one_by_its_service_hung(
    live: LiveNodes, family: int
) -> None:
    services = services_of(live, "tunnel")
    with ExitStack() as stack:
        server = stack.enter_context(closing(serve(live, "api", pod_address(API, family), family)))
        server.settimeout(5)
        backend = pod_address(API, family), server.getsockname()[1]
        services.cluster_ip(family, services.backend(*backend))
        held = []
        for to in ((CLUSTER_IP[family], PORT), backend):
            made = live.within("web", lambda to=to: connected_from(2346, to, family))
            held.append((stack.enter_context(closing(made)), stack.enter_context(closing(server.accept()[0]))))

        for made, accepted in held:  # the one by the Service ends before the other speaks
            made.sendall(b"ask")
            assert accepted.recv(9) == b"ask"
            accepted.sendall(b"answer")
            assert made.recv(9) == b"answer"
            made.close()
            assert accepted.recv(9) == b""
            accepted.close()


def connected_from(port: int, to: tuple[str, int], family: int) -> socket.socket:
    made = socket.socket(KINDS[family], socket.SOCK_STREAM)
    made.settimeout(5)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("", port))
    made.connect(to)
    return made


@FAMILIES
def test_a_flood_from_outside_ends_no_connection_that_stands(live: LiveNodes, family: int) -> None:
    """More half-open flows than any map has room for, while connections by it say nothing."""
    services = services_of(live, "tunnel")
    own = NODE1.ipv4 if family == 4 else NODE1.ipv6
    with ExitStack() as stack:
        server = stack.enter_context(closing(serve(live, "api", pod_address(API, family), family)))
        server.settimeout(5)
        at = pod_address(API, family), server.getsockname()[1]
        backends = tuple(services.backend(*at, kind=kind) for kind in ("tcp", "udp"))
        services.cluster_ip(family, backends[0])
        for kind, backend in zip(("tcp", "udp"), backends, strict=True):
            services.frontend(own, NODE_PORT, (backend,), (backend,), kind=kind, flags=ServiceFlags.EXTERNAL)
        held = []
        for client, to in (("web", (CLUSTER_IP[family], PORT)), ("router", (own, NODE_PORT))):
            made = live.within(client, lambda to=to: socket.create_connection(to, timeout=5))
            held.append((stack.enter_context(closing(made)), stack.enter_context(closing(server.accept()[0]))))

        live.within("router", lambda: flood((own, NODE_PORT), family, 2 * SMALL_MAPS["ct4"]))

        for made, accepted in held:
            accepted.sendall(b"news")
            assert made.recv(9) == b"news"
            made.sendall(b"heard")
            assert accepted.recv(9) == b"heard"


def flood(to: tuple[str, int], family: int, count: int) -> None:
    """A datagram from each of so many ports; nobody answers."""
    for port in range(20000, 20000 + count):
        with closing(socket.socket(KINDS[family], socket.SOCK_DGRAM)) as made:
            made.bind(("", port))
            made.sendto(b"x", to)

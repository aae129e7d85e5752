"""What processes see of services: real sockets, of every kind and family, under the programs on a cgroup."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pycilium.datapath import bpffs, cgroup_links, layouts, netns
from pycilium.datapath.features import kernel_version
from pycilium.datapath.layouts import Aggregation, BackendState, ServiceFlags, TranslationPoint
from pycilium.datapath.loader import OBJECTS, Datapath, DatapathConfig, load
from pycilium.model.identity import ReservedIdentity
from tests.integration.datapath.sockets import (
    BACKEND_PORT,
    IPV4,
    IPV6,
    MAPPED,
    PLACES,
    TCP,
    UDP,
    Place,
    Sockets,
    make_namespace,
    received_at,
    sixteen,
)

pytestmark = pytest.mark.root

STREAM, DATAGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM
MPTCP = 262
SIZES = {
    **dict.fromkeys(("services4", "services6", "ipcache4", "ipcache6", "affinity", "socket_flows"), 1024),
    **dict.fromkeys(("service_flows4", "service_flows6", "source_ranges4", "source_ranges6", "backends"), 1024),
    "service_slots": 1 << 18,
    "events": 1 << 20,
}
needs_cookie = pytest.mark.skipif(kernel_version() < (5, 14), reason="SO_NETNS_COOKIE is of Linux 5.14")
"""Before that the node's namespace is the machine's first one, which no test may use."""
each_place = pytest.mark.parametrize("place", PLACES, ids=("ipv4", "ipv6", "mapped"))
each_family = pytest.mark.parametrize("place", [IPV4, IPV6], ids=("ipv4", "ipv6"))


@pytest.fixture(scope="module")
def sock_object(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the one object that is needed here."""
    folder = tmp_path_factory.mktemp("objects")
    (folder / "sock.bpf.o").symlink_to(OBJECTS / "sock.bpf.o")
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("bpf") / "fs"
    bpffs.ensure(root)
    yield root
    bpffs.unmount(root)


@pytest.fixture(scope="module")
def node(root: Path, sock_object: Path) -> Iterator[Sockets]:
    cgroup = cgroup_links.cgroup_root() / f"pycilium-test-sock-{os.getpid()}"
    cgroup.mkdir()
    host, pod = make_namespace(), make_namespace()
    try:
        with loaded(root, sock_object, host) as datapath:
            made = Sockets(datapath, cgroup, host, pod, root / "links")
            made.attach()
            yield made
            made.detach()
    finally:
        os.close(host)
        os.close(pod)
        cgroup.rmdir()


@pytest.fixture
def sockets(node: Sockets) -> Iterator[Sockets]:
    yield node
    node.forget()


def loaded(root: Path, objects: Path, host: int, **changes: int) -> Datapath:
    constants = layouts.ProgramConfig(
        **{
            "host_netns_cookie": netns.run_in(host, netns.own_cookie),
            "aggregation": Aggregation.MEDIUM,
            "report_interval_s": 3600,
            **changes,
        }
    )
    return load(DatapathConfig(str(root), constants, SIZES), objects)


class TestConnected:
    @each_place
    @pytest.mark.parametrize("protocol", [0, MPTCP], ids=("tcp", "mptcp"))
    def test_tcp_goes_to_a_backend_and_sees_the_service(self, sockets: Sockets, place: Place, protocol: int) -> None:
        sockets.service(place.service, 80, TCP, sockets.backends(place))
        servers = sockets.servers(place, STREAM)
        client = sockets.client(place, STREAM, protocol=protocol)

        client.connect((place.named(place.service), 80))

        ready = [server for server in servers.values() if _accepts(server)]
        assert len(ready) == 1
        if not protocol:
            assert client.getpeername()[:2] == (place.named(place.service), 80)

    @each_place
    def test_udp_goes_to_a_backend_and_its_answers_come_from_the_service(self, sockets: Sockets, place: Place) -> None:
        sockets.service(place.service, 53, UDP, sockets.backends(place))
        servers = sockets.servers(place, DATAGRAM)
        client = sockets.client(place, DATAGRAM)

        client.connect((place.named(place.service), 53))
        client.send(b"question")
        address, peer = received_at(servers)
        servers[address].sendto(b"answer", peer)

        assert client.recvfrom(64)[1][:2] == (place.named(place.service), 53)
        assert client.getpeername()[:2] == (place.named(place.service), 53)

    @each_place
    @pytest.mark.parametrize(("kind", "protocol"), [(STREAM, TCP), (DATAGRAM, UDP)], ids=("tcp", "udp"))
    def test_a_closed_socket_is_forgotten(
        self, sockets: Sockets, place: Place, kind: socket.SocketKind, protocol: int
    ) -> None:
        sockets.service(place.service, 80, protocol, sockets.backends(place))
        sockets.servers(place, kind)
        closed, open_ = sockets.client(place, kind), sockets.client(place, kind)
        for client in (closed, open_):
            client.connect((place.named(place.service), 80))
        before = sockets.socket_flows()

        closed.close()

        assert (len(before), len(sockets.socket_flows())) == (2, 1)
        assert open_.getpeername()[:2] == (place.named(place.service), 80)

    @each_place
    def test_connections_reach_all_backends(self, sockets: Sockets, place: Place) -> None:
        sockets.service(place.service, 53, UDP, sockets.backends(place))
        servers = sockets.servers(place, DATAGRAM)
        reached = set()

        for _ in range(100):
            client = sockets.client(place, DATAGRAM)
            client.connect((place.named(place.service), 53))
            client.send(b"question")
            reached.add(received_at(servers)[0])

        assert reached == set(place.backends)

    @each_place
    def test_what_is_for_no_service_is_left_alone(self, sockets: Sockets, place: Place) -> None:
        sockets.service(place.service, 80, TCP, sockets.backends(place))
        server = sockets.server(place.node, 8081, STREAM)
        client = sockets.client(place, STREAM)

        client.connect((place.named(place.node), 8081))

        assert _accepts(server)
        assert client.getpeername()[:2] == (place.named(place.node), 8081)

    @each_place
    def test_a_service_without_backends_is_left_as_it_is(self, sockets: Sockets, place: Place) -> None:
        sockets.service(place.node, 53, UDP, [])
        client = sockets.client(place, DATAGRAM)

        client.connect((place.named(place.node), 53))
        client.send(b"question")

        with pytest.raises(ConnectionRefusedError):
            client.recv(64)
        assert sockets.socket_flows() == {}

    @each_family
    def test_slots_that_name_nobody_are_passed_over(self, sockets: Sockets, place: Place) -> None:
        sockets.backend(5, place.backends[1])
        sockets.service(place.service, 53, UDP, [9, 5, 9, 9])
        servers = sockets.servers(place, DATAGRAM)

        for _ in range(10):
            client = sockets.client(place, DATAGRAM)
            client.connect((place.service, 53))
            client.send(b"question")
            assert received_at(servers)[0] == place.backends[1]


class TestUnconnected:
    @each_place
    def test_all_datagrams_of_a_socket_to_one_service_go_to_one_backend(self, sockets: Sockets, place: Place) -> None:
        sockets.service(place.service, 53, UDP, sockets.backends(place))
        servers = sockets.servers(place, DATAGRAM)
        client = sockets.client(place, DATAGRAM)
        reached = []

        for _ in range(20):
            client.sendto(b"question", (place.named(place.service), 53))
            address, peer = received_at(servers)
            servers[address].sendto(b"answer", peer)
            reached.append(address)
            assert client.recvfrom(64)[1][:2] == (place.named(place.service), 53)

        assert len(set(reached)) == 1

    @each_place
    def test_two_services_of_one_socket_are_told_apart(self, sockets: Sockets, place: Place) -> None:
        sockets.backends(place)
        sockets.service(place.service, 53, UDP, [1])
        sockets.service(place.service, 54, UDP, [2], service_id=8)
        servers = sockets.servers(place, DATAGRAM)
        client = sockets.client(place, DATAGRAM)

        for port, backend in ((53, place.backends[0]), (54, place.backends[1])):
            client.sendto(b"question", (place.named(place.service), port))
            address, peer = received_at(servers)
            assert address == backend
            servers[address].sendto(b"answer", peer)
            assert client.recvfrom(64)[1][:2] == (place.named(place.service), port)

    @each_place
    def test_other_backends_do_not_move_a_socket(self, sockets: Sockets, place: Place) -> None:
        sockets.backends(place)
        sockets.service(place.service, 53, UDP, [1])
        servers = sockets.servers(place, DATAGRAM)
        client = sockets.client(place, DATAGRAM)
        client.sendto(b"question", (place.named(place.service), 53))
        received_at(servers)

        sockets.backend(1, place.backends[0], state=BackendState.TERMINATING)
        sockets.service(place.service, 53, UDP, [2, 3])
        client.sendto(b"again", (place.named(place.service), 53))

        assert received_at(servers)[0] == place.backends[0]

    @each_place
    def test_a_backend_that_is_gone_is_left_at_once(self, sockets: Sockets, place: Place) -> None:
        sockets.backends(place)
        sockets.service(place.service, 53, UDP, [1])
        servers = sockets.servers(place, DATAGRAM)
        client = sockets.client(place, DATAGRAM)
        client.sendto(b"question", (place.named(place.service), 53))
        received_at(servers)

        sockets.service(place.service, 53, UDP, [2])
        sockets.datapath.mapped(layouts.BACKENDS).write(1, layouts.BackendEntry())
        client.sendto(b"again", (place.named(place.service), 53))

        assert received_at(servers)[0] == place.backends[1]

    @each_place
    def test_a_backends_number_that_is_anothers_now_is_not_believed(self, sockets: Sockets, place: Place) -> None:
        sockets.backends(place)
        sockets.service(place.service, 53, UDP, [1])
        servers = sockets.servers(place, DATAGRAM)
        client = sockets.client(place, DATAGRAM)
        client.sendto(b"question", (place.named(place.service), 53))
        received_at(servers)

        sockets.backend(1, place.world)
        sockets.service(place.service, 53, UDP, [3])
        client.sendto(b"again", (place.named(place.service), 53))

        assert received_at(servers)[0] == place.backends[2]

    @each_place
    def test_answers_still_come_from_the_service_when_that_was_forgotten(self, sockets: Sockets, place: Place) -> None:
        sockets.service(place.service, 53, UDP, sockets.backends(place))
        servers = sockets.servers(place, DATAGRAM)
        client = sockets.client(place, DATAGRAM)
        client.sendto(b"question", (place.named(place.service), 53))
        received_at(servers)
        reverse = [key for key in sockets.socket_flows() if key.direction == layouts.SocketFlowDirection.REVERSE]
        with sockets.datapath.map(layouts.SOCKET_FLOWS) as opened:
            assert opened.delete_batch(reverse) == {}

        client.sendto(b"again", (place.named(place.service), 53))
        address, peer = received_at(servers)
        servers[address].sendto(b"answer", peer)

        assert client.recvfrom(64)[1][:2] == (place.named(place.service), 53)


class TestChoice:
    @each_family
    def test_a_client_with_affinity_keeps_its_backend_whatever_socket_it_uses(
        self, sockets: Sockets, place: Place
    ) -> None:
        slots = sockets.backends(place)
        sockets.service(place.service, 53, UDP, slots, flags=ServiceFlags.AFFINITY, affinity_s=3600)
        servers = sockets.servers(place, DATAGRAM)

        assert len({_reached(sockets, place, servers) for _ in range(20)}) == 1

    @needs_cookie
    @each_family
    def test_the_host_is_another_client_than_a_pod(self, sockets: Sockets, place: Place) -> None:
        slots = sockets.backends(place)
        sockets.service(place.service, 53, UDP, slots, flags=ServiceFlags.AFFINITY, affinity_s=3600)
        sockets.servers(place, DATAGRAM)
        for where in (sockets.host, sockets.pod):
            sockets.client(place, DATAGRAM, where).connect((place.service, 53))

        with sockets.datapath.map(layouts.AFFINITY) as opened:
            clients = {key.client for key, _ in opened.items()}

        cookies = [netns.run_in(where, netns.own_cookie) for where in (sockets.host, sockets.pod)]
        assert clients == {
            bytes(np.array([0xFFFFFFFF, 0, cookie >> 32, cookie & 0xFFFFFFFF], np.uint32)) for cookie in cookies
        }

    @each_family
    @pytest.mark.parametrize("state", [BackendState.NONE, BackendState.TERMINATING])
    def test_affinity_does_not_hold_a_client_at_a_backend_that_takes_no_more(
        self, sockets: Sockets, place: Place, state: BackendState
    ) -> None:
        sockets.backends(place)
        sockets.service(place.service, 53, UDP, [1], flags=ServiceFlags.AFFINITY, affinity_s=3600)
        servers = sockets.servers(place, DATAGRAM)
        _reached(sockets, place, servers)

        sockets.backend(1, place.backends[0], state=state)
        sockets.service(place.service, 53, UDP, [2], flags=ServiceFlags.AFFINITY, affinity_s=3600)

        assert _reached(sockets, place, servers) == place.backends[1]

    @each_family
    def test_affinity_ends_after_its_time(self, sockets: Sockets, place: Place) -> None:
        sockets.backends(place)
        sockets.service(place.service, 53, UDP, [1], flags=ServiceFlags.AFFINITY, affinity_s=10)
        servers = sockets.servers(place, DATAGRAM)
        _reached(sockets, place, servers)
        sockets.service(place.service, 53, UDP, [2], flags=ServiceFlags.AFFINITY, affinity_s=10)
        kept = _reached(sockets, place, servers)

        with sockets.datapath.map(layouts.AFFINITY) as opened:
            ((key, entry),) = opened.items()
            opened.update(key, layouts.AffinityEntry(backend_id=entry.backend_id, used_s=entry.used_s - 10))

        assert (kept, _reached(sockets, place, servers)) == (place.backends[0], place.backends[1])

    @each_family
    def test_a_maglev_table_is_a_set_like_any_other(self, sockets: Sockets, place: Place) -> None:
        sockets.backends(place)
        sockets.service(place.service, 53, UDP, [1, 3, 3, 1, 3], flags=ServiceFlags.MAGLEV)
        servers = sockets.servers(place, DATAGRAM)

        reached = {_reached(sockets, place, servers) for _ in range(60)}

        assert reached == {place.backends[0], place.backends[2]}


class TestNodePorts:
    FLAGS = ServiceFlags.EXTERNAL

    @each_place
    def test_it_is_reached_on_every_node(self, sockets: Sockets, place: Place) -> None:
        slots = sockets.backends(place)
        for address in (place.any, place.node):
            sockets.service(address, 30080, UDP, slots, flags=self.FLAGS)
        sockets.identity(place.other_node, ReservedIdentity.REMOTE_NODE, node_id=3)
        servers = sockets.servers(place, DATAGRAM)

        for address in (place.node, place.other_node):
            assert _reached(sockets, place, servers, (address, 30080)) in place.backends

    @each_place
    def test_the_api_servers_node_is_one(self, sockets: Sockets, place: Place) -> None:
        sockets.service(place.any, 30080, UDP, sockets.backends(place), flags=self.FLAGS)
        sockets.identity(place.other_node, ReservedIdentity.KUBE_APISERVER, node_id=3)
        servers = sockets.servers(place, DATAGRAM)

        assert _reached(sockets, place, servers, (place.other_node, 30080)) in place.backends

    @each_place
    @pytest.mark.parametrize("known", [True, False])
    def test_the_port_of_what_is_no_node_is_its_own(self, sockets: Sockets, place: Place, known: bool) -> None:
        sockets.service(place.any, 30080, UDP, sockets.backends(place), flags=self.FLAGS)
        if known:
            sockets.identity(place.node, ReservedIdentity.WORLD)
        server = sockets.server(place.node, 30080, DATAGRAM)
        client = sockets.client(place, DATAGRAM)

        client.sendto(b"question", (place.named(place.node), 30080))

        assert server.recv(64) == b"question"

    @needs_cookie
    @each_place
    def test_loopback_is_a_node_to_the_host_and_not_to_a_pod(self, sockets: Sockets, place: Place) -> None:
        sockets.service(place.any, 30080, UDP, sockets.backends(place), flags=self.FLAGS)
        servers = sockets.servers(place, DATAGRAM, sockets.host)
        own = sockets.server(place.loopback, 30080, DATAGRAM)

        of_host = sockets.client(place, DATAGRAM, sockets.host)
        of_host.sendto(b"question", (place.named(place.loopback), 30080))
        assert received_at(servers)[0] in place.backends
        of_pod = sockets.client(place, DATAGRAM)
        of_pod.sendto(b"question", (place.named(place.loopback), 30080))
        assert own.recv(64) == b"question"

    @needs_cookie
    @each_place
    def test_a_host_port_at_loopback_is_for_the_hosts_processes_alone(self, sockets: Sockets, place: Place) -> None:
        sockets.service(place.loopback, 8080, UDP, sockets.backends(place), flags=self.FLAGS | ServiceFlags.OWN_NODE)
        servers = sockets.servers(place, DATAGRAM, sockets.host)
        own = sockets.server(place.loopback, 8080, DATAGRAM)

        of_host = sockets.client(place, DATAGRAM, sockets.host)
        of_host.sendto(b"question", (place.named(place.loopback), 8080))
        assert received_at(servers)[0] in place.backends
        of_pod = sockets.client(place, DATAGRAM)
        of_pod.sendto(b"question", (place.named(place.loopback), 8080))
        assert own.recv(64) == b"question"

    @each_place
    def test_a_host_port_is_reached_on_its_own_node_alone(self, sockets: Sockets, place: Place) -> None:
        flags = self.FLAGS | ServiceFlags.OWN_NODE
        sockets.service(place.any, 8080, UDP, sockets.backends(place), flags=flags)
        sockets.identity(place.other_node, ReservedIdentity.REMOTE_NODE, node_id=3)
        client = sockets.client(place, DATAGRAM)

        with pytest.raises(OSError, match="unreachable"):
            client.sendto(b"question", (place.named(place.other_node), 8080))
        assert sockets.socket_flows() == {}


@needs_cookie
class TestBinding:
    FLAGS = ServiceFlags.EXTERNAL

    @each_place
    @pytest.mark.parametrize(("kind", "protocol"), [(STREAM, TCP), (DATAGRAM, UDP)], ids=("tcp", "udp"))
    def test_the_hosts_processes_cannot_take_a_node_port(
        self, sockets: Sockets, place: Place, kind: socket.SocketKind, protocol: int
    ) -> None:
        for address in (place.any, place.node):
            sockets.service(address, 30080, protocol, [], flags=self.FLAGS)

        for address in (place.any, place.node, place.loopback):
            with pytest.raises(PermissionError):
                sockets.client(place, kind, sockets.host).bind((place.named(address), 30080))

    @each_place
    def test_other_ports_and_protocols_and_pods_may(self, sockets: Sockets, place: Place) -> None:
        for address in (place.any, place.node):
            sockets.service(address, 30080, TCP, [], flags=self.FLAGS)

        sockets.client(place, STREAM, sockets.host).bind((place.named(place.any), 30081))
        sockets.client(place, DATAGRAM, sockets.host).bind((place.named(place.any), 30080))
        sockets.client(place, STREAM, sockets.pod).bind((place.named(place.any), 30080))
        sockets.client(place, STREAM, sockets.host).bind((place.named(place.backends[0]), 30080))

    def test_a_socket_for_both_families_takes_no_port_of_ipv4(self, sockets: Sockets) -> None:
        sockets.service(IPV4.any, 30080, TCP, [], flags=self.FLAGS)

        with pytest.raises(PermissionError):
            sockets.client(MAPPED, STREAM, sockets.host).bind(("::", 30080))

    @each_family
    def test_a_host_port_is_free_for_the_runtime_that_keeps_it(self, sockets: Sockets, place: Place) -> None:
        for address in (place.any, place.node):
            sockets.service(address, 8080, TCP, [], flags=self.FLAGS | ServiceFlags.OWN_NODE)

        sockets.client(place, STREAM, sockets.host).bind((place.any, 8080))

    @each_family
    def test_the_port_of_a_cluster_ip_is_free_on_the_node(self, sockets: Sockets, place: Place) -> None:
        sockets.service(place.service, 80, TCP, [])

        sockets.client(place, STREAM, sockets.host).bind((place.any, 80))


class TestEvents:
    @each_place
    def test_a_connection_gives_one_event_with_both_addresses(self, sockets: Sockets, place: Place) -> None:
        sockets.backends(place)
        sockets.service(place.service, 80, TCP, [2])
        sockets.server(place.backends[1], BACKEND_PORT, STREAM)
        sockets.client(place, STREAM).connect((place.named(place.service), 80))

        (event,) = sockets.socket_events()

        flow = next(iter(sockets.socket_flows()))
        assert (event.type, event.subtype) == (layouts.EventType.TRACE_SOCK, TranslationPoint.FORWARD)
        assert (event.frontend, event.frontend_port) == (sixteen(place.service), 80)
        assert (event.backend, event.backend_port) == (sixteen(place.backends[1]), BACKEND_PORT)
        assert (event.family, event.protocol) == (6 if place is IPV6 else 4, TCP)
        assert (event.service_id, event.backend_id, event.socket_cookie) == (7, 2, flow.socket_cookie)
        assert netns.run_in(sockets.pod, netns.own_cookie) in (event.netns_cookie, 0)
        assert event.cgroup_id != 0

    @each_place
    def test_datagrams_are_reported_once_an_interval_and_direction(self, sockets: Sockets, place: Place) -> None:
        sockets.service(place.service, 53, UDP, sockets.backends(place))
        servers = sockets.servers(place, DATAGRAM)
        client = sockets.client(place, DATAGRAM)
        for _ in range(3):
            client.sendto(b"question", (place.named(place.service), 53))
            address, peer = received_at(servers)
            servers[address].sendto(b"answer", peer)
            client.recvfrom(64)

        points = [event.subtype for event in sockets.socket_events()]

        assert points == [TranslationPoint.FORWARD, TranslationPoint.REVERSE]


class TestLinks:
    """Programs exchanged, configurations changed, cgroups gone."""

    @pytest.fixture(autouse=True)
    def put_back(self, sockets: Sockets, root: Path, sock_object: Path) -> Iterator[None]:
        before = sockets.datapath
        yield
        sockets.datapath = before
        sockets.attach()

    @needs_cookie
    @each_place
    def test_pods_sockets_are_left_alone_when_only_the_hosts_count(
        self, sockets: Sockets, place: Place, root: Path, sock_object: Path
    ) -> None:
        with loaded(root, sock_object, sockets.host, socket_host_only=1) as sockets.datapath:
            sockets.attach()
            sockets.service(place.node, 53, UDP, sockets.backends(place))
            own = sockets.server(place.node, 53, DATAGRAM)
            servers = sockets.servers(place, DATAGRAM, sockets.host)

            of_pod = sockets.client(place, DATAGRAM)
            of_pod.sendto(b"question", (place.named(place.node), 53))
            of_host = sockets.client(place, DATAGRAM, sockets.host)
            of_host.sendto(b"question", (place.named(place.node), 53))

            assert own.recv(64) == b"question"
            assert received_at(servers)[0] in place.backends
            sockets.forget()

    @pytest.mark.parametrize(
        ("aggregation", "forward", "reverse"),
        [(Aggregation.NONE, 3, 3), (Aggregation.LOW, 3, 3), (Aggregation.MEDIUM, 1, 1), (Aggregation.MAXIMUM, 1, 0)],
    )
    def test_how_much_is_reported_is_configured(
        self, sockets: Sockets, root: Path, sock_object: Path, aggregation: Aggregation, forward: int, reverse: int
    ) -> None:
        with loaded(root, sock_object, sockets.host, aggregation=aggregation) as sockets.datapath:
            sockets.attach()
            sockets.service(IPV4.service, 53, UDP, sockets.backends(IPV4))
            servers = sockets.servers(IPV4, DATAGRAM)
            client = sockets.client(IPV4, DATAGRAM)
            for _ in range(3):
                client.sendto(b"question", (IPV4.service, 53))
                address, peer = received_at(servers)
                servers[address].sendto(b"answer", peer)
                client.recvfrom(64)

            points = [event.subtype for event in sockets.socket_events()]

            sockets.forget()
        assert points.count(TranslationPoint.FORWARD) == forward
        assert points.count(TranslationPoint.REVERSE) == reverse

    @each_place
    def test_programs_are_exchanged_under_live_sockets(
        self, sockets: Sockets, place: Place, root: Path, sock_object: Path
    ) -> None:
        sockets.service(place.service, 53, UDP, sockets.backends(place))
        servers = sockets.servers(place, DATAGRAM)
        client = sockets.client(place, DATAGRAM)
        client.sendto(b"question", (place.named(place.service), 53))
        first, peer = received_at(servers)
        links = {found.pin.name: found for found in cgroup_links.pinned(sockets.pins)}

        with loaded(root, sock_object, sockets.host, report_interval_s=7) as sockets.datapath:
            sockets.attach()
            exchanged = {found.pin.name: found for found in cgroup_links.pinned(sockets.pins)}
            servers[first].sendto(b"answer", peer)
            answered = client.recvfrom(64)[1][:2]
            client.sendto(b"again", (place.named(place.service), 53))
            second, _ = received_at(servers)

        assert answered == (place.named(place.service), 53)
        assert second == first
        assert exchanged.keys() == links.keys() == set(cgroup_links.PROGRAMS)
        assert all(exchanged[name].program_id != links[name].program_id for name in links)

    def test_attaching_what_is_attached_changes_nothing(self, sockets: Sockets) -> None:
        before = list(cgroup_links.pinned(sockets.pins))

        sockets.attach()

        assert list(cgroup_links.pinned(sockets.pins)) == before

    def test_detached_programs_leave_sockets_alone(self, sockets: Sockets) -> None:
        sockets.service(IPV4.node, 53, UDP, sockets.backends(IPV4))
        server = sockets.server(IPV4.node, 53, DATAGRAM)

        sockets.detach()
        sockets.client(IPV4, DATAGRAM).sendto(b"question", (IPV4.node, 53))

        assert server.recv(64) == b"question"
        assert list(cgroup_links.pinned(sockets.pins)) == []

    def test_a_link_of_a_cgroup_that_is_gone_is_replaced(self, sockets: Sockets) -> None:
        gone = sockets.cgroup / "gone"
        gone.mkdir()
        name = "sock_connect4"
        cgroup_links.attach(gone, sockets.datapath.programs[name], sockets.pins / name)
        gone.rmdir()

        cgroup_links.attach(sockets.cgroup, sockets.datapath.programs[name], sockets.pins / name)

        (found,) = [found for found in cgroup_links.pinned(sockets.pins) if found.pin.name == name]
        assert found.cgroup_id == cgroup_links.cgroup_id(sockets.cgroup)


def _accepts(server: socket.socket) -> bool:
    server.setblocking(False)
    try:
        server.accept()[0].close()
    except BlockingIOError:
        return False
    return True


def _reached(
    sockets: Sockets, place: Place, servers: dict[str, socket.socket], named: tuple[str, int] | None = None
) -> str:
    """Which backend a new connection gets."""
    address, port = named or (place.service, 53)
    client = sockets.client(place, DATAGRAM)
    client.connect((place.named(address), port))
    client.send(b"question")
    return received_at(servers)[0]

"""Connected UDP sockets whose backend is gone are ended, and no others."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from pycilium.datapath import layouts, netns, socket_diag
from pycilium.datapath.layouts import SocketFlowDirection, SocketFlowEntry, SocketFlowKey
from pycilium.datapath.socket_diag import Gone, end_sockets
from pycilium.testing.fake_map import FakeMap
from tests.integration.datapath.sockets import BACKEND_PORT, IPV4, IPV6, PLACES, Place, make_namespace, sixteen

pytestmark = pytest.mark.root

_SO_COOKIE = 57
each_place = pytest.mark.parametrize("place", PLACES, ids=("ipv4", "ipv6", "mapped"))


@pytest.fixture
def namespace() -> Iterator[int]:
    fd = make_namespace()
    yield fd
    os.close(fd)


@pytest.fixture
def flows() -> FakeMap[SocketFlowKey, SocketFlowEntry]:
    return FakeMap(layouts.SOCKET_FLOWS)


def connected(namespace: int, place: Place, backend: str) -> socket.socket:
    made = netns.run_in(namespace, lambda: socket.socket(place.family, socket.SOCK_DGRAM))
    made.settimeout(10)
    made.connect((place.named(backend), BACKEND_PORT))
    return made


def translated(flows: FakeMap[SocketFlowKey, SocketFlowEntry], client: socket.socket, backend: str) -> None:
    """As if the programs had chosen the backend for it."""
    cookie = int.from_bytes(client.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8), sys.byteorder)
    key = SocketFlowKey(
        socket_cookie=cookie, address=sixteen(backend), port=BACKEND_PORT, direction=SocketFlowDirection.REVERSE
    )
    flows.update(key, SocketFlowEntry(service_id=7, backend_id=1))


def path_of(namespace: int) -> str:
    return f"/proc/self/fd/{namespace}"


def gone(
    place: Place, number: int = 0, *, port: int = BACKEND_PORT, service_id: int = 7, backend_id: int = 1
) -> list[Gone]:
    return [Gone(ip_address(place.backends[number]), port, service_id, backend_id)]


def test_this_kernel_can() -> None:
    assert socket_diag.can_end_sockets()


@each_place
def test_the_process_learns_that_its_backend_is_gone(
    namespace: int, flows: FakeMap[SocketFlowKey, SocketFlowEntry], place: Place
) -> None:
    with connected(namespace, place, place.backends[0]) as client:
        translated(flows, client, place.backends[0])

        assert end_sockets([path_of(namespace)], gone(place), flows) == 1

        with pytest.raises(ConnectionAbortedError):
            client.recv(64)
    assert end_sockets([path_of(namespace)], gone(place), flows) == 0


@each_place
def test_other_backends_sockets_live_on(
    namespace: int, flows: FakeMap[SocketFlowKey, SocketFlowEntry], place: Place
) -> None:
    with connected(namespace, place, place.backends[0]) as client:
        translated(flows, client, place.backends[0])

        assert end_sockets([path_of(namespace)], gone(place, 1), flows) == 0
        assert end_sockets([path_of(namespace)], gone(place, port=1), flows) == 0
        assert end_sockets([path_of(namespace)], [], flows) == 0


@each_place
def test_what_another_service_connected_to_the_backend_lives_on(
    namespace: int, flows: FakeMap[SocketFlowKey, SocketFlowEntry], place: Place
) -> None:
    with connected(namespace, place, place.backends[0]) as client:
        translated(flows, client, place.backends[0])

        assert end_sockets([path_of(namespace)], gone(place, service_id=8), flows) == 0
        assert end_sockets([path_of(namespace)], gone(place, backend_id=2), flows) == 0
        assert end_sockets([path_of(namespace)], [*gone(place, service_id=8), *gone(place)], flows) == 1


@each_place
def test_what_was_connected_to_the_backend_itself_lives_on(
    namespace: int, flows: FakeMap[SocketFlowKey, SocketFlowEntry], place: Place
) -> None:
    with connected(namespace, place, place.backends[0]):
        assert end_sockets([path_of(namespace)], gone(place), flows) == 0


def test_all_namespaces_are_looked_through_but_for_those_that_are_gone(
    namespace: int, flows: FakeMap[SocketFlowKey, SocketFlowEntry]
) -> None:
    other = make_namespace()
    try:
        clients = [connected(where, IPV4, IPV4.backends[0]) for where in (namespace, other)]
        clients.append(connected(other, IPV6, IPV6.backends[0]))
        for client, place in zip(clients, (IPV4, IPV4, IPV6), strict=True):
            translated(flows, client, place.backends[0])

        ended = end_sockets(
            [path_of(namespace), "/run/netns/no-such", socket_diag.HOST, path_of(other)],
            [*gone(IPV4), *gone(IPV6)],
            flows,
        )

        assert ended == 3
    finally:
        for client in clients:
            client.close()
        os.close(other)

"""A translation at a socket is two events of the process that has the socket, before and after."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pycilium.agent.services.socket_flows import HOST, SocketOwner, SocketOwners, unfolded
from pycilium.datapath.layouts import EventType, FlowEvent, SocketEvent, TranslationPoint
from tests.unit.agent.test_controller import ENDPOINTS

SERVICE, BACKEND, POD = (bytes(10) + b"\xff\xff" + bytes((10, 0, 0, last)) for last in (1, 2, 3))
POD6 = bytes(15) + b"\3"
COOKIE = 4242
OWNER = SocketOwner(endpoint_id=30, identity=5003, ipv4=POD, ipv6=POD6)
TRANSLATION = SocketEvent(
    time_ns=9,
    frontend=SERVICE,
    backend=BACKEND,
    frontend_port=80,
    backend_port=8080,
    frontend_identity=9,
    backend_identity=5002,
    backend_endpoint=20,
    service_id=7,
    type=EventType.TRACE_SOCK,
    subtype=TranslationPoint.FORWARD,
    family=4,
    protocol=6,
    socket_cookie=1 << 32 | 2,
    cgroup_id=3 << 32 | 4,
    netns_cookie=COOKIE,
    cpu=1,
    is_reply=2,
)
COMMON = {
    "time_ns": 9,
    "service_id": 7,
    "type": EventType.TRACE_SOCK,
    "family": 4,
    "protocol": 6,
    "cpu": 1,
    "is_reply": 2,
    "egress_row": 2,
    "ingress_row": 1,
    "egress_revision": 4,
    "ingress_revision": 3,
}
TO_SERVICE = {"destination": SERVICE, "destination_port": 80, "destination_identity": 9}
TO_BACKEND = {
    "destination": BACKEND,
    "destination_port": 8080,
    "destination_identity": 5002,
    "destination_endpoint": 20,
}
FROM_POD = {"source": POD, "source_identity": 5003, "source_endpoint": 30}
PACKET = FlowEvent(time_ns=8, type=EventType.TRACE, egress_row=17, source_endpoint=1)


def events(*made: SocketEvent | FlowEvent) -> np.ndarray:
    return np.frombuffer(b"".join(each.to_bytes() for each in made), FlowEvent.DTYPE)


def unfolded_of(*made: SocketEvent | FlowEvent) -> list[FlowEvent]:
    rows = unfolded(events(*made), lambda cookies: {COOKIE: OWNER} if COOKIE in cookies else {})
    return [FlowEvent.from_bytes(row.tobytes()) for row in rows]


def turned(ends: dict) -> dict:
    other = {"source": "destination", "destination": "source"}
    return {name.replace(name.split("_")[0], other[name.split("_")[0]], 1): value for name, value in ends.items()}


def test_what_is_sent_is_for_the_service_and_then_for_the_backend():
    assert unfolded_of(TRANSLATION) == [
        FlowEvent(**COMMON, **FROM_POD, **TO_SERVICE, subtype=1),
        FlowEvent(**COMMON, **FROM_POD, **TO_BACKEND, subtype=2),
    ]


def test_what_is_received_is_from_the_backend_and_then_from_the_service():
    assert unfolded_of(replace(TRANSLATION, subtype=TranslationPoint.REVERSE)) == [
        FlowEvent(**COMMON, **turned(FROM_POD), **turned(TO_BACKEND), subtype=3),
        FlowEvent(**COMMON, **turned(FROM_POD), **turned(TO_SERVICE), subtype=4),
    ]


def test_events_keep_their_order_and_those_of_packets_are_untouched():
    made = unfolded_of(PACKET, TRANSLATION, PACKET)

    assert [event.type for event in made] == [4, 7, 7, 4]
    assert (made[0], made[3]) == (PACKET, PACKET)
    assert unfolded_of(PACKET) == [PACKET]


def test_the_process_has_its_address_of_the_events_family():
    first, _ = unfolded_of(replace(TRANSLATION, family=6))

    assert first.source == POD6


def test_a_process_that_nobody_knows_has_neither_address_nor_identity():
    first, _ = unfolded_of(replace(TRANSLATION, netns_cookie=1))

    assert (first.source, first.source_identity, first.source_endpoint) == (bytes(16), 0, 0)


class Namespaces:
    """Cookies by path, and who was asked for."""

    def __init__(self) -> None:
        self.cookies = {endpoint.netns: 100 + endpoint.endpoint_id for endpoint in ENDPOINTS}
        self.asked: list[str] = []

    def cookie_of(self, path: str) -> int:
        self.asked.append(path)
        return self.cookies.get(path, 0)


def test_an_owner_is_the_endpoint_as_it_is_now():
    namespaces, endpoints = Namespaces(), [replace(ENDPOINTS[0], netns="/run/netns/first")]
    namespaces.cookies["/run/netns/first"] = 7
    owners = SocketOwners(lambda: endpoints, 99, namespaces.cookie_of)
    before = owners.owners([7])

    endpoints[0] = replace(endpoints[0], sec_identity=12345)

    assert before[7].endpoint_id == endpoints[0].endpoint_id
    assert owners.owners([7])[7].identity == 12345


def test_each_endpoint_is_asked_once_and_the_host_is_known():
    namespaces = Namespaces()
    endpoints = [replace(each, netns=f"/run/netns/{each.endpoint_id}") for each in ENDPOINTS[:3]]
    owners = SocketOwners(lambda: endpoints, 99, namespaces.cookie_of)

    assert owners.owners([99]) == {99: HOST}
    assert namespaces.asked == []
    assert owners.owners([99, 12345]) == {99: HOST}
    assert owners.owners([12346]) == {}
    assert sorted(namespaces.asked) == sorted(each.netns for each in endpoints)


def test_an_endpoint_that_came_later_is_asked_too_and_one_that_went_is_forgotten():
    namespaces, endpoints = Namespaces(), [replace(ENDPOINTS[0], netns="/run/netns/a")]
    namespaces.cookies |= {"/run/netns/a": 1, "/run/netns/b": 2}
    owners = SocketOwners(lambda: endpoints, 99, namespaces.cookie_of)
    assert set(owners.owners([1])) == {1}

    endpoints[:] = [replace(ENDPOINTS[1], netns="/run/netns/b")]

    assert set(owners.owners([1, 2])) == {2}

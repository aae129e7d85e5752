"""SCTP gets other ports: its checksum, a CRC32c of the whole packet, is made up for without a look at the payload."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet6 import IPv6ExtHdrFragment
from scapy.layers.l2 import Ether
from scapy.layers.sctp import SCTP, SCTPChunkData
from scapy.packet import Packet, Raw

from pycilium.datapath import layouts
from pycilium.datapath.layouts import BackendState, CtState, DropReason
from tests.bpf.conftest import NodeWith
from tests.bpf.masquerade import NODE
from tests.bpf.node import DB, GATEWAY4, GATEWAY6, WEB, Node, Ran, Verdict
from tests.bpf.packets import address, from_network, from_pod, sctp
from tests.bpf.services import (
    API,
    CLIENT,
    CLUSTER_IP,
    NODE_PORT,
    PORT,
    TARGET_PORT,
    Services,
    small_world,
    turned,
)

pytestmark = pytest.mark.root

FAMILIES = pytest.mark.parametrize("family", [4, 6])
GATEWAY = {4: GATEWAY4, 6: GATEWAY6}


@pytest.fixture
def services(node_with: NodeWith) -> Services:
    return small_world(node_with())


def send(node: Node, packet: Packet | bytes) -> Ran:
    return node.run("from_container", "web", bytes(packet))


def to_db(packet: Packet, family: int) -> bytes:
    return turned(packet, dst=address(DB, family), dport=TARGET_PORT, esrc=DB.host_mac, edst=DB.mac)


@FAMILIES
def test_the_checksum_is_right_whatever_the_packet_holds(services: Services, family: int) -> None:
    services.cluster_ip(family, services.backend(address(DB, family), kind="sctp"), kind="sctp")

    @settings(max_examples=100, deadline=None)
    @given(st.binary(max_size=1400), st.integers(1, 65535), st.integers(0, 2**32 - 1))
    def check(payload: bytes, sport: int, tag: int) -> None:
        header = SCTP(sport=sport, dport=PORT, tag=tag)
        packet = from_pod(WEB, CLUSTER_IP[family], family) / header / SCTPChunkData(data=payload)

        assert send(services.node, packet).packet == to_db(packet, family)

    check()


@FAMILIES
def test_what_fills_a_short_frame_is_not_counted(services: Services, family: int) -> None:
    services.cluster_ip(family, services.backend(address(DB, family), kind="sctp"), kind="sctp")
    packet = from_pod(WEB, CLUSTER_IP[family], family) / sctp(40000, PORT, "shutdown complete")
    padding = b"\x55" * 10

    assert send(services.node, bytes(packet) + padding).packet == to_db(packet, family) + padding


@FAMILIES
def test_a_packet_that_was_damaged_on_its_way_stays_so(services: Services, family: int) -> None:
    services.cluster_ip(family, services.backend(address(DB, family), kind="sctp"), kind="sctp")
    packet = from_pod(WEB, CLUSTER_IP[family], family) / sctp(40000, PORT)
    damaged, right = bytearray(bytes(packet)), bytearray(to_db(packet, family))
    damaged[-1] ^= 1
    right[-1] ^= 1

    assert send(services.node, bytes(damaged)).packet == right


@FAMILIES
def test_a_backend_on_another_node_by_a_node_port(services: Services, family: int) -> None:
    """Both ports are others, for the gateway's own is taken."""
    node = services.node
    services.reached_by("native")
    services.node_port(family, services.backend(address(API, family), kind="sctp"), kind="sctp")
    other = {4: "198.51.100.200", 6: "2001:db8:99::200"}[family]
    made = []
    for client in (CLIENT[family], other):
        packet = from_network(client, NODE[family], family) / sctp(20000, NODE_PORT)
        there = Ether(node.run("from_netdev", "uplink", bytes(packet)).packet)
        port = there[SCTP].sport
        fields = {"src": GATEWAY[family], "dst": address(API, family), "sport": port, "dport": TARGET_PORT}
        assert bytes(there[1]) == bytes(Ether(turned(packet, hops=int(family == 4), **fields))[1])
        made.append((client, port))

    assert made[0][1] == 20000 != made[1][1]
    for client, port in made:
        answer = from_network(address(API, family), GATEWAY[family], family) / sctp(TARGET_PORT, port)
        ran = node.run("from_netdev", "uplink", bytes(answer))
        assert ran.packet == turned(answer, src=NODE[family], dst=client, sport=NODE_PORT, dport=20000, hops=1)


@FAMILIES
def test_a_checksum_that_a_device_was_to_compute_on_the_way_to_another_node_became_a_wrong_one(
    services: Services, family: int
) -> None:
    """The sender leaves 0, which the device takes into its sum as it stands there."""
    services.cluster_ip(family, services.backend(address(DB, family), kind="sctp"), kind="sctp")
    packet = from_pod(WEB, CLUSTER_IP[family], family) / sctp(40000, PORT)
    packet[SCTP].chksum = 0

    there = Ether(send(services.node, packet).packet)[SCTP]

    assert (there.dport, there.chksum) == (TARGET_PORT, 0)


def first_fragment(packet: Packet, family: int) -> Packet:
    payload = bytes(Ether(bytes(packet))[1].payload)[:48]
    head = packet.copy()
    head[1].remove_payload()
    if family == 4:
        head[1].flags, head[1].proto = "MF", 132
        return head / Raw(payload)
    return head / IPv6ExtHdrFragment(nh=132, m=1) / Raw(payload)


@FAMILIES
def test_what_was_sent_in_fragments_arrives_with_its_checksum(services: Services, family: int) -> None:
    """A message was cut for a path that takes less now: its chunk says how much the checksum covers."""
    services.cluster_ip(family, services.backend(address(DB, family), kind="sctp"), kind="sctp")
    packet = from_pod(WEB, CLUSTER_IP[family], family) / sctp(40000, PORT)

    ran = send(services.node, first_fragment(packet, family))

    assert (ran.verdict, ran.packet[-48:]) == (Verdict.REDIRECT, bytes(Ether(to_db(packet, family))[2])[:48])


@FAMILIES
def test_a_fragment_whose_chunks_make_no_sense_gets_no_other_port(services: Services, family: int) -> None:
    services.cluster_ip(family, services.backend(address(DB, family), kind="sctp"), kind="sctp")
    packet = from_pod(WEB, CLUSTER_IP[family], family) / SCTP(sport=40000, dport=PORT) / Raw(bytes(60))

    ran = send(services.node, first_fragment(packet, family))

    assert (ran.verdict, ran.events[0].subtype) == (Verdict.DROP, DropReason.WRITE_ERROR)


# -- associations are connections -------------------------------------------------------------------------------------


@FAMILIES
def test_an_association_from_outside_goes_on_when_its_service_is_gone(services: Services, family: int) -> None:
    """What opens another one is the node's."""
    node = services.node
    backend = services.backend(address(WEB, family), kind="sctp")
    services.node_port(family, backend, kind="sctp")

    def arrive(chunk: str) -> Ran:
        packet = from_network(CLIENT[family], NODE[family], family) / sctp(20000, NODE_PORT, chunk)
        return node.run("from_netdev", "uplink", bytes(packet))

    assert arrive("init").verdict == Verdict.REDIRECT
    services.forget_frontends()
    services.forget_backend(backend)

    assert [Ether(arrive("data").packet)[1].dst, arrive("init").verdict] == [address(WEB, family), Verdict.PASS]


@FAMILIES
def test_an_association_stays_with_a_backend_that_terminates_and_a_new_one_goes_elsewhere(
    services: Services, family: int
) -> None:
    old, new = (services.backend(address(pod, family), kind="sctp") for pod in (DB, API))
    services.cluster_ip(family, old, kind="sctp")

    def backend_of(chunk: str) -> str:
        packet = from_pod(WEB, CLUSTER_IP[family], family) / sctp(40000, PORT, chunk)
        return str(Ether(send(services.node, packet).packet)[1].dst)

    assert backend_of("init") == address(DB, family)
    services.set_backend(old, address(DB, family), TARGET_PORT, kind="sctp", state=BackendState.TERMINATING)
    services.cluster_ip(family, new, kind="sctp")

    assert [backend_of("data"), backend_of("init")] == [address(DB, family), address(API, family)]


@FAMILIES
@pytest.mark.parametrize("last", ["abort", "shutdown complete"])
def test_an_association_that_has_ended_is_soon_forgotten(node_with: NodeWith, family: int, last: str) -> None:
    node = node_with()
    for chunk in ("init", "data", last):
        assert send(node, from_pod(WEB, DB, family) / sctp(40000, 7777, chunk)).verdict == Verdict.REDIRECT

    assert [entry.state for _, entry in node.map(layouts.CT4 if family == 4 else layouts.CT6).items()] == [
        CtState.CLOSED
    ]


@FAMILIES
def test_the_other_end_cannot_open_an_association_as_if_it_answered(node_with: NodeWith, family: int) -> None:
    node = node_with()
    send(node, from_pod(WEB, DB, family) / sctp(40000, 7777, "init"))

    answers = [
        node.run("from_container", "db", bytes(from_pod(DB, WEB, family) / sctp(7777, 40000, chunk)))
        for chunk in ("init ack", "init")
    ]

    assert [ran.events[0].is_reply for ran in answers] == [1, 0]

"""Packets from outside to NodePorts and the addresses of load balancers: to a backend wherever it is, and back."""

from __future__ import annotations

import pytest
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from pycilium.datapath import layouts
from pycilium.datapath.layouts import DropReason, NatDirection, NatLimits, ServiceFlags, TracePoint
from tests.bpf.conftest import NodeWith
from tests.bpf.masquerade import NODE, halves
from tests.bpf.node import (
    GATEWAY4,
    GATEWAY6,
    INGRESS,
    ROUTER_MAC,
    UPLINK_MAC,
    WEB,
    Node,
    Ran,
    Verdict,
    packed,
)
from tests.bpf.packets import address, from_host, from_network, from_pod, tcp, udp
from tests.bpf.services import (
    API,
    CLIENT,
    CLUSTER_IP,
    LOAD_BALANCER_IP,
    NODE2,
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
WORLD = {4: 9, 6: 10}


@pytest.fixture
def services(node_with: NodeWith) -> Services:
    return small_world(node_with())


def request(family: int, *, to: str = "", port: int = NODE_PORT, flags: str = "S", **fields: object) -> Packet:
    return from_network(CLIENT[family], to or NODE[family], family, **fields) / tcp(20000, port, flags)


def arrive(node: Node, packet: Packet) -> Ran:
    return node.run("from_netdev", "uplink", bytes(packet))


def reason(ran: Ran) -> tuple[Verdict, int]:
    (event,) = ran.events
    return ran.verdict, event.subtype


@FAMILIES
def test_a_backend_here_sees_the_client_and_answers_as_the_service(services: Services, family: int) -> None:
    node = services.node
    service_id = services.node_port(family, services.backend(address(WEB, family)))
    packet = request(family)

    ran = arrive(node, packet)

    there = turned(packet, dst=address(WEB, family), dport=TARGET_PORT, esrc=WEB.host_mac, edst=WEB.mac, hops=1)
    assert (ran.verdict, ran.packet) == (Verdict.REDIRECT, there)
    (event,) = ran.events
    assert (event.subtype, event.service_id, event.source_identity, event.destination_identity) == (
        TracePoint.TO_ENDPOINT,
        service_id,
        WORLD[family],
        WEB.identity,
    )

    reply = from_pod(WEB, CLIENT[family], family) / tcp(TARGET_PORT, 20000, "SA")
    ran = node.run("from_container", "web", bytes(reply))

    assert (ran.verdict, ran.packet) == (
        Verdict.REDIRECT,
        turned(reply, src=NODE[family], sport=NODE_PORT, hops=1),
    )
    (event,) = ran.events
    assert (event.subtype, event.service_id, event.is_reply) == (TracePoint.TO_NETWORK, service_id, 1)


@FAMILIES
@pytest.mark.parametrize("mode", ["tunnel", "native"])
def test_a_backend_on_another_node_sees_the_gateway(services: Services, family: int, mode: str) -> None:
    node = services.node
    services.reached_by(mode)
    service_id = services.node_port(family, services.backend(address(API, family)))
    packet = request(family)

    ran = arrive(node, packet)

    hops = 0 if mode == "tunnel" else 1
    there = turned(packet, src=GATEWAY[family], dst=address(API, family), dport=TARGET_PORT, hops=hops)
    by_route = mode == "native" and family == 6  # no such next hop, and the test's namespace has no routes
    if not by_route:
        assert (ran.verdict, ran.packet) == (Verdict.REDIRECT, there)
    event = ran.events[0]
    assert (event.service_id, event.source_identity, event.destination_identity) == (
        service_id,
        WORLD[family],
        API.identity,
    )
    (half,) = halves(node)
    assert (half.direction, half.port) == (NatDirection.IN, 20000)


@FAMILIES
def test_natively_its_answer_comes_back_from_the_service(services: Services, family: int) -> None:
    node = services.node
    services.reached_by("native")
    services.node_port(family, services.backend(address(API, family)))
    arrive(node, request(family))
    reply = from_network(address(API, family), GATEWAY[family], family) / tcp(TARGET_PORT, 20000, "SA")

    ran = arrive(node, reply)

    back = turned(reply, src=NODE[family], dst=CLIENT[family], sport=NODE_PORT, hops=1)
    assert (ran.verdict, ran.packet) == (Verdict.REDIRECT, back)


@FAMILIES
def test_a_backend_in_the_network_of_the_node_answers_as_the_service(services: Services, family: int) -> None:
    node = services.node
    services.node_port(family, services.backend(NODE[family], 9100))
    packet = request(family)

    ran = arrive(node, packet)

    assert (ran.verdict, ran.packet) == (Verdict.PASS, turned(packet, dport=9100))

    reply = Ether(src=UPLINK_MAC, dst=ROUTER_MAC) / packet[1].__class__(src=NODE[family], dst=CLIENT[family])
    reply = reply / tcp(9100, 20000, "SA")
    ran = node.run("to_netdev", "uplink", bytes(reply))

    assert (ran.verdict, ran.packet) == (Verdict.PASS, turned(reply, sport=NODE_PORT))


@FAMILIES
def test_the_address_of_a_load_balancer(services: Services, family: int) -> None:
    backend = services.backend(address(WEB, family))
    services.frontend(LOAD_BALANCER_IP[family], PORT, (backend,), (backend,), flags=ServiceFlags.EXTERNAL)
    packet = request(family, to=LOAD_BALANCER_IP[family], port=PORT)

    ran = arrive(services.node, packet)

    assert ran.packet == turned(
        packet, dst=address(WEB, family), dport=TARGET_PORT, esrc=WEB.host_mac, edst=WEB.mac, hops=1
    )


@FAMILIES
@pytest.mark.parametrize("flag", [ServiceFlags(0), ServiceFlags.SOURCE_ALLOW])
def test_a_connection_goes_on_when_its_service_is_gone(services: Services, family: int, flag: ServiceFlags) -> None:
    backend = services.backend(address(WEB, family))
    service_id = services.node_port(family, backend, flags=flag)
    services.source_range(service_id, {4: "198.51.100.0/24", 6: "2001:db8:99::/48"}[family])
    assert arrive(services.node, request(family)).verdict == Verdict.REDIRECT
    services.forget_frontends()
    services.forget_backend(backend)

    packet = request(family, flags="A")
    ran = arrive(services.node, packet)

    assert ran.packet == turned(
        packet, dst=address(WEB, family), dport=TARGET_PORT, esrc=WEB.host_mac, edst=WEB.mac, hops=1
    )
    answer = from_pod(WEB, CLIENT[family], family) / tcp(TARGET_PORT, 20000, "A")
    assert Ether(services.node.run("from_container", "web", bytes(answer)).packet)[1].src == NODE[family]


@FAMILIES
def test_what_opens_a_connection_to_the_port_of_a_service_that_is_gone_is_the_nodes(
    services: Services, family: int
) -> None:
    services.node_port(family, services.backend(address(WEB, family)))
    arrive(services.node, request(family))
    services.forget_frontends()

    for flags in ("S", "A"):
        packet = request(family, flags=flags)
        ran = arrive(services.node, packet)

        assert (ran.verdict, ran.packet, ran.events) == (Verdict.PASS, bytes(packet), [])


@FAMILIES
def test_datagrams_to_a_service_that_is_gone_are_the_nodes(services: Services, family: int) -> None:
    services.node_port(family, services.backend(address(WEB, family), kind="udp"), kind="udp")
    packet = from_network(CLIENT[family], NODE[family], family) / udp(20000, NODE_PORT)
    assert arrive(services.node, packet).verdict == Verdict.REDIRECT
    services.forget_frontends()

    assert arrive(services.node, packet).verdict == Verdict.PASS


@FAMILIES
def test_a_cluster_ip_is_not_for_outside(services: Services, family: int) -> None:
    services.cluster_ip(family, services.backend(address(WEB, family)))

    ran = arrive(services.node, request(family, to=CLUSTER_IP[family], port=PORT))

    assert reason(ran) == (Verdict.DROP, DropReason.IS_CLUSTER_IP)


@FAMILIES
@pytest.mark.parametrize("to", [{4: "127.0.0.1", 6: "::1"}, {4: "0.0.0.0", 6: "::"}], ids=["loopback", "any"])
def test_what_nobody_may_send_on_a_wire_reaches_no_host_port_at_loopback(
    services: Services, family: int, to: dict[int, str]
) -> None:
    backend = services.backend(address(WEB, family))
    flags = ServiceFlags.EXTERNAL | ServiceFlags.OWN_NODE
    services.frontend(to[family], NODE_PORT, (backend,), (backend,), flags=flags)

    ran = arrive(services.node, request(family, to=to[family]))

    assert (ran.verdict, ran.events) == (Verdict.PASS, [])


@FAMILIES
@pytest.mark.parametrize("flag", [ServiceFlags.SOURCE_ALLOW, ServiceFlags.SOURCE_DENY])
@pytest.mark.parametrize("within", [True, False])
def test_source_ranges(services: Services, family: int, flag: ServiceFlags, within: bool) -> None:
    service_id = services.node_port(family, services.backend(address(WEB, family)), flags=flag)
    near, far = {4: ("198.51.100.0/24", "8.0.0.0/8"), 6: ("2001:db8:99::/48", "2600::/16")}[family]
    services.source_range(service_id, near if within else far)

    ran = arrive(services.node, request(family))

    if within == (flag == ServiceFlags.SOURCE_ALLOW):
        assert ran.verdict == Verdict.REDIRECT
    else:
        assert reason(ran) == (Verdict.DROP, DropReason.SERVICE_SOURCE_RANGE)


@FAMILIES
def test_without_a_backend_the_client_is_told(services: Services, family: int) -> None:
    services.node_port(family)
    packet = request(family)

    ran = arrive(services.node, packet)

    assert reason(ran) == (Verdict.REDIRECT, DropReason.SERVICE_NO_BACKEND)
    answer = Ether(ran.packet)
    assert (answer.src, answer.dst, answer[1].dst) == (packet.dst, packet.src, CLIENT[family])


@FAMILIES
def test_it_is_not_told_if_only_other_nodes_have_backends(services: Services, family: int) -> None:
    flags = ServiceFlags.EXTERNAL | ServiceFlags.KEEP_SOURCE
    services.frontend(NODE[family], NODE_PORT, (services.backend(address(API, family)),), flags=flags)

    ran = arrive(services.node, request(family))

    assert reason(ran) == (Verdict.DROP, DropReason.SERVICE_NO_BACKEND)


@FAMILIES
def test_it_is_told_if_no_node_has_a_backend(services: Services, family: int) -> None:
    services.frontend(NODE[family], NODE_PORT, flags=ServiceFlags.EXTERNAL | ServiceFlags.KEEP_SOURCE)

    ran = arrive(services.node, request(family))

    assert reason(ran) == (Verdict.REDIRECT, DropReason.SERVICE_NO_BACKEND)


@FAMILIES
def test_hops_that_are_used_up(services: Services, family: int) -> None:
    services.node_port(family, services.backend(address(WEB, family)))
    field = {4: "ttl", 6: "hlim"}[family]

    ran = arrive(services.node, request(family, **{field: 1}))

    assert reason(ran)[1] == DropReason.TTL_EXCEEDED


@FAMILIES
@pytest.mark.parametrize("source", ["pod", "node", "gateway", "remote pod"])
def test_nobody_outside_has_an_address_of_the_cluster(services: Services, family: int, source: str) -> None:
    services.node_port(family, services.backend(address(WEB, family)))
    forged = {
        "pod": address(WEB, family),
        "node": NODE[family],
        "gateway": GATEWAY[family],
        "remote pod": address(API, family),
    }
    packet = from_network(forged[source], NODE[family], family) / tcp(20000, NODE_PORT, "S")

    assert reason(arrive(services.node, packet)) == (Verdict.DROP, DropReason.INVALID_SOURCE_IP)


@FAMILIES
def test_policy_of_a_backend_here_judges_the_client(services: Services, family: int) -> None:
    node = services.node
    node.policy(WEB, revision=77)
    node.row(WEB, INGRESS, 1, allow=())
    services.node_port(family, services.backend(address(WEB, family)))

    ran = arrive(node, request(family))

    assert reason(ran) == (Verdict.DROP, DropReason.POLICY_DENIED)


@FAMILIES
def test_what_is_too_big_for_the_overlay_is_told_in_terms_of_what_was_sent(services: Services, family: int) -> None:
    node = services.node
    services.node_port(family, services.backend(address(API, family), kind="udp"), kind="udp")
    packet = from_network(CLIENT[family], NODE[family], family) / udp(20000, NODE_PORT, b"x" * 1430)

    ran = arrive(node, packet)

    assert reason(ran) == (Verdict.REDIRECT, DropReason.FRAGMENTATION_NEEDED)
    answer = Ether(ran.packet)
    assert (answer[1].src, answer[1].dst) == (NODE[family], CLIENT[family])
    quoted = bytes(answer[1])[28:] if family == 4 else bytes(answer[1])[48:]
    ends = slice(12, 24) if family == 4 else slice(8, 44)
    assert quoted[ends] == bytes(packet[1])[ends]


@FAMILIES
def test_a_node_behind_the_overlay_may_come_with_its_own_address(services: Services, family: int) -> None:
    services.node_port(family, services.backend(address(WEB, family)))
    packet = from_network(NODE2[family], NODE[family], family) / tcp(20000, NODE_PORT, "S")

    assert arrive(services.node, packet).verdict == Verdict.REDIRECT


@FAMILIES
def test_no_port_is_left(node_with: NodeWith, family: int) -> None:
    """Of the same remote end all are taken: new connections are dropped by name, those that are there stay."""
    services = small_world(node_with(sizes={"nat4": 1 << 16, "nat6": 1 << 16}))
    services.node_port(family, services.backend(address(API, family)))
    taken = layouts.NatEntry(bytes(16), 1, 0, 1)
    ports = range(NatLimits.PORT_MIN, NatLimits.PORT_MIN + NatLimits.SERVICE_PORTS)
    end = (TARGET_PORT, 6, NatDirection.IN)
    if family == 4:
        ends = [int.from_bytes(packed(each)[12:], "big") for each in (GATEWAY4, API.ipv4)]
        keys = {layouts.Nat4Key(*ends, port, *end): taken for port in ports}
        assert not services.node.map(layouts.NAT4).update_batch(keys)
    else:
        keys6 = {layouts.Nat6Key(packed(GATEWAY6), packed(API.ipv6), port, *end): taken for port in ports}
        assert not services.node.map(layouts.NAT6).update_batch(keys6)

    assert reason(arrive(services.node, request(family))) == (Verdict.DROP, DropReason.NAT_NO_MAPPING)


def datagram(family: int, to: str, port: int) -> Packet:
    return from_network(CLIENT[family], to, family) / udp(20000, port, b"?")


@FAMILIES
@pytest.mark.parametrize("backend", ["here", "elsewhere"])
def test_datagrams_of_one_port_to_two_frontends_of_a_backend_are_each_answered_by_their_own(
    services: Services, family: int, backend: str
) -> None:
    node = services.node
    services.reached_by("native")
    pod = WEB if backend == "here" else API
    number = services.backend(address(pod, family), kind="udp")
    services.node_port(family, number, kind="udp")
    services.frontend(LOAD_BALANCER_IP[family], PORT, (number,), (number,), kind="udp", flags=ServiceFlags.EXTERNAL)

    for at, port in ((NODE[family], NODE_PORT), (LOAD_BALANCER_IP[family], PORT), (NODE[family], NODE_PORT)):
        there = Ether(arrive(node, datagram(family, at, port)).packet)
        assert there[1].dst == address(pod, family)
        answer = udp(TARGET_PORT, there[2].sport, b"!")
        if backend == "here":
            ran = node.run("from_container", "web", bytes(from_pod(WEB, there[1].src, family) / answer))
        else:
            ran = arrive(node, from_network(address(API, family), there[1].src, family) / answer)
        back = Ether(ran.packet)
        assert (back[1].src, back[2].sport, back[1].dst, back[2].dport) == (at, port, CLIENT[family], 20000)


def own_request(family: int, port: int) -> Packet:
    """The node's own process to a backend elsewhere, from the gateway's address."""
    return from_host(GATEWAY[family], address(API, family), family) / udp(port, TARGET_PORT, b"?")


def answer_of_backend(node: Node, family: int, port: int) -> tuple[Verdict, str, int]:
    """What becomes of what the backend elsewhere sends to that port of the gateway."""
    reply = from_network(address(API, family), GATEWAY[family], family) / udp(TARGET_PORT, port, b"!")
    ran = arrive(node, reply)
    there = Ether(ran.packet)
    return ran.verdict, there[1].dst, there[2].dport


@FAMILIES
def test_a_client_outside_gets_no_port_that_the_kernel_would_give_to_the_nodes_own_sockets(
    services: Services, family: int
) -> None:
    services.reached_by("native")
    services.node_port(family, services.backend(address(API, family), kind="udp"), kind="udp")

    for port in range(32768, 61000, 4000):
        packet = from_network(CLIENT[family], NODE[family], family) / udp(port, NODE_PORT, b"?")
        assert 1024 <= Ether(arrive(services.node, packet).packet)[2].sport < 32768


@FAMILIES
def test_a_client_that_took_a_port_again_was_refused_for_what_its_backend_remembered_of_another(
    services: Services, family: int
) -> None:
    """Ports of the gateway were random, and a backend in TIME-WAIT answers a SYN that is not later than what it saw last from
    that port with an ACK, so that the client has to begin anew.
    """
    services.reached_by("native")
    services.node_port(family, services.backend(address(API, family)))

    given = []
    for port in range(32768, 61000, 400):
        packet = from_network(CLIENT[family], NODE[family], family) / tcp(port, NODE_PORT, "S")
        given.append(Ether(arrive(services.node, packet).packet)[2].sport)

    assert given == [*range(1024, 29256, 400)]


@FAMILIES
def test_a_client_outside_does_not_get_the_port_that_the_node_itself_has_to_the_backend(
    services: Services, family: int
) -> None:
    node = services.node
    services.reached_by("native")
    services.node_port(family, services.backend(address(API, family), kind="udp"), kind="udp")
    node.run("from_host", "cilium_host", bytes(own_request(family, 20000)))

    port = Ether(arrive(node, datagram(family, NODE[family], NODE_PORT)).packet)[2].sport

    assert port != 20000
    assert answer_of_backend(node, family, port)[1:] == (CLIENT[family], 20000)
    assert answer_of_backend(node, family, 20000) == (Verdict.PASS, GATEWAY[family], 20000)


@FAMILIES
def test_the_node_itself_takes_a_port_that_a_client_outside_had_to_the_backend(services: Services, family: int) -> None:
    node = services.node
    services.reached_by("native")
    services.node_port(family, services.backend(address(API, family), kind="udp"), kind="udp")
    question = datagram(family, NODE[family], NODE_PORT)
    assert Ether(arrive(node, question).packet)[2].sport == 20000

    node.run("from_host", "cilium_host", bytes(own_request(family, 20000)))

    assert answer_of_backend(node, family, 20000) == (Verdict.PASS, GATEWAY[family], 20000)
    port = Ether(arrive(node, question).packet)[2].sport
    assert port != 20000
    assert answer_of_backend(node, family, port)[1:] == (CLIENT[family], 20000)

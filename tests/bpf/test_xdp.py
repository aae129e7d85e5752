"""Before the stack: what is sent on from there is what from_netdev and the overlay's device would send, and leaves the same
behind it; all else goes on to them as it came.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet

from pycilium.datapath import layouts, netns
from pycilium.datapath.features import kernel_version
from pycilium.datapath.layouts import Aggregation, ServiceFlags, TracePoint
from tests.bpf.conftest import NodeWith
from tests.bpf.masquerade import NODE
from tests.bpf.node import (
    GATEWAY4,
    GATEWAY6,
    INGRESS,
    ROUTER_MAC,
    TUNNEL_PORT,
    UPLINK_MAC,
    WEB,
    RanXdp,
    Verdict,
    XdpVerdict,
)
from tests.bpf.packets import address, echo_request, from_network, tcp, udp
from tests.bpf.services import (
    API,
    CLIENT,
    CLUSTER_IP,
    NODE2,
    NODE_PORT,
    PORT,
    TARGET_PORT,
    Services,
    small_world,
    turned,
    whole,
)

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(kernel_version() < (5, 15), reason="BPF_PROG_TEST_RUN tells XDP its device since Linux 5.15"),
]

FAMILIES = pytest.mark.parametrize("family", [4, 6])
KINDS = pytest.mark.parametrize("kind", ["tcp", "udp"])
MODES = pytest.mark.parametrize("mode", ["tunnel", "native"])
GATEWAY = {4: GATEWAY4, 6: GATEWAY6}
NODE2_MAC = "0a:00:00:00:0e:03"
ROUTES = """
link set uplink addrgenmode none
link set uplink_p up
address add 192.0.2.1/24 dev uplink
address add 2001:db8::1/64 dev uplink nodad
neighbour add 192.0.2.254 lladdr {router} dev uplink
neighbour add 2001:db8::fe lladdr {router} dev uplink
neighbour add 192.0.2.2 lladdr {node2} dev uplink
neighbour add 2001:db8::2 lladdr {node2} dev uplink
route add default via 192.0.2.254
route add default via 2001:db8::fe
route add fd00:10:0:1::/112 via 2001:db8::2
"""
NO_ROUTES = "address flush dev uplink\nneighbour flush dev uplink nud permanent\nlink set uplink_p down"
FORWARDING = ("/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding")


def ip(batch: str) -> None:
    subprocess.run(["ip", "-batch", "-"], input=batch, text=True, check=True)


@pytest.fixture(scope="module", autouse=True)
def routed(netns_fd: int, devices: dict[str, int]) -> Iterator[None]:
    """The node knows its neighbours, and where the client is; afterwards nothing is left of it."""
    del devices

    def connect() -> None:
        ip(ROUTES.format(router=ROUTER_MAC, node2=NODE2_MAC))
        for path in FORWARDING:
            subprocess.run(["sh", "-c", f"echo 1 > {path}"], check=True)

    def disconnect() -> None:
        ip(NO_ROUTES)
        for path in FORWARDING:
            subprocess.run(["sh", "-c", f"echo 0 > {path}"], check=True)

    netns.run_in(netns_fd, connect)
    yield
    netns.run_in(netns_fd, disconnect)


@pytest.fixture
def services(node_with: NodeWith) -> Services:
    return small_world(node_with())


@pytest.fixture
def twin(node_with: NodeWith) -> Services:
    """Another node like it, which has no program before the stack."""
    return small_world(node_with(event_wakeup_ns=999_999))


def transport(kind: str, sport: int, dport: int, flags: str = "S") -> Packet:
    return tcp(sport, dport, flags) if kind == "tcp" else udp(sport, dport)


def request(family: int, kind: str = "tcp", flags: str = "S", **fields: object) -> Packet:
    return from_network(CLIENT[family], NODE[family], family, **fields) / transport(kind, 20000, NODE_PORT, flags)


def answer(family: int, kind: str = "tcp") -> Packet:
    """As it comes natively."""
    frame = from_network(address(API, family), GATEWAY[family], family)
    return frame / transport(kind, TARGET_PORT, 20000, "SA")


def in_overlay(frame: Packet | bytes, outer: int, vni: int) -> Packet:
    """What node 2 sends through the overlay."""
    layer = IP if outer == 4 else IPv6
    head = Ether(src=NODE2_MAC, dst=UPLINK_MAC) / layer(src=NODE2[outer], dst=NODE[outer])
    return head / UDP(sport=50000, dport=TUNNEL_PORT, chksum=0) / VXLAN(flags=8, vni=vni) / Ether(bytes(frame))


def reached(services: Services, mode: str, outer: int = 4) -> None:
    services.reached_by(mode)
    if mode == "tunnel" and outer == 6:
        services.node.other_node(2, NODE2[6], tunnel=True, mtu_bytes=1430)


def serve(services: Services, family: int, kind: str = "tcp", **options: object) -> int:
    backend = services.backend(address(API, family), kind=kind)
    return services.node_port(family, backend, kind=kind, **options)


def arrive(services: Services, packet: Packet) -> RanXdp:
    return services.node.run_xdp("uplink", bytes(packet))


def passes(services: Services, packet: Packet) -> None:
    ran = arrive(services, packet)
    assert (ran.verdict, ran.packet, ran.events) == (XdpVerdict.PASS, bytes(packet), [])


@FAMILIES
@KINDS
def test_natively_to_the_backends_node(services: Services, family: int, kind: str) -> None:
    services.reached_by("native")
    service_id = serve(services, family, kind)
    packet = request(family, kind)

    ran = arrive(services, packet)

    there = turned(
        packet,
        src=GATEWAY[family],
        dst=address(API, family),
        dport=TARGET_PORT,
        hops=1,
        esrc=UPLINK_MAC,
        edst=NODE2_MAC,
    )
    assert (ran.verdict, ran.packet) == (XdpVerdict.TX, there)
    (event,) = ran.events
    point = TracePoint.TO_NETWORK if family == 4 else TracePoint.TO_STACK
    assert (event.subtype, event.service_id, event.destination_identity) == (point, service_id, API.identity)


@FAMILIES
@KINDS
@pytest.mark.parametrize("outer", [4, 6])
def test_by_the_overlay_to_the_backends_node(services: Services, family: int, kind: str, outer: int) -> None:
    reached(services, "tunnel", outer)
    serve(services, family, kind)
    packet = request(family, kind)

    ran = arrive(services, packet)

    assert ran.verdict == XdpVerdict.TX
    frame = Ether(ran.packet)
    assert (frame.src, frame.dst) == (UPLINK_MAC, NODE2_MAC)
    assert (frame[1].src, frame[1].dst) == (NODE[outer], NODE2[outer])
    assert (frame[UDP].dport, frame[UDP].chksum, frame[VXLAN].vni) == (TUNNEL_PORT, 0, {4: 9, 6: 10}[family])
    assert frame[UDP].sport >= 49152
    assert frame[UDP].len == len(ran.packet) - 14 - (20 if outer == 4 else 40)
    if outer == 4:
        assert whole(frame) == ran.packet or frame[IP].chksum == Ether(whole(frame))[IP].chksum
    inner = turned(packet, src=GATEWAY[family], dst=address(API, family), dport=TARGET_PORT)
    assert bytes(frame[VXLAN].payload) == inner


@FAMILIES
@KINDS
def test_natively_the_answer_goes_to_the_client(services: Services, family: int, kind: str) -> None:
    services.reached_by("native")
    service_id = serve(services, family, kind)
    arrive(services, request(family, kind))
    packet = answer(family, kind)

    ran = arrive(services, packet)

    back = turned(
        packet,
        src=NODE[family],
        dst=CLIENT[family],
        sport=NODE_PORT,
        hops=1,
        esrc=UPLINK_MAC,
        edst=ROUTER_MAC,
    )
    assert (ran.verdict, ran.packet) == (XdpVerdict.TX, back)
    (event,) = ran.events
    assert (event.subtype, event.service_id, event.is_reply) == (TracePoint.TO_NETWORK, service_id, 1)


@FAMILIES
@KINDS
@pytest.mark.parametrize("outer", [4, 6])
def test_from_the_overlay_the_answer_goes_to_the_client(services: Services, family: int, kind: str, outer: int) -> None:
    reached(services, "tunnel", outer)
    serve(services, family, kind)
    arrive(services, request(family, kind))
    packet = answer(family, kind)

    ran = arrive(services, in_overlay(packet, outer, API.identity))

    back = turned(
        packet,
        src=NODE[family],
        dst=CLIENT[family],
        sport=NODE_PORT,
        hops=1,
        esrc=UPLINK_MAC,
        edst=ROUTER_MAC,
    )
    assert (ran.verdict, ran.packet) == (XdpVerdict.TX, back)


def test_a_checksum_that_is_not_there_stays_so(services: Services) -> None:
    services.reached_by("native")
    serve(services, 4, "udp")
    packet = request(4, "udp")
    packet[UDP].chksum = 0

    assert Ether(arrive(services, packet).packet)[UDP].chksum == 0


def stored(services: Services, family: int) -> list[object]:
    """What is left in the maps, times and places among those that may have to give way aside."""
    node = services.node
    specs = (layouts.NAT4, layouts.CT4) if family == 4 else (layouts.NAT6, layouts.CT6)
    times = ("used_s", "expires_s", "created_s", "reported_origin_s", "reported_reply_s", "last_fin_end")
    rows: list[tuple[object, object]] = list(services.flows(family).items())
    for spec in specs:
        rows += list(node.map(spec).items())
    return sorted((repr(key), repr(_without(entry, times))) for key, entry in rows)


def _without(entry: object, times: tuple[str, ...]) -> object:
    return replace(entry, **{name: 0 for name in times if hasattr(entry, name)})  # type: ignore[type-var]


def told(events: list[layouts.FlowEvent]) -> list[layouts.FlowEvent]:
    return [replace(event, time_ns=0, cpu=0) for event in events]


@FAMILIES
@KINDS
@MODES
def test_the_stacks_programs_do_the_same(services: Services, twin: Services, family: int, kind: str, mode: str) -> None:
    """Packets, what is remembered and what is told; on the way out to the link only addresses of the frame differ."""
    for each in (services, twin):
        each.reached_by(mode)
        serve(each, family, kind)
    for flags in ("S", "A", "A", "FA"):
        packet = request(family, kind, flags)

        ran = arrive(services, packet)
        other = twin.node.run("from_netdev", "uplink", bytes(packet))

        assert (ran.verdict, other.verdict) == (XdpVerdict.TX, Verdict.REDIRECT)
        frame = Ether(ran.packet)
        sent = bytes(frame[VXLAN].payload) if mode == "tunnel" else ran.packet
        assert sent[14:] == other.packet[14:]
        assert told(ran.events) == told(other.events)
        assert stored(services, family) == stored(twin, family)
    packet = answer(family, kind)
    if mode == "native":
        ran = arrive(services, packet)
        other = twin.node.run("from_netdev", "uplink", bytes(packet))
        assert ran.packet[14:] == other.packet[14:]
        assert told(ran.events) == told(other.events)
    else:
        ran = arrive(services, in_overlay(packet, 4, API.identity))
        assert ran.verdict == XdpVerdict.TX


@FAMILIES
@MODES
def test_a_connection_whose_backend_answers_directly_goes_on_before_the_stack(
    services: Services, twin: Services, family: int, mode: str
) -> None:
    """Once its SYN has told what was called; it is as by the stack's programs."""
    for each in (services, twin):
        each.reached_by(mode)
        serve(each, family, flags=ServiceFlags.DSR)
        each.node.run("from_netdev", "uplink", bytes(request(family)))
    for flags in ("A", "PA", "FA"):
        packet = request(family, flags=flags)

        ran = arrive(services, packet)
        other = twin.node.run("from_netdev", "uplink", bytes(packet))

        assert (ran.verdict, other.verdict) == (XdpVerdict.TX, Verdict.REDIRECT)
        frame = Ether(ran.packet)
        sent = bytes(frame[VXLAN].payload) if mode == "tunnel" else ran.packet
        assert sent[14:] == other.packet[14:]
        assert Ether(sent)[1].src == CLIENT[family]
        assert told(ran.events) == told(other.events)
        assert stored(services, family) == stored(twin, family)


@FAMILIES
@KINDS
def test_what_tells_what_was_called_goes_on(services: Services, family: int, kind: str) -> None:
    services.reached_by("native")
    serve(services, family, kind, flags=ServiceFlags.DSR)

    passes(services, request(family, kind))
    passes(services, request(family, kind))


@FAMILIES
def test_what_is_to_be_wrapped_for_a_direct_answer_goes_on(node_with: NodeWith, family: int) -> None:
    services = small_world(node_with(dsr_outer_family=family))
    services.node.other_node(2, NODE2[family], tunnel=False, device="uplink")
    serve(services, family, flags=ServiceFlags.DSR)
    passes(services, request(family))

    passes(services, request(family, flags="A"))


@dataclass(frozen=True)
class Odd:
    """What is left to the programs behind."""

    name: str
    packet: Callable[[int], Packet]


ODD = [
    Odd("no service", lambda family: from_network(CLIENT[family], NODE[family], family) / tcp(20000, 9, "S")),
    Odd("a pod", lambda family: from_network(CLIENT[family], WEB, family) / tcp(20000, NODE_PORT, "S")),
    Odd("a ping", lambda family: from_network(CLIENT[family], NODE[family], family) / echo_request(family)),
    Odd("the last hop", lambda family: request(family, **{"ttl" if family == 4 else "hlim": 1})),
    Odd("a forged source", lambda family: from_network(WEB, NODE[family], family) / tcp(20000, NODE_PORT, "S")),
    Odd("a cluster IP", lambda family: from_network(CLIENT[family], CLUSTER_IP[family], family) / tcp(1, PORT, "S")),
    Odd("another's frame", lambda family: _framed(request(family), "0a:00:00:00:0e:77")),
    Odd("a broken header", lambda family: Ether(bytes(request(family))[:40])),
]


def _framed(packet: Packet, destination: str) -> Packet:
    packet[Ether].dst = destination
    return packet


@FAMILIES
@pytest.mark.parametrize("odd", ODD, ids=lambda odd: odd.name)
def test_what_is_odd_goes_on_as_it_came(services: Services, family: int, odd: Odd) -> None:
    services.reached_by("native")
    serve(services, family)
    services.cluster_ip(family, services.backend(address(API, family)))

    passes(services, odd.packet(family))


def test_fragments_and_options_go_on(services: Services) -> None:
    services.reached_by("native")
    serve(services, 4)
    for fields in ({"flags": "MF"}, {"frag": 3}, {"options": [b"\x94\x04\0\0"]}):
        packet = request(4)
        for name, value in fields.items():
            setattr(packet[IP], name, value)

        passes(services, packet)


@FAMILIES
def test_a_backend_here_goes_on_and_stays_chosen(services: Services, family: int) -> None:
    here, there = services.backend(address(WEB, family)), services.backend(address(API, family))
    services.node_port(family, here)
    passes(services, request(family))
    services.node_port(family, there)

    (event,) = services.node.run("from_netdev", "uplink", bytes(request(family))).events
    assert event.destination_identity == WEB.identity


@FAMILIES
def test_a_service_may_say_that_it_is_not_for_here(services: Services, family: int) -> None:
    serve(services, family, flags=ServiceFlags.NO_XDP)

    passes(services, request(family))


@FAMILIES
def test_who_may_not_use_it_is_left_to_from_netdev(services: Services, family: int) -> None:
    serve(services, family, flags=ServiceFlags.SOURCE_ALLOW)

    passes(services, request(family))


@FAMILIES
def test_what_is_too_big_is_left_to_from_netdev(services: Services, family: int) -> None:
    serve(services, family, "udp")

    passes(services, from_network(CLIENT[family], NODE[family], family) / udp(20000, NODE_PORT, b"x" * 1430))


@FAMILIES
def test_a_neighbour_that_is_not_known_yet_is_left_to_the_stack(services: Services, family: int) -> None:
    far = {4: "192.0.2.77", 6: "2001:db8::77"}[family]
    services.node.other_node(2, far, tunnel=True)
    serve(services, family)

    passes(services, request(family))


@FAMILIES
def test_what_comes_by_the_overlay_for_pods_goes_on(services: Services, family: int) -> None:
    serve(services, family)
    arrive(services, request(family))
    frame = Ether(src=NODE2_MAC, dst=UPLINK_MAC) / answer(family)[1].__class__(
        src=address(API, family), dst=address(WEB, family)
    )

    passes(services, in_overlay(frame / tcp(TARGET_PORT, 20000, "SA"), 4, API.identity))
    passes(services, in_overlay(answer(family), 4, 0))


def test_a_policy_is_not_asked(services: Services) -> None:
    """No end of what is sent on from here is a pod of this node."""
    services.node.row(WEB, INGRESS, 1, allow=())
    serve(services, 4)

    assert arrive(services, request(4)).verdict == XdpVerdict.TX


@FAMILIES
@MODES
def test_what_a_packet_costs(
    node_with: NodeWith, record_property: Callable[[str, object], None], family: int, mode: str
) -> None:
    """The harness runs one packet again and again, so what has left is not found again: this is a packet that passes.

    One each of many that are sent on: the middle one.
    """
    services = small_world(node_with(aggregation=Aggregation.MEDIUM))
    services.reached_by(mode)
    serve(services, family)
    arrive(services, request(family))
    services.node.run("from_netdev", "uplink", bytes(request(family, flags="A")))
    packet = bytes(request(family, flags="A"))

    costs = sorted(services.node.xdp_nanoseconds("uplink", packet, repeat=1) for _ in range(300))
    behind = sorted(services.node.nanoseconds("from_netdev", "uplink", packet, repeat=1) for _ in range(300))

    record_property("ns per packet of xdp_netdev", costs[150])
    record_property("ns per packet of from_netdev", behind[150])


@FAMILIES
@pytest.mark.parametrize("first", ["client", "backend"])
def test_nothing_is_left_of_a_connection_that_both_ends_closed(
    services: Services, twin: Services, family: int, first: str
) -> None:
    """Before the stack and in it; with it its port is free for the next one."""
    for each in (services, twin):
        each.reached_by("native")
        serve(each, family)
    there = from_network(CLIENT[family], NODE[family], family)
    back = from_network(address(API, family), GATEWAY[family], family)
    ports = {"client": (20000, NODE_PORT), "backend": (TARGET_PORT, 20000)}
    frames = {"client": there, "backend": back}
    other = "backend" if first == "client" else "client"
    for sender, flags, sequence, acknowledged in (
        ("client", "S", 0, 0),
        ("backend", "SA", 0, 1),
        ("client", "A", 1, 1),
        (first, "FA", 1, 1),
        (other, "FA", 1, 2),
        (first, "A", 2, 2),
    ):
        assert stored(services, family) or flags == "S"
        packet = bytes(frames[sender] / tcp(*ports[sender], flags, seq=sequence, ack=acknowledged))
        assert services.node.run_xdp("uplink", packet).verdict == XdpVerdict.TX
        assert twin.node.run("from_netdev", "uplink", packet).verdict == Verdict.REDIRECT
    assert stored(services, family) == stored(twin, family) == []

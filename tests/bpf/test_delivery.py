"""Where packets go and how they look then: pods, the node's stack, the network; both families."""

from __future__ import annotations

import pytest

from pycilium.datapath.layouts import TracePoint, TraceReason
from tests.bpf.cases import Case, check, dropped, traced
from tests.bpf.node import DB, EGRESS, GATEWAY4, GATEWAY6, IDENTITY_HOST, INGRESS, WEB, Node, Verdict
from tests.bpf.packets import delivered, from_host, from_network, from_pod, tcp, to_stack, udp

pytestmark = pytest.mark.root

WEB_SIDE = {
    "source_identity": WEB.identity,
    "source_endpoint": WEB.endpoint_id,
    "egress_row": 101,
    "egress_revision": 10,
}
DB_SIDE = {
    "destination_identity": DB.identity,
    "destination_endpoint": DB.endpoint_id,
    "ingress_row": 202,
    "ingress_revision": 20,
}
NEW = TraceReason.NEW


def world_identity(family: int) -> int:
    return 9 if family == 4 else 10


def pod_to_pod(family: int) -> Case:
    packet = from_pod(WEB, DB, family) / tcp(40000, 80, "S")
    return Case(
        f"IPv{family}: a pod to a pod of the node is handed over under its MAC, hop limit untouched",
        packet,
        Verdict.REDIRECT,
        lambda node: [traced(node, packet, TracePoint.TO_ENDPOINT, NEW, **WEB_SIDE, **DB_SIDE)],
        delivered(packet, DB),
    )


def pod_to_host(family: int) -> Case:
    packet = from_pod(WEB, GATEWAY4 if family == 4 else GATEWAY6, family) / udp(40000, 53)
    return Case(
        f"IPv{family}: a pod to the node goes to the stack by the gateway device",
        packet,
        Verdict.REDIRECT,
        lambda node: [
            traced(node, packet, TracePoint.TO_HOST, NEW, **WEB_SIDE, destination_identity=IDENTITY_HOST),
        ],
        to_stack(packet),
    )


def pod_to_world(family: int) -> Case:
    packet = from_pod(WEB, "world", family) / tcp(40000, 443, "S")
    return Case(
        f"IPv{family}: a pod to the world goes to the stack",
        packet,
        Verdict.REDIRECT,
        lambda node: [
            traced(node, packet, TracePoint.TO_STACK, NEW, **WEB_SIDE, destination_identity=world_identity(family)),
        ],
        to_stack(packet),
    )


def host_to_pod(family: int) -> Case:
    packet = from_host(GATEWAY4 if family == 4 else GATEWAY6, DB, family) / tcp(40000, 80, "S")
    return Case(
        f"IPv{family}: the node to a pod",
        packet,
        Verdict.REDIRECT,
        lambda node: [
            traced(
                node,
                packet,
                TracePoint.TO_ENDPOINT,
                NEW,
                device="cilium_host",
                source_identity=IDENTITY_HOST,
                **DB_SIDE,
            )
        ],
        delivered(packet, DB),
        program="from_host",
    )


def network_to_pod(family: int) -> Case:
    packet = from_network("world", DB, family) / tcp(40000, 80, "S")
    return Case(
        f"IPv{family}: the world to a pod is counted down by one hop",
        packet,
        Verdict.REDIRECT,
        lambda node: [
            traced(
                node,
                packet,
                TracePoint.TO_ENDPOINT,
                NEW,
                device="uplink",
                source_identity=world_identity(family),
                **DB_SIDE,
            )
        ],
        delivered(packet, DB, hops=1),
        program="from_netdev",
    )


def network_to_node(family: int) -> Case:
    packet = from_network("world", GATEWAY4 if family == 4 else GATEWAY6, family) / tcp(40000, 22, "S")
    return Case(
        f"IPv{family}: the network to anybody but a pod is left alone", packet, Verdict.PASS, program="from_netdev"
    )


def network_hops_used_up(family: int) -> Case:
    hops = {"ttl": 1} if family == 4 else {"hlim": 1}
    packet = from_network("world", DB, family, **hops) / udp(40000, 33434)
    fields = {"source_identity": world_identity(family), **DB_SIDE, "ingress_row": 0}
    return Case(
        f"IPv{family}: the last hop ends here, and the stack tells the sender",
        packet,
        Verdict.PASS,
        lambda node: [dropped(node, packet, 196, INGRESS, device="uplink", **fields)],
        program="from_netdev",
    )


def host_to_nobody(family: int) -> Case:
    packet = from_host("world", "10.0.0.99" if family == 4 else "fd00:10::99", family) / udp(1, 2)
    return Case(
        f"IPv{family}: the stack to an address of no pod",
        packet,
        Verdict.DROP,
        lambda node: [
            dropped(
                *(node, packet, 150, INGRESS),
                device="cilium_host",
                source_identity=world_identity(family),
                destination_identity=world_identity(family),
            )
        ],
        program="from_host",
    )


def network_with_address_of_ours(family: int, whose: str, source: str, identity: int) -> Case:
    packet = from_network(source, DB, family) / tcp(40000, 80, "S")
    fields = {**DB_SIDE, "ingress_row": 0, "source_identity": identity}
    return Case(
        f"IPv{family}: nobody outside has the address of {whose}",
        packet,
        Verdict.DROP,
        lambda node: [dropped(node, packet, 132, INGRESS, device="uplink", **fields)],
        program="from_netdev",
    )


BUILDERS = (
    *(pod_to_pod, pod_to_host, pod_to_world, host_to_pod, network_to_pod, network_to_node, network_hops_used_up),
    host_to_nobody,
)
CASES = [build(family) for build in BUILDERS for family in (4, 6)] + [
    network_with_address_of_ours(4, "a pod", WEB.ipv4, 0),
    network_with_address_of_ours(6, "a pod", WEB.ipv6, 0),
    network_with_address_of_ours(4, "the node", GATEWAY4, IDENTITY_HOST),
    network_with_address_of_ours(6, "the node", GATEWAY6, IDENTITY_HOST),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_delivery(node: Node, case: Case) -> None:
    check(node, case)


@pytest.mark.parametrize("family", [4, 6])
def test_reply_passes_by_the_connection(node: Node, family: int) -> None:
    node.run("from_container", "web", bytes(from_pod(WEB, DB, family) / tcp(40000, 80, "S")))
    packet = from_pod(DB, WEB, family) / tcp(80, 40000, "SA")
    fields = {
        "source_identity": DB.identity,
        "source_endpoint": 20,
        "destination_identity": WEB.identity,
        "destination_endpoint": 10,
        "egress_row": 101,
        "egress_revision": 10,
        "ingress_row": 202,
        "ingress_revision": 20,
        "is_reply": 1,
    }
    check(
        node,
        Case(
            "",
            packet,
            Verdict.REDIRECT,
            lambda node: [traced(node, packet, TracePoint.TO_ENDPOINT, TraceReason.REPLY, device="db", **fields)],
            delivered(packet, WEB),
            device="db",
        ),
    )


def test_forwarded_packets_are_counted_per_direction(node: Node) -> None:
    before = node.metrics()

    node.run("from_container", "web", bytes(from_pod(WEB, DB, 4) / tcp(40000, 80, "S")))
    node.run("from_container", "web", bytes(from_pod(WEB, "world", 4) / tcp(40000, 80, "S")))

    after = node.metrics()
    assert after[EGRESS, 0] - before.get((EGRESS, 0), 0) == 2
    assert after[INGRESS, 0] - before.get((INGRESS, 0), 0) == 1


@pytest.mark.parametrize("family", [4, 6])
def test_frame_under_a_wrong_mac_is_taken_all_the_same(node: Node, family: int) -> None:
    """The next stack would pass over it; as the pod's gateway we take what it sends."""
    packet = from_pod(WEB, DB, family) / udp(1, 2)
    packet.dst = "0a:00:00:00:77:77"

    ran = node.run("from_container", "web", bytes(packet))

    assert (ran.verdict, ran.packet) == (Verdict.REDIRECT, bytes(delivered(packet, DB)))


@pytest.mark.parametrize("family", [4, 6])
def test_frame_of_the_network_for_another_host_is_left_alone(node: Node, family: int) -> None:
    """A device that listens to everything sees what is not for this node."""
    packet = from_network("world", DB, family) / tcp(40000, 80, "S")
    packet.dst = "0a:00:00:00:77:77"

    ran = node.run("from_netdev", "uplink", bytes(packet))

    assert (ran.verdict, ran.packet, ran.events) == (Verdict.PASS, bytes(packet), [])


def test_drops_are_counted_by_reason(node: Node) -> None:
    before = node.metrics().get((EGRESS, 132), 0)

    node.run("from_container", "db", bytes(from_pod(WEB, DB, 4) / tcp(40000, 80, "S")))

    assert node.metrics()[EGRESS, 132] == before + 1

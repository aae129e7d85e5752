"""Endpoints that are processes of the node: by the cgroup of a packet's socket, which in a test run is this process's own.

A test run's socket has no protocol, so that to_netdev takes what it gets for a tunnel's: what processes send to the network
is seen in tests/e2e/test_processes.py, and so are processes that talk to one another.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pycilium.datapath import cgroup_links
from pycilium.datapath.layouts import CtFlags, EventType, TracePoint, TraceReason
from pycilium.lab import cgroups
from tests.bpf.cases import Case, check, traced
from tests.bpf.node import (
    DB,
    EGRESS,
    GATEWAY4,
    GATEWAY6,
    INGRESS,
    WEB,
    WORLD4,
    WORLD6,
    Node,
    Pod,
    Verdict,
    packed,
)
from tests.bpf.packets import delivered, echo_reply, from_host, from_network, from_pod, tcp, to_stack, udp

pytestmark = pytest.mark.root

FAMILIES = pytest.mark.parametrize("family", [4, 6])
GATEWAY, WORLD, WORLD_IDENTITY = {4: GATEWAY4, 6: GATEWAY6}, {4: WORLD4, 6: WORLD6}, {4: 9, 6: 10}
OUR_ADDRESS = {4: "192.0.2.1", 6: "2001:db8::1"}
REMOTE = {4: "10.0.1.10", 6: "fd00:10:0:1::a"}
NODE2, REMOTE_NODE = {4: "192.0.2.2", 6: "2001:db8::2"}, 6
UNIT = Pod("unit", 40, 4000, 4, "", "", "", "")
INNER = Pod("inner", 50, 5000, 5, "", "", "", "")
NEW, ESTABLISHED, REPLY = TraceReason.NEW, TraceReason.ESTABLISHED, TraceReason.REPLY
HOST_SIDE = {"source_identity": 1}
UNIT_SENDS = {"source_identity": UNIT.identity, "source_endpoint": UNIT.endpoint_id, "egress_row": 401}
DB_GETS = {
    "destination_identity": DB.identity,
    "destination_endpoint": DB.endpoint_id,
    "ingress_row": 202,
    "ingress_revision": 20,
}


@pytest.fixture(scope="module")
def cgroup() -> Iterator[Path]:
    """Two, one within the other, below the root."""
    made = cgroup_links.cgroup_root() / f"pycilium-test-processes-{os.getpid()}"
    cgroups.make(made / "inner")
    yield made
    cgroups.remove(made)


@pytest.fixture
def node(node: Node, cgroup: Path) -> Iterator[Node]:
    """Knows the outer cgroup as an endpoint, and its own address."""
    for family in (4, 6):
        node.identity(OUR_ADDRESS[family], 1)
        node.identity(NODE2[family], REMOTE_NODE, node_id=2)
    for pod in (UNIT, INNER):
        node.bits(pod.identity, {pod.identity // 100})
        node.allow_all(pod)
    node.bits(1, {1})
    node.processes({cgroup.stat().st_ino: UNIT}, [1])
    yield node
    node.processes({}, [])


def deny_ingress(node: Node, pod: Pod, *, allow: tuple[int, ...] = ()) -> None:
    """All but these selectors."""
    node.row(pod, INGRESS, pod.policy_id * 100 + 12, allow=allow)
    node.policy(pod, revision=pod.policy_id * 10 + 1)


def deny_egress(node: Node, pod: Pod, *, allow: tuple[int, ...] = ()) -> None:
    node.row(pod, EGRESS, pod.policy_id * 100 + 11, allow=allow)
    node.policy(pod, revision=pod.policy_id * 10 + 1)


@FAMILIES
def test_to_a_pod_it_is_known_by_its_own_identity(node: Node, cgroup: Path, family: int) -> None:
    packet = from_host(OUR_ADDRESS[family], DB, family) / tcp(40000, 80, "S")
    fields = {**UNIT_SENDS, **DB_GETS, "egress_revision": 40}
    case = Case(
        "unit to db",
        packet,
        Verdict.REDIRECT,
        lambda node: [traced(node, packet, TracePoint.TO_ENDPOINT, NEW, device="cilium_host", **fields)],
        delivered(packet, DB),
        program="from_host",
    )

    with cgroups.inside(cgroup / "inner"):
        check(node, case)

    assert node.only_connection().flags & CtFlags.ORIGIN_PROCESS


@FAMILIES
def test_other_processes_of_the_node_are_the_host(node: Node, family: int) -> None:
    packet = from_host(OUR_ADDRESS[family], DB, family) / tcp(40000, 80, "S")
    case = Case(
        "host to db",
        packet,
        Verdict.REDIRECT,
        lambda node: [
            traced(node, packet, TracePoint.TO_ENDPOINT, NEW, device="cilium_host", **{**HOST_SIDE, **DB_GETS})
        ],
        delivered(packet, DB),
        program="from_host",
    )

    check(node, case)

    assert not node.only_connection().flags & CtFlags.ORIGIN_PROCESS


@FAMILIES
def test_what_it_may_not_send_to_a_pod_is_dropped_with_its_name(node: Node, cgroup: Path, family: int) -> None:
    deny_egress(node, UNIT)
    packet = from_host(OUR_ADDRESS[family], DB, family) / tcp(40000, 80, "S")

    with cgroups.inside(cgroup):
        ran = node.run("from_host", "cilium_host", bytes(packet))

    (told,) = ran.events
    assert ran.verdict == Verdict.DROP
    assert (told.subtype, told.direction, told.source_endpoint) == (133, EGRESS, UNIT.endpoint_id)
    assert (told.egress_row, told.egress_revision) == (411, 41)


@FAMILIES
@pytest.mark.parametrize("layer4", [tcp(80, 40000, "SA"), udp(80, 40000)], ids=["tcp", "udp"])
def test_a_pods_answer_passes_that_allows_nothing_from_the_node(
    node: Node, cgroup: Path, family: int, layer4: object
) -> None:
    """The pod's program sees an address of the node, and the connection knows better."""
    deny_ingress(node, DB, allow=(UNIT.identity // 100,))
    ask = tcp(40000, 80, "S") if "TCP" in layer4.name else udp(40000, 80)
    with cgroups.inside(cgroup):
        opened = node.run("from_host", "cilium_host", bytes(from_host(OUR_ADDRESS[family], DB, family) / ask))
    assert opened.verdict == Verdict.REDIRECT
    answer = from_pod(DB, OUR_ADDRESS[family], family) / layer4

    ran = node.run("from_container", "db", bytes(answer))

    assert ran.verdict == Verdict.REDIRECT
    assert ran.packet == bytes(to_stack(answer))
    (told,) = ran.events
    assert (told.subtype, told.reason, told.destination_identity) == (TracePoint.TO_HOST, REPLY, UNIT.identity)


@FAMILIES
def test_a_datagram_of_another_process_with_its_port_is_not_taken_for_its_own(
    node: Node, cgroup: Path, family: int
) -> None:
    deny_ingress(node, DB, allow=(UNIT.identity // 100,))
    packet = bytes(from_host(OUR_ADDRESS[family], DB, family) / udp(40000, 53))
    with cgroups.inside(cgroup):
        assert node.run("from_host", "cilium_host", packet).verdict == Verdict.REDIRECT

    assert node.run("from_host", "cilium_host", packet).verdict == Verdict.DROP


@FAMILIES
def test_the_kernel_speaks_for_it_when_its_socket_is_gone(node: Node, cgroup: Path, family: int) -> None:
    """A connection that waits for its end has no socket with a cgroup."""
    deny_ingress(node, DB, allow=(UNIT.identity // 100,))
    with cgroups.inside(cgroup):
        syn = from_host(OUR_ADDRESS[family], DB, family) / tcp(40000, 80, "S")
        assert node.run("from_host", "cilium_host", bytes(syn)).verdict == Verdict.REDIRECT

    ran = node.run("from_host", "cilium_host", bytes(from_host(OUR_ADDRESS[family], DB, family) / tcp(40000, 80, "A")))

    assert ran.verdict == Verdict.REDIRECT
    assert [told.source_identity for told in ran.events] == [UNIT.identity]


@FAMILIES
def test_who_connects_to_it_is_judged_by_its_policy_and_both_are_told(node: Node, cgroup: Path, family: int) -> None:
    packet = from_pod(WEB, OUR_ADDRESS[family], family) / tcp(40000, 80, "S")
    assert node.run("from_container", "web", bytes(packet)).verdict == Verdict.REDIRECT

    with cgroups.inside(cgroup):
        passed, events = node.run_process("cilium_host", bytes(packet))

    (told,) = events
    assert passed
    assert (told.type, told.subtype, told.reason) == (EventType.TRACE, TracePoint.TO_ENDPOINT, ESTABLISHED)
    assert (told.source_identity, told.source_endpoint) == (WEB.identity, WEB.endpoint_id)
    assert (told.destination_identity, told.destination_endpoint) == (UNIT.identity, UNIT.endpoint_id)
    assert (told.egress_row, told.ingress_row) == (101, 402)
    assert (told.source, told.destination) == (
        packed(WEB.ipv4 if family == 4 else WEB.ipv6),
        packed(OUR_ADDRESS[family]),
    )
    assert node.only_connection().flags & CtFlags.TARGET_PROCESS


@FAMILIES
def test_its_policy_denies(node: Node, cgroup: Path, family: int) -> None:
    deny_ingress(node, UNIT, allow=(DB.identity // 100,))
    verdicts = {}
    for pod in (WEB, DB):
        packet = bytes(from_pod(pod, OUR_ADDRESS[family], family) / tcp(40000, 80, "S"))
        node.run("from_container", pod.name, packet)
        with cgroups.inside(cgroup):
            verdicts[pod.name] = node.run_process("cilium_host", packet)

    assert {name: passed for name, (passed, _) in verdicts.items()} == {"web": False, "db": True}
    (told,) = verdicts["web"][1]
    assert (told.type, told.subtype, told.direction) == (EventType.DROP, 133, INGRESS)
    assert (told.ingress_row, told.ingress_revision, told.egress_row) == (412, 41, 0)


@FAMILIES
def test_the_pods_rules_see_the_node_whatever_was_judged_before(node: Node, cgroup: Path, family: int) -> None:
    """Whether the pod or the process is judged first after a change makes no difference."""
    deny_egress(node, WEB, allow=(1,))  # the host alone
    packet = bytes(from_pod(WEB, OUR_ADDRESS[family], family) / tcp(40000, 80, "S"))
    answer = bytes(from_host(OUR_ADDRESS[family], WEB, family) / tcp(80, 40000, "SA"))
    assert node.run("from_container", "web", packet).verdict == Verdict.REDIRECT
    with cgroups.inside(cgroup):
        assert node.run_process("cilium_host", packet)[0]
        node.policy(WEB, revision=98)
        assert node.run("from_host", "cilium_host", answer).verdict == Verdict.REDIRECT
    node.policy(WEB, revision=99)
    assert node.run("from_container", "web", packet).verdict == Verdict.REDIRECT
    node.row(WEB, EGRESS, 111, allow=(UNIT.identity // 100,))
    node.policy(WEB, revision=100)

    assert node.run("from_container", "web", packet).verdict == Verdict.DROP


@FAMILIES
def test_a_policy_of_the_pod_that_changes_between_two_programs_is_not_passed_over(
    node: Node, cgroup: Path, family: int
) -> None:
    packet = bytes(from_pod(WEB, OUR_ADDRESS[family], family) / tcp(40000, 80, "S"))
    assert node.run("from_container", "web", packet).verdict == Verdict.REDIRECT
    deny_egress(node, WEB)
    with cgroups.inside(cgroup):
        node.run_process("cilium_host", packet)

    assert node.run("from_container", "web", packet).verdict == Verdict.DROP


@FAMILIES
def test_revoking_what_it_may_receive_cuts_connections(node: Node, cgroup: Path, family: int) -> None:
    packet = bytes(from_network(WORLD[family], OUR_ADDRESS[family], family) / tcp(40000, 80, "A"))
    with cgroups.inside(cgroup):
        assert node.run_process("uplink", packet)[0]
        assert node.run_process("uplink", packet)[0]
        deny_ingress(node, UNIT)

        assert not node.run_process("uplink", packet)[0]


SPOOFED = {"the node": GATEWAY, "a pod of the node": {4: WEB.ipv4, 6: WEB.ipv6}, "a pod behind the overlay": REMOTE}


@FAMILIES
@pytest.mark.parametrize("who", SPOOFED)
def test_from_the_network_nobody_has_an_address_that_comes_by_another_way(
    node: Node, cgroup: Path, family: int, who: str
) -> None:
    node.other_node(2, NODE2[family])
    node.identity(REMOTE[family], 3000, node_id=2)
    packet = from_network(SPOOFED[who][family], OUR_ADDRESS[family], family) / tcp(40000, 80, "S")

    with cgroups.inside(cgroup):
        passed, events = node.run_process("uplink", bytes(packet))

    assert not passed
    assert [told.subtype for told in events] == [132]


@FAMILIES
def test_another_node_reaches_it_by_the_network_and_natively_its_pods_do(node: Node, cgroup: Path, family: int) -> None:
    node.other_node(2, NODE2[family])
    node.other_node(3, NODE2[family], tunnel=False)
    node.identity(REMOTE[family], 3000, node_id=3)
    with cgroups.inside(cgroup):
        for source in (NODE2[family], REMOTE[family]):
            packet = from_network(source, OUR_ADDRESS[family], family) / tcp(40000, 80, "S")

            assert node.run_process("uplink", bytes(packet))[0]


@FAMILIES
def test_the_node_itself_is_the_host_to_it(node: Node, cgroup: Path, family: int) -> None:
    """Nobody has such a socket here, so it is known to be the node's, and no more."""
    packet = from_network(OUR_ADDRESS[family], OUR_ADDRESS[family], family) / tcp(40000, 80, "S")

    with cgroups.inside(cgroup):
        passed, events = node.run_process("lo", bytes(packet))

    assert passed
    assert [(told.source_identity, told.destination_identity) for told in events] == [(1, UNIT.identity)]


@FAMILIES
def test_of_cgroups_in_one_another_the_nearest_counts(node: Node, cgroup: Path, family: int) -> None:
    inner = cgroup / "inner"
    node.processes({cgroup.stat().st_ino: UNIT, inner.stat().st_ino: INNER}, [1, 2])
    packet = bytes(from_network(WORLD[family], OUR_ADDRESS[family], family) / tcp(40000, 80, "S"))
    found = []
    for place in (cgroup, inner):
        with cgroups.inside(place):
            _, (told, *_) = node.run_process("uplink", packet)
        found.append(told.destination_endpoint)

    assert found == [UNIT.endpoint_id, INNER.endpoint_id]


@FAMILIES
def test_a_pods_process_in_a_cgroup_below_is_left_to_the_pods_own_policy(node: Node, cgroup: Path, family: int) -> None:
    deny_ingress(node, UNIT)
    packet = bytes(from_network(WORLD[family], WEB, family) / tcp(40000, 80, "S"))

    with cgroups.inside(cgroup):
        assert node.run_process("uplink", packet) == (True, [])


@FAMILIES
def test_a_pods_ping_is_answered_to_the_process_that_asked(node: Node, cgroup: Path, family: int) -> None:
    """Its reply has no entry of its own, and needs none."""
    node.run("from_container", "web", bytes(from_pod(WEB, OUR_ADDRESS[family], family) / echo_reply(family)))

    with cgroups.inside(cgroup):
        passed, _ = node.run_process(
            "cilium_host", bytes(from_pod(WEB, OUR_ADDRESS[family], family) / echo_reply(family))
        )

    assert passed


@FAMILIES
def test_to_other_nodes_it_answers_as_the_node_that_was_called(node: Node, cgroup: Path, family: int) -> None:
    """What it opens itself carries its identity: seen in tests/e2e/test_processes.py."""
    node.other_node(2, NODE2[family])
    node.identity(REMOTE[family], 3000, node_id=2)
    called = bytes(from_network(REMOTE[family], OUR_ADDRESS[family], family) / tcp(40000, 80, "S"))
    answer = from_host(OUR_ADDRESS[family], replace(WEB, ipv4=REMOTE[4], ipv6=REMOTE[6]), family) / tcp(80, 40000, "SA")

    with cgroups.inside(cgroup):
        assert node.run_process("cilium_host", called)[0]
        ran = node.run("from_host", "cilium_host", bytes(answer))

    (told,) = ran.events
    assert ran.verdict == Verdict.REDIRECT
    assert (told.subtype, told.source_identity, told.is_reply) == (TracePoint.TO_OVERLAY, UNIT.identity, 1)

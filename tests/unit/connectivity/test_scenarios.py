"""Which actions follow from who is there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pycilium.connectivity.scenarios import SCENARIOS
from tests.unit.connectivity.arenas import arena


def actions(name: str, nodes: int = 1, **asked: object) -> list[str]:
    return [str(action) for action in SCENARIOS[name].actions(arena(nodes, **asked))]  # type: ignore[arg-type]


def test_every_client_tries_every_echo_pod_in_every_family():
    assert actions("pod-to-pod") == [
        "pod-to-pod: client -> echo-same-node, 10.0.1.5:8080/TCP",
        "pod-to-pod: client -> echo-same-node, [fd00::5]:8080/TCP",
        "pod-to-pod: client2 -> echo-same-node, 10.0.1.5:8080/TCP",
        "pod-to-pod: client2 -> echo-same-node, [fd00::5]:8080/TCP",
    ]


def test_with_one_family_there_is_half_of_it():
    assert actions("client-to-client", families=("ipv6",)) == [
        "client-to-client: client -> client2, [fd00::3] ICMP echo",
        "client-to-client: client2 -> client, [fd00::2] ICMP echo",
    ]


def test_node_ports_of_the_own_node_and_of_others_are_told_apart():
    own, others = actions("pod-to-local-nodeport", 2), actions("pod-to-remote-nodeport", 2)

    assert "pod-to-local-nodeport: client -> echo-other-node by node port of node1 for echo-other-node, " in own[2]
    assert "pod-to-remote-nodeport: client -> echo-same-node by node port of node2 for echo-same-node, " in others[0]
    assert (len(own), len(others)) == (12, 12)


def test_a_pod_reaches_itself_through_its_service():
    assert actions("pod-to-itself-via-service", families=("ipv4",)) == [
        "pod-to-itself-via-service: echo-same-node -> echo-same-node by Service echo-same-node, 10.96.0.2:8080/TCP"
    ]


def test_only_the_first_of_the_worlds_addresses_asks():
    assert {action.source.name for action in SCENARIOS["world-to-pod"].actions(arena())} == {"world"}
    assert {action.destination.name for action in SCENARIOS["pod-to-cidr"].actions(arena())} == {"world", "other-world"}


def test_a_world_of_one_nodes_own_is_for_the_peers_of_that_node():
    here = arena(2)
    own = replace(
        here, peers=tuple(replace(peer, node="node1") if peer.kind == "world" else peer for peer in here.peers)
    )

    assert {action.source.name for action in SCENARIOS["pod-to-world"].actions(own)} == {"client", "client2"}
    assert {action.destination.name for action in SCENARIOS["world-to-pod"].actions(own)} == {"echo-same-node"}


def test_a_client_outside_tries_the_node_ports_of_nodes_that_it_is_outside_of():
    def nodes(here):
        return {action.via.split()[3] for action in SCENARIOS["outside-to-nodeport"].actions(here)}

    assert nodes(arena(2)) == {"node1", "node2"}
    assert nodes(replace(arena(2), outside_of=("node2",))) == {"node2"}
    assert SCENARIOS["outside-to-nodeport"].lacking(replace(arena(2), outside_of=())) != ""


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("pod-to-remote-nodeport", "there is one node"),
        ("pod-to-service", "nobody here could take part"),
        ("pod-to-pod", ""),
    ],
)
def test_what_cannot_be_tried_says_why(name: str, why: str):
    assert SCENARIOS[name].lacking(arena(1, services=False)) == why

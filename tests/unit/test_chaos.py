"""The chaos test's pure parts: what is planned, and what is said of a connection while things change."""

from __future__ import annotations

from ipaddress import ip_address
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pycilium.datapath import layouts
from pycilium.model.policy import Direction
from tests.e2e.chaos import kernel_ipcache
from tests.e2e.chaos.history import SETTLE_S, History
from tests.e2e.chaos.model import Action, Node, State, applied
from tests.e2e.chaos.planning import NODES, first_actions, rounds
from tests.e2e.chaos.verdicts import Connection, allowed, always_allowed, may_be_denied
from tests.e2e.lab import app, policy

BARE = State(nodes={f"node{number}": Node() for number in range(1, NODES + 1)})
WEB, CLIENT = ("red", "web"), ("red", "client")
CONNECTION = Connection(CLIENT, WEB, "10.0.1.2", "10.0.2.2", 8080)


def begun(seed: int) -> State:
    state = BARE
    for action in first_actions(seed, BARE):
        state = applied(state, action)
    return state


def two_pods() -> State:
    state = BARE
    for pod, label in ((WEB, "web"), (CLIENT, "client")):
        state = applied(state, Action("add pod", "node1", pod=pod, labels={"app": label}))
    return state


def with_policy(state: State, peer: str) -> State:
    spec = {"endpointSelector": app("web"), "ingress": [{"fromEndpoints": [app(peer)]}]}
    return applied(state, Action("apply policy", "web", resource=policy("web", "red", **spec)))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 10**6))
def test_a_seed_always_gives_the_same_and_every_round_mends_what_it_broke(seed):
    state = begun(seed)
    plan = list(islice(rounds(seed, state), 12))

    assert [str(action) for actions in plan for action in actions] == [
        str(action) for actions in islice(rounds(seed, begun(seed)), 12) for action in actions
    ]
    for actions in plan:
        for action in actions:
            check_possible(state, action)
            state = applied(state, action)
        assert state.healthy


def check_possible(state: State, action: Action) -> None:
    """What nobody could do must not be planned."""
    match action.verb:
        case "add pod" | "reboot node" | "remove node":
            assert (state.store, state.nodes[action.subject]) == ("up", Node())
        case "add node":
            assert state.store == "up"
        case "apply policy" | "delete policy" | "label pod" | "label namespace" | "remove pod":
            assert state.store in ("up", "cut")
        case "kill agent":
            assert state.nodes[action.subject].agent


def test_while_labels_and_policies_change_any_mixture_of_old_and_new_may_decide():
    old = with_policy(two_pods(), "client")
    relabelled = applied(old, Action("label pod", pod=CLIENT, labels={"app": "guest"}))
    new = with_policy(relabelled, "guest")

    assert allowed(old, CONNECTION)
    assert allowed(new, CONNECTION)
    assert not always_allowed([old, new], CONNECTION)


def test_a_peer_that_not_all_have_heard_of_is_denied_by_what_would_allow_it():
    state = with_policy(two_pods(), "client")

    assert not may_be_denied([state], CONNECTION, Direction.INGRESS, heard=True)
    assert may_be_denied([state], CONNECTION, Direction.INGRESS, heard=False)
    assert not may_be_denied([two_pods()], CONNECTION, Direction.INGRESS, heard=False)


def test_what_a_peer_answers_under_an_identity_that_not_all_have_heard_of_is_denied_too():
    spec = {"endpointSelector": app("client"), "egress": [{"toEntities": ["cluster"]}]}
    state = applied(two_pods(), Action("apply policy", "client", resource=policy("client", "red", **spec)))

    assert not may_be_denied([state], CONNECTION, Direction.EGRESS, heard=True)
    assert may_be_denied([state], CONNECTION, Direction.EGRESS, heard=False)


NODE2 = layouts.NodeEntry(address=bytes(10) + b"\xff\xff" + bytes((192, 168, 0, 2)), family=4)
POD4, POD6 = layouts.Ipcache4Key(32, 0x0A000201), layouts.Ipcache6Key(128, ip_address("fd00::2:1").packed)
HELD = {
    POD4: layouts.IpcacheEntry(sec_identity=300, node_id=1),
    POD6: layouts.IpcacheEntry(sec_identity=300, node_id=1),
    layouts.Ipcache4Key(0, 0): layouts.IpcacheEntry(sec_identity=9),
}
BELIEVED = [
    {"cidr": "10.0.2.1/32", "identity": 300, "hostIP": "192.168.0.2"},
    {"cidr": "fd00::2:1/128", "identity": 300, "hostIP": "192.168.0.2"},
    {"cidr": "0.0.0.0/0", "identity": 9},
]


@pytest.mark.parametrize(
    ("fault", "noticed"),
    [
        pytest.param({}, [], id="no fault"),
        pytest.param({POD4: None}, ["None of 10.0.2.1/32"], id="an entry was deleted"),
        pytest.param({POD6: None}, ["None of fd00::2:1/128"], id="an IPv6 entry was deleted"),
        pytest.param(
            {POD4: layouts.IpcacheEntry(sec_identity=301, node_id=1)},
            ["(301, '192.168.0.2') of 10.0.2.1/32"],
            id="another identity",
        ),
        pytest.param(
            {POD4: layouts.IpcacheEntry(sec_identity=300)}, ["(300, '') of 10.0.2.1/32"], id="on no other node"
        ),
        pytest.param(
            {POD4: layouts.IpcacheEntry(sec_identity=300, node_id=2)},
            ["node id 2, which is nobody's"],
            id="a node that there is not",
        ),
        pytest.param(
            {layouts.Ipcache4Key(24, 0x0A000300): layouts.IpcacheEntry(sec_identity=3)},
            ["(3, '') of 10.0.3.0/24"],
            id="an entry too many",
        ),
    ],
)
def test_a_fault_in_the_kernels_ipcache_that_its_agent_does_not_know_of_is_noticed(fault, noticed):
    entries = {key: entry for key, entry in {**HELD, **fault}.items() if entry is not None}
    ipcache4 = [(key, entry) for key, entry in entries.items() if isinstance(key, layouts.Ipcache4Key)]
    ipcache6 = [(key, entry) for key, entry in entries.items() if isinstance(key, layouts.Ipcache6Key)]

    found = list(
        kernel_ipcache.differences(
            kernel_ipcache.said(ipcache4, ipcache6, {1: NODE2}), kernel_ipcache.believed(BELIEVED)
        )
    )

    assert len(found) == len(noticed)
    assert all(words in text for text, words in zip(found, noticed, strict=True))


def test_what_was_intended_counts_for_as_long_as_something_is_broken():
    old, broken, new = BARE, applied(BARE, Action("kill store")), two_pods()
    history = History()
    for at, state in ((0, old), (100, broken), (200, new)):
        history.begin(at, state)
        history.end(at + 1)

    assert history.in_force(90) == [old]
    assert history.in_force(190) == [broken, old]
    assert history.in_force(205) == [new, broken, old]
    assert history.in_force(201 + SETTLE_S + 1) == [new]

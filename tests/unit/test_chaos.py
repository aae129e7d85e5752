"""The chaos test's pure parts: what is planned, and what is said of a connection while things change."""

from __future__ import annotations

from itertools import islice

from hypothesis import given, settings
from hypothesis import strategies as st

from pycilium.model.policy import Direction
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

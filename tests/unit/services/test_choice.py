"""Which endpoints become backends, by cases and against kube-proxy's rules written down plainly."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycilium.model.l4 import Protocol
from pycilium.model.service import Backend, BackendState, L4Address
from pycilium.services.candidates import Candidate
from pycilium.services.choice import Viewpoint, of_cluster, of_node
from tests.unit.services.builders import words

HERE = Viewpoint("n1", "a")


def candidate(number, state="ready", *, node="n1", zones=(), nodes=(), protocol=Protocol.TCP):
    at = L4Address(IPv4Address(0x0A000000 + number), 8080, protocol)
    return Candidate(
        backend=Backend(at, node=node),
        ready=state == "ready",
        serving=state in ("ready", "terminating"),
        terminating=state in ("terminating", "gone"),
        for_zones=frozenset(zones),
        for_nodes=frozenset(nodes),
    )


def cluster(*candidates):
    return words(of_cluster(candidates, HERE))


def local(*candidates):
    return words(of_node(candidates, HERE))


def test_ready_ones_take_connections_and_the_others_keep_theirs():
    assert cluster(
        *(candidate(n, state) for n, state in enumerate(["ready", "not-ready", "terminating", "gone"], 1))
    ) == [
        "10.0.0.1:8080",
        "10.0.0.2:8080 kept",
        "10.0.0.3:8080 terminating",
        "10.0.0.4:8080 kept",
    ]


def test_udp_that_does_not_serve_is_no_backend():
    states = ["ready", "not-ready", "terminating", "gone"]
    found = cluster(*(candidate(n, state, protocol=Protocol.UDP) for n, state in enumerate(states, 1)))

    assert found == ["10.0.0.1:8080/UDP", "10.0.0.3:8080/UDP terminating"]


def test_hints_for_zones_keep_connections_within_the_zone():
    assert cluster(candidate(1, zones="a"), candidate(2, zones="b"), candidate(3, zones="ab")) == [
        "10.0.0.1:8080",
        "10.0.0.2:8080 kept",
        "10.0.0.3:8080",
    ]


def test_hints_for_nodes_come_before_those_for_zones():
    found = cluster(candidate(1, zones="a", nodes=["n1"]), candidate(2, zones="a", nodes=["n2"]))

    assert found == ["10.0.0.1:8080", "10.0.0.2:8080 kept"]


def test_without_a_hint_for_this_node_those_for_zones_count():
    found = cluster(candidate(1, zones="a", nodes=["n2"]), candidate(2, zones="b", nodes=["n3"]))

    assert found == ["10.0.0.1:8080", "10.0.0.2:8080 kept"]


@pytest.mark.parametrize(
    "hints",
    [
        pytest.param(("a", ""), id="one has none"),
        pytest.param(("b", "c"), id="none is for this zone"),
    ],
)
def test_hints_that_do_not_hold_are_no_hints(hints):
    assert cluster(*(candidate(n, zones=zones) for n, zones in enumerate(hints, 1))) == [
        "10.0.0.1:8080",
        "10.0.0.2:8080",
    ]


def test_hints_of_those_that_are_not_ready_do_not_count():
    assert cluster(candidate(1, zones="a"), candidate(2, "terminating"))[0] == "10.0.0.1:8080"


def test_local_ones_are_those_of_this_node():
    assert local(candidate(1), candidate(2, node="n2"), candidate(3, node="")) == ["10.0.0.1:8080"]


def test_hints_do_not_narrow_local_ones():
    assert local(candidate(1, zones="b"), candidate(2, zones="a")) == ["10.0.0.1:8080", "10.0.0.2:8080"]


def test_a_node_that_does_not_know_its_name_has_no_local_ones():
    assert of_node([candidate(1, node="")], Viewpoint("", "")) == ()


# == kube-proxy's rules, plainly ==


def kube_proxy_cluster(candidates, view):
    ready = [each for each in candidates if each.ready]
    narrowed = ready
    if ready and all(each.for_nodes for each in ready) and any(view.node in each.for_nodes for each in ready):
        narrowed = [each for each in ready if view.node in each.for_nodes]
    elif ready and all(each.for_zones for each in ready) and any(view.zone in each.for_zones for each in ready):
        narrowed = [each for each in ready if view.zone in each.for_zones]
    return narrowed or [each for each in candidates if each.serving and each.terminating]


def kube_proxy_local(candidates, view):
    local_ones = [each for each in candidates if each.backend.node == view.node]
    ready = [each for each in local_ones if each.ready]
    return ready or [each for each in local_ones if each.serving and each.terminating]


def takers(backends):
    """Who takes new connections: as the planner reads states and weights."""
    weighty = [each for each in backends if each.weight]
    return {each.at for each in weighty if each.state is BackendState.ACTIVE} or {each.at for each in weighty}


some_candidates = st.lists(
    st.builds(
        candidate,
        st.integers(1, 9),
        st.sampled_from(["ready", "ready", "not-ready", "terminating", "gone"]),
        node=st.sampled_from(["n1", "n2", ""]),
        zones=st.sets(st.sampled_from("ab")),
        nodes=st.sets(st.sampled_from(["n1", "n2"])),
        protocol=st.sampled_from([Protocol.TCP, Protocol.UDP]),
    ),
    max_size=8,
    unique_by=lambda each: each.backend.at,
)


@given(some_candidates)
def test_new_connections_go_where_kube_proxy_would_send_them(candidates):
    assert takers(of_cluster(candidates, HERE)) == {each.backend.at for each in kube_proxy_cluster(candidates, HERE)}
    assert takers(of_node(candidates, HERE)) == {each.backend.at for each in kube_proxy_local(candidates, HERE)}


@given(some_candidates)
def test_whoever_may_have_connections_is_still_a_backend(candidates):
    kept = {each.at for each in of_cluster(candidates, HERE)}

    assert kept == {
        each.backend.at for each in candidates if each.ready or each.serving or each.backend.at.protocol is Protocol.TCP
    }

"""Which node gets which pod CIDR: nobody another's, everybody what it had, and whatever is wrong by name."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycilium.errors import ConfigError
from pycilium.ipam import CidrPool, ClusterPool, NodeClaim
from pycilium.ipam.cluster_pool import REST_S

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


def pool(*cidrs: str, mask: int = 24) -> CidrPool:
    return CidrPool([ip_network(cidr) for cidr in cidrs], mask)


def node(name: str, *cidrs: str, age: int = 0, addresses: tuple[str, ...] = ()) -> NodeClaim:
    return NodeClaim(
        name, EPOCH - timedelta(days=age), tuple(map(ip_network, cidrs)), tuple(map(ip_address, addresses))
    )


def given_by(plan) -> dict[str, list[str]]:
    return {name: [str(cidr) for cidr in cidrs] for name, cidrs in plan.given.items()}


def test_a_node_gets_one_of_each_family():
    cluster = ClusterPool([pool("10.0.0.0/16"), pool("fd00::/104", mask=120)])

    plan = cluster.plan([node("a"), node("b")], 0)

    assert given_by(plan) == {"a": ["10.0.0.0/24", "fd00::/120"], "b": ["10.0.1.0/24", "fd00::100/120"]}
    assert plan.problems == {}


def test_what_nodes_have_is_theirs_after_a_restart():
    plan = ClusterPool([pool("10.0.0.0/22")]).plan([node("b", "10.0.1.0/24"), node("c"), node("d")], 0)

    assert given_by(plan) == {"c": ["10.0.2.0/24"], "d": ["10.0.3.0/24"]}


def test_a_pool_grows_by_further_cidrs_and_what_was_given_stays():
    small = ClusterPool([pool("10.0.0.0/24")])
    nodes = [node("a", "10.0.0.0/24"), node("b")]

    exhausted = small.plan(nodes, 0)
    grown = ClusterPool([pool("10.0.0.0/24", "10.9.0.0/23")]).plan(nodes, 0)

    assert given_by(exhausted) == {}
    assert exhausted.problems["b"] == (
        "no IPv4 pod CIDR is left in 10.0.0.0/24: 1 of 1 are in use; append a CIDR to cluster_pool_ipv4_cidrs",
    )
    assert given_by(grown) == {"b": ["10.9.0.0/24"]}
    assert grown.problems == {}


def test_a_cidr_rests_before_another_node_gets_it():
    cluster = ClusterPool([pool("10.0.0.0/24")])
    cluster.plan([node("a", "10.0.0.0/24")], 0)

    before = cluster.plan([node("b")], 100)
    after = cluster.plan([node("b")], 100 + REST_S)

    assert before.given == {}
    assert "1 rest before they are given out again" in before.problems["b"][0]
    assert before.next_due_s == 100 + REST_S
    assert given_by(after) == {"b": ["10.0.0.0/24"]}
    assert after.problems == {}


def test_a_node_that_comes_back_gets_its_resting_cidr_at_once():
    cluster = ClusterPool([pool("10.0.0.0/24")])
    cluster.plan([node("a", "10.0.0.0/24")], 0)
    cluster.plan([], 10)

    plan = cluster.plan([node("a", "10.0.0.0/24")], 20)

    assert plan.problems == {}
    assert cluster.pools[0].in_use == 1


def test_of_two_nodes_with_one_cidr_the_older_keeps_it_and_the_younger_is_named():
    nodes = [node("young", "10.0.0.0/24"), node("old", "10.0.0.0/24", age=1), node("other")]

    plan = ClusterPool([pool("10.0.0.0/16")]).plan(nodes, 0)

    assert list(plan.problems) == ["young"]
    assert "pod CIDR 10.0.0.0/24 is old's, which had it first" in plan.problems["young"][0]
    assert given_by(plan) == {"other": ["10.0.1.0/24"]}


def test_a_cidr_outside_of_the_pools_is_named_and_kept():
    nodes = [node("a", "192.168.0.0/24"), node("b", "192.168.0.0/25"), node("c")]

    plan = ClusterPool([pool("10.0.0.0/16")]).plan(nodes, 0)

    assert "192.168.0.0/24 lies outside of the pools (10.0.0.0/16)" in plan.problems["a"][0]
    assert "is a's, which had it first" in plan.problems["b"][1]
    assert given_by(plan) == {"c": ["10.0.0.0/24"]}


def test_a_cidr_of_another_size_takes_all_that_it_covers():
    nodes = [node("wide", "10.0.0.0/23"), node("narrow", "10.0.2.128/25"), node("c")]

    plan = ClusterPool([pool("10.0.0.0/22")]).plan(nodes, 0)

    assert given_by(plan) == {"c": ["10.0.3.0/24"]}
    assert plan.problems == {}


def test_no_pod_cidr_holds_a_nodes_address():
    nodes = [node("a", addresses=("10.0.0.7", "192.168.0.1"))]

    plan = ClusterPool([pool("10.0.0.0/23")]).plan(nodes, 0)

    assert given_by(plan) == {"a": ["10.0.1.0/24"]}
    assert "10.0.0.7 overlaps an address of node a" in " ".join(plan.pool_problems)


@pytest.mark.parametrize(
    ("cidrs", "mask", "reason"),
    [
        (["10.0.0.0/16", "10.0.8.0/24"], 24, "overlap"),
        (["10.0.0.0/25"], 24, "no pod CIDRs with a mask of 24"),
        (["10.0.0.0/8"], 31, "no pod CIDRs with a mask of 31"),
        (["fd00::/64"], 120, "use a wider mask"),
    ],
)
def test_pools_that_cannot_be_are_refused(cidrs, mask, reason):
    with pytest.raises(ConfigError, match=reason):
        pool(*cidrs, mask=mask)


_NAMES = st.sampled_from("abcdef")
_CIDRS = st.sampled_from(["10.0.0.0/24", "10.0.1.0/24", "10.0.4.0/23", "10.0.7.128/25", "172.16.0.0/24"])


@given(
    st.lists(
        st.tuples(st.sampled_from(["join", "join with", "leave", "wait", "restart"]), _NAMES, _CIDRS),
        max_size=30,
    )
)
def test_whatever_comes_and_goes_what_is_given_is_nobody_elses(steps):
    """Also across restarts of the operator; and a plan that was carried out has nothing to add."""
    nodes: dict[str, NodeClaim] = {}
    now = 0.0
    cluster = ClusterPool([pool("10.0.0.0/21")])
    for action, name, cidr in steps:
        if action == "join":
            nodes.setdefault(name, node(name, addresses=("10.0.3.9",) if name == "a" else ()))
        elif action == "join with":
            nodes.setdefault(name, node(name, cidr))
        elif action == "leave":
            nodes.pop(name, None)
        elif action == "wait":
            now += REST_S
        else:
            cluster = ClusterPool([pool("10.0.0.0/21")])
        plan = cluster.plan(nodes.values(), now)
        for each, cidrs in plan.given.items():
            others = [other for owner, claim in nodes.items() if owner != each for other in claim.cidrs]
            others += [other for owner, more in plan.given.items() if owner != each for other in more]
            assert not any(one.overlaps(other) for one in cidrs for other in others)
            assert not any(address in one for claim in nodes.values() for address in claim.addresses for one in cidrs)
            nodes[each] = NodeClaim(each, nodes[each].created, (*nodes[each].cidrs, *cidrs), nodes[each].addresses)
        again = cluster.plan(nodes.values(), now)
        assert again.given == {}
        assert again.problems == plan.problems
        conflicting = {
            max(one.name, other.name)
            for one, other in combinations(nodes.values(), 2)
            if any(mine.overlaps(theirs) for mine in one.cidrs for theirs in other.cidrs)
        }
        assert conflicting <= set(plan.problems)


def test_nothing_is_given_while_nobody_knows_what_a_node_has():
    plan = ClusterPool([pool("10.0.0.0/16")]).plan([node("a", "10.0.0.0/24"), node("b")], 0, "CiliumNode c: damaged")

    assert plan.given == {}
    assert plan.problems == {"b": ("no IPv4 pod CIDR can be given out safely: CiliumNode c: damaged",)}

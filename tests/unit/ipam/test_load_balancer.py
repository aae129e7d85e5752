"""LB-IPAM: which Service gets which address of which pool."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycilium.ipam.load_balancer import AddressPool, AddressRequest, Block, Sharing, Unsatisfied, conflicts_of, plan
from pycilium.model.resources import LabelSelector

BORN = datetime(2026, 1, 1, tzinfo=UTC)


def block(text: str) -> Block:
    first, _, last = text.partition("-")
    if "/" in first:
        network = ip_network(first)
        return Block(network.network_address, network.broadcast_address)
    return Block(ip_address(first), ip_address(last or first))


def pool(name: str, *blocks: str, age: int = 0, **options) -> AddressPool:
    return AddressPool(name, tuple(map(block, blocks)), BORN - timedelta(days=age), **options)


def request(
    name: str, *has: str, namespace: str = "default", wanted: str = "", age: int = 0, **options
) -> AddressRequest:
    options.setdefault("ports", frozenset({(80, "TCP")}))
    return AddressRequest(
        namespace=namespace,
        name=name,
        created=BORN - timedelta(days=age),
        has=tuple(map(ip_address, has)),
        wanted=tuple(ip_address(text) for text in wanted.split(",") if text),
        **options,
    )


def given_by(outcome) -> dict[str, list[str]]:
    return {owner: [str(each) for each in addresses] for owner, addresses in outcome.given.items()}


BLUE = pool("blue", "172.18.1.0/30", "fd00:1::1-fd00:1::3")


def test_services_get_the_lowest_free_addresses_the_older_one_first():
    outcome = plan([BLUE], [request("young"), request("old", age=1)])

    assert given_by(outcome) == {"default/old": ["172.18.1.0"], "default/young": ["172.18.1.1"]}
    assert not outcome.unsatisfied
    assert (outcome.pools["blue"].total, outcome.pools["blue"].used, outcome.pools["blue"].available) == (7, 2, 5)


def test_what_a_service_has_it_keeps_whoever_is_older():
    outcome = plan([BLUE], [request("young", "172.18.1.0"), request("old", age=1)])

    assert given_by(outcome) == {"default/old": ["172.18.1.1"], "default/young": ["172.18.1.0"]}


def test_both_families_come_in_the_services_order():
    outcome = plan([BLUE], [request("dual", families=(6, 4))])

    assert given_by(outcome) == {"default/dual": ["fd00:1::1", "172.18.1.0"]}


def test_a_family_that_no_pool_has_is_missed_only_if_it_is_required():
    ipv4 = pool("ipv4", "172.18.1.0/30")
    prefers, requires = request("a", families=(4, 6), all_families=False), request("b", families=(4, 6))

    outcome = plan([ipv4], [prefers, requires])

    assert given_by(outcome) == {"default/a": ["172.18.1.0"], "default/b": ["172.18.1.1"]}
    assert outcome.unsatisfied == {
        "default/b": Unsatisfied("no_pool", "no enabled pool with IPv6 addresses selects the Service")
    }


def test_a_used_up_pool_is_said_with_its_name():
    single = pool("single", "172.18.1.9")

    outcome = plan([single], [request("a"), request("b")])

    assert given_by(outcome) == {"default/a": ["172.18.1.9"], "default/b": []}
    assert outcome.unsatisfied["default/b"] == Unsatisfied(
        "out_of_ips", "no IPv4 address is left in single: add a block, or another pool"
    )


def test_a_pool_serves_those_that_its_selector_matches():
    selector = LabelSelector(match_labels={"color": "red"})
    red = pool("red", "10.9.0.0/30", selector=selector)

    outcome = plan([red, BLUE], [request("a", labels={"color": "red"}), request("b"), request("c", "10.9.0.3")])

    assert given_by(outcome) == {
        "default/a": ["172.18.1.0"],
        "default/b": ["172.18.1.1"],
        "default/c": ["172.18.1.2"],
    }
    outcome = plan([red], [request("a", labels={"color": "red"}), request("b")])
    assert given_by(outcome) == {"default/a": ["10.9.0.0"], "default/b": []}


def test_a_disabled_pool_gives_nothing_and_takes_nothing():
    closed = replace(BLUE, disabled=True)

    outcome = plan([closed], [request("had", "172.18.1.2"), request("new")])

    assert given_by(outcome) == {"default/had": ["172.18.1.2"], "default/new": []}
    assert outcome.unsatisfied["default/new"].reason == "no_pool"


def test_without_its_pool_a_service_loses_its_address():
    assert given_by(plan([pool("other", "10.9.0.0/30")], [request("a", "172.18.1.2")])) == {"default/a": ["10.9.0.0"]}
    assert given_by(plan([], [request("a", "172.18.1.2")])) == {"default/a": []}


def test_of_overlapping_pools_the_one_made_later_gives_nothing():
    older, newer = pool("z", "10.0.0.0/24", age=2), pool("a", "10.0.0.128/25", "10.0.1.0/24", age=1)
    third = pool("c", "10.0.1.0/28")

    assert conflicts_of([older, newer, third]) == {
        "a": "its block 10.0.0.128-10.0.0.255 overlaps 10.0.0.0-10.0.0.255 of pool z, which was made first"
    }
    outcome = plan([third, newer, older], [request("web")])
    assert given_by(outcome) == {"default/web": ["10.0.0.0"]}
    assert outcome.pools["a"].conflict
    assert conflicts_of([pool("self", "10.0.0.0/24", "10.0.0.7")]) == {
        "self": "its blocks 10.0.0.0-10.0.0.255 and 10.0.0.7-10.0.0.7 overlap"
    }


class TestWanted:
    def test_a_service_gets_exactly_what_it_asks_for(self):
        outcome = plan([BLUE], [request("a", wanted="fd00:1::2,172.18.1.3,172.18.1.1", families=(4, 6))])

        assert given_by(outcome) == {"default/a": ["fd00:1::2", "172.18.1.3", "172.18.1.1"]}

    def test_a_wish_goes_before_those_who_take_anything(self):
        outcome = plan([BLUE], [request("any", age=9), request("wish", wanted="172.18.1.0")])

        assert given_by(outcome) == {"default/any": ["172.18.1.1"], "default/wish": ["172.18.1.0"]}

    def test_another_wish_lets_go_of_what_was_had(self):
        assert given_by(plan([BLUE], [request("a", "172.18.1.0", wanted="172.18.1.2")])) == {
            "default/a": ["172.18.1.2"]
        }

    @pytest.mark.parametrize(
        ("wanted", "reason", "words"),
        [
            ("172.18.1.1", "already_allocated", "172.18.1.1 is default/other's"),
            ("10.1.1.1", "not_in_pool", "no enabled pool holds it"),
            ("10.9.0.1", "pool_selector_mismatch", "the serviceSelector of pool red does not select"),
            ("fd00:1::1", "wrong_family", "the Service has no IPv6"),
        ],
    )
    def test_a_wish_that_cannot_be_granted_is_explained_and_nothing_else_given(self, wanted, reason, words):
        red = pool("red", "10.9.0.0/30", selector=LabelSelector(match_labels={"color": "red"}))

        outcome = plan([BLUE, red], [request("a", wanted=wanted), request("other", "172.18.1.1")])

        assert given_by(outcome)["default/a"] == []
        assert outcome.unsatisfied["default/a"].reason == reason
        assert words in outcome.unsatisfied["default/a"].message

    def test_words_that_are_no_addresses_are_named(self):
        outcome = plan([BLUE], [request("a", malformed=("blue",))])

        assert given_by(outcome) == {"default/a": []}
        assert outcome.unsatisfied["default/a"].message.startswith("'blue' is no IP address")


class TestSharing:
    KEY = Sharing(key="k")

    def test_equal_keys_and_different_ports_share_one_address(self):
        http = request("http", sharing=self.KEY)
        tls = request("tls", sharing=self.KEY, ports=frozenset({(443, "TCP")}))
        again = request("udp", sharing=self.KEY, ports=frozenset({(80, "UDP")}))

        outcome = plan([BLUE], [http, tls, again])

        assert set(map(tuple, given_by(outcome).values())) == {("172.18.1.0",)}
        assert outcome.pools["blue"].used == 1

    @pytest.mark.parametrize(
        "other",
        [
            {"sharing": Sharing(key="other")},
            {"sharing": None},
            {"ports": frozenset({(80, "TCP"), (9, "TCP")})},
            {"namespace": "prod"},
            {"namespace": "prod", "sharing": Sharing(key="k", namespaces=frozenset({"default"}))},
            {"backends": (("app", "b"),)},
        ],
    )
    def test_whoever_did_not_agree_gets_an_address_of_its_own(self, other):
        options = {"sharing": self.KEY, "ports": frozenset({(443, "TCP")})} | other

        outcome = plan([BLUE], [request("a", sharing=self.KEY), request("b", **options)])

        assert sorted(given_by(outcome).values()) == [["172.18.1.0"], ["172.18.1.1"]]

    def test_two_namespaces_that_both_agree_share(self):
        a = request("a", sharing=Sharing(key="k", namespaces=frozenset({"*"})))
        b = request(
            "b",
            namespace="prod",
            sharing=Sharing(key="k", namespaces=frozenset({"default"})),
            ports=frozenset({(443, "TCP")}),
        )

        assert given_by(plan([BLUE], [a, b])) == {"default/a": ["172.18.1.0"], "prod/b": ["172.18.1.0"]}

    def test_when_they_no_longer_agree_the_older_one_keeps_the_address(self):
        outcome = plan([BLUE], [request("a", "172.18.1.3"), request("b", "172.18.1.3", age=1)])

        assert given_by(outcome) == {"default/a": ["172.18.1.0"], "default/b": ["172.18.1.3"]}


ADDRESSES = [ip_address(f"10.0.0.{number}") for number in range(8)]
POOLS = st.lists(
    st.builds(
        lambda name, first, length, age, disabled, red: pool(
            name,
            f"{ADDRESSES[first]}-{ADDRESSES[min(first + length, 7)]}",
            age=age,
            disabled=disabled,
            selector=LabelSelector(match_labels={"color": "red"}) if red else None,
        ),
        st.sampled_from("pqr"),
        st.integers(0, 7),
        st.integers(0, 4),
        st.integers(0, 2),
        st.booleans(),
        st.booleans(),
    ),
    max_size=3,
    unique_by=lambda each: each.name,
)
REQUESTS = st.lists(
    st.builds(
        lambda name, age, has, wanted, key, port, red: AddressRequest(
            namespace="default",
            name=name,
            created=BORN - timedelta(days=age),
            has=tuple(has),
            wanted=tuple(wanted),
            sharing=Sharing(key=key) if key else None,
            ports=frozenset({(port, "TCP")}),
            labels={"color": "red"} if red else {},
        ),
        st.sampled_from("abcdef"),
        st.integers(0, 2),
        st.lists(st.sampled_from(ADDRESSES), max_size=2, unique=True),
        st.lists(st.sampled_from(ADDRESSES), max_size=2, unique=True),
        st.sampled_from(["", "", "k"]),
        st.sampled_from([80, 443]),
        st.booleans(),
    ),
    max_size=6,
    unique_by=lambda each: each.name,
)


@given(POOLS, REQUESTS, st.randoms(use_true_random=False))
def test_a_plan_depends_on_no_order_is_stable_and_gives_nothing_twice(pools, requests, random):
    outcome = plan(pools, requests)

    shuffled_pools, shuffled = random.sample(pools, len(pools)), random.sample(requests, len(requests))
    assert plan(shuffled_pools, shuffled) == outcome
    carried_out = [replace(each, has=outcome.given[each.owner]) for each in requests]
    assert plan(pools, carried_out) == outcome
    by_name = {each.owner: each for each in requests}
    for address in ADDRESSES:
        holders = [by_name[owner] for owner, addresses in outcome.given.items() if address in addresses]
        assert all(one.may_share_with(other) for one in holders for other in holders if one is not other)
        assert all(any(address in each and each.selects(one) for each in pools) for one in holders)
    conflicts = conflicts_of(sorted(pools, key=lambda each: (each.created, each.name)))
    for each in requests:
        new = set(outcome.given[each.owner]) - set(each.has)
        offered = [pool for pool in pools if not pool.disabled and pool.name not in conflicts and pool.selects(each)]
        assert all(any(address in pool for pool in offered) for address in new)
        free = [
            address
            for pool in offered
            for address in ADDRESSES
            if address in pool and not any(address in given for given in outcome.given.values())
        ]
        if not each.wanted and not outcome.given[each.owner]:
            assert not free
            assert each.owner in outcome.unsatisfied

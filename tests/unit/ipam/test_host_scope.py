"""Pod addresses of both families, from the node's own CIDRs."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycilium.errors import ConfigError, EndpointConflict, IpamExhausted
from pycilium.ipam import Addresses, HostScope, Pool

V4, V6 = IPv4Network("10.0.0.0/29"), IPv6Network("fd00:10::/125")


def both(last: int) -> Addresses:
    return Addresses(IPv4Address(f"10.0.0.{last}"), IPv6Address(f"fd00:10::{last}"))


class TestPool:
    def test_network_gateway_and_broadcast_are_never_given_out(self):
        pool = Pool(V4)

        given_out = [str(pool.allocate(f"owner{index}")) for index in range(5)]

        assert str(pool.gateway) == "10.0.0.1"
        assert given_out == [f"10.0.0.{last}" for last in (2, 3, 4, 5, 6)]

    def test_ipv6_has_no_broadcast_address(self):
        pool = Pool(V6)

        given_out = [str(pool.allocate(f"owner{index}")) for index in range(pool.capacity)]

        assert str(pool.gateway) == "fd00:10::1"
        assert given_out == [f"fd00:10::{last}" for last in (2, 3, 4, 5, 6, 7)]

    def test_reserved_addresses_are_never_given_out(self):
        pool = Pool(V4, reserved=[IPv4Address("10.0.0.3")])

        assert [str(pool.allocate("a")), str(pool.allocate("b"))] == ["10.0.0.2", "10.0.0.4"]

    def test_exhaustion_names_the_cidr_and_the_counts(self):
        pool = Pool(V4)
        for index in range(5):
            pool.allocate(f"owner{index}")

        with pytest.raises(IpamExhausted, match=r"10\.0\.0\.0/29 .* 5 of 5 are in use"):
            pool.allocate("one more")

    @pytest.mark.parametrize("address", ["10.0.0.0", "10.0.0.1", "10.0.0.7", "10.0.1.2", "fd00:10::2"])
    def test_only_pod_addresses_of_the_cidr_can_be_claimed(self, address):
        with pytest.raises(EndpointConflict, match="is not an address for a pod in"):
            Pool(V4).claim(ip_address(address), "restored")

    @pytest.mark.parametrize("cidr", ["10.0.0.0/31", "10.0.0.0/32", "fd00::/127", "fd00::/128"])
    def test_a_cidr_without_room_for_a_pod_is_refused(self, cidr):
        with pytest.raises(ConfigError, match="has no room for a pod"):
            Pool(ip_network(cidr))

    def test_a_wide_prefix_costs_nothing(self):
        pool = Pool(IPv6Network("fd00::/48"))

        assert str(pool.allocate("first")) == "fd00::2"
        assert pool.capacity == 2**80 - 2


class TestBothFamilies:
    def test_an_owner_gets_one_address_of_each(self):
        assert HostScope(V4, V6).allocate("pod") == both(2)

    def test_asking_again_gives_the_same(self):
        scope = HostScope(V4, V6)

        assert scope.allocate("pod") == scope.allocate("pod")
        assert scope.ipv4.in_use == 1

    def test_a_family_that_is_off_is_none(self):
        assert HostScope(V4, None).allocate("pod") == Addresses(IPv4Address("10.0.0.2"), None)
        assert HostScope(None, V6).allocate("pod") == Addresses(None, IPv6Address("fd00:10::2"))

    def test_both_off_is_refused(self):
        with pytest.raises(ConfigError):
            HostScope(None, None)

    def test_when_one_family_is_exhausted_nothing_of_the_other_is_kept(self):
        scope = HostScope(IPv4Network("10.0.0.0/24"), IPv6Network("fd00::/126"))
        scope.allocate("a")
        scope.allocate("b")

        with pytest.raises(IpamExhausted, match="fd00::/126"):
            scope.allocate("c")

        assert scope.ipv4.in_use == 2
        assert "c" not in scope.held

    def test_what_was_released_can_be_given_out_again(self):
        scope = HostScope(IPv4Network("10.0.0.0/30"), None)
        first = scope.allocate("a")

        assert scope.release("a") == first
        assert scope.release("a") is None
        assert scope.allocate("b") == first

    def test_claims_restore_what_endpoints_have(self):
        scope = HostScope(V4, V6)
        scope.claim("restored", both(4))
        scope.claim("restored", both(4))

        assert scope.allocate("restored") == both(4)
        assert scope.allocate("new") == both(5)

    def test_a_conflicting_claim_takes_nothing(self):
        scope = HostScope(V4, V6)
        scope.claim("first", both(4))

        with pytest.raises(EndpointConflict, match="belongs to first"):
            scope.claim("second", Addresses(both(3).ipv4, both(4).ipv6))

        assert scope.ipv4.owners() == {both(4).ipv4: "first"}

    def test_an_address_of_a_family_that_is_off_now_is_no_conflict(self):
        scope = HostScope(V4, None)

        scope.claim("restored", both(4))

        assert scope.release("restored") == both(4)


@given(st.lists(st.tuples(st.sampled_from(["allocate", "release", "claim"]), st.integers(0, 5), st.integers(2, 6))))
def test_no_address_has_two_owners_and_every_owner_keeps_his(steps):
    scope = HostScope(V4, V6)
    held: dict[str, Addresses] = {}
    for step, who, last in steps:
        owner = f"owner{who}"
        if step == "release":
            assert scope.release(owner) == held.pop(owner, None)
            continue
        try:
            if step == "allocate":
                got = scope.allocate(owner)
                assert held.get(owner, got) == got
                held[owner] = got
            else:
                scope.claim(owner, both(last))
                held[owner] = both(last)
        except (IpamExhausted, EndpointConflict):
            pass
        everything = [address for addresses in held.values() for address in (addresses.ipv4, addresses.ipv6)]
        assert len(everything) == len(set(everything))
        assert dict(scope.held) == held

"""Policies with an arena's addresses in them."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycilium.connectivity.arena import Arena, Peer
from pycilium.connectivity.policies import load, placeholders
from pycilium.errors import NotFound
from tests.unit.connectivity.arenas import arena


def test_an_item_about_the_world_stands_once_for_each_family():
    policy = load("client-egress-to-cidr-external", placeholders(arena()))

    assert policy["spec"]["egress"] == [
        {
            "toCIDRSet": [
                {"cidr": "0.0.0.0/4", "except": ["8.8.8.8/32"]},
                {"cidr": "2000::/5", "except": ["2001:4860:4860::8888/128"]},
            ]
        }
    ]


def test_with_one_family_it_stands_once():
    policy = load("client-egress-to-cidr-external-knp", placeholders(arena(families=("ipv4",))))

    assert policy["spec"]["egress"] == [{"to": [{"ipBlock": {"cidr": "0.0.0.0/4", "except": ["8.8.8.8/32"]}}]}]


@given(st.ip_addresses(v=4), st.ip_addresses(v=4))
def test_the_range_has_both_addresses_and_no_smaller_one_has(one, other):
    peers = tuple(Peer(name, {"kind": "world"}, {"ipv4": (str(each),)}) for name, each in (("a", one), ("b", other)))
    network = ip_network(placeholders(Arena(("ipv4",), peers))["WORLD_CIDR_IPV4"])

    assert one in network
    assert other in network
    assert one == other or not any(one in half and other in half for half in network.subnets())


def test_a_twins_ports_are_ranges_around_the_port():
    policy = load("client-egress-to-echo-port-range", {})

    assert policy["metadata"]["name"] == "client-egress-to-echo-port-range"
    assert policy["spec"]["egress"][0]["toPorts"] == [{"ports": [{"port": "8070", "endPort": 8090, "protocol": "TCP"}]}]


def test_a_policy_that_there_is_not_is_named():
    with pytest.raises(NotFound, match="no-such-policy"):
        load("no-such-policy", {})


def test_addresses_of_the_world_are_told_apart():
    values = placeholders(arena(families=("ipv4",)))

    assert ip_address(values["WORLD_IPV4"]) != ip_address(values["OTHER_WORLD_IPV4"])

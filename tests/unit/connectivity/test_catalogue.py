"""The tests as data: their policies are what agents take, and what they expect is what the APIs say."""

from __future__ import annotations

from functools import cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import pytest

from pycilium.connectivity.arena import NAMESPACE, PORT, PORT_NAME, Peer
from pycilium.connectivity.catalogue import CHECKS, ConnectivityTest, all_tests
from pycilium.connectivity.flows import POLICY_DENIED, POLICY_DENY
from pycilium.connectivity.outcomes import Outcome, expected
from pycilium.connectivity.policies import load, placeholders
from pycilium.connectivity.scenarios import SCENARIOS, Action
from pycilium.model.identity import RESERVED_IDENTITIES, ReservedIdentity
from pycilium.model.labels import pod_labels
from pycilium.model.policy import Direction
from pycilium.model.resources import decode_object
from pycilium.policy import parse_policy
from pycilium.policy.reference import End, Judgement, Options, Verdict, judge
from tests.unit.connectivity.arenas import arena

ARENA = arena()
VALUES = placeholders(ARENA)
BY_NAME = {test.name: test for test in all_tests()}
WITH_POLICIES = [test for test in all_tests() if test.policies]
PROTOCOLS = {("tcp", 4): 6, ("tcp", 6): 6, ("udp", 4): 17, ("udp", 6): 17, ("icmp", 4): 1, ("icmp", 6): 58}
ECHO_REQUEST = {4: 8, 6: 128}


def test_names_are_unique():
    assert len(BY_NAME) == len(all_tests())


def test_every_scenario_is_known():
    assert {name for test in all_tests() for name in test.scenarios} <= SCENARIOS.keys() | CHECKS.keys()


@pytest.mark.parametrize("test", WITH_POLICIES, ids=lambda test: test.name)
def test_its_policies_are_ones_that_agents_take(test: ConnectivityTest):
    for name in test.policies:
        policy = parse_policy(decode_object(load(name, VALUES)))

        assert (policy.key.namespace, policy.key.name) == (NAMESPACE, name)


@pytest.mark.parametrize("test", WITH_POLICIES, ids=lambda test: test.name)
@pytest.mark.parametrize("nodes", [1, 2])
def test_it_expects_what_the_policies_words_say(test: ConnectivityTest, nodes: int):
    """By the reference, which shares nothing with what is written down here."""
    here = arena(nodes)
    for name in test.scenarios:
        for action in SCENARIOS[name].actions(here):
            outcome = expected(test.expectations, action, VALUES)

            assert disagreement(test, action, outcome) == "", f"{action}: {outcome}"


@pytest.mark.parametrize("name", ["client-egress", "client-egress-knp", "echo-ingress", "to-entities-world"])
def test_twins_expect_the_same_of_ranges_of_ports(name: str):
    twin = BY_NAME[f"{name}-port-range"]
    policy = load(twin.policies[-1], VALUES)

    assert twin.scenarios == BY_NAME[name].scenarios
    assert policy["metadata"]["name"].endswith("-port-range")
    assert "endPort" in str(policy["spec"])


@cache
def loaded(names: tuple[str, ...]) -> list[dict[str, Any]]:
    return [load(name, VALUES) for name in names]


def disagreement(test: ConnectivityTest, action: Action, outcome: Outcome) -> str:
    """What the reference says against it; "" if it agrees. A node that sends to its own pods is always let in."""
    resources = loaded(test.policies)
    version = ip_address(action.probe.address).version
    port = ECHO_REQUEST[version] if action.probe.protocol == "icmp" else action.probe.port
    for side, direction in (("egress", Direction.EGRESS), ("ingress", Direction.INGRESS)):
        subject = action.source if side == "egress" else action.destination
        if not subject.is_pod:
            continue
        protocol = PROTOCOLS[action.probe.protocol, version]
        ends = end(action.source, version), end(action.destination, version)
        judged = judge(resources, *ends, direction, protocol, port, OPTIONS)
        denied = {Verdict.DENIED: POLICY_DENY, Verdict.NOT_ALLOWED: POLICY_DENIED}.get(judged.verdict, "")
        if denied:
            return "" if (outcome.denied, outcome.reason) == (side, denied) else f"{side}: {judged.verdict.value}"
        if named := misnamed(outcome, side, judged):
            return named
    return "" if outcome.denied is None else "let through"


def misnamed(outcome: Outcome, side: str, judged: Judgement) -> str:
    """Whether the policy that is to be named has not allowed it."""
    wanted = outcome.policies.get(side)  # type: ignore[call-overload]
    if outcome.denied or not wanted:
        return ""
    return "" if any(wanted in rule for rule in judged.allowing) else f"{side}: allowed by {set(judged.allowing)}"


def end(peer: Peer, version: int) -> End:
    address = ip_address(peer.addresses[f"ipv{version}"][0])
    if peer.is_pod:
        return pod(peer, address)
    number = ReservedIdentity.HOST if peer.kind == "host" else ReservedIdentity.WORLD
    return End(next(each.labels for each in RESERVED_IDENTITIES if each.number == number), address)


def pod(peer: Peer, address: IPv4Address | IPv6Address | None = None) -> End:
    """As grounds make it: with a service account of its own, and a name for the port at which it serves."""
    labels = pod_labels(peer.labels, NAMESPACE, cluster="default", service_account=peer.name)
    return End(labels, address, frozenset({(PORT_NAME, 6, PORT)}) if peer.kind == "echo" else frozenset())


OPTIONS = Options(pods=tuple(pod(peer) for peer in ARENA.peers if peer.is_pod))

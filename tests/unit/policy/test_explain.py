"""`explain` agrees with the oracle, names the deciding rules, and says what the nearest rule lacks."""

import json
from ipaddress import ip_address

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pycilium.model.policy import Direction
from pycilium.policy import Party, PolicyEngine, Reason, entity, outside
from pycilium.policy.reference import Options, Verdict, verdict
from pycilium.testing import policies as gen
from tests.unit.policy.builders import app, cnp, from_apps, np, policy

WEB = Party("default/web", app("web"), ip_address("10.0.0.1"), managed=True)
CLIENT = Party("default/client", app("client"), ip_address("10.0.0.2"), managed=True)
FAR = Party("other/client", app("client", "other"), ip_address("10.0.0.3"), managed=True)
TCP_80 = [{"ports": [{"port": "80", "protocol": "TCP"}]}]


def explain(source, destination, *documents, protocol=6, port=80):
    engine = PolicyEngine()
    engine.update(policies_upserted=[policy(document) for document in documents])
    return engine.explain(source, destination, protocol, port)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(documents=gen.documents(), asked=st.lists(gen.connections(), min_size=10, max_size=30))
def test_agrees_with_the_reference(documents, asked):
    engine = PolicyEngine()
    engine.update(policies_upserted=gen.parsed(documents), identities_upserted=gen.IDENTITIES, ports_changed=gen.PORTS)

    for each in asked:
        subject, peer = each.subject.end, each.peer.end
        source, destination = (peer, subject) if each.direction is Direction.INGRESS else (subject, peer)
        options = Options(pods=gen.ENDS)
        expected = verdict(documents, source, destination, each.direction, each.protocol, each.port, options)

        asked_of = Party(
            each.peer.name, peer.labels, peer.address, identity_ports=engine.named_ports_of(each.peer.identity)
        )
        found = engine.decide(gen.subject_of(each.subject), each.direction, asked_of, each.protocol, each.port)

        assert found.allowed == (expected is Verdict.ALLOWED)
        assert (found.reason is Reason.DENY_RULE) == (expected is Verdict.DENIED)
        assert bool(found.rules) == (found.reason in (Reason.ALLOW_RULE, Reason.DENY_RULE))
        assert found.nearest is None or found.nearest.differences


def test_an_allowed_connection_names_the_rules_of_both_ends():
    found = explain(
        CLIENT,
        WEB,
        cnp("in", endpointSelector={"matchLabels": {"app": "web"}}, ingress=[from_apps("client")]),
        np("out", podSelector={"matchLabels": {"app": "client"}}, policyTypes=["Egress"], egress=[{}]),
    )

    assert str(found).splitlines() == [
        "default/client -> default/web 80/TCP: allowed",
        "  egress of default/client: allowed, a rule allows it",
        "    by default/out egress[0]",
        "  ingress of default/web: allowed, a rule allows it",
        "    by default/in ingress[0]",
    ]


def test_a_denial_by_rule_names_it_and_no_other():
    found = explain(
        CLIENT, WEB, cnp(ingress=[from_apps("client")], ingressDeny=[from_apps("client")], enableDefaultDeny={})
    )

    assert found.ingress is not None
    assert [str(rule) for rule in found.ingress.rules] == ["default/p ingressDeny[0]"]
    assert not found.allowed


def nearest(peer, *items, protocol=6, port=80):
    found = explain(peer, WEB, cnp(ingress=list(items)), protocol=protocol, port=port)
    assert found.ingress is not None
    assert found.ingress.reason is Reason.NO_RULE
    return str(found.ingress.nearest)


CASES = {
    "other port": (CLIENT, {**from_apps("client"), "toPorts": TCP_80}, "it allows 80/TCP and this is 81/TCP"),
    "other label": (CLIENT, from_apps("api"), "the source has app=client and it wants app=api"),
    "other namespace": (
        FAR,
        from_apps("client"),
        "the source is in namespace other and it wants namespace default",
    ),
    "no label": (
        CLIENT,
        {"fromEndpoints": [{"matchLabels": {"role": "x"}}]},
        "the source has no label role and it wants role=x",
    ),
    "label unwanted": (
        CLIENT,
        {"fromEndpoints": [{"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["client"]}]}]},
        "the source has app=client and it wants app other than client",
    ),
    "entity": (CLIENT, {"fromEntities": ["host"]}, "the source is not host"),
    "outside": (
        outside(ip_address("8.8.8.8")),
        {"fromEndpoints": [{}]},
        "the source is not a pod and it wants namespace default",
    ),
    "cidr": (outside(ip_address("8.8.8.8")), {"fromCIDR": ["1.1.1.0/24"]}, "8.8.8.8 is not in 1.1.1.0/24"),
    "excepted": (
        outside(ip_address("8.8.8.8")),
        {"fromCIDRSet": [{"cidr": "8.0.0.0/8", "except": ["8.8.0.0/16"]}]},
        "8.8.8.8 is in the excepted 8.8.0.0/16",
    ),
    "no address": (entity("world"), {"fromCIDR": ["1.1.1.0/24"]}, "it wants an address in 1.1.1.0/24"),
}


class TestNearest:
    @pytest.mark.parametrize(("peer", "item", "difference"), CASES.values(), ids=CASES.keys())
    def test_says_what_differs(self, peer, item, difference):
        assert nearest(peer, item, port=81) == f"default/p ingress[0], but {difference}"

    def test_is_the_rule_with_the_fewest_differences(self):
        found = nearest(
            FAR, {**from_apps("api"), "toPorts": TCP_80}, from_apps("api"), from_apps("client"), {"fromEntities": []}
        )

        assert found.startswith("default/p ingress[2], but the source is in namespace other")

    def test_there_is_none_if_nothing_is_allowed(self):
        found = explain(CLIENT, WEB, cnp(ingress=[{}]))

        assert str(found).splitlines()[2:] == [
            "  ingress of default/web: denied, no rule allows it",
            "    restricted by CiliumNetworkPolicy default/p",
            "    they allow nothing in this direction",
        ]


def test_an_address_outside_has_no_policies_of_its_own():
    found = explain(CLIENT, outside(ip_address("1.1.1.1")), cnp(egress=[{"toCIDR": ["1.1.1.0/24"]}]))

    assert found.ingress is None
    assert found.allowed


def test_the_local_host_reaches_its_pods_by_a_rule_of_that_name():
    found = explain(entity("host"), WEB, cnp(ingress=[{}]))

    assert found.ingress is not None
    assert [str(rule) for rule in found.ingress.rules] == ["the local host always reaches its pods"]


def test_the_answer_is_plain_values():
    found = explain(CLIENT, WEB, cnp(ingress=[from_apps("api")])).to_dict()

    assert json.loads(json.dumps(found)) == found
    assert found["verdict"] == "denied"
    assert found["ingress"]["nearest"]["rule"]["rule"] == "ingress[0]"
    assert found["ingress"]["enforcing"] == [{"kind": "CiliumNetworkPolicy", "namespace": "default", "name": "p"}]

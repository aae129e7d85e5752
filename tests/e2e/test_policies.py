"""Policies of each kind, judged by real packets, by `policy explain` and by what the flows say."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import pytest

from tests.e2e.lab import (
    NODE,
    OTHER_WORLD,
    WORLD,
    Lab,
    Pod,
    answers_udp,
    app,
    connects,
    eventually,
    inside,
    pings,
    policy,
    ports,
    serving,
)

pytestmark = pytest.mark.root
PORT, OTHER_PORT = 8080, 8081


@dataclass(frozen=True)
class Pods:
    web: Pod
    client: Pod
    stranger: Pod
    """Labelled as the client, in another namespace."""


@pytest.fixture(scope="module")
def pods(lab: Lab) -> Iterator[Pods]:
    lab.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "other", "labels": {"team": "other"}}},
    )
    made = Pods(
        web=lab.add_pod("web", app="web"),
        client=lab.add_pod("client", app="client"),
        stranger=lab.add_pod("stranger", "other", app="client"),
    )
    with serving(made.web.netns, PORT, OTHER_PORT), serving(lab.world_netns, PORT), serving(lab.node_netns, PORT):
        yield made


def reaches(source: str, address: str, port: int = PORT) -> bool:
    return connects(source, address, port, timeout_s=0.25)


def settles(source: str, address: str, allowed: bool, port: int = PORT) -> bool:
    """Whether a connection becomes possible, or impossible, soon after a change."""
    return eventually(lambda: reaches(source, address, port), allowed)


class TestIngress:
    def test_only_the_peers_of_a_rule_get_in_on_its_port(self, clean_lab, pods):
        clean_lab.apply(
            policy(
                "web",
                endpointSelector=app("web"),
                ingress=[{"fromEndpoints": [app("client")], "toPorts": ports(f"{PORT}/TCP")}],
            )
        )

        for version in (4, 6):
            address = pods.web.address[version]
            assert settles(pods.client.netns, address, True)
            assert settles(pods.stranger.netns, address, False)  # a selector means its own namespace
            assert not reaches(pods.client.netns, address, OTHER_PORT)
            assert not answers_udp(pods.client.netns, address, PORT)
            assert not pings(pods.client.netns, address)

    def test_the_node_reaches_its_pods_whatever_they_allow(self, clean_lab, pods):
        clean_lab.apply(policy("web", endpointSelector=app("web"), ingress=[{}]))

        assert settles(pods.client.netns, pods.web.address[4], False)
        assert reaches(clean_lab.node_netns, pods.web.address[4])
        assert reaches(clean_lab.node_netns, pods.web.address[6])

    def test_a_namespace_is_selected_by_its_labels(self, clean_lab, pods):
        clean_lab.apply(
            policy(
                "web",
                kind="NetworkPolicy",
                podSelector=app("web"),
                ingress=[{"from": [{"namespaceSelector": {"matchLabels": {"team": "other"}}}]}],
            )
        )

        assert settles(pods.client.netns, pods.web.address[4], False)
        assert settles(pods.stranger.netns, pods.web.address[4], True)

    def test_expressions_select_as_labels_do(self, clean_lab, pods):
        expressions = [{"key": "app", "operator": "NotIn", "values": ["client"]}]
        clean_lab.apply(
            policy("web", endpointSelector=app("web"), ingress=[{"fromEndpoints": [{"matchExpressions": expressions}]}])
        )

        assert settles(pods.client.netns, pods.web.address[6], False)

    def test_a_range_of_ports_is_allowed_whole(self, clean_lab, pods):
        clean_lab.apply(
            policy("web", endpointSelector=app("web"), ingress=[{"toPorts": ports(f"{PORT - 80}-{PORT}/TCP")}])
        )

        assert settles(pods.client.netns, pods.web.address[4], False, OTHER_PORT)
        assert reaches(pods.client.netns, pods.web.address[4], PORT)

    def test_icmp_is_allowed_by_type(self, clean_lab, pods):
        icmps = [{"fields": [{"family": "IPv4", "type": "EchoRequest"}]}]
        clean_lab.apply(policy("web", endpointSelector=app("web"), ingress=[{"icmps": icmps}]))

        assert settles(pods.client.netns, pods.web.address[4], False)
        assert pings(pods.client.netns, pods.web.address[4])
        assert not pings(pods.client.netns, pods.web.address[6])


class TestEgress:
    def test_only_the_named_peers_can_be_reached(self, clean_lab, pods):
        clean_lab.apply(policy("client", endpointSelector=app("client"), egress=[{"toEndpoints": [app("web")]}]))

        assert settles(pods.client.netns, WORLD[4], False)
        assert not reaches(pods.client.netns, NODE[6])
        assert reaches(pods.client.netns, pods.web.address[4])
        assert reaches(pods.stranger.netns, WORLD[4])  # the policy is of another namespace

    @pytest.mark.parametrize(
        ("entities", "world", "host", "pod"),
        [
            (["world"], True, False, False),
            (["host"], False, True, False),
            (["cluster"], False, True, True),
            (["all"], True, True, True),
            (["none"], False, False, False),
        ],
        ids=lambda value: value[0] if isinstance(value, list) else None,
    )
    def test_entities(self, clean_lab, pods, entities, world, host, pod):
        clean_lab.apply(policy("client", endpointSelector=app("client"), egress=[{"toEntities": entities}]))

        for version in (4, 6):
            assert settles(pods.client.netns, WORLD[version], world)
            assert settles(pods.client.netns, NODE[version], host)
            assert settles(pods.client.netns, pods.web.address[version], pod)

    def test_a_cidr_has_exceptions(self, clean_lab, pods):
        sets = [{"cidr": "0.0.0.0/0", "except": ["8.8.0.0/16"]}, {"cidr": "2001:4860::/32"}]
        clean_lab.apply(policy("client", endpointSelector=app("client"), egress=[{"toCIDRSet": sets}]))

        assert settles(pods.client.netns, OTHER_WORLD[4], False)
        assert reaches(pods.client.netns, WORLD[4])
        assert reaches(pods.client.netns, OTHER_WORLD[6])
        assert not reaches(pods.client.netns, WORLD[6])
        assert reaches(pods.client.netns, pods.web.address[4])  # pods have addresses too, as the API says

    def test_an_ip_block_of_a_network_policy(self, clean_lab, pods):
        clean_lab.apply(
            policy(
                "client",
                kind="NetworkPolicy",
                podSelector=app("client"),
                policyTypes=["Egress"],
                egress=[{"to": [{"ipBlock": {"cidr": "1.1.1.0/24"}}], "ports": [{"port": PORT, "protocol": "TCP"}]}],
            )
        )

        assert settles(pods.client.netns, OTHER_WORLD[4], False)
        assert reaches(pods.client.netns, WORLD[4])
        assert not reaches(pods.client.netns, WORLD[4], 80)


class TestDeny:
    def test_a_deny_rule_beats_every_allow_rule(self, clean_lab, pods):
        clean_lab.apply(
            policy("open", endpointSelector=app("web"), ingress=[{"fromEntities": ["all"]}]),
            policy("shut", endpointSelector=app("web"), ingressDeny=[{"fromEndpoints": [app("client")]}]),
        )

        assert settles(pods.client.netns, pods.web.address[4], False)
        assert reaches(pods.stranger.netns, pods.web.address[4])

    def test_a_guardrail_for_the_whole_cluster_denies_only_what_it_names(self, clean_lab, pods):
        clean_lab.apply(
            policy(
                "guardrail",
                kind="CiliumClusterwideNetworkPolicy",
                endpointSelector={},
                enableDefaultDeny={"egress": False, "ingress": False},
                egressDeny=[{"toCIDR": ["8.8.8.8/32"]}],
            )
        )

        for pod in (pods.client, pods.stranger):
            assert settles(pod.netns, OTHER_WORLD[4], False)
            assert reaches(pod.netns, WORLD[4])
            assert reaches(pod.netns, OTHER_WORLD[6])


class TestChange:
    def test_revoking_a_rule_cuts_the_connection_that_it_had_allowed(self, clean_lab, pods):
        clean_lab.apply(policy("web", endpointSelector=app("web"), ingress=[{"fromEndpoints": [app("client")]}]))
        assert settles(pods.client.netns, pods.web.address[4], True)
        with opened(pods.client, pods.web) as connection:
            assert echoed(connection)

            clean_lab.apply(policy("web", endpointSelector=app("web"), ingress=[{"fromEndpoints": [app("nobody")]}]))

            assert eventually(lambda: echoed(connection), False)

    def test_a_connection_survives_changes_that_still_allow_it(self, clean_lab, pods):
        clean_lab.apply(policy("web", endpointSelector=app("web"), ingress=[{"fromEndpoints": [app("client")]}]))
        assert settles(pods.stranger.netns, pods.web.address[4], False)
        with opened(pods.client, pods.web) as connection:
            assert echoed(connection)

            clean_lab.apply(policy("web", endpointSelector=app("web"), ingress=[{"fromEntities": ["cluster"]}]))

            assert settles(pods.stranger.netns, pods.web.address[4], True)
            assert echoed(connection, timeout_s=2)

    def test_a_relabelled_pod_is_judged_by_what_it_is_now(self, clean_lab, pods):
        clean_lab.apply(policy("web", endpointSelector=app("web"), ingress=[{"fromEndpoints": [app("client")]}]))
        assert settles(pods.client.netns, pods.web.address[4], True)
        try:
            clean_lab.cilium("lab", "pod", "label", "client", "app=other")
            assert settles(pods.client.netns, pods.web.address[4], False)
        finally:
            clean_lab.cilium("lab", "pod", "label", "client", "app=client")

        assert settles(pods.client.netns, pods.web.address[4], True)

    def test_relabelling_a_namespace_counts_for_its_pods(self, clean_lab, pods):
        clean_lab.apply(
            policy(
                "web",
                kind="NetworkPolicy",
                podSelector=app("web"),
                ingress=[{"from": [{"namespaceSelector": {"matchLabels": {"stage": "live"}}}]}],
            )
        )
        assert settles(pods.stranger.netns, pods.web.address[4], False)
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "other"}}

        clean_lab.apply(namespace | {"metadata": {"name": "other", "labels": {"team": "other", "stage": "live"}}})

        assert settles(pods.stranger.netns, pods.web.address[4], True)
        clean_lab.apply(namespace | {"metadata": {"name": "other", "labels": {"team": "other"}}})

    def test_deleting_the_last_policy_opens_everything_again(self, clean_lab, pods):
        clean_lab.apply(policy("web", endpointSelector=app("web"), ingress=[{}]))
        assert settles(pods.client.netns, pods.web.address[4], False)

        clean_lab.cilium("delete", "cnp", "web")

        assert settles(pods.client.netns, pods.web.address[4], True)


class TestSaid:
    """What users are told is what the packets meet."""

    def test_explain_names_the_rule_that_allows(self, clean_lab, pods):
        clean_lab.apply(policy("web", endpointSelector=app("web"), ingress=[{"fromEndpoints": [app("client")]}]))
        assert settles(pods.stranger.netns, pods.web.address[4], False)

        answer = explain(clean_lab, "client", "web", f"{PORT}/TCP")

        assert answer["verdict"] == "allowed"
        assert any(
            "default/web ingress[0]" in rule["text"]
            for decision in answer["decisions"]
            for rule in decision.get("rules", [])
        )

    def test_explain_names_the_nearest_rule_of_an_implicit_deny(self, clean_lab, pods):
        clean_lab.apply(
            policy(
                "web",
                endpointSelector=app("web"),
                ingress=[{"fromEndpoints": [app("client")], "toPorts": ports(f"{PORT}/TCP")}],
            )
        )
        assert settles(pods.client.netns, pods.web.address[4], False, OTHER_PORT)

        answer = explain(clean_lab, "client", "web", f"{OTHER_PORT}/TCP")

        assert answer["verdict"] == "denied"
        (nearest,) = [decision["nearest"] for decision in answer["decisions"] if decision.get("nearest")]
        assert "default/web ingress[0]" in nearest["text"]

    def test_a_denied_flow_says_why_and_an_allowed_one_by_which_policy(self, clean_lab, pods):
        clean_lab.apply(
            policy(
                "web",
                endpointSelector=app("web"),
                ingress=[{"fromEndpoints": [app("client")], "toPorts": ports(f"{PORT}/TCP")}],
                ingressDeny=[{"fromEndpoints": [app("client")], "toPorts": ports(f"{OTHER_PORT}/TCP")}],
            )
        )
        assert settles(pods.client.netns, pods.web.address[4], False, OTHER_PORT)
        assert reaches(pods.client.netns, pods.web.address[4], PORT)

        denied = flows(clean_lab, "--verdict", "DROPPED", "--port", str(OTHER_PORT))
        allowed = flows(clean_lab, "--type", "policy-verdict", "--verdict", "FORWARDED", "--port", str(PORT))

        assert any("web" in names(flow, "ingress_denied_by") for flow in denied)
        assert any(flow.get("drop_reason_desc") == "POLICY_DENY" for flow in denied)
        assert any("web" in names(flow, "ingress_allowed_by") for flow in allowed)


def opened(client: Pod, server: Pod) -> socket.socket:
    return inside(client.netns, lambda: socket.create_connection((server.address[4], PORT), timeout=2))


def echoed(connection: socket.socket, timeout_s: float = 0.3) -> bool:
    connection.settimeout(timeout_s)
    with suppress(OSError):
        connection.sendall(b"x")
        return connection.recv(65536) != b""
    return False


def explain(lab: Lab, source: str, destination: str, port: str) -> dict:
    return lab.json("cilium", "policy", "explain", "--from", source, "--to", destination, "--port", port)


def flows(lab: Lab, *filters: str) -> list[dict]:
    lines = lab.run("hubble", "observe", "--last", "50", "-o", "jsonpb", *filters).stdout.splitlines()
    return [json.loads(line)["flow"] for line in lines if "flow" in line]


def names(flow: dict, field: str) -> set[str]:
    return {policy["name"] for policy in flow.get(field, [])}

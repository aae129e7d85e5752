"""What is read in agents' answers."""

from __future__ import annotations

import json

from pycilium.connectivity import agents


def test_policies_of_the_tests_namespace_alone_count():
    listed = [
        {"metadata": {"name": "mine", "namespace": "cilium-test-1"}},
        {"metadata": {"name": "web", "namespace": "default"}},
        {"metadata": {"name": "all"}},
    ]

    assert agents.policies_in_force({"revision": 3, "policy": json.dumps(listed)}) == {"mine"}
    assert agents.policies_in_force({"revision": 1, "policy": ""}) == set()


def test_an_address_is_known_once_it_has_a_pods_identity():
    listed = [{"cidr": "10.0.1.2/32", "identity": 40000}, {"cidr": "10.0.2.3/32", "identity": 3}]

    assert agents.unknown_addresses(listed, ["10.0.1.2", "10.0.2.3", "10.0.2.4"]) == ["10.0.2.3", "10.0.2.4"]


def test_a_frontend_needs_somebody_behind_it():
    frontend = {"ip": "10.96.0.1", "port": 8080}
    served = {"spec": {"frontend-address": frontend, "backend-addresses": [{"ip": "10.0.1.5", "port": 8080}]}}
    empty = {"spec": {"frontend-address": {**frontend, "ip": "10.96.0.2"}, "backend-addresses": []}}

    wanted = [("10.96.0.1", 8080), ("10.96.0.2", 8080), ("10.96.0.3", 8080)]

    assert agents.frontends_without_backends([served, empty], wanted) == wanted[1:]


def test_only_drops_that_came_since_and_say_of_a_fault_are_unexpected():
    def answer(denied: int, untunnelled: int) -> dict[str, int]:
        return agents.drops(
            {
                "cache": [
                    {"key": "reason=0 (Success) direction=egress", "value": "packets=9 bytes=9"},
                    {"key": "reason=133 (Policy denied) direction=egress", "value": f"packets={denied} bytes=1"},
                    {"key": "reason=160 (No tunnel) direction=egress", "value": f"packets={untunnelled} bytes=1"},
                    {"key": "reason=160 (No tunnel) direction=ingress", "value": "packets=2 bytes=1"},
                ]
            }
        )

    assert agents.unexpected_drops(answer(1, 5), answer(9, 5)) == {}
    assert agents.unexpected_drops(answer(1, 5), answer(9, 8)) == {"No tunnel": 3}


def test_health_tells_each_path_that_is_closed_and_nodes_that_are_missing():
    path = {"ip": "172.18.0.12", "icmp": {"latency": 1}, "http": {"status": "Connection timed out"}}
    report = {"nodes": [{"name": "node2", "host": {"primary-address": path}, "health-endpoint": None}]}

    assert agents.unhealthy(report, 2) == [
        "1 of 2 nodes are known",
        "host 172.18.0.12 of node2 by http: Connection timed out",
    ]

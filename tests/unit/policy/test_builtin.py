"""What health endpoints admit whatever users say."""

from __future__ import annotations

import pytest

from pycilium.model.identity import HEALTH
from pycilium.model.labels import Labels
from pycilium.policy import Party, PolicyEngine, entity
from pycilium.policy.builtin import HEALTH_POLICY
from pycilium.testing.policies import parsed

TCP, PORT = 6, 4240
HEALTH_ENDPOINT = Party("health endpoint", HEALTH.labels, managed=True)
POD = Party("pod", Labels.parse("k8s:app=web", "k8s:io.kubernetes.pod.namespace=default"))


def clusterwide(**spec):
    document = {"apiVersion": "cilium.io/v2", "kind": "CiliumClusterwideNetworkPolicy", "metadata": {"name": "p"}}
    return parsed([{**document, "spec": spec}])[0]


def admits(peer: Party, *policies) -> bool:
    engine = PolicyEngine()
    engine.update(policies_upserted=[HEALTH_POLICY, *policies])
    return engine.explain(peer, HEALTH_ENDPOINT, TCP, PORT).ingress.allowed


OF_HEALTH = {"matchExpressions": [{"key": "reserved:health", "operator": "Exists"}]}
NOBODY_GETS_IN = {"endpointSelector": OF_HEALTH, "ingress": [{"fromEntities": ["none"]}]}


@pytest.mark.parametrize("name", ["host", "remote-node", "health"])
def test_a_policy_that_lets_nobody_in_lets_nodes_and_health_endpoints_in(name):
    assert admits(entity(name), clusterwide(**NOBODY_GETS_IN))


def test_others_are_judged_as_anywhere():
    assert admits(POD)
    assert not admits(POD, clusterwide(**NOBODY_GETS_IN))


def test_a_policy_of_all_pods_says_nothing_of_health_endpoints():
    assert admits(POD, clusterwide(endpointSelector={}, ingress=[{"fromEntities": ["none"]}]))


def test_a_deny_rule_has_the_last_word():
    assert not admits(
        entity("remote-node"), clusterwide(endpointSelector=OF_HEALTH, ingressDeny=[{"fromEntities": ["remote-node"]}])
    )

"""The entity kube-apiserver in a Kubernetes cluster, where the Service `kubernetes` leads to the node itself."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycilium.model.labels import Label, Labels
from pycilium.services import slice_view
from tests.unit.agent.nodes.test_cluster import SETTINGS, A, Agent, B, held_ipcache, started
from tests.unit.agent.service_node import slice_of
from tests.unit.agent.test_controller import Kernel

OWN, OF_B, OUTSIDE = "192.168.0.1", "192.168.0.3", "203.0.113.7"
HOST = Labels([Label("reserved", "host")])
HOST_SERVING = Labels([Label("reserved", "host"), Label("reserved", "kube-apiserver")])


@pytest.fixture
def agent():
    return made()


def made() -> Agent:
    agent = started(Kernel(), SETTINGS)
    with agent.intent.db.write() as txn:
        for node in (A, B):
            txn.insert(agent.intent.nodes, node)
    agent.run()
    return agent


def serve(agent: Agent, *addresses: str, service: str = "kubernetes") -> None:
    """The slices of a Service lead here now; without addresses they are gone."""
    with agent.intent.db.write() as txn:
        for family in ("ipv4", "ipv6"):
            txn.delete(agent.intent.slices, ("default", f"{service}-{family}"))
        if addresses:
            txn.insert(agent.intent.slices, slice_view(slice_of(service, *addresses)))
    agent.run()


def test_a_policy_for_kube_apiserver_reaches_the_one_on_the_pods_own_node(agent):
    serve(agent, OWN)

    assert agent.engine.labels_of(1) == HOST_SERVING
    assert held_ipcache(agent)[ip_network(OWN)] == (1, "")


def test_a_node_that_serves_no_more_is_a_host_like_others(agent):
    serve(agent, OWN, OF_B)
    serve(agent, OF_B)

    assert agent.engine.labels_of(1) == HOST


def test_other_services_make_no_api_server(agent):
    serve(agent, OWN, service="web")

    assert agent.engine.labels_of(1) == HOST


@given(st.lists(st.lists(st.sampled_from((OWN, OF_B, OUTSIDE)), unique=True), max_size=4))
def test_what_the_kernel_has_depends_on_who_serves_now_and_not_on_who_did(served):
    agent, fresh = made(), made()

    for addresses in served:
        serve(agent, *addresses)
    serve(fresh, *(served[-1] if served else ()))

    assert held_ipcache(agent) == held_ipcache(fresh)
    assert agent.engine.labels_of(1) == fresh.engine.labels_of(1)
    assert agent.targets.bits.tracker.realized == fresh.targets.bits.tracker.realized

"""A lab whose store is etcd: it works as any other, and goes on while etcd is away."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from tests.e2e.lab import Lab, Pod, app, connects, eventually, policy, serving

pytestmark = pytest.mark.root
PORT = 8080
CAUGHT_UP_S = 30.0
"""How long agents may take to ask again after an outage."""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    lab = Lab(f"e2e-{secrets.token_hex(3)}")
    lab.cilium("lab", "up", "--nodes", "2", "--store", "etcd")
    yield lab
    lab.down()


@pytest.fixture(scope="module")
def pods(lab: Lab) -> Iterator[tuple[Pod, Pod]]:
    client, server = (
        lab.add_pod("client", node="node1", app="client"),
        lab.add_pod("server", node="node2", app="server"),
    )
    with serving(server.netns, PORT):
        assert eventually(lambda: connects(client.netns, server.address[4], PORT), timeout_s=CAUGHT_UP_S)
        yield client, server


def test_its_state_is_told(lab, pods):
    assert lab.json("cilium", "lab", "status")["store_state"] == "running"


@pytest.mark.parametrize("outage", [("kill", "start"), ("cut", "heal")], ids=["killed", "cut off"])
def test_traffic_goes_on_while_it_is_away_and_what_changed_is_in_force_when_it_is_back(lab, pods, outage):
    client, server = pods
    begin, end = outage
    try:
        lab.cilium("lab", "store", begin)
        assert connects(client.netns, server.address[4], PORT)
    finally:
        lab.cilium("lab", "store", end)
    lab.apply(policy("server", endpointSelector=app("server"), ingress=[{"fromEndpoints": [app("nobody")]}]))

    assert eventually(lambda: connects(client.netns, server.address[4], PORT, 0.3), wanted=False, timeout_s=CAUGHT_UP_S)

    lab.cilium("delete", "cnp", "server")
    assert eventually(lambda: connects(client.netns, server.address[4], PORT), timeout_s=CAUGHT_UP_S)


def test_a_pod_of_known_labels_starts_while_it_is_away(lab, pods):
    _, server = pods
    lab.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "late", "labels": {"app": "client"}}})
    assert lab.json("cilium", "get", "pod", "late")
    try:
        lab.cilium("lab", "store", "stop")
        lab.cilium("lab", "pod", "add", "late", "--existing", "--node", "node1")
        assert connects(f"cilium-{lab.name}-default.late", server.address[4], PORT)
    finally:
        lab.cilium("lab", "store", "start")
    lab.cilium("lab", "pod", "rm", "late")

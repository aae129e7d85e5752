"""A lab whose pod CIDRs an operator gives out, and whose operators come and go."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from tests.e2e.lab import Lab, connects, eventually, serving

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    lab = Lab(f"e2e-op-{secrets.token_hex(3)}")
    lab.cilium("lab", "up", "--ipam", "cluster-pool")
    yield lab
    lab.down()


def operators(lab: Lab) -> dict[str, bool]:
    return {row["name"]: row["leads"] for row in lab.json("cilium", "lab", "operator", "status")}


def test_pods_have_addresses_of_the_cluster_pool_and_reach_one_another(lab):
    client, server = lab.add_pod("client"), lab.add_pod("server")

    with serving(server.netns, 8080):
        assert eventually(lambda: connects(client.netns, server.address[4], 8080, 1.0), True)
        assert eventually(lambda: connects(client.netns, server.address[6], 8080, 1.0), True)
    assert client.address[4].startswith("10.64.0.")
    assert client.address[6].startswith("fd00:10:64::")


def test_who_leads_is_shown_and_who_ends_hands_over(lab):
    lab.cilium("lab", "operator", "start", "operator2")
    before = operators(lab)
    lab.cilium("lab", "operator", "stop", "operator1")

    assert before == {"operator1": True, "operator2": False}
    assert eventually(lambda: operators(lab) == {"operator1": False, "operator2": True}, timeout_s=30)

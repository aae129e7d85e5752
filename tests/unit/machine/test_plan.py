"""What an installation consists of."""

from __future__ import annotations

import json

import pytest

from pycilium.agent.config import AgentConfig
from pycilium.machine import plan
from pycilium.machine.preflight import node_name


@pytest.mark.parametrize(
    ("exclusive", "aside"),
    [(False, ["01-bridge.conf", "04-x.json"]), (True, ["01-bridge.conf", "04-x.json", "87-podman-bridge.conflist"])],
)
def test_what_runtimes_would_use_before_ours_goes_aside_and_the_rest_where_that_is_wanted(exclusive, aside):
    names = [
        "87-podman-bridge.conflist",
        "05-cilium.conflist",
        "01-bridge.conf",
        "04-x.json",
        "README",
        "00-x.cilium_bak",
    ]
    assert plan.set_aside(names, exclusive=exclusive) == aside


def test_what_is_set_goes_before_what_was_there_and_that_before_what_was_found_out():
    file = plan.config(
        {"devices": ["eth1"], "node_name": "mine"}, {"node_name": "vm", "cgroup_root": None}, {"devices": []}
    )
    assert json.loads(file.content) == {"node_name": "mine", "cgroup_root": None, "devices": []}


@pytest.mark.parametrize(("host", "name"), [("vm", "vm"), ("My_Host.local", "my-host.local"), ("--", "machine")])
def test_a_node_is_called_as_its_host_in_letters_of_objects_names(host, name):
    assert node_name(host) == name


@pytest.mark.parametrize(
    ("store", "state", "wanted"),
    [
        ("etcd://10.0.0.1:2379", {"had_one": False, "is_new": True, "asked": None}, True),
        ("sqlite:////var/lib/cilium/store.db", {"had_one": False, "is_new": True, "asked": None}, False),
        ("sqlite:////var/lib/cilium/store.db", {"had_one": False, "is_new": False, "asked": True}, True),
        ("etcd://10.0.0.1:2379", {"had_one": False, "is_new": False, "asked": None}, False),
        ("etcd://10.0.0.1:2379", {"had_one": True, "is_new": False, "asked": False}, False),
        ("sqlite:////var/lib/cilium/store.db", {"had_one": True, "is_new": False, "asked": None}, True),
    ],
)
def test_an_operator_comes_with_a_store_that_machines_share_and_stays_as_it_was(store, state, wanted):
    assert plan.wants_operator(AgentConfig(node_name="vm", store=store), **state) is wanted


def test_an_operator_has_the_agents_store_and_gives_pod_cidrs_only_where_nodes_ask_for_them():
    store = "etcd://10.0.0.1:2379"
    own, pooled = (AgentConfig(node_name="vm", store=store, ipam=ipam) for ipam in ("host-scope", "cluster-pool"))

    assert json.loads(plan.operator_config({}, own).content) == {
        "name": "vm",
        "cluster_pool_ipv4_cidrs": [],
        "cluster_pool_ipv6_cidrs": [],
        "store": store,
    }
    written = {"node_grace_s": 60, "store": "etcd://10.0.0.9:2379"}
    assert json.loads(plan.operator_config(written, pooled).content) == {
        "name": "vm",
        "node_grace_s": 60,
        "store": store,
    }

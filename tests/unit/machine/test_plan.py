"""What an installation consists of."""

from __future__ import annotations

import json

import pytest

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

"""What a change of the routing mode costs is said before it is made."""

import msgspec
import pytest

from pycilium.errors import ConfigError
from pycilium.lab.layout import PodRecord
from pycilium.lab.plan import UpOptions, plan
from pycilium.lab.switching import consequences


def pod(name, node):
    return PodRecord(name=name, namespace="default", node=node, netns=name, container_id=name)


PODS = [pod("a", "node1"), pod("b", "node2"), pod("c", "node2")]


def test_the_mode_that_a_lab_is_in_costs_nothing():
    assert consequences(plan(UpOptions(node_count=2)), "tunnel", PODS) == ()


def test_to_native_pods_get_larger_packets_and_the_underlay_must_carry_their_addresses():
    said = consequences(plan(UpOptions(node_count=2, ip_families=("ipv4",))), "native", PODS)

    assert said[0] == (
        "The MTU of pods goes from 1450 to 1500 bytes: connections of 3 running pods go on with the smaller packets "
        "that they know; new ones use the room."
    )
    assert "packets between pods of different nodes are lost for seconds" in said[1]
    assert "node1 (1), node2 (2)" in said[1]
    assert "it must carry 10.0.1.0/24, 10.0.2.0/24 to the nodes" in said[2]


def test_to_tunnel_pods_get_smaller_packets_and_nodes_need_a_port():
    said = consequences(
        plan(UpOptions(routing_mode="native", underlay_family="ipv4", ip_families=("ipv4",))), "tunnel", []
    )

    assert said[0].startswith(
        "The MTU of pods goes from 1500 to 1450 bytes: connections of 0 running pods that send larger"
    )
    assert said[1].startswith("Nothing is cut: there is one node")
    assert "UDP to port 8472" in said[2]


def test_what_cannot_work_is_refused_instead_of_explained():
    record = msgspec.structs.replace(plan(UpOptions(node_count=2)), underlay_family="ipv4")

    with pytest.raises(ConfigError, match="pods have ipv6"):
        consequences(record, "native", PODS)

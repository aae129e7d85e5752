"""What users see of a node's health: the commands, the health endpoint, and how to switch it off."""

from __future__ import annotations

import json
import re

import pytest

from tests.e2e.lab import Lab, connects, eventually, pings, policy

pytestmark = pytest.mark.root
HEALTH_ENDPOINT = {4: "10.0.1.254", 6: "fd00:10:0:1::ffff"}
PORT = 4240
EVERYTHING_ANSWERS = """\
Probe time:   {time}
Nodes:
  node1 (localhost):
    Host connectivity to 172.18.0.11:
      ICMP to stack:   OK, RTT={rtt}
      HTTP to agent:   OK, RTT={rtt}
    Host connectivity to fd00:172:18::11:
      ICMP to stack:   OK, RTT={rtt}
      HTTP to agent:   OK, RTT={rtt}
    Endpoint connectivity to 10.0.1.254:
      ICMP to stack:   OK, RTT={rtt}
      HTTP to agent:   OK, RTT={rtt}
    Endpoint connectivity to fd00:10:0:1::ffff:
      ICMP to stack:   OK, RTT={rtt}
      HTTP to agent:   OK, RTT={rtt}
"""


def report(lab: Lab, *words: str) -> str:
    """With times and latencies taken out."""
    said = lab.run("cilium-health", "status", *words).stdout
    return re.sub(r"RTT=[0-9.]+(ns|µs|ms|s)", "RTT={rtt}", re.sub(r"\d{4}-\d\d-\d\dT[0-9:]+Z", "{time}", said))


def test_every_address_of_the_node_and_its_health_endpoint_answers(lab: Lab) -> None:
    assert eventually(lambda: report(lab, "--probe") == EVERYTHING_ANSWERS), report(lab)
    assert "1/1 reachable" in lab.cilium("status", "--verbose").stdout
    assert "1/1 reachable" in lab.run("cilium-health", "status", "--succinct").stdout
    assert "1/1 reachable" in lab.run("cilium-dbg", "status").stdout
    answer = lab.json("cilium-health", "status")
    assert answer["nodes"][0]["health-endpoint"]["primary-address"]["http"]["latency"] > 0
    assert lab.json("cilium", "status")["cluster"]["ciliumHealth"] == {"state": "Ok", "msg": "1/1 reachable"}
    assert lab.run("cilium-health", "ping").stdout == "OK\n"


def test_the_health_endpoint_is_an_endpoint_and_nobodys_pod(lab: Lab) -> None:
    assert eventually(lambda: len(lab.json("cilium-dbg", "endpoint", "list")) == 1)

    [endpoint] = lab.json("cilium-dbg", "endpoint", "list")

    assert endpoint["status"]["identity"]["id"] == 4
    assert endpoint["status"]["external-identifiers"]["container-id"] == "cilium-health-ep"
    assert lab.json("cilium", "get", "ciliumendpoints", "-A")["items"] == []
    [node] = lab.json("cilium", "get", "ciliumnodes")["items"]
    assert node["spec"]["health"] == {"ipv4": HEALTH_ENDPOINT[4], "ipv6": HEALTH_ENDPOINT[6]}


@pytest.mark.parametrize("version", [4, 6])
def test_a_policy_of_health_endpoints_keeps_pods_out_but_no_node(clean_lab: Lab, version: int) -> None:
    pod = clean_lab.add_pod(f"client-{version}")
    address = HEALTH_ENDPOINT[version]
    assert eventually(lambda: connects(pod.netns, address, PORT))

    health = {"matchLabels": {"reserved:health": ""}}
    only_itself = policy(
        "health", kind="CiliumClusterwideNetworkPolicy", endpointSelector=health, ingress=[{"fromEntities": ["health"]}]
    )
    clean_lab.apply(only_itself)

    assert eventually(lambda: connects(pod.netns, address, PORT), False)
    assert connects(clean_lab.node_netns, address, PORT)
    assert pings(clean_lab.node_netns, address)


def test_an_agent_that_is_killed_leaves_nothing_of_its_health_endpoint(lab: Lab) -> None:
    assert eventually(lambda: pings(lab.node_netns, HEALTH_ENDPOINT[4]))
    lab.cilium("lab", "agent", "kill")
    assert eventually(lambda: pings(lab.node_netns, HEALTH_ENDPOINT[4]), False)

    lab.cilium("lab", "agent", "start")

    assert eventually(lambda: report(lab, "--probe") == EVERYTHING_ANSWERS), report(lab)


def test_switched_off_it_is_shown_as_disabled(lab: Lab) -> None:
    path = lab.folder / "node1" / "agent.json"
    before = path.read_text()
    path.write_text(json.dumps({**json.loads(before), "health_checking": False}))
    lab.cilium("lab", "agent", "restart")
    try:
        assert lab.json("cilium", "status")["cluster"]["ciliumHealth"]["state"] == "Disabled"
        assert "Health:               disabled" in lab.cilium("status").stdout
        refused = lab.run("cilium-health", "status", "--probe", check=False)
        assert (refused.returncode, "health checking is off" in refused.stderr) == (1, True)
        assert HEALTH_ENDPOINT[4] not in str(lab.json("cilium-dbg", "endpoint", "list"))
    finally:
        path.write_text(before)
        lab.cilium("lab", "agent", "restart")

"""The agent may stop, crash and come back: traffic does not notice, and nothing that changed meanwhile is missed."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from pycilium.agent.config import AgentConfig
from tests.e2e.lab import Lab, Pod, app, connects, eventually, policy, ports, serving
from tests.e2e.traffic import DATAGRAM_PORT, ECHO_PORT, IPERF_PORT, Losses, flowing, iperf3

pytestmark = pytest.mark.root
PORT = 8080
ORDINARY = AgentConfig(node_name="node1")
CAPACITIES = [
    field for field in AgentConfig.__struct_fields__ if field.endswith("_capacity") and field != "flow_capacity"
]
TRAFFIC_PORTS = (f"{DATAGRAM_PORT}/UDP", f"{ECHO_PORT}/TCP", f"{IPERF_PORT}/TCP")


@pytest.fixture(scope="module")
def pods(lab: Lab) -> Iterator[tuple[Pod, Pod]]:
    client, server = lab.add_pod("client", app="client"), lab.add_pod("server", app="server")
    with serving(server.netns, PORT):
        yield client, server


@pytest.fixture
def agent(clean_lab: Lab) -> Iterator[Lab]:
    """The lab, whose agent may be ended: it runs again after the test."""
    yield clean_lab
    clean_lab.cilium("lab", "agent", "start", check=False)


def strict_policy() -> dict:
    """Only the test's own traffic is allowed, so that every packet of it meets the policy."""
    return policy(
        "server",
        endpointSelector=app("server"),
        ingress=[
            {"fromEndpoints": [app("client")], "toPorts": [{"ports": [*rule[0]["ports"]]}]}
            for rule in map(ports, TRAFFIC_PORTS)
        ],
    )


@pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("ending", ["restart", "kill"])
def test_not_a_packet_is_lost_when_the_agent_ends_and_comes_back(agent, pods, ending, family):
    client, server = pods
    agent.apply(strict_policy())
    assert eventually(lambda: connects(client.netns, server.address[family], PORT, 0.3), False)

    with iperf3(client, server, family, seconds=6) as intervals, flowing(client, server, family) as traffic:
        if ending == "kill":
            agent.cilium("lab", "agent", "kill")
            agent.cilium("lab", "agent", "start")
        else:
            agent.cilium("lab", "agent", "restart")

    assert traffic.losses == Losses()
    assert min(traffic.volume.datagrams, traffic.volume.connections, traffic.volume.echoes) > 50
    assert all(intervals), intervals


def test_raising_every_capacity_costs_no_packet(agent, pods):
    client, server = pods
    agent.apply(strict_policy())
    assert eventually(lambda: connects(client.netns, server.address[4], PORT, 0.3), False)
    configured = agent.folder / "node1" / "agent.json"
    before = configured.read_text()
    sizes = {each["name"]: each["size"] for each in agent.json("cilium-dbg", "map", "list")}
    configuration = json.loads(before)
    raised = {field: 2 * configuration.get(field, getattr(ORDINARY, field)) for field in CAPACITIES}

    with flowing(client, server, 4) as traffic:
        agent.cilium("lab", "agent", "stop")
        configured.write_text(json.dumps(configuration | raised))
        agent.cilium("lab", "agent", "start")
        configured.write_text(before)

    assert traffic.losses == Losses()
    assert min(traffic.volume.datagrams, traffic.volume.connections, traffic.volume.echoes) > 50
    now = {each["name"]: each["size"] for each in agent.json("cilium-dbg", "map", "list")}
    assert {name for name, size in now.items() if size == 2 * sizes[name]} >= {"ct4", "nat4", "endpoints4", "backends"}
    assert agent.json("cilium", "status")["cilium"]["state"] == "Ok"


def test_without_the_agent_the_policy_stays_in_force(agent, pods):
    client, server = pods
    agent.apply(policy("server", endpointSelector=app("server"), ingress=[{"fromEndpoints": [app("nobody")]}]))
    assert eventually(lambda: connects(client.netns, server.address[4], PORT, 0.3), False)

    agent.cilium("lab", "agent", "kill")

    assert not connects(client.netns, server.address[4], PORT, 0.5)


def test_a_policy_applied_while_the_agent_was_down_is_in_force_when_it_is_back(agent, pods):
    client, server = pods
    agent.cilium("lab", "agent", "kill")
    agent.apply(policy("server", endpointSelector=app("server"), ingress=[{"fromEndpoints": [app("nobody")]}]))
    assert connects(client.netns, server.address[4], PORT)  # nobody is there to enforce it

    agent.cilium("lab", "agent", "start")

    assert not connects(client.netns, server.address[4], PORT, 0.5)
    assert not connects(client.netns, server.address[6], PORT, 0.5)


def test_a_policy_deleted_while_the_agent_was_down_is_gone_when_it_is_back(agent, pods):
    client, server = pods
    agent.apply(policy("server", endpointSelector=app("server"), ingress=[{"fromEndpoints": [app("nobody")]}]))
    assert eventually(lambda: connects(client.netns, server.address[4], PORT, 0.3), False)
    agent.cilium("lab", "agent", "stop")
    agent.cilium("delete", "cnp", "server")

    agent.cilium("lab", "agent", "start")

    assert connects(client.netns, server.address[4], PORT)


def test_a_pod_relabelled_while_the_agent_was_down_has_its_new_identity_when_it_is_back(agent, pods):
    client, server = pods
    agent.apply(policy("server", endpointSelector=app("server"), ingress=[{"fromEndpoints": [app("client")]}]))
    assert eventually(lambda: connects(client.netns, server.address[4], PORT, 0.3))
    agent.cilium("lab", "agent", "kill")
    agent.cilium("lab", "pod", "label", "client", "app=other")
    try:
        agent.cilium("lab", "agent", "start")

        assert eventually(lambda: connects(client.netns, server.address[4], PORT, 0.3), False)
    finally:
        agent.cilium("lab", "pod", "label", "client", "app=client")


def test_endpoints_keep_numbers_addresses_and_identities_over_a_restart(agent, pods):
    before = agent.json("cilium", "lab", "pods")

    agent.cilium("lab", "agent", "kill")
    agent.cilium("lab", "agent", "start")

    assert agent.json("cilium", "lab", "pods") == before


def test_a_pod_removed_while_the_agent_was_down_is_gone_when_it_is_back(agent, pods):
    short = agent.add_pod("short-lived", app="short")
    agent.cilium("lab", "agent", "stop")

    agent.remove_pod(short)
    agent.cilium("lab", "agent", "start")

    for shown in (("endpoint", "list"), ("bpf", "endpoint", "list")):
        assert eventually(lambda shown=shown: short.address[4] not in agent.run("cilium-dbg", *shown).stdout)


def test_a_pod_cannot_be_added_while_the_agent_is_down_and_nothing_of_it_stays(agent, pods):
    agent.cilium("lab", "agent", "stop")

    done = agent.cilium("lab", "pod", "add", "late", check=False)

    assert done.returncode == 1
    assert "the agent does not answer" in done.stderr
    agent.cilium("lab", "agent", "start")
    assert "late" not in str(agent.json("cilium", "lab", "pods"))
    assert agent.cilium("get", "pod", "late", check=False).returncode == 1
    agent.remove_pod(agent.add_pod("late"))

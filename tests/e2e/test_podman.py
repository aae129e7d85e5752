"""podman's containers on a bare machine, with the commands as users type them."""

from __future__ import annotations

import json

import pytest

from tests.e2e.lab import app, policy, ports
from tests.e2e.machine import Agent, Machine, until
from tests.e2e.podman import IMAGE, furnish

pytestmark = pytest.mark.root


class Podman:
    def __init__(self, machine):
        self.machine = machine

    def run(self, name, *options, command=("sleep", "10000")):
        self.machine.run(
            *("podman", "run", "-d", "--name", name, "--network", "cilium", "--ulimit", "host"),
            *(*options, IMAGE, *command),
        )
        return self.address(name)

    def address(self, name):
        answer = json.loads(self.machine.output("podman", "inspect", name))
        return answer[0]["NetworkSettings"]["Networks"]["cilium"]["IPAddress"]

    def remove(self, *names):
        self.machine.run("podman", "rm", "--force", "--time", "0", "--ignore", *names)

    def reaches(self, name, address, port=80):
        argv = ("podman", "exec", name, "nc", "-w", "2", address, str(port), "-e", "true")
        return self.machine.run(*argv, check=False).returncode == 0


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("podman")
    with Machine("podman", folder) as machine:
        furnish(machine, folder)
        machine.run("cilium", "install")
        yield machine


@pytest.fixture(scope="module")
def agent(machine):
    with Agent(machine) as agent:
        yield agent


@pytest.fixture
def podman(machine, agent):
    podman = Podman(machine)
    yield podman
    podman.remove("web", "client", "other", "shop-web")
    machine.run("podman", "pod", "rm", "--force", "--all")
    machine.run("cilium", "delete", "cnp", "web", check=False)


def endpoints(machine):
    listed = json.loads(machine.output("cilium-dbg", "endpoint", "list", "-o", "json"))
    named = [each["status"]["external-identifiers"].get("pod-name") for each in listed]
    return sorted(name for name in named if name)


def web_only_for_clients(machine):
    spec = {
        "endpointSelector": app("web"),
        "ingress": [{"fromEndpoints": [app("client")], "toPorts": ports("80/TCP")}],
    }
    machine.write("/run/policy.json", json.dumps(policy("web", **spec)))
    machine.run("cilium", "apply", "-f", "/run/policy.json")


def test_containers_obey_a_policy_by_their_labels_and_are_seen(machine, podman):
    web = podman.run("web", "--label", "app=web", command=("httpd", "-f", "-p", "80"))
    podman.run("client", "--label", "app=client")
    podman.run("other", "--label", "app=other")
    assert endpoints(machine) == ["default/client", "default/other", "default/web"]
    until(lambda: podman.reaches("other", web), "everybody reaches web before there is a policy")

    web_only_for_clients(machine)
    until(lambda: not podman.reaches("other", web), "others are denied")
    assert podman.reaches("client", web)

    def flows(*filters):
        lines = machine.output("hubble", "observe", "--last", "100", "-o", "json", *filters).splitlines()
        return [json.loads(line)["flow"] for line in lines]

    dropped = flows("--verdict", "DROPPED", "--from-pod", "default/other", "--to-pod", "default/web")
    assert dropped
    assert "container:app=other" in dropped[0]["source"]["labels"]
    allowed = flows("--type", "policy-verdict", "--verdict", "FORWARDED", "--from-pod", "default/client")
    assert any(flow["ingress_allowed_by"][0]["name"] == "web" for flow in allowed if "ingress_allowed_by" in flow)


def test_what_is_removed_leaves_nothing(machine, podman):
    before = machine.output("ip", "-o", "link", "show", "type", "veth").count("\n")
    podman.run("web")
    podman.remove("web")
    assert endpoints(machine) == []
    assert machine.output("ip", "-o", "link", "show", "type", "veth").count("\n") == before
    assert machine.run("cilium", "get", "cep", "-o", "name").stdout.strip() == ""


def test_containers_outlive_the_agent_and_keep_their_labels(machine, podman, agent):
    web = podman.run("web", "--label", "app=web", command=("httpd", "-f", "-p", "80"))
    podman.run("client", "--label", "app=client")
    podman.run("other", "--label", "app=other")
    web_only_for_clients(machine)
    until(lambda: not podman.reaches("other", web), "others are denied")
    agent.restart()
    assert endpoints(machine) == ["default/client", "default/other", "default/web"]
    assert podman.reaches("client", web)
    assert not podman.reaches("other", web)


def test_a_container_that_is_started_again_has_its_labels_again(machine, podman):
    podman.run("web", "--label", "app=web")
    machine.run("podman", "restart", "--time", "0", "web")
    listed = machine.output("cilium-dbg", "endpoint", "list")
    assert "container:app=web" in listed
    assert podman.address("web")


def test_the_containers_of_a_podman_pod_are_one_endpoint(machine, podman):
    pause = ("--infra-image", IMAGE, "--infra-command", "sleep 10000", "--share-parent=false")
    machine.run("podman", "pod", "create", "--name", "shop", "--network", "cilium", "--label", "app=shop", *pause)
    machine.run(
        "podman", "run", "-d", "--pod", "shop", "--name", "shop-web", "--ulimit", "host", IMAGE, "sleep", "10000"
    )
    assert endpoints(machine) == ["default/shop"]
    assert "container:app=shop" in machine.output("cilium-dbg", "endpoint", "list")


def test_a_published_port_leads_the_machine_and_the_world_to_the_container(machine, podman):
    podman.run("web", "--publish", "8080:80", command=("httpd", "-f", "-p", "80"))
    ask = ("curl", "--silent", "--max-time", "5", "--output", "/dev/null", "--write-out", "%{http_code}")
    ask = (*ask, "http://192.0.2.10:8080/")
    until(lambda: machine.run(*ask, check=False).stdout == "404", "web tells the machine that it has no such page")
    until(lambda: machine.world(*ask) == "404", "web tells the world the same")

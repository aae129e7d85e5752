"""A lab whose store is an API server outside of it: nodes, policies across them, operators, and its outages.

As real ones, the server has a certificate of an authority of its own and lets in whom that authority knows; who that is
stands in a kubeconfig. So agents, operators and commands prove themselves, also through the lab's gate.
"""

from __future__ import annotations

import json
import re
import secrets
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from pycilium.lab import namespaces
from pycilium.model.resources import (
    CiliumEndpoint,
    CiliumEndpointSlice,
    CiliumNetworkPolicy,
    CiliumNode,
    Pod,
    decode_object,
)
from pycilium.store import open_blocking
from pycilium.testing.api_server import ApiServerDouble, serving
from tests import certificates
from tests.certificates import server_tls
from tests.e2e.lab import Lab, app, connects, eventually, policy, traces_of
from tests.e2e.lab import Pod as RunningPod
from tests.e2e.lab import serving as serving_echo

pytestmark = pytest.mark.root
PORT = 8080
GATE = "172.18.0.2"
CAUGHT_UP_S = 30.0
"""How long agents may take to ask again after an outage."""


class Server:
    """The API server's stand-in, and the kubeconfig that names it and a certificate of a user."""

    def __init__(self, folder: Path) -> None:
        self.double = ApiServerDouble()
        self.double.users = {}  # whoever shows no certificate is nobody
        self._running = ExitStack()
        self._running.enter_context(serving(self.double, tls=server_tls(folder)))
        self._kubeconfig = folder / "config"
        self._kubeconfig.write_text(yaml.safe_dump(_kubeconfig(self.double.url)))

    @property
    def url(self) -> str:
        return f"kubernetes://{self._kubeconfig}"

    def stop(self) -> None:
        self._running.close()


def _kubeconfig(server: str) -> dict[str, Any]:
    """Its paths begin where it stands."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "lab",
        "contexts": [{"name": "lab", "context": {"cluster": "stand-in", "user": "admin"}}],
        "clusters": [{"name": "stand-in", "cluster": {"server": server, "certificate-authority": "ca.crt"}}],
        "users": [{"name": "admin", "user": {"client-certificate": "admin.crt", "client-key": "admin.key"}}],
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(tmp_path_factory.mktemp("none") / "none"))
        patch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        server = Server(
            certificates.make(tmp_path_factory.mktemp("api"), {"server": "IP:127.0.0.1", "admin": "DNS:admin"})
        )
        yield server
        server.stop()


@pytest.fixture(scope="module")
def lab(server: Server) -> Iterator[Lab]:
    lab = Lab(f"e2e-{secrets.token_hex(3)}")
    lab.cilium("lab", "up", "--nodes", "2", "--ipam", "cluster-pool", "--store", server.url)
    yield lab
    lab.cilium("lab", "down", check=False)  # it may have gone in a test


@pytest.fixture(scope="module")
def pods(lab: Lab) -> Iterator[tuple[RunningPod, RunningPod]]:
    client = lab.add_pod("client", node="node1", app="client")
    backend = lab.add_pod("backend", node="node2", app="backend")
    with serving_echo(backend.netns, PORT):
        yield client, backend


@pytest.fixture
def reached(pods: tuple[RunningPod, RunningPod]) -> Callable[[int], bool]:
    client, backend = pods
    return lambda version: connects(client.netns, backend.address[version], PORT, 0.3)


ONLY_FOR_NOBODY = policy("backend", endpointSelector=app("backend"), ingress=[{"fromEndpoints": [app("nobody")]}])


def declare(server: Server, *documents: dict[str, Any]) -> None:
    """Straight in the store, as others do: our commands are not what is tested."""
    with open_blocking(server.url) as store:
        store.apply([decode_object(document) for document in documents])


def withdraw(server: Server, name: str) -> None:
    with open_blocking(server.url) as store:
        store.delete(CiliumNetworkPolicy, name, "default")


@pytest.mark.parametrize("outage", [("kill", "start"), ("cut", "heal")], ids=["gate killed", "gate cut off"])
def test_what_others_declare_while_the_nodes_are_cut_off_is_in_force_when_they_are_back(lab, server, reached, outage):
    begin, end = outage
    assert all(eventually(lambda version=version: reached(version), timeout_s=CAUGHT_UP_S) for version in (4, 6))

    lab.cilium("lab", "store", begin)
    try:
        declare(server, ONLY_FOR_NOBODY)
        assert reached(4)
    finally:
        lab.cilium("lab", "store", end)

    assert eventually(lambda: reached(4), wanted=False, timeout_s=CAUGHT_UP_S)

    withdraw(server, "backend")
    assert eventually(lambda: reached(4), timeout_s=CAUGHT_UP_S)


def test_a_pod_that_may_reach_the_api_server_alone_reaches_it_and_nobody_else(server, pods, reached):
    client, _ = pods
    declare(server, policy("client", endpointSelector=app("client"), egress=[{"toEntities": ["kube-apiserver"]}]))

    assert eventually(lambda: reached(4), wanted=False, timeout_s=CAUGHT_UP_S)
    assert connects(client.netns, GATE, 6443)

    withdraw(server, "client")
    assert eventually(lambda: reached(4), timeout_s=CAUGHT_UP_S)


def test_slices_of_endpoints_go_on_and_off_under_traffic_and_not_a_packet_is_lost(lab, server, pods):
    """Only one identity may pass, so a node that forgets a pod for a moment drops its packets."""
    client, backend = pods
    declare(server, policy("backend", endpointSelector=app("backend"), ingress=[{"fromEndpoints": [app("client")]}]))
    assert eventually(lambda: connects(client.netns, backend.address[4], PORT, 0.3), timeout_s=CAUGHT_UP_S)
    agent = lab.folder / "node2" / "agent.json"
    operator = lab.folder / "operators" / "operator1.json"

    with pinging(client, backend) as lost:
        switch(lab, on=True, agent=agent)
        assert "CiliumEndpoints are followed" in log_of(lab, "node2")
        switch(lab, on=True, operator=operator)
        assert eventually(lambda: "endpoints are followed in slices" in log_of(lab, "node2"), timeout_s=CAUGHT_UP_S)

        later = lab.add_pod("later", node="node1", app="client")
        assert eventually(lambda: connects(later.netns, backend.address[4], PORT, 0.3), timeout_s=CAUGHT_UP_S)
        assert "complete" in lab.cilium("get", "ces").stdout

        switch(lab, on=False, operator=operator)
        assert eventually(lambda: not in_slices(server), timeout_s=CAUGHT_UP_S)
        switch(lab, on=False, agent=agent)

    lab.remove_pod(later)
    withdraw(server, "backend")
    assert lost == [0]


@contextmanager
def pinging(client: RunningPod, backend: RunningPod) -> Iterator[list[int]]:
    """Gives how many of fifty packets a second were lost, once the block is left."""
    argv = ["nsenter", f"--net={namespaces.path_of(client.netns)}", "ping", "-q", "-i", "0.02", backend.address[4]]
    lost: list[int] = []
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as running:
        try:
            yield lost
        finally:
            running.send_signal(signal.SIGINT)
            said, _ = running.communicate()
    sent, received = map(int, re.findall(r"(\d+) (?:packets transmitted|received)", said))
    assert sent > 100
    lost.append(sent - received)


def switch(lab: Lab, *, on: bool, agent: Path | None = None, operator: Path | None = None) -> None:
    """Slices, by what a configuration says."""
    for path in filter(None, (agent, operator)):
        path.write_text(json.dumps({**json.loads(path.read_text()), "endpoint_slices": on}))
    if agent:
        lab.cilium("lab", "agent", "restart", "--node", agent.parent.name)
    if operator:
        lab.cilium("lab", "operator", "stop", operator.stem)
        lab.cilium("lab", "operator", "start", operator.stem)


def log_of(lab: Lab, node: str) -> str:
    return (lab.folder / node / "agent.log").read_text()


def in_slices(server: Server) -> list[str]:
    with open_blocking(server.url) as store:
        return [each.metadata.name for each in store.list(CiliumEndpointSlice).items]


def test_who_leads_the_operators_is_in_the_status_of_the_node_and_of_the_lab(lab):
    told = lab.cilium("status").stdout
    assert "Operator:       OK, leader operator1\n" in told
    assert lab.json("cilium", "status")["operator"] == {"state": "Ok", "msg": "leader operator1", "leader": "operator1"}

    lab.cilium("lab", "operator", "start", "operator2")
    rows = lab.json("cilium", "lab", "status")["operators"]
    assert [(row["name"], row["leads"]) for row in rows] == [("operator1", True), ("operator2", False)]
    assert "Operators: operator1 (leads), operator2\n" in lab.cilium("lab", "status").stdout

    lab.cilium("lab", "operator", "stop", "operator1")
    assert eventually(
        lambda: lab.json("cilium", "status")["operator"].get("leader") == "operator2", timeout_s=CAUGHT_UP_S
    )


def test_an_api_server_that_lets_in_nobody_without_a_certificate_is_said_before_anything_is_made(server):
    lab = Lab(f"e2e-{secrets.token_hex(3)}")

    done = lab.cilium("lab", "up", "--store", f"kubernetes:?server={server.double.url}", check=False)

    assert done.returncode == 1
    assert "certificate" in done.stderr
    assert traces_of(lab.name) == []


def test_a_node_that_joins_is_told_with_the_pod_cidrs_that_it_was_given(lab, server):
    done = lab.cilium("lab", "node", "add", "late")

    with open_blocking(server.url) as store:
        given = store.get(CiliumNode, "late").spec.ipam.pod_cidrs
    assert done.stdout.strip().endswith(f"pods {' '.join(given)}")
    assert given[0].startswith("10.64.")


def test_without_a_leader_the_node_warns_that_there_are_no_pod_cidrs(lab):
    lab.cilium("lab", "operator", "stop", "operator2")
    done = lab.cilium("status", check=False)

    assert done.returncode == 0
    assert (
        "Warnings:             operator: none leads, so nodes get no pod CIDRs: start cilium-operator\n" in done.stdout
    )


def test_a_lab_that_goes_takes_back_what_it_told_the_api_server(lab, server, pods):
    """The last of the tests that need it."""
    lab.down()

    with open_blocking(server.url) as store:
        left = {kind.__name__: list(store.list(kind).items) for kind in (CiliumNode, CiliumEndpoint, Pod)}
    assert left == {"CiliumNode": [], "CiliumEndpoint": [], "Pod": []}
    assert traces_of(lab.name) == []


def test_an_api_server_that_is_not_there_is_said_before_anything_is_made():
    lab = Lab(f"e2e-{secrets.token_hex(3)}")

    done = lab.cilium("lab", "up", "--store", "kubernetes:?server=unix:/nonexistent/api.sock", check=False)

    assert done.returncode == 1
    assert "the API server at unix:/nonexistent/api.sock cannot be reached: No such file" in done.stderr
    assert traces_of(lab.name) == []

"""An agent whose node's pod CIDRs come from the operator: it says what it waits for, and keeps what it got."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

from pycilium.api.cni_messages import CniRequest
from pycilium.api.transport import exchange
from pycilium.lab import namespaces, processes
from pycilium.model.resources import CiliumEndpoint, CiliumNode
from pycilium.store import BlockingStore, open_blocking

pytestmark = pytest.mark.root

PATIENCE_S = 60.0


class Node:
    """A node's namespace, with an agent and an operator that come and go."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self.agents: list[int] = []
        self.operators: list[subprocess.Popen[bytes]] = []
        values = {
            "node_name": "node1",
            "run_dir": str(folder / "run"),
            "bpf_root": str(folder / "bpf"),
            "store": f"sqlite:///{folder}/store.db",
            "hubble_listen": None,
            "ipam": "cluster-pool",
            "ipv6_pod_cidr": None,
            "conntrack_capacity": 1024,
            "ipcache_capacity": 1024,
            "node_lease_duration_s": 4,
            "endpoint_health_checking": False,
        }
        (folder / "agent.json").write_text(json.dumps(values))
        pools = {"cluster_pool_ipv4_cidrs": ["10.77.0.0/16"], "cluster_pool_ipv6_cidrs": [], "health_listen": None}
        operator = {"name": "op", "store": values["store"], **pools, "node_grace_s": 8}
        (folder / "operator.json").write_text(json.dumps(operator))

    def start_agent(self) -> int:
        argv = [sys.executable, "-m", "pycilium.agent.main", "--config", str(self.folder / "agent.json")]
        self.agents.append(processes.start_in(self.name, argv, log=self.folder / "agent.log"))
        return self.agents[-1]

    def start_operator(self) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-m", "pycilium.operator.main", "--config", str(self.folder / "operator.json")]
        with (self.folder / "operator.log").open("ab") as log:
            self.operators.append(subprocess.Popen(argv, stdout=log, stderr=log))
        return self.operators[-1]

    def ask(self, method: str, target: str, body: bytes = b"") -> dict[str, object]:
        _, answer = exchange(str(self.folder / "run" / "cilium.sock"), method, f"/v1{target}", body)
        return json.loads(answer or b"{}")

    def status(self) -> dict[str, str]:
        try:
            return self.ask("GET", "/healthz")["cilium"]  # type: ignore[return-value]
        except Exception:  # noqa: BLE001  nobody listens yet
            return {"state": "", "msg": ""}

    def give_room_for_one_pod(self) -> None:
        path = self.folder / "operator.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"cluster_pool_ipv4_mask_size": 30}))

    def agent_events(self) -> list[dict[str, object]]:
        """Those that Cilium's protocol has no type for."""
        argv = [sys.executable, "-m", "pycilium.cli.hubble", "observe", "agent-events", "--first", "100", "-o", "json"]
        done = subprocess.run(
            [*argv, "--server", f"unix://{self.folder}/run/hubble.sock"], capture_output=True, text=True, check=True
        )
        events = [json.loads(line)["agent_event"] for line in done.stdout.splitlines()]
        return [event["unknown"] for event in events if "unknown" in event]

    def add_pod(self, netns: str, container_id: str = "c0ffee00c0ffee00") -> dict[str, object]:
        request = CniRequest(
            container_id=container_id,
            ifname="eth0",
            netns=str(namespaces.path_of(netns)),
            config={"name": "cilium"},
        )
        return self.ask("POST", "/cni/add", msgspec.json.encode(request))

    def remove_pod(self, container_id: str) -> None:
        request = CniRequest(container_id=container_id, ifname="eth0")
        self.ask("POST", "/cni/del", msgspec.json.encode(request))

    def addresses(self) -> list[str]:
        return self.ask("GET", "/healthz")["ipam"].get("ipv4", [])  # type: ignore[attr-defined]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    name = f"cilium-test-cluster-pool-{os.getpid()}"
    namespaces.create(name)
    made = Node(tmp_path, name)
    yield made
    processes.end(made.agents)
    for operator in made.operators:
        operator.kill()
        operator.wait()
    namespaces.unmount_below(tmp_path)
    namespaces.delete(name)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[BlockingStore]:
    with open_blocking(f"sqlite:///{tmp_path}/store.db") as opened:
        yield opened


def wait_for(what: Callable[[], object], why: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < deadline, f"waited in vain: {why}"
        time.sleep(0.05)


def cidrs(store: BlockingStore) -> tuple[str, ...]:
    nodes = store.list(CiliumNode).items
    return nodes[0].spec.ipam.pod_cidrs if nodes and nodes[0].spec.ipam else ()


def test_a_node_gets_its_pod_cidr_from_the_operator_and_keeps_it(node: Node, store: BlockingStore) -> None:
    node.start_agent()
    wait_for(lambda: "given node node1 no pod CIDR yet" in node.status()["msg"], "the agent says what it waits for")
    refused = node.ask(
        "POST", "/cni/add", msgspec.json.encode(CniRequest(container_id="c", ifname="eth0", netns="/none", config={}))
    )
    operator = node.start_operator()
    wait_for(lambda: node.status()["state"] == "Ok", "the agent is ready")
    given = cidrs(store)
    operator.kill()
    processes.end(node.agents)
    pid = node.start_agent()
    wait_for(lambda: node.status()["state"] == "Ok", "the agent is ready again")

    assert refused["code"] == "AgentUnavailable"
    assert "no pod CIDR yet: is one running?" in str(refused["message"])
    assert given == cidrs(store) == ("10.77.0.0/24",)
    assert processes.is_running(pid)


def test_an_interface_that_is_gone_gives_its_address_back(node: Node, store: BlockingStore) -> None:
    node.start_operator()
    node.start_agent()
    wait_for(lambda: node.status()["state"] == "Ok", "the agent is ready")
    pod = f"{node.name}-pod"
    namespaces.create(pod)
    try:
        made = node.add_pod(pod)
    finally:
        before = node.addresses()
        namespaces.delete(pod)
    wait_for(lambda: node.addresses() == [], "the address is free again")
    wait_for(lambda: not store.list(CiliumEndpoint).items, "the endpoint is published no longer")

    assert made["ips"][0]["address"] == f"{before[0]}/32"  # type: ignore[index]
    assert "interface is gone, its addresses are free again" in (node.folder / "agent.log").read_text()


def test_a_pod_cidr_that_is_exhausted_is_an_error_a_warning_and_one_event_until_an_address_is_free(node: Node) -> None:
    node.give_room_for_one_pod()
    node.start_operator()
    node.start_agent()
    wait_for(lambda: node.status()["state"] == "Ok", "the agent is ready")
    said = "pod CIDR 10.77.0.0/30 has no free address left: 1 of 1 are in use; remove pods or give the node a wider"
    pods = [f"{node.name}-pod{number}" for number in range(2)]
    with ExitStack() as ending:
        for pod in pods:
            namespaces.create(pod)
            ending.callback(namespaces.delete, pod)
        node.add_pod(pods[0], "first")
        refused = [node.add_pod(pods[1], "second") for _ in range(2)]
        warned, events = node.status(), node.agent_events()
        node.remove_pod("first")
        freed = node.status()
        made = node.add_pod(pods[1], "second")

    assert [each["code"] for each in refused] == ["IpamExhausted", "IpamExhausted"]
    assert str(refused[0]["message"]).startswith(said)
    assert (warned["state"], warned["msg"][: len(said)]) == ("Warning", said)
    assert [(event["type"], str(event["notification"])[: len(said)]) for event in events] == [("ipam-exhausted", said)]
    assert freed["state"] == "Ok"
    assert made["ips"][0]["address"] == "10.77.0.2/32"  # type: ignore[index]


def test_a_node_that_was_frozen_is_removed_and_comes_back_with_its_cidr(node: Node, store: BlockingStore) -> None:
    node.start_operator()
    pid = node.start_agent()
    wait_for(lambda: node.status()["state"] == "Ok", "the agent is ready")
    before = cidrs(store)
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_for(lambda: not store.list(CiliumNode).items, "the node is removed")
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_for(lambda: store.list(CiliumNode).items, "the node is back")

    assert cidrs(store) == before

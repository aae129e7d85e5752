"""The plugin as a program, from a runtime's environment to a pod that has its network and back.

The agent is a small one: real addresses, real interfaces, no datapath.
"""

import asyncio
import json
import subprocess
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any

import pytest

from pycilium.agent.endpoints.files import queued_deletes
from pycilium.api.cni_messages import CniAddress, CniInterface, CniResult
from pycilium.cni import launcher
from pycilium.datapath import pod_interface
from pycilium.datapath.pod_interface import PodInterface
from pycilium.errors import DatapathError, NotFound
from pycilium.ipam import HostScope
from pycilium.lab import namespaces
from pycilium.model.endpoint import attachment_name
from pycilium.testing.fake_agent import FakeAgent, served

pytestmark = pytest.mark.root


class PlumbingAgent(FakeAgent):
    """Addresses and interfaces in the node's namespace."""

    def __init__(self, node) -> None:
        super().__init__()
        self._node = node
        self.ipam = HostScope(IPv4Network("10.77.0.0/24"), IPv6Network("fd77::/112"))
        self.attached: dict[str, PodInterface] = {}

    async def cni_add(self, request):
        self._called("add", request)
        owner = attachment_name(request.container_id, request.ifname)
        addresses = self.ipam.allocate(owner)
        wanted = PodInterface(
            container_id=request.container_id,
            ifname=request.ifname,
            netns=request.netns,
            mtu_bytes=1500,
            ipv4=addresses.ipv4,
            ipv6=addresses.ipv6,
            gateway_ipv4=self.ipam.ipv4.gateway,
            gateway_ipv6=self.ipam.ipv6.gateway,
        )
        try:
            made = await self._in_node(pod_interface.create, wanted)
        except Exception:
            self.ipam.release(owner)
            raise
        self.attached[owner] = wanted
        host = CniInterface(name=made.host_ifname, mac=made.host_mac.hex(":"), mtu=1500)
        pod = CniInterface(name=request.ifname, mac=made.mac.hex(":"), mtu=1500, sandbox=request.netns)
        ips = [
            CniAddress(address=f"{address}/{address.max_prefixlen}", gateway=str(gateway), interface=1)
            for address, gateway in wanted.families
        ]
        return CniResult(interfaces=[host, pod], ips=ips, routes=[])

    async def cni_del(self, request):
        self._called("del", request)
        await self._detach(request.container_id, request.ifname)

    async def cni_check(self, request):
        wanted = self.attached.get(attachment_name(request.container_id, request.ifname))
        if wanted is None:
            raise NotFound(f"no endpoint for container {request.container_id}")
        if differences := await self._in_node(pod_interface.check, wanted):
            raise DatapathError("; ".join(differences))

    async def cni_gc(self, request):
        valid = {attachment_name(entry.container_id, entry.ifname) for entry in request.valid_attachments}
        for owner, wanted in list(self.attached.items()):
            if owner not in valid:
                await self._detach(wanted.container_id, wanted.ifname)

    async def _detach(self, container_id, ifname):
        await self._in_node(pod_interface.delete, pod_interface.host_ifname(container_id, ifname))
        owner = attachment_name(container_id, ifname)
        self.ipam.release(owner)
        self.attached.pop(owner, None)

    async def _in_node(self, function, *args):
        return await asyncio.to_thread(self._node.run, function, *args)


@dataclass
class Runtime:
    """Calls the plugin as a container runtime does."""

    plugin: Path
    socket: Path

    def call(self, command: str, pod: str, config: Any = (), **variables: str) -> tuple[int, Any]:
        """Exit code and decoded answer."""
        stdin = {"cniVersion": "1.1.0", "name": "net", "type": "cilium-cni", "socket": str(self.socket), **dict(config)}
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": pod,
            "CNI_NETNS": str(namespaces.path_of(pod)),
            "CNI_IFNAME": "eth0",
            **variables,
        }
        done = subprocess.run(
            [self.plugin], input=json.dumps(stdin), env=environment, capture_output=True, text=True, check=False
        )
        assert done.stderr == ""
        return done.returncode, json.loads(done.stdout) if done.stdout else None


@pytest.fixture
def runtime(tmp_path):
    launcher.write(str(tmp_path / "cilium-cni"))
    return Runtime(tmp_path / "cilium-cni", tmp_path / "cilium.sock")


@pytest.fixture
def agent(node, runtime):
    agent = PlumbingAgent(node)
    with served(agent, str(runtime.socket)):
        yield agent


def addresses(namespace: str) -> set[str]:
    command = ["ip", "-n", namespace, "-json", "address"]
    links = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return {entry["local"] for link in links if link["ifname"] != "lo" for entry in link["addr_info"]}


def test_a_pod_comes_and_goes(runtime, agent, pod, node):
    code, result = runtime.call("ADD", pod)
    assert code == 0
    assert {ip["address"].partition("/")[0] for ip in result["ips"]} == addresses(pod) == {"10.77.0.2", "fd77::2"}
    assert result["interfaces"][1]["sandbox"] == str(namespaces.path_of(pod))

    assert runtime.call("CHECK", pod, {"prevResult": result}) == (0, None)

    assert runtime.call("DEL", pod, {"prevResult": result}) == (0, None)
    assert addresses(pod) == set()
    assert dict(agent.ipam.held) == agent.attached == {}


def test_add_again_gives_the_same(runtime, agent, pod):
    assert runtime.call("ADD", pod) == runtime.call("ADD", pod)
    assert len(agent.attached) == 1


def test_del_again_and_of_the_never_seen_is_success(runtime, agent, pod):
    runtime.call("ADD", pod)

    assert [runtime.call("DEL", pod) for _ in range(3)] == [(0, None)] * 3
    assert runtime.call("DEL", "never-seen") == (0, None)


def test_del_after_the_namespace_is_gone(runtime, agent, pod, node):
    runtime.call("ADD", pod)
    namespaces.delete(pod)

    assert runtime.call("DEL", pod) == (0, None)
    assert runtime.call("DEL", pod, CNI_NETNS="") == (0, None)
    assert agent.attached == {}


def test_check_says_what_differs(runtime, agent, pod):
    _, result = runtime.call("ADD", pod)
    subprocess.run(["ip", "-n", pod, "address", "del", "10.77.0.2/32", "dev", "eth0"], check=True)

    code, error = runtime.call("CHECK", pod, {"prevResult": result})

    assert (code, error["code"]) == (1, 103)
    assert "eth0 lacks address 10.77.0.2" in error["msg"]


def test_check_of_a_stranger_is_an_unknown_container(runtime, agent, pod):
    code, error = runtime.call("CHECK", pod, {"prevResult": {"interfaces": [{"name": "eth0"}]}})

    assert (code, error["code"]) == (1, 3)


def test_gc_detaches_what_nobody_needs(runtime, agent, make_namespace):
    pods = [make_namespace() for _ in range(3)]
    for pod in pods:
        runtime.call("ADD", pod)
    valid = [{"containerID": pods[1], "ifname": "eth0"}]

    assert runtime.call("GC", "ignored", {"cni.dev/valid-attachments": valid}) == (0, None)

    assert [bool(addresses(pod)) for pod in pods] == [False, True, False]


def test_a_failed_add_leaves_nothing(runtime, agent, pod, node):
    subprocess.run(["ip", "-n", pod, "link", "add", "eth0", "type", "veth", "peer", "name", "x"], check=True)

    code, error = runtime.call("ADD", pod)

    assert (code, error["code"]) == (1, 102)
    assert "has an interface eth0 already" in error["msg"]
    assert agent.ipam.held == {}
    assert node.run(pod_interface.interfaces) == []


def test_what_is_deleted_while_the_agent_is_away_is_deleted_when_it_is_back(runtime, node, pod, tmp_path):
    agent = PlumbingAgent(node)
    with served(agent, str(runtime.socket)):
        runtime.call("ADD", pod)

    assert runtime.call("ADD", pod)[1]["code"] == 11
    assert runtime.call("DEL", pod) == (0, None)
    assert addresses(pod) != set()

    with served(agent, str(runtime.socket)):
        for queued in queued_deletes(tmp_path).items:
            asyncio.run(agent.cni_del(queued.request))
            queued.done()
    assert addresses(pod) == set()
    assert queued_deletes(tmp_path).items == ()


def test_pods_that_come_at_once_get_addresses_of_their_own(runtime, agent, make_namespace):
    pods = [make_namespace() for _ in range(8)]
    environment = {"CNI_COMMAND": "ADD", "CNI_IFNAME": "eth0"}
    config = {"cniVersion": "1.1.0", "name": "net", "type": "cilium-cni", "socket": str(runtime.socket)}

    started = [
        subprocess.Popen(
            [runtime.plugin],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**environment, "CNI_CONTAINERID": pod, "CNI_NETNS": str(namespaces.path_of(pod))},
        )
        for pod in pods
    ]
    answers = [process.communicate(json.dumps(config).encode())[0] for process in started]

    assert [process.returncode for process in started] == [0] * 8
    given = [frozenset(ip["address"].partition("/")[0] for ip in json.loads(answer)["ips"]) for answer in answers]
    assert len(set(given)) == 8
    assert given == [addresses(pod) for pod in pods]

"""What is shown of a running node: status, endpoints, identities, maps, counters, events."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import zipfile
from collections.abc import Iterator

import pytest

from tests.e2e.lab import BIN, Lab, Pod, app, connects, eventually, inside, policy, serving

pytestmark = pytest.mark.root
PORT = 8080
HEALTH_ENDPOINT = "10.0.1.254"


@pytest.fixture(scope="module")
def pods(lab: Lab) -> Iterator[tuple[Pod, Pod]]:
    """A client and a server that only lets the client in; some traffic has been allowed and denied."""
    client, server = lab.add_pod("client", app="client"), lab.add_pod("server", app="server")
    with serving(server.netns, PORT):
        lab.apply(policy("server", endpointSelector=app("server"), ingress=[{"fromEndpoints": [app("client")]}]))
        assert eventually(lambda: connects(lab.world_netns, server.address[4], PORT, 0.3), False)
        assert connects(client.netns, server.address[4], PORT)
        yield client, server


class TestStatus:
    def test_a_healthy_node_is_ok_and_the_exit_code_says_so(self, lab, pods):
        done = lab.cilium("status", "--wait", "--wait-duration", "20")

        assert "Cilium:         OK" in done.stdout
        assert "Endpoints:            3/3 ready" in done.stdout
        assert "Errors" not in done.stdout

    def test_json_has_the_shape_that_scripts_of_cilium_read(self, lab, pods):
        answer = lab.json("cilium", "status")

        assert answer["cilium"]["state"] == "Ok"
        assert answer["hubble"]["state"] == "Ok"
        assert all(
            controller["status"].get("consecutive-failure-count", 0) == 0 for controller in answer["controllers"]
        )
        assert answer["cilium"] == lab.json("cilium-dbg", "status")["cilium"]

    def test_a_stopped_agent_is_an_error(self, lab, pods):
        lab.cilium("lab", "agent", "stop")
        try:
            done = lab.cilium("status", check=False)
            assert done.returncode == 1
            assert "Cilium:         not running" in done.stdout
            assert lab.cilium("lab", "status", check=False).returncode == 1
            waited = lab.cilium("status", "--wait", "--wait-duration", "1", check=False)
            assert waited.returncode == 1
        finally:
            lab.cilium("lab", "agent", "start")

    def test_versions_of_command_and_agent(self, lab, pods):
        answer = lab.json("cilium", "version")

        assert answer["Client"]["Version"] == answer["Daemon"]["Version"] != ""


class TestAgent:
    def test_endpoints(self, lab, pods):
        listed = lab.json("cilium-dbg", "endpoint", "list")

        assert {endpoint["status"]["state"] for endpoint in listed} == {"ready"}
        addresses = {endpoint["status"]["networking"]["addressing"][0]["ipv4"] for endpoint in listed}
        assert addresses == {*(pod.address[4] for pod in pods), HEALTH_ENDPOINT}
        one = json.loads(lab.run("cilium-dbg", "endpoint", "get", "pod-name:default/server").stdout)
        assert one["id"] in {endpoint["id"] for endpoint in listed}
        assert one["status"]["policy"]["realized"]["policy-enabled"] == "ingress"

    def test_identities_and_addresses(self, lab, pods):
        identities = {entry["id"]: entry.get("labels", []) for entry in lab.json("cilium-dbg", "identity", "list")}
        prefixes = {entry["cidr"]: entry["identity"] for entry in lab.json("cilium-dbg", "ip", "list")}

        server = prefixes[f"{pods[1].address[4]}/32"]
        assert "k8s:app=server" in identities[server]
        assert prefixes[f"{pods[1].address[6]}/128"] == server
        assert identities[1] == ["reserved:host"]

    def test_the_policies_in_force(self, lab, pods):
        assert '"name": "server"' in lab.run("cilium-dbg", "policy", "get").stdout

    def test_nodes_and_configuration(self, lab, pods):
        assert "10.0.1.0/24" in lab.run("cilium-dbg", "node", "list").stdout
        assert json.loads(lab.run("cilium-dbg", "config", "get").stdout)["spec"]["node_name"] == "node1"

    def test_what_is_absent_is_an_error(self, lab, pods):
        assert lab.run("cilium-dbg", "endpoint", "get", "60000", check=False).returncode == 1
        assert lab.run("cilium-dbg", "identity", "get", "60000", check=False).returncode == 1
        assert lab.run("cilium-dbg", "map", "get", "nonsense", check=False).returncode == 1


class TestMaps:
    @pytest.mark.parametrize("name", ["policy", "identity", "ct", "ipcache", "endpoint", "metrics"])
    def test_every_list_has_entries(self, lab, pods, name):
        connects(pods[0].netns, pods[1].address[4], PORT)

        assert lab.json("cilium-dbg", "bpf", name, "list")
        assert "KEY" in lab.run("cilium-dbg", "bpf", name, "list").stdout

    def test_a_connection_is_listed_with_its_ends(self, lab, pods):
        with inside(pods[0].netns, lambda: socket.create_connection((pods[1].address[4], PORT), timeout=5)):
            listed = lab.run("cilium-dbg", "bpf", "ct", "list").stdout

        assert f"-> {pods[1].address[4]} {PORT}" in listed

    def test_maps_say_how_full_they_are(self, lab, pods):
        maps = {entry["name"]: entry for entry in lab.json("cilium-dbg", "map", "list")}

        assert maps["endpoints4"]["entries"] == 3  # the pods and the health endpoint
        assert 0 < maps["ipcache4"]["entries"] < maps["ipcache4"]["size"]

    def test_counters_have_ciliums_names(self, lab, pods):
        def dropped() -> int:
            counters = lab.json("cilium-dbg", "metrics", "list", "-p", "cilium_drop_count_total")
            return sum(counter["value"] for counter in counters if counter["labels"].get("reason") == "Policy denied")

        before = dropped()
        connects(lab.world_netns, pods[1].address[4], PORT, 0.3)

        assert dropped() > before


def test_monitor_shows_events_as_they_happen(lab, pods):
    environment = {**os.environ, "CILIUM_LAB": lab.name, "PYTHONUNBUFFERED": "1"}
    argv = [str(BIN / "cilium-dbg"), "monitor", "--type", "drop"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as monitor:
        assert monitor.stderr is not None
        assert monitor.stdout is not None
        assert "Listening" in monitor.stderr.readline()
        assert eventually(lambda: (connects(lab.world_netns, pods[1].address[4], PORT, 0.2), True)[1])

        line = monitor.stdout.readline()
        monitor.send_signal(signal.SIGINT)

        assert line.startswith("xx drop (Policy denied)")
        assert f"-> {pods[1].address[4]}:{PORT} tcp SYN" in line
    assert monitor.returncode in (0, 130)


def test_a_lab_is_dumped_into_one_archive(lab, pods, tmp_path):
    """Its node's agent, kernel and log, in the node's own namespace."""
    name = str(tmp_path / "dump")

    done = lab.cilium("sysdump", "--output-filename", name)

    assert done.stdout.startswith(f"{name}.zip")
    with zipfile.ZipFile(f"{name}.zip") as archive:
        read = {each.partition("/")[2]: archive.read(each).decode() for each in archive.namelist()}
    assert "node1/agent" not in read["failures.txt"]
    assert json.loads(read["node1/agent/status.json"])["cilium"]["state"] == "Ok"
    assert "server" in read["node1/agent/policy.json"]
    assert '"pod_name":"server"' in read["node1/agent/flows.jsonl"].replace(" ", "")
    assert "cilium_host" in read["node1/kernel/links.txt"]
    assert "/links/" in read["node1/kernel/links-of-programs.json"]
    assert "ready" in read["node1/logs/agent.log"]
    assert {"lab.json", "operators/operator1.log"} < read.keys()

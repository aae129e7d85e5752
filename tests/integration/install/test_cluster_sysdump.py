"""`cilium sysdump` of a cluster, as users type it: what is in the archive, and what must never be."""

from __future__ import annotations

import io
import json
import zipfile

import pytest
import yaml

from pycilium.testing.api_cluster import KIND, agent_pod, on_command, play, put
from pycilium.testing.api_pods import Outcome

NODE_COMMAND = ("/opt/pycilium/bin/cilium", "sysdump", "--machine", "--output-filename", "-")
KEY = "-----BEGIN PRIVATE KEY-----\nplanted-private-key\n-----END PRIVATE KEY-----"
TOKEN = "planted-token-of-the-kubeconfig"


def of_node():
    """What an agent's pod answers."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("cilium-sysdump/README.txt", "about")
        archive.writestr("cilium-sysdump/agent/status.json", '{"cilium": {"state": "Ok"}, "password": "planted-one"}')
        archive.writestr("cilium-sysdump/failures.txt", "kernel/nft.txt: there is no program nft\n")
    return Outcome(out.getvalue())


@pytest.fixture
def planted(double, tmp_path):
    """A cluster that works, with secrets wherever there might be some."""
    config = yaml.safe_load((tmp_path / "config").read_text())
    config["users"] = [{"name": "u", "user": {"token": TOKEN}}]
    config["contexts"][0]["context"]["user"] = "u"
    (tmp_path / "config").write_text(yaml.safe_dump(config))
    double.users = {TOKEN: "admin"}
    put(double, "ConfigMap", "cilium-config", data={"debug": "true"})
    put(double, "ConfigMap", "other", namespace="default", data={"conf": "planted-in-a-config-map"})
    put(double, "Secret", "tls", namespace="default", data={"tls.key": "planted-secret-data"})
    play(double)
    annotations = {"kubectl.kubernetes.io/last-applied-configuration": "planted-annotation"}
    container = {
        "name": "web",
        "image": "web",
        "args": ["planted-argument"],
        "env": [{"name": "PGPASS", "value": "planted-environment"}],
    }
    put(
        double,
        "Pod",
        "web",
        namespace="default",
        metadata={"annotations": annotations},
        spec={"containers": [container]},
    )
    put(double, "Event", "e", namespace="default", message="denied: token=planted-in-an-event", reason="Failed")
    double.pods.on_command = on_command({NODE_COMMAND: of_node()})
    double.pods.logs[("kube-system", "cilium-node1", "cilium-agent", False)] = f"started\n{KEY}\n{TOKEN}\n"
    agent = {"name": "cilium-agent", "restartCount": 1, "state": {"running": {}}}
    agent_pod(double, "node1", containerStatuses=[agent])
    double.pods.logs[("kube-system", "cilium-node1", "cilium-agent", True)] = "password: planted-previous\n"
    double.pods.logs[("kube-system", "cilium-node2", "cilium-agent", False)] = ""
    double.pods.logs[("kube-system", "cilium-operator-1", "cilium-operator", False)] = ""


def files(path):
    with zipfile.ZipFile(path) as archive:
        return {name.partition("/")[2]: archive.read(name).decode() for name in archive.namelist()}


def test_it_holds_what_diagnosing_takes_and_no_secret(cilium, double, planted, tmp_path):
    done = cilium("sysdump", "--output-filename", "dump")

    assert done.returncode == 0, done.stderr
    assert done.stdout == "dump.zip: 2 parts are missing, see its failures.txt.\n"
    found = files(tmp_path / "dump.zip")
    assert [name for name, text in found.items() if "planted" in text] == []
    assert {
        "README.txt",
        "status.txt",
        "kubernetes/nodes.json",
        "kubernetes/events.json",
        "kubernetes/ciliumnetworkpolicies.json",
        "kubernetes/cilium-config.json",
        "logs/cilium-node1/cilium-agent.log",
        "logs/cilium-node1/cilium-agent.previous.log",
        "nodes/cilium-node1/agent/status.json",
        "nodes/cilium-node2/agent/status.json",
    } < found.keys()
    assert found["failures.txt"].splitlines() == [
        "nodes/cilium-node1/kernel/nft.txt: there is no program nft",
        "nodes/cilium-node2/kernel/nft.txt: there is no program nft",
    ]
    assert json.loads(found["kubernetes/cilium-config.json"])["data"] == {"debug": "true"}
    assert (tmp_path / "dump.zip").stat().st_mode & 0o777 == 0o600


def test_parts_that_fail_are_listed_and_the_rest_is_there(cilium, double, planted, tmp_path):
    double.denied = {("list", "pods"), ("get", "pods/exec"), ("list", "secrets")}
    double.missing = {"ciliumloadbalancerippools"}

    done = cilium("sysdump", "--output-filename", "dump.zip")

    assert done.returncode == 0
    found = files(tmp_path / "dump.zip")
    assert "kubernetes/nodes.json" in found
    failures = found["failures.txt"]
    for part in ("kubernetes/pods.json", "kubernetes/releases.json", "kubernetes/ciliumloadbalancerippools.json"):
        assert f"{part}: " in failures


def test_an_agent_that_does_not_run_is_named_and_its_log_taken(cilium, double, planted, tmp_path):
    crashed = {"waiting": {"reason": "CrashLoopBackOff"}}
    agent_pod(double, "node1", containerStatuses=[{"name": "cilium-agent", "state": crashed}])

    assert cilium("sysdump", "--output-filename", "dump").returncode == 0

    found = files(tmp_path / "dump.zip")
    assert "nodes/cilium-node1: its container does not run" in found["failures.txt"]
    assert found["logs/cilium-node1/cilium-agent.log"].startswith("started\n")
    assert "starts and ends again and again" in found["status.txt"]


def test_a_file_that_is_there_is_not_written_over(cilium, double, planted, tmp_path):
    (tmp_path / "dump.zip").write_text("mine")

    refused = cilium("sysdump", "--output-filename", "dump")

    assert "dump.zip exists already" in refused.stderr
    assert (tmp_path / "dump.zip").read_text() == "mine"


def test_credentials_that_are_refused_leave_no_file(cilium, double, planted, tmp_path):
    double.users = {"another": "admin"}

    refused = cilium("sysdump", "--output-filename", "dump")

    assert refused.returncode == 1
    assert "does not accept our credentials" in refused.stderr
    assert not (tmp_path / "dump.zip").exists()


def test_secrets_are_not_even_asked_for_but_for_the_releases(cilium, double, planted):
    assert cilium("sysdump", "--output-filename", "dump").returncode == 0

    asked = [each for each in double.asked if each.kind is KIND["Secret"]]
    assert {(each.verb, each.namespace) for each in asked} == {("list", "kube-system")}

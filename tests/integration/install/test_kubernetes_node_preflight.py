"""Nodes are looked at by pods that go again: what they are told to look for, what becomes of what they say."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import threading
import time

import pytest

from pycilium.errors import InstallRefused
from pycilium.install.kubernetes import Installer
from pycilium.install.kubernetes_cluster import Cluster
from pycilium.install.kubernetes_node_preflight import RUN
from pycilium.install.settings import values_of
from pycilium.store.kubernetes.credentials import Access, Fixed, Proof
from pycilium.testing.api_cluster import NAMESPACE, got, put
from tests.integration.install.conftest import CILIUM

PREFLIGHT = "cilium-preflight"
FINE = "ok: kernel, mounts, devices and ports are as an agent needs them"
READY = {"conditions": [{"type": "Ready", "status": "True"}], "nodeInfo": {"kernelVersion": "6.1.0"}}


def ended(said, code=0):
    return {"initContainerStatuses": [{"name": "look", "state": {"terminated": {"exitCode": code, "message": said}}}]}


def waiting(reason, said=""):
    state = {"state": {"waiting": {"reason": reason}}, "lastState": {"terminated": {"message": said, "exitCode": 1}}}
    return {"phase": "Pending", "initContainerStatuses": [{"name": "look", **state}]}


def kubelets(double, **said):
    """Each node's pod of the DaemonSet that is there, with what became of it; the DaemonSet, if there is one."""
    if daemon_set := got(double, "DaemonSet", PREFLIGHT):
        labels = daemon_set["spec"]["template"]["metadata"]["labels"]
        for node, status in said.items():
            put(double, "Pod", f"look-{node}", metadata={"labels": labels}, spec={"nodeName": node}, status=status)
    return daemon_set


@pytest.fixture
async def cluster(double):
    put(double, "Namespace", NAMESPACE)
    for node in ("node1", "node2"):
        put(double, "Node", node, metadata={"labels": {"kubernetes.io/os": "linux"}}, status=READY)
    put(double, "Node", "windows", metadata={"labels": {"kubernetes.io/os": "windows"}}, status=READY)
    async with Cluster(Access(double.url, Fixed(Proof(), "a test")), patience_s=0) as cluster:
        yield cluster


async def looked(double, cluster, values=None, patience_s=6, **said):
    """What is found, and the DaemonSet by which."""
    seen = []

    async def sleep(_seconds):
        seen.append(kubelets(double, **said))

    found = await Installer(cluster, sleep=sleep).look_at_nodes(values_of(values or {}), patience_s)
    assert got(double, "DaemonSet", PREFLIGHT) is None
    return [str(each) for each in found], seen[-1]


async def test_every_node_has_a_line_for_each_finding(double, cluster):
    report = "warning: device cni0 is left of flannel\nerror: UDP port 8472 is in use: end what has it"

    found, _ = await looked(double, cluster, node1=ended(FINE), node2=ended(report))

    assert found == [
        "ok: node1: kernel, mounts, devices and ports are as an agent needs them",
        "warning: node2: device cni0 is left of flannel",
        "error: node2: UDP port 8472 is in use: end what has it",
    ]


async def test_what_looks_has_no_token_changes_nothing_and_knows_what_agents_will_need(double, cluster):
    values = {
        "routingMode": "native",
        "ipv4NativeRoutingCIDR": "10.0.0.0/8",
        "kubeProxyReplacement": True,
        "cgroup": {"autoMount": {"enabled": False}, "hostRoot": "/sys/fs/cgroup"},
    }

    _, daemon_set = await looked(double, cluster, values, node1=ended(FINE), node2=ended(FINE))

    spec = daemon_set["spec"]["template"]["spec"]
    (look,) = spec["initContainers"]
    assert (spec["automountServiceAccountToken"], spec["hostNetwork"]) == (False, True)
    assert look["securityContext"]["readOnlyRootFilesystem"] is True
    assert look["command"] == [
        *("cilium-dbg", "preflight", "--tunnel-port=0", "--cgroup-root=/sys/fs/cgroup", "--kube-proxy-replacement"),
        *("--host-proc=/hostproc", "--report=/dev/termination-log"),
    ]
    assert [each["readOnly"] for each in look["volumeMounts"]] == [True]
    assert spec["volumes"] == [{"name": "hostproc", "hostPath": {"path": "/proc", "type": "Directory"}}]
    _, daemon_set = await looked(double, cluster, node1=ended(FINE), node2=ended(FINE))
    (look,) = daemon_set["spec"]["template"]["spec"]["initContainers"]
    assert look["command"][2] == "--tunnel-port=8472"


async def test_nodes_are_repaired_only_if_that_is_asked_for(double, cluster):
    seen = []

    async def sleep(_seconds):
        seen.append(kubelets(double, node1=ended(FINE), node2=ended(FINE)))

    for repair in (False, True):
        await Installer(cluster, sleep=sleep).look_at_nodes(values_of(), 6, repair=repair)

    commands = [each["spec"]["template"]["spec"]["initContainers"][0]["command"] for each in seen if each]
    assert ["--repair" in command for command in commands] == [False, True]


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (waiting("ErrImagePull"), "error: node2 was not looked at: ErrImagePull"),
        (waiting("CrashLoopBackOff", "Error: x"), "error: node2 was not looked at: CrashLoopBackOff: Error: x"),
        (ended("boom", code=1), "error: node2 was not looked at: its pod has not come to an end"),
        (ended(""), "warning: node2 was looked at, but says nothing"),
        (ended("odd"), "warning: node2: odd"),
        (ended("odd: x"), "warning: node2: odd: x"),
    ],
)
async def test_a_node_that_says_nothing_that_is_known_is_named(double, cluster, status, line):
    found, _ = await looked(double, cluster, node1=ended(FINE), node2=status)

    assert found[1:] == [line]


async def test_a_node_that_is_away_is_not_waited_for_and_keeps_nobody_from_installing(double, cluster):
    put(double, "Node", "node2", status={"conditions": [{"type": "Ready", "status": "Unknown"}]})

    found, _ = await looked(double, cluster, patience_s=600, node1=ended(FINE))

    assert found[1:] == ["warning: node2 was not looked at: nothing is heard of its kubelet"]


async def test_what_pods_of_an_earlier_run_said_is_not_heard(double, cluster):
    status, labels = ended("error: of another tunnelPort"), {"k8s-app": PREFLIGHT, RUN: "before"}
    put(double, "Pod", "old", metadata={"labels": labels}, spec={"nodeName": "node1"}, status=status)

    found, _ = await looked(double, cluster, node1=ended(FINE), node2=ended(FINE))

    assert [line.partition(":")[0] for line in found] == ["ok", "ok"]


async def test_it_takes_itself_away_whatever_happens(double, cluster):
    async def interrupted(_seconds):
        assert kubelets(double)
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await Installer(cluster, sleep=interrupted).look_at_nodes(values_of(), 6)

    assert got(double, "DaemonSet", PREFLIGHT) is None


@pytest.mark.parametrize("then", [lambda one: one.install({}), lambda one: one.uninstall(clean_within_s=0)])
async def test_what_was_killed_in_the_midst_of_it_leaves_nothing_for_long(double, cluster, then):
    async def killed(_seconds):
        double.denied = {("delete", "daemonsets")}  # as if nobody were there any more to delete it
        raise InstallRefused("killed")

    with pytest.raises(Exception, match="daemonsets"):
        await Installer(cluster, sleep=killed).look_at_nodes(values_of(), 6)
    assert got(double, "DaemonSet", PREFLIGHT) is not None
    double.denied = set()

    await then(Installer(cluster))

    assert got(double, "DaemonSet", PREFLIGHT) is None


async def test_a_daemon_set_of_that_name_that_is_not_ours_stays_as_it_is(double, cluster):
    put(double, "DaemonSet", PREFLIGHT, spec={"a": "b"})

    with pytest.raises(InstallRefused, match=r"DaemonSet cilium-preflight \(of none\)"):
        await Installer(cluster).look_at_nodes(values_of(), 6)

    assert got(double, "DaemonSet", PREFLIGHT)["spec"] == {"a": "b"}


async def test_a_namespace_that_is_not_there_is_not_made_for_a_look(cluster):
    with pytest.raises(InstallRefused, match="namespace elsewhere does not exist"):
        await Installer(cluster, "elsewhere").look_at_nodes(values_of(), 6)


class Kubelets(threading.Thread):
    """What `kubelets` does, as soon as there is something to do, until all is said."""

    def __init__(self, double, **said):
        super().__init__(daemon=True)
        self.double, self.said = double, said

    def run(self):
        for _ in range(600):
            if kubelets(self.double, **self.said):
                return
            time.sleep(0.05)


def test_install_asked_to_check_nodes_heeds_what_they_say_and_preflight_prints_it(cilium, double):
    put(double, "Node", "node1", metadata={"labels": {"kubernetes.io/os": "linux"}}, status=READY)
    said = {"node1": ended("error: device flannel.1 has UDP port 8472: remove it")}
    Kubelets(double, **said).start()
    refused = cilium("install", "--check-nodes")
    Kubelets(double, **said).start()
    looked = cilium("preflight", "--nodes")

    assert refused.returncode == looked.returncode == 1
    assert "node1: device flannel.1 has UDP port 8472: remove it" in refused.stderr
    assert "error: node1: device flannel.1 has UDP port 8472: remove it" in looked.stdout.splitlines()
    assert got(double, "DaemonSet", PREFLIGHT) is None
    assert got(double, "DaemonSet", "cilium") is None


def test_nothing_is_repaired_while_flannel_runs(cilium, double):
    put(double, "Node", "node1", metadata={"labels": {"kubernetes.io/os": "linux"}}, status=READY)
    put(double, "DaemonSet", "kube-flannel-ds", namespace="kube-flannel", spec={})
    Kubelets(double, node1=ended(FINE)).start()

    done = cilium("preflight", "--nodes", "--repair")

    assert "nothing is repaired, for flannel may run: DaemonSet kube-flannel-ds is there" in done.stderr
    assert cilium("preflight", "--repair").returncode == 2


def test_without_nodes_preflight_says_that_it_did_not_look_at_them(cilium):
    assert "--nodes does" in cilium("preflight").stderr
    wrong = cilium("install", "--check-nodes", "--skip-preflight")
    assert (wrong.returncode, "contradict" in wrong.stderr) == (2, True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_is_interrupted_takes_away_what_looks(cilium, double, tmp_path, number):
    put(double, "Node", "node1", metadata={"labels": {"kubernetes.io/os": "linux"}}, status=READY)
    command = [CILIUM, "preflight", "--nodes", "--kubeconfig", str(tmp_path / "config")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        said = iter(running.stderr.readline, "")
        assert any("looking at nodes: 0 of 1" in line for line in said)
        assert got(double, "DaemonSet", PREFLIGHT) is not None
        running.send_signal(number)
        assert running.wait(timeout=30) != 0

    assert got(double, "DaemonSet", PREFLIGHT) is None

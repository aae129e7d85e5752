"""Nodes are cleaned when an installation goes: what is done in which order, and what becomes of nodes that cannot be."""

from __future__ import annotations

import pytest

from pycilium.errors import InstallRefused, StoreUnavailable
from pycilium.install.kubernetes import Installer, Removed
from pycilium.install.kubernetes_cluster import Cluster
from pycilium.store.kubernetes.credentials import Access, Fixed, Proof
from pycilium.testing.api_cluster import KIND, NAMESPACE, got, play, put
from pycilium.testing.api_server import Fault

CLEANER = {"metadata": {"labels": {"k8s-app": "cilium-cleanup"}}}
CLEANED = {"initContainerStatuses": [{"name": "clean", "state": {"terminated": {"exitCode": 0}}}]}


class Controllers:
    """What kubelets and controllers do between two looks of ours."""

    def __init__(self, double, *, failing=()):
        self.double, self.failing = double, dict(failing)
        self.waits = 0
        self.told = []

    async def sleep(self, _seconds):
        self.waits += 1
        for node in ("node1", "node2"):
            if got(self.double, "DaemonSet", "cilium") is None and got(self.double, "Pod", f"cilium-{node}"):
                self.double.objects.delete(KIND["Pod"], NAMESPACE, f"cilium-{node}", {})
            if got(self.double, "DaemonSet", "cilium-cleanup"):
                status = self.failing.get(node, CLEANED)
                put(self.double, "Pod", f"clean-{node}", **CLEANER, spec={"nodeName": node}, status=status)


@pytest.fixture
async def installed(double):
    """A cluster with an installation that runs on two nodes, and who installs there."""
    put(double, "Namespace", NAMESPACE)
    access = Access(double.url, Fixed(Proof(), "a test"))
    async with Cluster(access, patience_s=0) as cluster:
        await Installer(cluster).install({})
        play(double)
        yield cluster


def waiting(reason, said=""):
    state = {"state": {"waiting": {"reason": reason}}, "lastState": {"terminated": {"message": said}}}
    return {"phase": "Pending", "initContainerStatuses": [{"name": "clean", **state}]}


async def test_every_node_is_cleaned_once_its_agent_has_ended(double, installed):
    controllers = Controllers(double)
    told = []

    removed = await Installer(installed, tell=told.append, sleep=controllers.sleep).uninstall()

    assert removed == Removed(found=True, unclean={})
    steps = [each for each in told if "DaemonSet" in each or "clean" in each or "agents" in each]
    assert steps == [
        "deleting DaemonSet cilium",
        "waiting for agents to end",
        "applying DaemonSet cilium-cleanup",
        "cleaning nodes: 0 of 2 are clean",
        "cleaning nodes: 2 of 2 are clean",
        "deleting DaemonSet cilium-cleanup",
    ]
    assert got(double, "DaemonSet", "cilium-cleanup") is None
    assert got(double, "ConfigMap", "cilium-config") is None


async def test_nodes_stop_saying_that_cilium_runs_there_and_keep_what_their_kubelets_say(double, installed):
    ready, up = {"type": "Ready", "status": "False"}, {"type": "NetworkUnavailable", "status": "False"}
    put(double, "Node", "node1", status={"conditions": [ready, {**up, "reason": "CiliumIsUp"}]})
    put(double, "Node", "node2", status={"conditions": [ready, {**up, "reason": "RouteCreated"}]})
    patch, others = installed.patch, [1]

    async def patched(kind, name, change, *words, **options):
        if others:  # a kubelet was quicker
            put(double, "Node", "node1", metadata={"labels": {"changed": str(others.pop())}})
        await patch(kind, name, change, *words, **options)

    installed.patch = patched

    await Installer(installed, sleep=Controllers(double).sleep).uninstall()

    reasons = [
        [each.get("reason") for each in got(double, "Node", node)["status"]["conditions"]]
        for node in ("node1", "node2")
    ]
    assert reasons == [[None], [None, "RouteCreated"]]


async def test_what_cleans_has_no_token_and_the_paths_that_agents_had(double, installed):
    await Installer(installed).upgrade({"daemon": {"runPath": "/run/other"}, "cni": {"binPath": "/usr/lib/cni"}})
    seen = []
    controllers = Controllers(double)

    async def sleep(seconds):
        await controllers.sleep(seconds)
        seen.append(got(double, "DaemonSet", "cilium-cleanup"))

    await Installer(installed, sleep=sleep).uninstall()

    spec = seen[-1]["spec"]["template"]["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert "--run-dir=/run/other" in spec["initContainers"][0]["command"]
    assert {each["name"]: each["hostPath"]["path"] for each in spec["volumes"]}["bin"] == "/usr/lib/cni"
    assert [each["securityContext"].get("privileged", False) for each in spec["containers"]] == [False]


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (waiting("ErrImageNeverPull"), "ErrImageNeverPull"),
        (waiting("CrashLoopBackOff", "Error: an agent runs"), "CrashLoopBackOff: Error: an agent runs"),
    ],
)
async def test_a_node_that_cannot_be_cleaned_is_named_and_the_rest_goes(double, installed, status, said):
    controllers = Controllers(double, failing={"node2": status})

    removed = await Installer(installed, sleep=controllers.sleep).uninstall(clean_within_s=6)

    assert removed == Removed(found=True, unclean={"node2": said})
    assert got(double, "ConfigMap", "cilium-config") is None


async def test_a_node_that_is_away_is_named_and_not_waited_for(double, installed):
    put(double, "Node", "node2", status={"conditions": [{"type": "Ready", "status": "Unknown"}]})
    controllers = Controllers(double, failing={"node2": {"phase": "Pending"}})

    removed = await Installer(installed, sleep=controllers.sleep).uninstall(clean_within_s=600)

    assert removed.unclean == {"node2": "nothing is heard of its kubelet"}
    assert controllers.waits < 5


async def test_nodes_that_have_no_network_and_are_not_ready_are_cleaned_all_the_same(double, installed):
    for node in ("node1", "node2"):
        put(double, "Node", node, status={"conditions": [{"type": "Ready", "status": "False"}]})

    removed = await Installer(installed, sleep=Controllers(double).sleep).uninstall()

    assert removed == Removed(found=True, unclean={})


async def test_an_uninstallation_that_broke_off_is_finished_by_the_same_command(double, installed):
    controllers = Controllers(double)
    double.faults.append(Fault(("apply",), times=1, delay_s=0))
    double.faults.append(Fault(("apply",), status=500))  # the record is kept; the cleaner is not applied
    with pytest.raises(StoreUnavailable):
        await Installer(installed, sleep=controllers.sleep).uninstall()

    removed = await Installer(installed, sleep=controllers.sleep).uninstall()

    assert removed == Removed(found=True, unclean={})


async def test_a_cleaner_that_was_left_does_not_clean_what_is_installed_again(double, installed):
    async def sleep(_seconds):
        if got(double, "DaemonSet", "cilium-cleanup"):
            raise InstallRefused("interrupted")
        for node in ("node1", "node2"):
            double.objects.delete(KIND["Pod"], NAMESPACE, f"cilium-{node}", {})

    double.faults.append(Fault(("delete",), times=2, delay_s=0))
    double.faults.append(Fault(("delete",), status=500))
    with pytest.raises(StoreUnavailable):
        await Installer(installed, sleep=sleep).uninstall()
    assert got(double, "DaemonSet", "cilium-cleanup") is not None

    put(double, "Pod", "clean-node1", **CLEANER, spec={"nodeName": "node1"})
    waits = []

    async def until_it_has_ended(seconds):
        waits.append(got(double, "DaemonSet", "cilium"))
        double.objects.delete(KIND["Pod"], NAMESPACE, "clean-node1", {})

    await Installer(installed, sleep=until_it_has_ended).install({})

    assert waits == [None]  # agents are made when nothing cleans any more
    assert got(double, "DaemonSet", "cilium-cleanup") is None
    assert got(double, "DaemonSet", "cilium") is not None


async def test_an_upgrade_cleans_nothing(double, installed):
    told = []

    await Installer(installed, tell=told.append).upgrade({"hubble": {"enabled": False}})

    assert not [each for each in told if "clean" in each]

"""`cilium connectivity test`, as users type it: in a lab, in a cluster, where something is wrong, and interrupted."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from pycilium.connectivity.arena import NAMESPACE
from pycilium.model.resources import KINDS
from pycilium.store import open_blocking
from pycilium.testing.api_server import ApiServerDouble, serving
from tests.e2e.lab import BIN, Lab, policy
from tests.e2e.played_cluster import PlayedCluster

pytestmark = pytest.mark.root
TEST = ("connectivity", "test")


def left_of_a_run(lab: Lab) -> list[str]:
    """Whatever has the test's namespace: network namespaces, and resources of any kind."""
    found = [path.name for path in Path("/run/netns").glob(f"cilium-{lab.name}-{NAMESPACE}.*")]
    with open_blocking(f"sqlite:///{lab.folder}/store.db") as store:
        for kind in KINDS:
            found += [str(each.key) for each in store.list(kind.resource).items if NAMESPACE in str(each.key)]
    return found


def test_a_lab_passes_and_nothing_is_left(lab: Lab, tmp_path: Path):
    report = tmp_path / "junit.xml"
    patterns = (
        "^no-policies$",
        "^pod-to-itself",
        "^client-egress-to-cidr-deny$",
        "^client-ingress$",
        "^client-ingress-to-echo-named-port-deny$",
        "^check-log",
        "drops",
    )

    done = lab.cilium(*TEST, *(word for each in patterns for word in ("--test", each)), "--junit-file", str(report))

    assert "All tests passed: 7 tests, " in done.stdout
    assert {case.get("name") for case in ET.parse(report).iter("testcase")} == {
        *("no-policies", "pod-to-itself-via-service", "client-ingress", "client-egress-to-cidr-deny"),
        *("client-ingress-to-echo-named-port-deny", "no-unexpected-packet-drops", "check-log-errors"),
    }
    assert left_of_a_run(lab) == []


def test_a_policy_that_cuts_pods_off_is_found_and_named(lab: Lab):
    """Whatever else is in force in the cluster judges the test's pods too."""
    own = policy(
        "no-echo",
        kind="CiliumClusterwideNetworkPolicy",
        endpointSelector={"matchLabels": {"kind": "client"}},
        egressDeny=[{"toEndpoints": [{"matchLabels": {"kind": "echo"}}]}],
    )
    lab.apply(own)
    try:
        done = lab.cilium(*TEST, "--test", "no-policies/pod-to-pod$", "--timeout", "0.5", check=False)
    finally:
        lab.delete_policies()

    assert done.returncode == 1
    assert "❌ [1/1] no-policies" in done.stdout
    assert "pod-to-pod: client -> echo-same-node, 10.0.1." in done.stdout
    assert "wrong:    it was to be let through, and had no answer" in done.stdout
    assert "wrong:    a packet of it was dropped: POLICY_DENY" in done.stdout
    assert "egress DROPPED POLICY_DENY (TCP Flags: SYN; denied by no-echo egressDeny[0])" in done.stdout
    assert left_of_a_run(lab) == []


def test_an_interrupted_run_leaves_nothing_and_says_so(lab: Lab):
    environment = {**os.environ, "CILIUM_LAB": lab.name}
    argv = [str(BIN / "cilium"), *TEST, "--test", "client-egress"]
    with subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        while "client-egress" not in run.stdout.readline():
            assert run.poll() is None
        run.send_signal(signal.SIGINT)
        _, said = run.communicate(timeout=60)

    assert (run.returncode, said.splitlines()[-1]) == (130, "Error: interrupted")
    assert left_of_a_run(lab) == []


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A kubeconfig of a cluster that is played over a lab."""
    lab = Lab(f"e2e-{secrets.token_hex(3)}")
    with serving(ApiServerDouble()) as double:
        lab.cilium("lab", "up", "--store", f"kubernetes:?server={double.url}")
        try:
            played = PlayedCluster(double, lab.name)
            try:
                yield played.kubeconfig(tmp_path_factory.mktemp("cluster"))
            finally:
                played.close()
        finally:
            lab.down()


def test_a_cluster_passes_through_its_api_server_alone(cluster: Path):
    patterns = ("no-policies/pod-to-(service|world)", "^all-ingress-deny$", "^client-egress-.*account-deny$", "^health")

    done = in_cluster(cluster, *(word for each in patterns for word in ("--test", each)))

    assert (done.returncode, done.stderr) == (0, "")
    assert "All tests passed: 4 tests, " in done.stdout


def in_cluster(kubeconfig: Path, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [BIN / "cilium", *TEST, "--kubeconfig", kubeconfig, *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=300)

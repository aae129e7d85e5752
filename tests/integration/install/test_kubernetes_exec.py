"""Commands in pods through an API server's stand-in, and what can keep them from running."""

from __future__ import annotations

import pytest

from pycilium.errors import NotFound, PodUnreachable, StoreForbidden, StoreUnavailable
from pycilium.install.kubernetes_cluster import Cluster
from pycilium.install.kubernetes_exec import Executed, execute
from pycilium.store.kubernetes.credentials import Access, Fixed, Proof
from pycilium.testing.api_objects import ALL_KINDS
from pycilium.testing.api_pods import Command, Outcome
from pycilium.testing.api_server import ApiServerDouble, Fault, serving

POD = next(kind for kind in ALL_KINDS if kind.name == "Pod")


@pytest.fixture
def double():
    with serving(ApiServerDouble()) as server:
        server.objects.create(POD, "kube-system", {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "cilium-1"}})
        yield server


@pytest.fixture
def run(double):
    async def run(*words, pod="cilium-1", timeout_s=10.0):
        access = Access(double.url, Fixed(Proof("Bearer secret"), "a test"))
        async with Cluster(access, patience_s=0) as cluster:
            return await execute(cluster, "kube-system", pod, "cilium-agent", words, timeout_s=timeout_s)

    return run


async def test_output_complaints_and_exit_code_come_back_whole(double, run):
    big = bytes(range(256)) * 1000
    double.pods.on_command = lambda _: Outcome(output=big, complaints=b"oh", exit_code=3)

    done = await run("cilium", "status", "-o", "json")

    assert done == Executed(exit_code=3, output=big, complaints=b"oh")
    assert double.pods.commands == [
        Command("kube-system", "cilium-1", "cilium-agent", ("cilium", "status", "-o", "json"))
    ]


async def test_a_command_that_succeeds_has_exit_code_zero(double, run):
    double.pods.on_command = lambda _: Outcome(output=b"well")

    assert await run("true") == Executed(0, b"well", b"")


async def test_a_command_that_cannot_be_run_says_why(double, run):
    double.pods.on_command = lambda _: Outcome(refusal="container not found (cilium-agent)")

    with pytest.raises(PodUnreachable, match=r"`true` in pod kube-system/cilium-1 .*container not found"):
        await run("true")


async def test_a_command_that_does_not_end_is_given_up(double, run):
    double.pods.on_command = lambda _: Outcome(hangs=True)

    with pytest.raises(PodUnreachable, match=r"did not end within 0\.1 s"):
        await run("sleep", timeout_s=0.1)


async def test_a_connection_that_ends_before_the_command_is_no_success(double, run):
    double.pods.on_command = lambda _: Outcome(output=b"half", breaks=True)

    with pytest.raises(PodUnreachable, match="ended before the command did"):
        await run("true")


async def test_a_pod_that_is_not_there_is_not_found(run):
    with pytest.raises(NotFound, match="cilium-2"):
        await run("true", pod="cilium-2")


async def test_a_right_that_is_missing_is_named(double, run):
    double.denied = {("get", "pods/exec")}

    with pytest.raises(StoreForbidden, match=r"resources \['pods/exec'\], verbs \['get'\]"):
        await run("true")


async def test_a_server_that_fails_is_named(double, run):
    double.faults.append(Fault(("get",), status=502))

    with pytest.raises(StoreUnavailable, match="opens no WebSocket"):
        await run("true")


async def test_credentials_that_are_not_known_are_refused(double, run):
    double.users = {"another": "admin"}

    with pytest.raises(StoreUnavailable, match="does not accept our credentials"):
        await run("true")

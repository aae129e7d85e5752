"""A cluster as the connectivity test's ground, against an API server's stand-in: rights, claims, what is left over."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from pycilium.connectivity.arena import NAMESPACE
from pycilium.connectivity.grounds import objects
from pycilium.connectivity.grounds.kubernetes import KubernetesGround
from pycilium.errors import CiliumError, InstallRefused
from pycilium.install.kubernetes_cluster import Cluster
from pycilium.store.kubernetes import machine_access
from pycilium.testing.api_cluster import agent_pod, got, put
from pycilium.testing.api_pods import Outcome
from pycilium.testing.api_server import ApiServerDouble, serving


@pytest.fixture
def double() -> Iterator[ApiServerDouble]:
    with serving(ApiServerDouble()) as server:
        agent_pod(server, "node1")
        yield server


@pytest.fixture
async def cluster(double: ApiServerDouble) -> AsyncIterator[Cluster]:
    async with Cluster(machine_access(f"kubernetes:?server={double.url}")) as opened:
        yield opened


async def entered(cluster: Cluster, namespace: str = "kube-system") -> KubernetesGround:
    return await KubernetesGround(cluster, namespace).__aenter__()


def said(_: str) -> None:
    pass


async def test_nodes_are_those_on_which_an_agent_runs(double, cluster):
    agent_pod(double, "node2")
    agent_pod(double, "node3", phase="Pending")

    assert (await entered(cluster)).nodes == ["node1", "node2"]


async def test_where_no_agent_runs_it_says_what_to_do(cluster):
    with pytest.raises(InstallRefused, match=r"no agent runs in namespace elsewhere .* `cilium install --wait`"):
        await entered(cluster, "elsewhere")


async def test_missing_rights_are_all_told_and_nothing_is_made(double, cluster):
    double.denied = {("create", "namespaces"), ("patch", "networkpolicies")}

    with pytest.raises(InstallRefused, match="create namespaces, patch networkpolicies; bind a ClusterRole"):
        await (await entered(cluster)).claim()
    assert got(double, "Namespace", NAMESPACE) is None


async def test_of_two_runs_the_second_is_refused_and_told_how_to_clean_up(cluster):
    await (await entered(cluster)).claim()

    with pytest.raises(CiliumError, match=r"another connectivity test runs here, or one was killed; .* --cleanup"):
        await (await entered(cluster)).claim()


async def test_what_a_run_made_is_taken_away_whole_and_again(double, cluster):
    ground = await entered(cluster)
    await ground.claim()
    await cluster.apply(objects.account("client"))
    put(double, "Pod", "client", namespace=NAMESPACE, spec={"nodeName": "node1"})
    put(double, "CiliumNetworkPolicy", "p", namespace=NAMESPACE, spec={"endpointSelector": {}})

    await ground.clear(said)
    await ground.clear(said)

    kinds = (("Pod", "client"), ("CiliumNetworkPolicy", "p"), ("ServiceAccount", "client"))
    assert [got(double, kind, name, NAMESPACE) for kind, name in kinds] == [None] * 3
    assert got(double, "Namespace", NAMESPACE) is None


async def test_a_namespace_of_somebody_elses_is_never_touched(double, cluster):
    put(double, "Namespace", NAMESPACE)
    put(double, "Pod", "web", namespace=NAMESPACE, spec={"nodeName": "node1"})

    with pytest.raises(CiliumError, match="is not of a connectivity test"):
        await (await entered(cluster)).clear(said)
    assert got(double, "Pod", "web", NAMESPACE) is not None


async def test_a_pod_that_cannot_start_ends_the_run_with_its_reason(double, cluster, monkeypatch):
    double.pods.on_command = lambda _: Outcome(b"1767225600.0\n")
    ground = await entered(cluster)
    await ground.claim()
    failed = {"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"reason": "StartError"}}}]}
    apply = cluster.apply

    async def applied(plain):
        made = await apply(plain)
        if plain["kind"] == "Pod":
            put(double, "Pod", plain["metadata"]["name"], namespace=NAMESPACE, status=failed)
        return made

    monkeypatch.setattr(cluster, "apply", applied)

    with pytest.raises(CiliumError, match="do not become ready: pod client is Failed: StartError"):
        await ground.prepare(said)


async def test_errors_in_an_agents_log_and_its_restarts_are_found(double, cluster):
    double.pods.on_command = lambda _: Outcome(b"1767225600.0\n")
    log = "level=info event=ready\nlevel=error event=lost\n"
    double.pods.logs["kube-system", "cilium-node1", "cilium-agent", False] = log
    ground = await entered(cluster)
    await ground.look_at_agents()
    agent_pod(double, "node1", containerStatuses=[{"name": "cilium-agent", "restartCount": 1}])

    assert await ground.log_errors() == ["node1: level=error event=lost", "node1: its agent was restarted"]

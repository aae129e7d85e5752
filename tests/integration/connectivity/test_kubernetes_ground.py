"""A cluster as the connectivity test's ground, against an API server's stand-in: rights, claims, what is left over."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator

import pytest

from pycilium.connectivity.arena import NAMESPACE
from pycilium.connectivity.grounds import kubernetes, objects
from pycilium.connectivity.grounds.kubernetes import KubernetesGround
from pycilium.connectivity.scenarios import SCENARIOS
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


@pytest.fixture
def kubelets(double, cluster, monkeypatch):
    """Pods run as soon as they are made, but those of `broken`; packets of the world come through if `carries`."""
    state = {"broken": "", "carries": True}
    for node, number in (("node1", 1), ("node2", 2)):
        put(double, "Node", node, status={"addresses": [{"type": "InternalIP", "address": f"192.0.2.{number}"}]})
    apply = cluster.apply

    async def applied(plain):
        made = await apply(plain)
        if plain["kind"] == "Pod":
            said = {"state": {"terminated": {"reason": "Error", "message": "no route"}}}
            runs = {"conditions": [{"type": "Ready", "status": "True"}], "podIPs": [{"ip": "10.0.0.7"}]}
            broken = plain["metadata"]["name"] == state["broken"]
            status = {"phase": "Failed", "containerStatuses": [said]} if broken else {"phase": "Running", **runs}
            put(double, "Pod", plain["metadata"]["name"], namespace=NAMESPACE, status=status)
        return made

    def ran(command):
        if command.words[-1] == "clock":
            return Outcome(b"1767225600.0\n")
        return Outcome(json.dumps({"answered": state["carries"], "took_s": 0.1}).encode())

    monkeypatch.setattr(cluster, "apply", applied)
    monkeypatch.setattr(kubernetes, "_WAY_S", 0.0)
    double.pods.on_command = ran
    return state


async def prepared(cluster):
    ground = await entered(cluster)
    await ground.claim()
    return await ground.prepare(said)


async def test_a_second_node_gets_a_way_back_to_the_world_which_is_outside_for_it(double, cluster, kubelets):
    agent_pod(double, "node2")

    arena = await prepared(cluster)

    assert (arena.outside_of, arena.lacking) == (("node2",), {})
    way = got(double, "Pod", objects.WAY_POD, NAMESPACE)["spec"]
    assert (way["nodeName"], way["hostNetwork"]) == ("node2", True)
    hops = [f"192.0.2.1={address}" for address in objects.WORLD["ipv4"]]
    assert way["containers"][0]["command"][-3:] == ["way", *hops]


@pytest.mark.parametrize(
    ("nodes", "change", "why"),
    [
        (1, {}, "there is one node with an agent"),
        (2, {"carries": False}, "the network between node1 and node2 lets no packet by"),
        (2, {"broken": objects.WAY_POD}, "node2 could not be given a way back .* Error: no route"),
        (2, {"broken": objects.WORLD_POD}, "no world could be made"),
    ],
)
async def test_where_no_client_is_outside_it_says_why(double, cluster, kubelets, nodes, change, why):
    if nodes == 2:
        agent_pod(double, "node2")
    kubelets |= change

    arena = await prepared(cluster)

    assert arena.outside_of == ()
    assert re.search(why, SCENARIOS["outside-to-nodeport"].lacking(arena))

"""Agents and operators under the chart's own roles: each can do what it must, and no right is granted in vain."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import pytest

from pycilium.endpoint.slices import COMPLETE
from pycilium.identity import MARK
from pycilium.install.kubernetes_names import NOT_READY_TAINT
from pycilium.lab import namespaces, processes
from pycilium.operator import unmanaged_pods
from pycilium.testing.api_objects import kind_named
from pycilium.testing.api_server import serving
from tests.integration.agent.cluster import AGENT, NAMESPACE, NODE, Cluster, Operator
from tests.integration.agent.conftest import Place, plumbed

pytestmark = pytest.mark.root
PATIENCE_S = 60.0
KUBELET_BEAT_S = 1.0
OPERATOR = {
    "cluster_pool_ipv4_cidrs": ("10.77.0.0/24",),
    "cluster_pool_ipv6_cidrs": (),
    "node_grace_s": 6,
    "identity_grace_s": 2,
    "identity_gc_interval_s": 1,
    "unmanaged_pod_interval_s": 1,
}
POLICIES = {"CiliumNetworkPolicy": "default", "CiliumClusterwideNetworkPolicy": ""}


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with plumbed() as place:
        yield place


@pytest.fixture(scope="module")
def running(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, Operator]]:
    """With everything in it that agents and operators have to do with, slices of endpoints too, and both running."""
    folder = tmp_path_factory.mktemp("cluster")
    with pytest.MonkeyPatch.context() as patch, ExitStack() as ending:
        patch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        patch.setattr(unmanaged_pods, "GRACE_S", 2.0)
        made = Cluster(folder, place.node)
        ending.callback(namespaces.unmount_below, folder)
        ending.enter_context(serving(made.double, unix_socket=made.socket))
        prepare(made)
        ending.enter_context(kubelet(made))
        operator = ending.enter_context(Operator(made, endpoint_slices=True, **OPERATOR))
        until(lambda: there(made, "CiliumEndpointSlice", name=COMPLETE), "slices are complete")
        made.start_agent(node_lease_duration_s=4, endpoint_slices=True)
        ending.callback(processes.end, made.agents)
        until(made.is_ready, "the agent is ready")
        yield made, operator


@pytest.fixture(scope="module")
def cluster(running: tuple[Cluster, Operator]) -> Cluster:
    return running[0]


@pytest.fixture(scope="module")
def operator(running: tuple[Cluster, Operator]) -> Operator:
    return running[1]


class kubelet:  # noqa: N801  a context manager
    """Renews the node's lease, for as long as the block runs."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._ended = cluster, threading.Event()
        self._thread = threading.Thread(target=self._run, name="kubelet")

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(KUBELET_BEAT_S):
            renewed = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
            self._cluster.change("Lease", NODE, {"spec": {"renewTime": renewed}}, "kube-node-lease")


def until(holds: Callable[[], object], why: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, f"waited in vain: {why}"
        time.sleep(0.05)


def there(cluster: Cluster, kind: str, **fields: Any) -> list[Any]:
    return [each for each in cluster.all(kind) if all(each["metadata"].get(key) == is_ for key, is_ in fields.items())]


def agent_follows(cluster: Cluster, kind: str) -> bool:
    rights = cluster.double.rights
    assert rights is not None
    return any(
        (grant.account, grant.resource, grant.verb) == (f"{NAMESPACE}:{AGENT}", kind_named(kind).plural, "watch")
        for grant in rights.used
    )


def plain(kind: str, name: str, api_version: str, namespace: str = "", **parts: Any) -> dict[str, Any]:
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **parts}


def policy(kind: str, name: str, port: str) -> dict[str, Any]:
    """That selects nobody."""
    rules = [{"toPorts": [{"ports": [{"port": port, "protocol": "TCP"}]}]}]
    spec = {"endpointSelector": {"matchLabels": {"app": "nobody"}}, "egress": rules}
    return plain(kind, name, "cilium.io/v2", POLICIES[kind], spec=spec)


def prepare(cluster: Cluster) -> None:
    """What a cluster has when it is installed, and one node too many."""
    taints = [{"key": NOT_READY_TAINT, "effect": "NoSchedule"}]
    cluster.make(plain("Node", NODE, "v1", spec={"taints": taints}))
    for name, address in ((NODE, "203.0.113.9"), ("node2", "203.0.113.10")):
        lease = {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": "2026-01-01T00:00:00.000000Z"}
        cluster.make(plain("Lease", name, "coordination.k8s.io/v1", "kube-node-lease", spec=lease))
        addresses = [{"type": "InternalIP", "ip": address}]
        cluster.make(plain("CiliumNode", name, "cilium.io/v2", spec={"addresses": addresses}))
    cluster.make(plain("Namespace", "default", "v1"))
    cluster.make(plain("Pod", "web", "v1", "default", spec={"nodeName": NODE}, status={"phase": "Running"}))
    blocks = [{"cidr": "198.51.100.0/28"}]
    cluster.make(plain("CiliumLoadBalancerIPPool", "pool", "cilium.io/v2", spec={"blocks": blocks}))
    announced = {"loadBalancerIPs": True, "interfaces": ["eth0"]}
    cluster.make(plain("CiliumL2AnnouncementPolicy", "all", "cilium.io/v2alpha1", spec=announced))
    for kind in POLICIES:
        cluster.make(policy(kind, "good", "http"))
    ports = [{"port": 80, "protocol": "TCP"}]
    spec = {"type": "LoadBalancer", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "ports": ports}
    cluster.make(plain("Service", "web", "v1", "default", spec=spec))


def live(cluster: Cluster, place: str, ending: ExitStack) -> None:
    """What happens to pods in their time."""
    for name in ("web", "other"):
        namespaces.create(f"{place}-{name}")
        ending.callback(namespaces.delete, f"{place}-{name}")
    cluster.attach(f"{place}-web", "c1", "web")
    until(lambda: there(cluster, "CiliumEndpoint", name="web"), "the endpoint is published")
    cluster.attach(f"{place}-other", "c2", "nobody-knows-it")
    cluster.change("Pod", "web", {"metadata": {"labels": {"app": "web"}}}, "default")
    until(lambda: len(cluster.all("CiliumIdentity")) > 1, "the changed labels have a number")
    (endpoint,) = there(cluster, "CiliumEndpoint", name="web")
    number = str(endpoint["status"]["identity"]["id"])
    cluster.change("CiliumIdentity", number, {"metadata": {"annotations": {MARK: "long ago"}}})
    until(
        lambda: MARK not in cluster.got("CiliumIdentity", number)["metadata"].get("annotations", {}),
        "the mark is taken off what is in use",
    )
    cluster.delete("CiliumNode", NODE)
    until(lambda: there(cluster, "CiliumNode", name=NODE), "the node that was removed publishes itself again")
    cluster.detach("c2")
    until(lambda: not there(cluster, "CiliumEndpoint", name="nobody-knows-it"), "the endpoint is gone")


def test_each_can_do_what_it_must_and_no_right_is_granted_in_vain(
    cluster: Cluster, operator: Operator, place: Place
) -> None:
    """With slices of endpoints, and when they are switched off while agents still follow them."""
    read = cluster.run_in_pod(["pycilium.cli.cilium_dbg", "build-config", f"--dest={cluster.folder}/config"], AGENT)
    networking = {"addressing": [{"ipv4": "10.9.0.1"}], "node": "203.0.113.99"}
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "dns", "uid": "1", "controller": True}
    unmanaged = plain("Pod", "dns", "v1", "kube-system", spec={"nodeName": NODE}, status={"phase": "Running"})
    unmanaged["metadata"] |= {"labels": {"k8s-app": "kube-dns"}, "ownerReferences": [owner]}
    cluster.make(unmanaged)
    lost = plain("CiliumEndpoint", "lost", "cilium.io/v2", "default", status={"networking": networking})
    cluster.make(lost)
    with ExitStack() as ending:
        live(cluster, place.node, ending)
        until(lambda: there(cluster, "Lease", name="cilium-l2announce-default-web"), "the address is announced")
        until(lambda: not there(cluster, "CiliumNode", name="node2"), "the node that gives no sign of life is removed")
        until(lambda: not there(cluster, "CiliumEndpoint", name="lost"), "endpoints of nobody are removed")
        until(lambda: len(cluster.all("CiliumIdentity")) == 1, "identities of nobody are removed")
        operator.restart(endpoint_slices=False)
        until(lambda: not cluster.all("CiliumEndpointSlice"), "slices are gone")
        until(lambda: agent_follows(cluster, "CiliumEndpoint"), "the agent follows CiliumEndpoints")
        cluster.detach("c1")
        until(lambda: cluster.all("Event"), "the pod that started without us is restarted")

    rights = cluster.double.rights
    assert read.returncode == 0, read.stderr
    assert rights is not None
    assert sorted(map(str, rights.refused)) == []
    assert sorted(map(str, rights.granted() - rights.used)) == []
    assert NOT_READY_TAINT not in str(cluster.got("Node", NODE)["spec"])


def test_each_policy_is_said_to_be_valid_or_why_it_is_not_once(cluster: Cluster) -> None:
    def said() -> dict[tuple[str, str], tuple[str, str]]:
        return {
            (kind, each["metadata"]["name"]): (condition["status"], condition["message"])
            for kind in POLICIES
            for each in cluster.all(kind)
            for condition in each.get("status", {}).get("conditions", ())
            if condition["type"] == "Valid"
        }

    for kind in POLICIES:
        cluster.make(policy(kind, "broken", "99999"))
    until(lambda: len(said()) == 4, "every policy is judged")

    why = said()["CiliumNetworkPolicy", "broken"][1]
    assert "spec.egress[0].toPorts[0].ports[0].port: port 99999 is impossible" in why
    assert {each: status for each, (status, _) in said().items()} == {
        (kind, name): status for kind in POLICIES for name, status in (("good", "True"), ("broken", "False"))
    }
    assert sum(each.verb == "patch" and each.kind.name in POLICIES for each in cluster.double.asked) == 4
    for kind, namespace in POLICIES.items():
        cluster.delete(kind, "broken", namespace)


def test_at_rest_nothing_is_asked_for_but_leases(cluster: Cluster) -> None:
    """What stands in watches costs a server nothing until something changes; who leads and who announces must renew."""
    until(lambda: not cluster.all("CiliumIdentity"), "the last pod's identity is removed")
    asked = cluster.double.asked
    begun = len(asked)

    def renewed() -> Counter[str]:
        return Counter(each.name for each in asked[begun:] if each.verb == "update" and each.kind.name == "Lease")

    until(lambda: len(renewed()) > 1 and min(renewed().values()) > 2, "both leases are renewed several times")

    assert {(each.verb, each.kind.name, each.namespace) for each in asked[begun:]} == {
        ("get", "Lease", NAMESPACE),
        ("update", "Lease", NAMESPACE),
        ("list", "Lease", "kube-node-lease"),
    }

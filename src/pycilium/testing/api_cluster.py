"""A cluster in which an installation runs, played on an API server's stand-in: nodes, workloads' states, their pods.

What a controller manager, kubelets and agents would do, in one call; tests then change what they are about.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pycilium.testing.api_objects import ALL_KINDS, ApiFailure, ApiKind
from pycilium.testing.api_pods import Command, Outcome
from pycilium.testing.api_server import ApiServerDouble

Plain = dict[str, Any]
KIND: Mapping[str, ApiKind] = {kind.name: kind for kind in ALL_KINDS}
NAMESPACE = "kube-system"
AGENT_STATUS: Plain = {"cilium": {"state": "Ok", "msg": "1.0"}, "hubble": {"state": "Ok"}, "node-name": "node1"}
STATUS, ENDPOINTS = ("cilium", "status", "-o", "json"), ("cilium", "endpoint", "list", "-o", "json")


def put(double: ApiServerDouble, kind: str, name: str, *, namespace: str = NAMESPACE, **fields: Any) -> None:
    """The object, whether or not it was there before."""
    of, inside = KIND[kind], namespace if KIND[kind].namespaced else ""
    metadata = {"name": name, **fields.pop("metadata", {})}
    plain = {"apiVersion": of.api_version, "kind": kind, "metadata": metadata, **fields}
    try:
        double.objects.get(of, inside, name)
    except ApiFailure:
        double.objects.create(of, inside, plain)
    else:
        double.objects.patch(of, inside, name, plain)
    if "status" in fields and of.status_apart:
        double.objects.patch(of, inside, name, {"status": fields["status"]}, status=True)


def got(double: ApiServerDouble, kind: str, name: str, namespace: str = NAMESPACE) -> Plain | None:
    """The object as it is."""
    try:
        plain: Plain = json.loads(double.objects.get(KIND[kind], namespace if KIND[kind].namespaced else "", name))
    except ApiFailure:
        return None
    return plain


def play(double: ApiServerDouble, nodes: Sequence[str] = ("node1", "node2")) -> None:
    """All that is installed runs, agents on `nodes` and an operator on the first."""
    count = len(nodes)
    for node in nodes:
        ready = [{"type": "Ready", "status": "True"}]
        labels = {"kubernetes.io/os": "linux"}
        status = {"conditions": ready, "nodeInfo": {"kernelVersion": "6.1.0"}}
        put(double, "Node", node, metadata={"labels": labels}, status=status)
        agent_pod(double, node)
    put(double, "Pod", "cilium-operator-1", **_pod("cilium-operator", nodes[0], {"io.cilium/app": "operator"}))
    numbers = ("desiredNumberScheduled", "updatedNumberScheduled", "numberReady", "numberAvailable")
    generation = (got(double, "DaemonSet", "cilium") or {}).get("metadata", {}).get("generation", 1)
    rolled = {"observedGeneration": generation, **dict.fromkeys(numbers, count)}
    put(double, "DaemonSet", "cilium", status=rolled)
    replicas = ("replicas", "readyReplicas", "availableReplicas", "updatedReplicas")
    generation = (got(double, "Deployment", "cilium-operator") or {}).get("metadata", {}).get("generation", 1)
    put(
        double, "Deployment", "cilium-operator", status={"observedGeneration": generation, **dict.fromkeys(replicas, 1)}
    )
    put(double, "Pod", "web", namespace="default", spec={"nodeName": nodes[0]}, status={"phase": "Running"})
    put(double, "CiliumEndpoint", "web", namespace="default", status={"id": 7})
    double.pods.on_command = on_command({STATUS: AGENT_STATUS, ENDPOINTS: [{"id": 7, "status": {"state": "ready"}}]})


def agent_pod(double: ApiServerDouble, node: str, **status: Any) -> None:
    """An agent's pod that runs, or that is as `status` says."""
    pod = _pod("cilium-agent", node, {"k8s-app": "cilium"})
    put(double, "Pod", f"cilium-{node}", **{**pod, "status": {**pod["status"], **status}})


def on_command(answers: Mapping[tuple[str, ...], Any]) -> Any:
    """Pods that know these commands, and what they print: JSON, a text, or an Outcome."""

    def run(command: Command) -> Outcome:
        answer = answers.get(command.words)
        if answer is None:
            return Outcome(complaints=f"Error: unknown command {command.words}".encode(), exit_code=2)
        if isinstance(answer, Outcome):
            return answer
        return Outcome(output=(answer if isinstance(answer, str) else json.dumps(answer)).encode())

    return run


def _pod(container: str, node: str, labels: Mapping[str, str]) -> Plain:
    image = "localhost/pycilium:v1"
    return {
        "metadata": {"labels": dict(labels)},
        "spec": {"nodeName": node, "hostNetwork": True, "containers": [{"name": container, "image": image}]},
        "status": {
            "phase": "Running",
            "containerStatuses": [{"name": container, "ready": True, "state": {"running": {}}}],
        },
    }

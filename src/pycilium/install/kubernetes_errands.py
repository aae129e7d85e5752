"""Errands: what is done once on every node, by a DaemonSet that lives for as long as that takes; and how far it is.

Its pods do it as an init step; one that has ended well is a node where it is done, though the node may have no network
and not be ready. They use their node's network, run wherever agents do, and have no token of the API.
Invariant: an errand says nothing of what is done; whoever sends one takes it away again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pycilium.install.kubernetes_cluster import NODE, POD, Cluster
from pycilium.install.kubernetes_names import named
from pycilium.install.kubernetes_pods import end_of, is_heard, node_of, waiting
from pycilium.install.kubernetes_workloads import IMAGE
from pycilium.install.templates import Filling, Plain, Value, realized

_POLL_S = 2.0


@dataclass(frozen=True, slots=True)
class Errand:
    """One of them."""

    daemon_set: Plain
    step: str
    """The init container that does it."""
    selector: str
    """Of its pods."""
    doing: str
    done: str
    """Both in words: "cleaning nodes", "clean"."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the nodes are."""

    done: Mapping[str, str]
    """What the step said at its end."""
    under_way: Mapping[str, str]
    """What is still waited for, and why it takes so long."""
    away: Mapping[str, str]
    """What waiting does not help with, and why."""

    @property
    def undone(self) -> Mapping[str, str]:
        return {**self.under_way, **self.away}


def selector(name: str) -> str:
    """Of the pods of the errand of that name."""
    return f"k8s-app={name}"


def daemon_set(
    name: str,
    step: Plain,
    volumes: Sequence[Any],
    filling: Filling,
    labels: Mapping[str, str] | None = None,
) -> Plain:
    """It, with `step` as what is done, and more `labels` on its pods."""
    own = {"k8s-app": name}
    idle = {
        "name": "done",
        **IMAGE,
        "command": ["sleep", "infinity"],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    spec = {
        "hostNetwork": True,
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 0,
        "priorityClassName": Value("priorityClassName"),
        "nodeSelector": Value("nodeSelector"),
        "tolerations": [{"operator": "Exists"}],
        "imagePullSecrets": Value("imagePullSecrets"),
        "initContainers": [{**IMAGE, "terminationMessagePolicy": "FallbackToLogsOnError", **step}],
        "containers": [idle],
        "volumes": list(volumes),
    }
    tree = {
        **named("DaemonSet", "apps/v1", name, labels=own),
        "spec": {
            "selector": {"matchLabels": own},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "100%"}},
            "template": {"metadata": {"labels": {**own, **(labels or {})}}, "spec": spec},
        },
    }
    made: Plain = realized(tree, filling)
    return made


def head(name: str, namespace: str) -> Plain:
    """What names it, to take it away."""
    return {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": name, "namespace": namespace}}


def progress(errand: Errand, nodes: Sequence[Plain], pods: Sequence[Plain]) -> Progress:
    """How far `nodes` are, by the errand's pods."""
    by_node = {node_of(pod): pod for pod in pods}
    done, under_way, away = {}, {}, {}
    for node in nodes:
        name, pod = node["metadata"]["name"], by_node.get(node["metadata"]["name"])
        end = end_of(pod, errand.step) if pod is not None else None
        if end is not None:
            done[name] = end
        elif not is_heard(node):
            away[name] = "nothing is heard of its kubelet"
        elif pod is None:
            under_way[name] = "its pod has not been made yet"
        else:
            waits = waiting(pod)
            text = ": ".join(filter(None, (waits.reason, waits.said)))
            (away if waits.has_no_image else under_way)[name] = text or "its pod has not come to an end"
    return Progress(done, under_way, away)


async def wait_for_end(
    cluster: Cluster,
    namespace: str,
    selected: str,
    nodes: Sequence[Plain],
    patience_s: float,
    sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
) -> None:
    """Until no pod that is `selected` is left on nodes that are heard, or patience is at an end."""
    heard = {node["metadata"]["name"] for node in nodes if is_heard(node)}
    waited_s = 0.0
    while waited_s < patience_s:
        pods = await cluster.listed(POD, namespace, selected)
        if not any(node_of(pod) in heard for pod in pods):
            return
        await sleep(_POLL_S)
        waited_s += _POLL_S


async def wait_until_done(
    cluster: Cluster,
    errand: Errand,
    nodes: Sequence[Plain],
    patience_s: float,
    tell: Callable[[str], None],
    sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
) -> Progress:
    """How far the nodes are when nothing is under way any more or patience is at an end."""
    namespace = errand.daemon_set["metadata"]["namespace"]
    waited_s, said = 0.0, ""
    while True:
        now = progress(errand, nodes, await cluster.listed(POD, namespace, errand.selector))
        text = f"{errand.doing}: {len(now.done)} of {len(nodes)} are {errand.done}"
        if text != said:
            tell(text)
            said = text
        if not now.under_way or waited_s >= patience_s:
            return now
        await sleep(_POLL_S)
        waited_s += _POLL_S


async def nodes_of(cluster: Cluster, values: Mapping[str, Any]) -> list[Plain]:
    """The nodes on which agents are wanted."""
    wanted = values["nodeSelector"].items()
    return [node for node in await cluster.listed(NODE) if wanted <= (node["metadata"].get("labels") or {}).items()]

"""Cleaning nodes when an installation goes: a DaemonSet that lives for as long as that takes, and what became of it.

Its pods clean as an init step; one that has ended well is a node that is clean, though the node has no network then and
is not ready any more. They have no token of the API.
Invariant: it never runs beside agents; the command in it refuses where one answers, and installing takes it away first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pycilium.install.kubernetes_cluster import NODE, POD, Cluster
from pycilium.install.kubernetes_names import CLEANUP, named
from pycilium.install.kubernetes_pods import has_done, is_heard, node_of, waiting
from pycilium.install.kubernetes_workloads import IMAGE, SEEN_BOTH_WAYS, of_host
from pycilium.install.templates import Filling, Format, Plain, Text, Value, realized

_LABELS = {"k8s-app": CLEANUP}
SELECTOR = f"k8s-app={CLEANUP}"
"""Of the pods that clean."""
_CLEANER = "clean"
_POLL_S = 2.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the nodes are."""

    clean: frozenset[str]
    under_way: Mapping[str, str]
    """What is still waited for, and why it takes so long."""
    away: Mapping[str, str]
    """What waiting does not help with, and why."""


def daemon_set(values: Mapping[str, Any], namespace: str) -> Plain:
    """The cleaner, with the paths that agents were given."""
    arguments = [
        "--force",
        Format("--bpf-root=%s/cilium", (Text("bpf.root"),)),
        Format("--run-dir=%s", (Text("daemon.runPath"),)),
        "--cni-conf=/host/etc/cni/net.d/05-cilium.conflist",
        "--cni-bin=/host/opt/cni/bin",
    ]
    cleaner = {
        "name": _CLEANER,
        **IMAGE,
        "command": ["cilium-dbg", "cleanup", *arguments],
        "securityContext": {"privileged": True},  # takes a mount away that the node is to see gone
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "bpf", "mountPath": Value("bpf.root"), "mountPropagation": SEEN_BOTH_WAYS},
            {"name": "run", "mountPath": Value("daemon.runPath"), "mountPropagation": SEEN_BOTH_WAYS},
            {"name": "conf", "mountPath": "/host/etc/cni/net.d"},
            {"name": "bin", "mountPath": "/host/opt/cni/bin"},
        ],
    }
    idle = {
        "name": "cleaned",
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
        "initContainers": [cleaner],
        "containers": [idle],
        "volumes": [
            of_host("bpf", Value("bpf.root")),
            of_host("run", Value("daemon.runPath")),
            of_host("conf", Value("cni.confPath")),
            of_host("bin", Value("cni.binPath")),
        ],
    }
    tree = {
        **named("DaemonSet", "apps/v1", CLEANUP, labels=_LABELS),
        "spec": {
            "selector": {"matchLabels": _LABELS},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "100%"}},
            "template": {"metadata": {"labels": _LABELS}, "spec": spec},
        },
    }
    made: Plain = realized(tree, Filling(values, namespace))
    return made


def progress(nodes: Sequence[Plain], pods: Sequence[Plain]) -> Progress:
    """How far `nodes` are, by the cleaner's pods."""
    by_node = {node_of(pod): pod for pod in pods}
    clean, under_way, away = set(), {}, {}
    for node in nodes:
        name, pod = node["metadata"]["name"], by_node.get(node["metadata"]["name"])
        if pod is not None and has_done(pod, _CLEANER):
            clean.add(name)
        elif not is_heard(node):
            away[name] = "nothing is heard of its kubelet"
        elif pod is None:
            under_way[name] = "its pod has not been made yet"
        else:
            waits = waiting(pod)
            text = ": ".join(filter(None, (waits.reason, waits.said)))
            (away if waits.has_no_image else under_way)[name] = text or "it is being cleaned"
    return Progress(frozenset(clean), under_way, away)


async def wait_for_end(
    cluster: Cluster,
    namespace: str,
    selector: str,
    nodes: Sequence[Plain],
    patience_s: float,
    sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
) -> None:
    """Until no pod that `selector` selects is left on nodes that are heard, or patience is at an end."""
    heard = {node["metadata"]["name"] for node in nodes if is_heard(node)}
    waited_s = 0.0
    while waited_s < patience_s:
        pods = await cluster.listed(POD, namespace, selector)
        if not any(node_of(pod) in heard for pod in pods):
            return
        await sleep(_POLL_S)
        waited_s += _POLL_S


async def wait_until_clean(
    cluster: Cluster,
    namespace: str,
    nodes: Sequence[Plain],
    patience_s: float,
    tell: Callable[[str], None],
    sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
) -> Mapping[str, str]:
    """The nodes that are not clean when nothing is under way any more or patience is at an end, and why."""
    waited_s, said = 0.0, ""
    while True:
        now = progress(nodes, await cluster.listed(POD, namespace, SELECTOR))
        text = f"cleaning nodes: {len(now.clean)} of {len(nodes)} are clean"
        if text != said:
            tell(text)
            said = text
        if not now.under_way or waited_s >= patience_s:
            return {**now.under_way, **now.away}
        await sleep(_POLL_S)
        waited_s += _POLL_S


async def nodes_of(cluster: Cluster, values: Mapping[str, Any]) -> list[Plain]:
    """The nodes on which agents were wanted."""
    wanted = values["nodeSelector"].items()
    return [node for node in await cluster.listed(NODE) if wanted <= (node["metadata"].get("labels") or {}).items()]

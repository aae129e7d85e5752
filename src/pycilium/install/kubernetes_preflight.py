"""Whether a cluster can take us, before anything is changed: one line per finding, with what to change.

An error stops an installation; a warning does not. Nodes themselves are looked at by their agents, at
their start, and before if that is asked for: by `kubernetes_node_preflight`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pycilium.install import kubernetes_k3s
from pycilium.install.findings import Finding
from pycilium.install.kubernetes_cluster import DAEMON_SET, KINDS, LEASE, Cluster, kind_of
from pycilium.install.kubernetes_detection import Facts
from pycilium.install.kubernetes_manifests import objects
from pycilium.install.kubernetes_names import RELEASE
from pycilium.install.kubernetes_release import owner

OLDEST_KERNEL = (5, 10)
OLDEST_SERVER = (1, 22)
"""Objects are applied on the server's side; before, that was a trial."""
SERVED = (
    *("apps/v1", "rbac.authorization.k8s.io/v1", "apiextensions.k8s.io/v1"),
    *("coordination.k8s.io/v1", "discovery.k8s.io/v1", "networking.k8s.io/v1"),
)
"""Beside v1: what we are made of, and what agents and operators read."""
OTHERS = {
    "flannel": "kube-flannel",
    "calico-node": "Calico",
    "canal": "Canal",
    "weave-net": "Weave Net",
    "kube-router": "kube-router",
    "antrea-agent": "Antrea",
    "kindnet": "kindnet",
    "ovnkube-node": "OVN-Kubernetes",
    "aws-node": "the VPC CNI of Amazon",
}
_OF_FLANNEL = ("flannel", "canal")
_VERSION = re.compile(r"v?(\d{1,4})\.(\d{1,4})(?!\d)")
_PAIR = ("flannel.alpha.coreos.com/backend-type", "projectcalico.org/IPv4Address")


async def findings(cluster: Cluster, found: Facts, values: Mapping[str, Any], namespace: str) -> list[Finding]:
    """Everything, errors among it."""
    return [
        *await _rights(cluster, values, namespace),
        *server(found),
        *kernels(found),
        *await _other_plugins(cluster, found, values, namespace),
        *kube_proxy(found, values),
        *load_balancing(values),
        *api_server(values),
        *k3s(found, values),
    ]


def server(found: Facts) -> list[Finding]:
    """By what the API server serves. What it says of its version is heard; it may not be true."""
    lacking = [each for each in SERVED if each not in found.served]
    if not found.served:
        return [Finding("warning", "the API server does not say what it serves: whether it suffices is not known")]
    if lacking:
        said = f" (it says that it is {found.version!r})" if found.version else ""
        return [Finding("error", f"the API server does not serve {', '.join(lacking)}{said}: upgrade it")]
    numbers = _VERSION.match(found.version)
    oldest = ".".join(map(str, OLDEST_SERVER))
    if numbers is None:
        what = f"the API server's version is {found.version!r}, which says nothing; it serves what is needed"
        return [Finding("warning", what)]
    if (int(numbers[1]), int(numbers[2])) < OLDEST_SERVER:
        return [Finding("error", f"the API server says that it is {found.version!r}: upgrade it to {oldest} or newer")]
    return [Finding("ok", f"the API server, {found.version}, serves what is needed")]


def kernels(found: Facts) -> list[Finding]:
    """Of the nodes, as their kubelets say."""
    if not found.nodes:
        return [Finding("warning", "the cluster has no node yet: agents start as nodes join")]
    if not any(_kernel(node) for node in found.nodes):
        return [Finding("warning", "no node says which kernel it has")]
    old = [
        f"{node['metadata']['name']} has {release}"
        for node in found.nodes
        if (release := _kernel(node))
        and (parts := re.match(r"(\d+)\.(\d+)", release))
        and (int(parts[1]), int(parts[2])) < OLDEST_KERNEL
    ]
    oldest = ".".join(map(str, OLDEST_KERNEL))
    if old:
        return [
            Finding("error", f"Linux {oldest} is the oldest that works: upgrade the kernel of nodes: {', '.join(old)}")
        ]
    return [Finding("ok", f"the kernels of all {len(found.nodes)} nodes are {oldest} or newer")]


def kube_proxy(found: Facts, values: Mapping[str, Any]) -> list[Finding]:
    """Clients outside and nodes need exactly one of the two; what pods send is translated here in any case."""
    replaced = _replaces_kube_proxy(values)
    if found.k3s_servers:
        return []
    if found.k3s:
        wanted = "--disable-kube-proxy must be" if replaced else "--disable-kube-proxy must not be"
        return [Finding("warning", f"k3s hides its kube-proxy: {wanted} among the server's flags")]
    if replaced and found.kube_proxy:
        return [
            Finding(
                "warning",
                "kube-proxy runs although kubeProxyReplacement is on: its rules drop pods' connections to the world; "
                "`kubectl -n kube-system delete daemonset kube-proxy`, then `kube-proxy --cleanup` on each node",
            )
        ]
    if not replaced and not found.kube_proxy:
        return [
            Finding(
                "error",
                "no kube-proxy runs: --set kubeProxyReplacement=true, or nodes and clients outside reach no Service",
            )
        ]
    if not replaced:
        return [
            Finding("ok", "Services are translated by Cilium for pods, by kube-proxy for nodes and clients outside")
        ]
    return [Finding("ok", "Services are translated by Cilium")]


def load_balancing(values: Mapping[str, Any]) -> list[Finding]:
    """What is for clients outside needs them to be ours: agents refuse it else."""
    if _replaces_kube_proxy(values):
        return []
    return [
        Finding(
            "error",
            f"loadBalancer.{name} is {said}, but kube-proxy serves clients outside: --set loadBalancer.{name}={only}, "
            "or kubeProxyReplacement=true",
        )
        for name, only in (("mode", "snat"), ("acceleration", "disabled"))
        if (said := values["loadBalancer"][name]) != only
    ]


def api_server(values: Mapping[str, Any]) -> list[Finding]:
    """Whether agents can reach it by the address that they are given."""
    host = values["k8sServiceHost"]
    if host == "localhost" or host.startswith("127.") or host == "::1":
        what = (
            f"k8sServiceHost is {host}, which is each node's own: set the address by which nodes reach the API server"
        )
        return [Finding("warning", what)]
    return []


def k3s(found: Facts, values: Mapping[str, Any]) -> list[Finding]:
    """What its servers must be started with: as they say they were, else as far as their nodes show it."""
    if not found.k3s:
        return []
    replaced = _replaces_kube_proxy(values)
    if found.k3s_servers:
        lines = kubernetes_k3s.judged(found.k3s_servers, replaces_kube_proxy=replaced)
    elif any(_annotations(node).get(_PAIR[0]) for node in found.nodes):
        what = "k3s runs its own flannel, or did: its server must be started with --flannel-backend=none"
        lines = [Finding("error", f"{what} --disable-network-policy")]
    else:
        lines = [Finding("ok", "k3s runs without flannel")]
    if values["k8sServiceHost"] == "" and replaced:
        what = "without kube-proxy agents need the API server's address: --set k8sServiceHost=…,k8sServicePort=6443"
        lines.append(Finding("error", what))
    return lines


async def flannel_runs(cluster: Cluster, found: Facts) -> str:
    """Where flannel runs, in words, as far as the API server can tell; "" if it runs nowhere."""
    servers = found.k3s_servers
    if found.k3s and not servers:
        return "k3s does not say how it was started"
    if of_k3s := [server.node for server in servers if server.flannel != "none"]:
        return f"k3s runs it on {', '.join(of_k3s)}"
    names = [str(each["metadata"]["name"]) for each in await cluster.listed(DAEMON_SET)]
    running = [name for name in names if any(part in name for part in _OF_FLANNEL)]
    return f"DaemonSet {running[0]} is there" if running else ""


async def _rights(cluster: Cluster, values: Mapping[str, Any], namespace: str) -> list[Finding]:
    """Of who installs."""
    kinds = {kind_of(each).name for each in objects(values, namespace)} | {"Secret"}
    wanted = [(verb, KINDS[name]) for name in sorted(kinds) for verb in ("get", "create", "patch", "delete")]
    wanted += [("list", KINDS["Secret"]), ("get", KINDS["Namespace"]), ("list", LEASE), ("delete", LEASE)]
    refused = [f"{verb} {kind.plural}" for verb, kind in wanted if not await cluster.may(verb, kind, namespace)]
    if refused:
        who = "whoever the kubeconfig names"
        return [Finding("error", f"{who} may not {', '.join(refused)}: use one who has the role cluster-admin")]
    return [Finding("ok", "rights suffice")]


async def _other_plugins(cluster: Cluster, found: Facts, values: Mapping[str, Any], namespace: str) -> list[Finding]:
    """Another CNI that runs, or that has left its marks on nodes."""
    lines = []
    for each in await cluster.listed(DAEMON_SET):
        name = each["metadata"]["name"]
        for part, known in OTHERS.items():
            if part in name:
                inside = each["metadata"].get("namespace", "")
                lines.append(Finding("error", f"{known} runs: `kubectl -n {inside} delete daemonset {name}` ends it"))
        if "multus" in name and values["cni"]["exclusive"]:
            what = "Multus runs: agents set its configuration aside, and pods lose their other networks"
            lines.append(Finding("warning", f"{what}: --set cni.exclusive=false leaves it"))
        if name == RELEASE and owner(each) != (RELEASE, namespace):
            lines.append(
                Finding("error", f"another Cilium runs in {each['metadata'].get('namespace')}: uninstall it first")
            )
    marked = [node["metadata"]["name"] for node in found.nodes if any(_annotations(node).get(key) for key in _PAIR)]
    if marked and not lines:
        lines.append(
            Finding(
                "warning",
                f"another CNI was on nodes {', '.join(marked)}: restart pods of before, which keep its network; where "
                f"flannel.1, which has the UDP port 8472 that ours wants too, or cni0 are left, "
                f"`cilium preflight --nodes --repair` removes them",
            )
        )
    return lines or [Finding("ok", "no other CNI is to be seen")]


def _replaces_kube_proxy(values: Mapping[str, Any]) -> bool:
    return str(values["kubeProxyReplacement"]).lower() == "true"


def _kernel(node: Mapping[str, Any]) -> str:
    return str(((node.get("status") or {}).get("nodeInfo") or {}).get("kernelVersion", ""))


def _annotations(node: Mapping[str, Any]) -> Mapping[str, str]:
    return node["metadata"].get("annotations") or {}

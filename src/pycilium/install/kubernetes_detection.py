"""What a cluster is: k3s or kind, with kube-proxy or without, its API server's address; and the values that follow.

Cilium's own command finds out the same and sets the same, so that both ways in give one installation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pycilium.install import kubernetes_k3s
from pycilium.install.kubernetes_cluster import DAEMON_SET, NODE, SERVICE, Cluster
from pycilium.install.templates import Plain

_INSTANCE_TYPES = ("node.kubernetes.io/instance-type", "beta.kubernetes.io/instance-type")


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found of a cluster."""

    context: str
    host: str
    port: int | None
    nodes: tuple[Plain, ...]
    daemon_sets: tuple[str, ...]
    service_address: str
    """The ClusterIP of the Service kubernetes."""
    version: str = ""
    """What the API server says that it is; "" if it does not say."""
    served: frozenset[str] = frozenset()
    """The groups' versions that it serves, such as apps/v1."""

    @property
    def k3s(self) -> bool:
        return any(
            _labels(node).get(name) == "k3s" or "+k3s" in _info(node).get("kubeletVersion", "")
            for node in self.nodes
            for name in _INSTANCE_TYPES
        )

    @property
    def k3s_servers(self) -> list[kubernetes_k3s.Server]:
        """Those that say how they were started."""
        return kubernetes_k3s.servers(self.nodes)

    @property
    def kind(self) -> bool:
        return self.context.startswith("kind-") or any(
            str((node.get("spec") or {}).get("providerID", "")).startswith("kind:") for node in self.nodes
        )

    @property
    def kube_proxy(self) -> bool:
        """Whether it is seen running. k3s has it inside its own process, where nobody sees it."""
        return any("kube-proxy" in name for name in self.daemon_sets)


async def facts(cluster: Cluster, context: str) -> Facts:
    """Asks the cluster. StoreUnavailable, soon, if nobody is there."""
    version = await cluster.version()
    host, port = cluster.server
    service = await cluster.get(SERVICE, "kubernetes", "default")
    return Facts(
        context=context,
        host=host,
        port=port,
        nodes=tuple(await cluster.listed(NODE)),
        daemon_sets=tuple(each["metadata"]["name"] for each in await cluster.listed(DAEMON_SET, "kube-system")),
        service_address=str(((service or {}).get("spec") or {}).get("clusterIP", "")),
        version=version,
        served=await cluster.served(),
    )


def detected(found: Facts, given: Mapping[str, Any]) -> Plain:
    """The values that follow from what the cluster is; what users set goes over them."""
    name = re.sub(r"[^a-z0-9-]", "-", found.context.lower()).strip("-")[:32].strip("-")
    values: Plain = {"operator": {"replicas": 1}, **({"cluster": {"name": name}} if name else {})}
    if "routingMode" not in given:
        values |= {"routingMode": "tunnel", "tunnelProtocol": "vxlan"}
    if found.kind:
        values["ipam"] = {"mode": "kubernetes"}
    if found.k3s:
        values |= kubernetes_k3s.values_of(found.k3s_servers, found.host, found.port)
    elif not found.kube_proxy and found.port is not None:
        values |= {"kubeProxyReplacement": True, "k8sServiceHost": found.host, "k8sServicePort": found.port}
    return values


def _labels(node: Mapping[str, Any]) -> Mapping[str, str]:
    return node["metadata"].get("labels") or {}


def _info(node: Mapping[str, Any]) -> Mapping[str, str]:
    return (node.get("status") or {}).get("nodeInfo") or {}

"""Names of the objects that make an installation, and what marks them as ours. Cilium's clients look for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pycilium.install.templates import Namespace

RELEASE = "cilium"
AGENT, OPERATOR, CONFIG, PEER_SERVICE = "cilium", "cilium-operator", "cilium-config", "hubble-peer"
AGENT_CONTAINER, OPERATOR_CONTAINER = "cilium-agent", "cilium-operator"
CLEANUP, PREFLIGHT = "cilium-cleanup", "cilium-preflight"
CONFIG_ROLE = "cilium-config-agent"
OPERATOR_ROLE = "cilium-operator-leases"
PART_OF: Mapping[str, str] = {"app.kubernetes.io/part-of": "cilium"}
AGENT_LABELS: Mapping[str, str] = {"k8s-app": "cilium", "app.kubernetes.io/name": "cilium-agent", **PART_OF}
OPERATOR_LABELS: Mapping[str, str] = {
    "io.cilium/app": "operator",
    "name": "cilium-operator",
    "app.kubernetes.io/name": "cilium-operator",
    **PART_OF,
}
NETWORK_IS_UP = "CiliumIsUp"
"""The reason by which agents' nodes say that pods have a network."""
NOT_READY_TAINT = "node.cilium.io/agent-not-ready"
AGENT_HEALTH_PORT, OPERATOR_HEALTH_PORT, PEER_PORT = 9879, 9234, 4244


def named(kind: str, api_version: str, name: str, *, labels: Mapping[str, str] = PART_OF, inside: bool = True) -> Any:
    """The head of an object, `inside` the namespace or the whole cluster's."""
    metadata = {"name": name, **({"namespace": Namespace()} if inside else {}), "labels": dict(labels)}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata}

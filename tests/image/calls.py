"""Which programs the manifests, and Cilium's clients within our containers, call."""

from __future__ import annotations

import re

from pycilium.install.kubernetes_manifests import objects
from pycilium.install.settings import values_of

CLIENTS = (
    *("cilium", "cilium-bugtool", "cilium-dbg", "cilium-health", "hubble"),
    *("sh", "/usr/bin/cat", "/usr/bin/ls", "/usr/bin/gops", "rm", "tail", "uname", "jq"),
)
"""What clients start in an agent's container."""


def containers():
    """All of an installation's containers, by name."""
    found = {}
    for each in objects(values_of({"kubeProxyReplacement": True}), "kube-system"):
        pod = each.get("spec", {}).get("template", {}).get("spec", {})
        for container in (*pod.get("initContainers", ()), *pod.get("containers", ())):
            found[container["name"]] = container
    return found


def programs():
    """The programs of all of them."""
    called = set(CLIENTS)
    for container in containers().values():
        first, *words = container["command"]
        called.add(first)
        if first == "sh":
            called |= set(re.findall(r"(?:^|\|\| |&& )([a-z][a-z0-9-]*)", words[-1]))
            called |= set(re.findall(r"nsenter \S+ ([a-z]+)", words[-1]))
    return called

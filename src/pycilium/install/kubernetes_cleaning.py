"""Cleaning nodes when an installation goes: the errand that does it, and what their objects say of us.

Invariant: it never runs beside agents; the command in it refuses where one answers, and installing takes it away first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pycilium.install import kubernetes_errands as errands
from pycilium.install.kubernetes_errands import Errand
from pycilium.install.kubernetes_names import CLEANUP, NETWORK_IS_UP
from pycilium.install.kubernetes_workloads import SEEN_BOTH_WAYS, of_host
from pycilium.install.templates import Filling, Format, Plain, Text, Value

_CLEANER = "clean"


def conditions_left(node: Mapping[str, Any]) -> list[Plain] | None:
    """A Node's conditions without ours; None if it has none of ours."""
    present = (node.get("status") or {}).get("conditions") or []
    kept = [each for each in present if each.get("reason") != NETWORK_IS_UP]
    return kept if len(kept) < len(present) else None


def errand(values: Mapping[str, Any], namespace: str) -> Errand:
    """The cleaner, with the paths that agents were given."""
    arguments = [
        "--force",
        Format("--bpf-root=%s/cilium", (Text("bpf.root"),)),
        Format("--run-dir=%s", (Text("daemon.runPath"),)),
        "--cni-conf=/host/etc/cni/net.d/05-cilium.conflist",
        "--cni-bin=/host/opt/cni/bin",
    ]
    step = {
        "name": _CLEANER,
        "command": ["cilium-dbg", "cleanup", *arguments],
        "securityContext": {"privileged": True},  # takes a mount away that the node is to see gone
        "volumeMounts": [
            {"name": "bpf", "mountPath": Value("bpf.root"), "mountPropagation": SEEN_BOTH_WAYS},
            {"name": "run", "mountPath": Value("daemon.runPath"), "mountPropagation": SEEN_BOTH_WAYS},
            {"name": "conf", "mountPath": "/host/etc/cni/net.d"},
            {"name": "bin", "mountPath": "/host/opt/cni/bin"},
        ],
    }
    volumes = [
        of_host("bpf", Value("bpf.root")),
        of_host("run", Value("daemon.runPath")),
        of_host("conf", Value("cni.confPath")),
        of_host("bin", Value("cni.binPath")),
    ]
    made = errands.daemon_set(CLEANUP, step, volumes, Filling(values, namespace))
    return Errand(made, _CLEANER, errands.selector(CLEANUP), "cleaning nodes", "clean")

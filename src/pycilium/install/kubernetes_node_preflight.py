"""Looking at the nodes themselves before agents run there: the errand that does it, and what it found.

It may run beside agents. Its pods see what agents would, and change nothing but what they are told to repair.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from pycilium.install import kubernetes_errands as errands
from pycilium.install.findings import Finding
from pycilium.install.kubernetes_errands import Errand, Progress
from pycilium.install.kubernetes_names import PREFLIGHT
from pycilium.install.kubernetes_pods import is_heard
from pycilium.install.kubernetes_workloads import of_host
from pycilium.install.templates import Filling, Plain

_LOOK = "look"
_REPORT = "/dev/termination-log"
"""Where a kubelet reads what a container says at its end."""
_LEVELS: Mapping[str, Literal["ok", "warning", "error"]] = {"ok": "ok", "warning": "warning", "error": "error"}
RUN = "cilium.io/preflight-run"
"""Labels pods with the run that they are of: pods of an earlier one, which may have looked for something else, take a
while to go."""


def errand(values: Mapping[str, Any], namespace: str, run: str, *, repair: bool) -> Errand:
    """It looks for what agents with these values need, and repairs before."""
    arguments = [*_arguments(values), "--host-proc=/hostproc", f"--report={_REPORT}", *(["--repair"] if repair else [])]
    step = {
        "name": _LOOK,
        "command": ["cilium-dbg", "preflight", *arguments],
        # Privileged as agents are: what security modules keep from others is not missing.
        "securityContext": {"privileged": True, "readOnlyRootFilesystem": True},
        "volumeMounts": [{"name": "hostproc", "mountPath": "/hostproc", "readOnly": True}],
    }
    volumes = [of_host("hostproc", "/proc", "Directory")]
    made = errands.daemon_set(PREFLIGHT, step, volumes, Filling(values, namespace), {RUN: run})
    chosen = f"{errands.selector(PREFLIGHT)},{RUN}={run}"
    return Errand(made, _LOOK, chosen, "looking at nodes", "looked at")


def _arguments(values: Mapping[str, Any]) -> list[str]:
    arguments = [f"--tunnel-port={values['tunnelPort'] if values['routingMode'] == 'tunnel' else 0}"]
    if not values["cgroup"]["autoMount"]["enabled"]:
        arguments.append(f"--cgroup-root={values['cgroup']['hostRoot']}")
    if str(values["kubeProxyReplacement"]).lower() == "true":
        arguments.append("--kube-proxy-replacement")
    return arguments


def findings(nodes: Sequence[Plain], progress: Progress) -> list[Finding]:
    """One line each, by node. A node that is away is looked at by its agent, once it is back."""
    found: list[Finding] = []
    for node in sorted(nodes, key=lambda each: str(each["metadata"]["name"])):
        name = node["metadata"]["name"]
        if name in progress.done:
            found += _said(name, progress.done[name])
        else:
            level: Literal["warning", "error"] = "error" if is_heard(node) else "warning"
            found.append(Finding(level, f"{name} was not looked at: {progress.undone[name]}"))
    return found


def _said(node: str, report: str) -> Iterator[Finding]:
    """What a node's report says; what is no finding is doubted."""
    lines = [line for line in report.splitlines() if line.strip()]
    if not lines:
        yield Finding("warning", f"{node} was looked at, but says nothing")
    for line in lines:
        level, colon, what = line.partition(": ")
        known = _LEVELS.get(level) if colon else None
        yield Finding(known, f"{node}: {what}") if known else Finding("warning", f"{node}: {line}")

"""Whether what was installed runs: the rules by which Cilium's `status --wait` judges it too."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from pycilium.errors import InstallRefused
from pycilium.install.kubernetes_cluster import DAEMON_SET, DEPLOYMENT, Cluster
from pycilium.install.kubernetes_names import AGENT, OPERATOR
from pycilium.install.templates import Plain

_POLL_S = 2.0


def agents_missing(daemon_set: Plain | None) -> str:
    """What is missing in words; empty if nothing is."""
    if daemon_set is None:
        return "DaemonSet cilium does not exist"
    status, behind = _status(daemon_set)
    wanted, ready = status.get("desiredNumberScheduled", 0), status.get("numberReady", 0)
    if behind or status.get("updatedNumberScheduled", 0) < wanted:
        return f"agents: {status.get('updatedNumberScheduled', 0)} of {wanted} are of this revision"
    return f"agents: {ready} of {wanted} are ready" if ready < wanted or not wanted else ""


def operators_missing(deployment: Plain | None) -> str:
    """The same of operators."""
    if deployment is None:
        return "Deployment cilium-operator does not exist"
    status, behind = _status(deployment)
    wanted = deployment["spec"].get("replicas", 1)
    if behind or status.get("updatedReplicas", 0) < wanted:
        return f"operators: {status.get('updatedReplicas', 0)} of {wanted} are of this revision"
    ready = min(status.get("readyReplicas", 0), status.get("availableReplicas", 0))
    return f"operators: {ready} of {wanted} are ready" if ready < wanted else ""


async def wait(
    cluster: Cluster,
    namespace: str,
    values: Mapping[str, Any],
    patience_s: float,
    tell: Callable[[str], None],
    sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
) -> None:
    """Until all is ready; InstallRefused with what is missing when patience is at an end."""
    waited_s, said = 0.0, ""
    while True:
        missing = [agents_missing(await cluster.get(DAEMON_SET, AGENT, namespace))]
        if values["operator"]["enabled"]:
            missing.append(operators_missing(await cluster.get(DEPLOYMENT, OPERATOR, namespace)))
        now = "; ".join(filter(None, missing))
        if not now:
            return
        if now != said:
            tell(now)
            said = now
        if waited_s >= patience_s:
            raise InstallRefused(
                f"not ready after {patience_s:g} s: {now}; `kubectl -n {namespace} get pods -l k8s-app=cilium` says why"
            )
        await sleep(_POLL_S)
        waited_s += _POLL_S


def _status(plain: Plain) -> tuple[Plain, bool]:
    """The status, and whether it is of an older generation."""
    status = plain.get("status") or {}
    return status, status.get("observedGeneration", 0) != plain["metadata"].get("generation", 0)

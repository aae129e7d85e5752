"""Whether what was installed runs: the rules by which Cilium's `status --wait` judges it too."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from pycilium.errors import InstallRefused
from pycilium.install.kubernetes_cluster import DAEMON_SET, DEPLOYMENT, POD, Cluster
from pycilium.install.kubernetes_names import AGENT, OPERATOR
from pycilium.install.kubernetes_status import count_of, is_behind, pod_trouble, updated_of
from pycilium.install.kubernetes_survey import SELECTORS
from pycilium.install.templates import Plain

_POLL_S = 2.0


def agents_missing(daemon_set: Plain | None) -> str:
    """What is missing in words; empty if nothing is."""
    if daemon_set is None:
        return "DaemonSet cilium does not exist"
    return _missing("agents", AGENT, daemon_set) or (
        "" if count_of(AGENT, daemon_set).desired else "agents: 0 of 0 are ready"
    )


def operators_missing(deployment: Plain | None) -> str:
    """The same of operators."""
    return _missing("operators", OPERATOR, deployment) if deployment else "Deployment cilium-operator does not exist"


def _missing(who: str, name: str, plain: Plain) -> str:
    count = count_of(name, plain)
    if is_behind(name, plain):
        return f"{who}: {updated_of(name, plain)} of {count.desired} are of this revision"
    ready = min(count.ready, count.available) if name == OPERATOR else count.ready
    return f"{who}: {ready} of {count.desired} are ready" if ready < count.desired else ""


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
        why = await _first_trouble(cluster, namespace)
        now = f"{now}; {why}" if why else now
        if now != said:
            tell(now)
            said = now
        if waited_s >= patience_s:
            raise InstallRefused(f"not ready after {patience_s:g} s: {now}; `cilium status` says more")
        await sleep(_POLL_S)
        waited_s += _POLL_S


async def _first_trouble(cluster: Cluster, namespace: str) -> str:
    """What keeps a pod from running, if one has ended or cannot start; empty if it takes only time."""
    for workload in (AGENT, OPERATOR):
        for pod in await cluster.listed(POD, namespace, SELECTORS[workload]):
            is_error, what = pod_trouble(workload, pod)
            if is_error:
                return f"{pod['metadata']['name']}: {what}"
    return ""

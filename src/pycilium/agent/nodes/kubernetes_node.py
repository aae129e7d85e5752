"""The Node of the agent's node: kubelet and the scheduler learn from it that pods have a network here.

Written once the agent is ready: the condition NetworkUnavailable is False, and the taint that kept pods away is gone.
Each change is made from what was just read, and is tried again if somebody else was quicker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import structlog

from pycilium.agent.config import AgentConfig
from pycilium.errors import CiliumError
from pycilium.install.kubernetes_cluster import NODE, Cluster
from pycilium.install.kubernetes_names import NETWORK_IS_UP, NOT_READY_TAINT
from pycilium.install.templates import Plain
from pycilium.store.kubernetes import machine_access

log = structlog.get_logger()
_RETRY_S = 2.0


async def announce_node(config: AgentConfig) -> None:
    """Of the agent's node, at the API server that is its store."""
    async with Cluster(machine_access(config.store)) as cluster:
        await announce(cluster, config.node_name)


async def announce(
    cluster: Cluster,
    name: str,
    *,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
) -> None:
    """Return once the Node says both. Idempotent."""
    while True:
        try:
            node = await cluster.get(NODE, name)
            if node is None:
                log.warning("there is no Node of this name", node=name)
                await sleep(_RETRY_S)
                continue
            if (conditions := conditions_wanted(node, clock())) is not None:
                await cluster.patch(NODE, name, _patch(node, "status", {"conditions": conditions}), "status")
                node = await cluster.get(NODE, name) or node
            if (taints := taints_wanted(node)) is not None:
                await cluster.patch(NODE, name, _patch(node, "spec", {"taints": taints}))
                log.info("taint removed", node=name, taint=NOT_READY_TAINT)
        except CiliumError as error:
            log.warning("the Node cannot be brought up to date", node=name, error=str(error))
            await sleep(_RETRY_S)
        else:
            return


def conditions_wanted(node: Plain, now: datetime) -> list[Plain] | None:
    """All conditions, ours among them; None if they are so already."""
    present = (node.get("status") or {}).get("conditions") or []
    ours: Plain = next((each for each in present if each.get("type") == "NetworkUnavailable"), {})
    if ours.get("status") == "False":
        return None
    time = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    made = {
        "type": "NetworkUnavailable",
        "status": "False",
        "reason": NETWORK_IS_UP,
        "message": "Cilium is running on this node",
        "lastTransitionTime": time,
        "lastHeartbeatTime": time,
    }
    return [*(each for each in present if each is not ours), made]


def taints_wanted(node: Plain) -> list[Plain] | None:
    """All taints but ours; None if ours is not there."""
    present = (node.get("spec") or {}).get("taints") or []
    kept = [each for each in present if each.get("key") != NOT_READY_TAINT]
    return kept if len(kept) < len(present) else None


def _patch(node: Plain, part: str, change: Plain) -> Plain:
    """Held against the version that was read: a merge patch replaces lists as a whole."""
    return {"metadata": {"resourceVersion": node["metadata"]["resourceVersion"]}, part: change}

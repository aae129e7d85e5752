"""What a cluster says: objects of the API that concern us, logs, and every node, asked through its agent's pod."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from pycilium.cli.cluster import ClusterPlace
from pycilium.cli.cluster_status import as_json, lines
from pycilium.cli.sysdump.archive import Archive, Content
from pycilium.errors import CiliumError, PodUnreachable, StoreForbidden
from pycilium.install import kubernetes_release as releases
from pycilium.install.kubernetes_cluster import (
    CONFIG_MAP,
    CRD,
    DAEMON_SET,
    DEPLOYMENT,
    EVENT,
    NODE,
    POD,
    SECRET,
    SERVICE,
    Cluster,
)
from pycilium.install.kubernetes_exec import execute
from pycilium.install.kubernetes_names import AGENT, AGENT_CONTAINER, CONFIG, OPERATOR
from pycilium.install.kubernetes_pods import runs
from pycilium.install.kubernetes_status import assessed
from pycilium.install.kubernetes_survey import SELECTORS, survey
from pycilium.install.templates import Plain
from pycilium.model.resources.kinds import KINDS, Kind
from pycilium.store.kubernetes.failures import Call

NODE_COMMAND = ("/opt/pycilium/bin/cilium", "sysdump", "--machine", "--output-filename", "-")
"""What an agent's pod is asked: the same archive of its node. The bare name `cilium` is cilium-dbg there."""
_LISTED = (NODE, EVENT, CRD)
_NAMED = {"Service": SERVICE, "Pod": POD}
_AT_ONCE = 8
_NODE_PATIENCE_S = 180.0
_LOG_BYTES = 10 << 20


async def dump(place: ClusterPlace, cluster: Cluster, archive: Archive, tell: Callable[[str], None]) -> None:
    """All of it; StoreUnavailable if there is nobody to ask."""
    tell("status")
    with suppress(StoreForbidden):
        await cluster.get(DAEMON_SET, AGENT, place.namespace)
    await _status(place, cluster, archive)
    for kind in _kinds():
        tell(f"kubernetes/{kind.plural}")
        await archive.awaited(f"kubernetes/{kind.plural}.json", cluster.listed(kind))
    for kind in (DAEMON_SET, DEPLOYMENT):
        tell(f"kubernetes/{kind.plural}")
        await archive.awaited(f"kubernetes/{kind.plural}.json", cluster.listed(kind, place.namespace))
    await archive.awaited("kubernetes/cilium-config.json", _config(cluster, place.namespace))
    await archive.awaited("kubernetes/releases.json", _releases(cluster, place))
    for name in (AGENT, OPERATOR):
        await _pods(cluster, place.namespace, name, archive, tell)


async def _status(place: ClusterPlace, cluster: Cluster, archive: Archive) -> None:
    try:
        found = await survey(cluster, place.namespace, place.release)
    except CiliumError as error:
        archive.failed("status", error)
        return
    seen = assessed(found)
    archive.add("status.txt", "\n".join(lines(seen)))
    archive.add("status.json", as_json(found, seen))


def _kinds() -> list[Kind[Any]]:
    """What policy, Services and identities follow from; no Secrets, and no ConfigMaps but our own."""
    return [*_LISTED, *(_NAMED.get(kind.name, kind) for kind in KINDS)]


async def _config(cluster: Cluster, namespace: str) -> Content:
    return await cluster.get(CONFIG_MAP, CONFIG, namespace) or {}


async def _releases(cluster: Cluster, place: ClusterPlace) -> Content:
    """Revisions and what was set; manifests say what is among the objects, and are left out."""
    kept = await cluster.listed(SECRET, place.namespace, releases.selector(place.release))
    records = sorted(map(releases.read, kept), key=lambda each: each.version)
    parts = (
        "name",
        "namespace",
        "version",
        "status",
        "description",
        "first_deployed",
        "last_deployed",
        "chart_version",
    )
    return [{**{part: getattr(each, part) for part in parts}, "config": dict(each.config)} for each in records]


async def _pods(cluster: Cluster, namespace: str, workload: str, archive: Archive, tell: Callable[[str], None]) -> None:
    try:
        pods = await cluster.listed(POD, namespace, SELECTORS[workload])
    except CiliumError as error:
        archive.failed(workload, error)
        return
    turns, done = asyncio.Semaphore(_AT_ONCE), 0

    async def one(pod: Plain) -> None:
        nonlocal done
        async with turns:
            await _logs(cluster, pod, archive)
            if workload == AGENT:
                await _node(cluster, pod, archive)
        done += 1
        tell(f"pods of {workload}: {done} of {len(pods)}")

    await asyncio.gather(*map(one, pods))


async def _logs(cluster: Cluster, pod: Plain, archive: Archive) -> None:
    metadata, status = pod["metadata"], pod.get("status") or {}
    states: Sequence[Plain] = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    for each in states:
        container, query = str(each["name"]), {"container": str(each["name"]), "limitBytes": str(_LOG_BYTES)}
        call = Call("get", POD, metadata.get("namespace"), metadata["name"], "log")
        folder = f"logs/{metadata['name']}"
        await archive.awaited(
            f"{folder}/{container}.log", cluster.client.call(call, query={**query, "timestamps": "true"})
        )
        if each.get("restartCount"):
            query = {**query, "previous": "true"}
            await archive.awaited(f"{folder}/{container}.previous.log", cluster.client.call(call, query=query))


async def _node(cluster: Cluster, pod: Plain, archive: Archive) -> None:
    name, folder = pod["metadata"]["name"], f"nodes/{pod['metadata']['name']}"
    if not runs(pod, AGENT_CONTAINER):
        archive.failed(folder, "its container does not run")
        return
    try:
        done = await execute(
            cluster, pod["metadata"]["namespace"], name, AGENT_CONTAINER, NODE_COMMAND, timeout_s=_NODE_PATIENCE_S
        )
        if done.exit_code:
            raise PodUnreachable(f"`{' '.join(NODE_COMMAND)}`: {done.complaints.decode(errors='replace').strip()}")
        archive.add_all(folder, done.output)
    except (CiliumError, OSError, ValueError) as error:
        archive.failed(folder, error)

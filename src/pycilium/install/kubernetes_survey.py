"""What a cluster says of an installation: workloads, pods, configuration, release, and each agent itself.

Nothing is judged here (`kubernetes_status` does). Invariant: what could not be found out is among `failures`, by what
was asked; an agent that does not answer is an answer with an `error`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from pycilium.errors import CiliumError, KindNotServed, PodUnreachable
from pycilium.install import kubernetes_release as releases
from pycilium.install.kubernetes_cluster import CONFIG_MAP, DAEMON_SET, DEPLOYMENT, POD, SECRET, Cluster
from pycilium.install.kubernetes_exec import execute
from pycilium.install.kubernetes_names import AGENT, AGENT_CONTAINER, CONFIG, OPERATOR, RELEASE
from pycilium.install.kubernetes_pods import node_of, runs
from pycilium.install.kubernetes_release import Release
from pycilium.install.templates import Plain
from pycilium.model.resources import CiliumEndpoint, Kind, kind_of

T = TypeVar("T")
ENVOY, RELAY, MESH, UI = "cilium-envoy", "hubble-relay", "clustermesh-apiserver", "hubble-ui"
DAEMON_SETS, DEPLOYMENTS = (AGENT, ENVOY), (OPERATOR, RELAY, UI, MESH)
SELECTORS: Mapping[str, str] = {
    AGENT: "k8s-app=cilium",
    ENVOY: "name=cilium-envoy",
    OPERATOR: "io.cilium/app=operator",
    RELAY: "k8s-app=hubble-relay",
    UI: "k8s-app=hubble-ui",
    MESH: "k8s-app=clustermesh-apiserver",
}
"""By which the pods of each workload are known."""
_AT_ONCE = 16
_PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class AgentAnswer:
    """What one agent says of itself."""

    pod: str
    node: str
    status: Plain
    endpoints: Sequence[Plain]
    error: str = ""


@dataclass(frozen=True, slots=True)
class Survey:
    """All of it, as it was at one time."""

    workloads: Mapping[str, Plain | None]
    pods: Mapping[str, Sequence[Plain]]
    """Of each workload."""
    config: Plain | None
    release: Release | None
    all_pods: Sequence[Plain]
    endpoints: Sequence[Plain]
    answers: Sequence[AgentAnswer]
    failures: Sequence[str]


async def survey(cluster: Cluster, namespace: str, release_name: str = RELEASE) -> Survey:
    """Ask the API server, then every agent that runs; StoreUnavailable if nobody answers at all."""
    failures: list[str] = []
    daemon_sets = [await cluster.get(DAEMON_SET, name, namespace) for name in DAEMON_SETS]
    deployments = [await _or(cluster.get(DEPLOYMENT, name, namespace), None, failures) for name in DEPLOYMENTS]
    pods = {
        name: await _or(cluster.listed(POD, namespace, selector), [], failures) for name, selector in SELECTORS.items()
    }
    return Survey(
        dict(zip((*DAEMON_SETS, *DEPLOYMENTS), (*daemon_sets, *deployments), strict=True)),
        pods,
        await _or(cluster.get(CONFIG_MAP, CONFIG, namespace), None, failures),
        await _or(_release(cluster, namespace, release_name), None, failures),
        await _or(cluster.listed(POD), [], failures),
        await _or(_listed_if_served(cluster, kind_of(CiliumEndpoint)), [], failures),
        await answers(cluster, namespace, pods[AGENT]),
        failures,
    )


async def answers(cluster: Cluster, namespace: str, pods: Sequence[Plain]) -> list[AgentAnswer]:
    """Of the agents among `pods` that run, in order of their nodes."""
    turns = asyncio.Semaphore(_AT_ONCE)

    async def one(pod: Plain) -> AgentAnswer:
        name, node = pod["metadata"]["name"], node_of(pod)
        async with turns:
            try:
                status = await asked(cluster, namespace, name, "cilium", "status", "-o", "json")
                endpoints = await asked(cluster, namespace, name, "cilium", "endpoint", "list", "-o", "json")
            except CiliumError as error:
                return AgentAnswer(name, node, {}, (), str(error))
        return AgentAnswer(name, node, status, endpoints)

    running = sorted((pod for pod in pods if runs(pod, AGENT_CONTAINER)), key=node_of)
    return list(await asyncio.gather(*map(one, running)))


async def asked(cluster: Cluster, namespace: str, pod: str, *command: str) -> Any:
    """What a command in an agent's container prints as JSON. Its exit code may say that there are errors."""
    done = await execute(cluster, namespace, pod, AGENT_CONTAINER, command, timeout_s=_PATIENCE_S)
    try:
        return msgspec.json.decode(done.output)
    except msgspec.DecodeError as error:
        said = done.complaints.decode(errors="replace").strip().removeprefix("Error: ")
        raise PodUnreachable(
            f"`{' '.join(command)}` ended with code {done.exit_code}: {said or 'it printed no JSON'}"
        ) from error


async def _release(cluster: Cluster, namespace: str, name: str) -> Release | None:
    """The last revision."""
    kept = await cluster.listed(SECRET, namespace, releases.selector(name))
    return max(map(releases.read, kept), key=lambda each: each.version, default=None)


async def _listed_if_served(cluster: Cluster, kind: Kind[Any]) -> list[Plain]:
    try:
        return await cluster.listed(kind)
    except KindNotServed:
        return []


async def _or(asking: Awaitable[T], otherwise: T, failures: list[str]) -> T:
    """What was asked for; if it was refused, `otherwise`, and the refusal in words among `failures`."""
    try:
        return await asking
    except CiliumError as error:
        failures.append(str(error))
        return otherwise

"""`cilium hubble enable|disable|port-forward`: Hubble of a cluster's agents. There is no relay yet, and no UI."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from pycilium.cli.cluster import ClusterPlace, cluster_options
from pycilium.cli.render import progress
from pycilium.errors import ConfigError, NotFound

if TYPE_CHECKING:
    from pycilium.install.kubernetes_cluster import Cluster
    from pycilium.install.templates import Plain

_LOCAL_PORT = 4245
"""Where `hubble` looks."""


@click.group()
def hubble() -> None:
    """Flows of a cluster: switch them on, and reach a node's. There is no relay yet: nodes are asked one by one."""


@hubble.command()
@cluster_options
def enable(**asked: Any) -> None:
    """Let agents keep flows and serve them."""
    _upgrade("hubble.enabled=true", asked)
    click.echo("Hubble is on. There is no relay yet: `cilium hubble port-forward --node NODE` reaches one node's.")


@hubble.command()
@cluster_options
def disable(**asked: Any) -> None:
    """Let agents keep no flows."""
    _upgrade("hubble.enabled=false", asked)
    click.echo("Hubble is off.")


@hubble.command("port-forward")
@cluster_options
@click.option("--port-forward", "local_port", type=click.IntRange(1, 65535), default=_LOCAL_PORT, show_default=True)
@click.option("--node", default="", metavar="NODE", help="Whose flows; needed if there are several.")
def port_forward(
    namespace: str, context: str, kubeconfig: str, helm_release_name: str, local_port: int, node: str
) -> None:
    """Make a node's Hubble a port of this machine, where `hubble observe` finds it, until interrupted."""
    place = ClusterPlace(kubeconfig, context, namespace, helm_release_name)
    asyncio.run(_forward(place, local_port, node))


def _upgrade(setting: str, asked: dict[str, Any]) -> None:
    from pycilium.cli.install import change

    asyncio.run(change(upgrading=True, sets=(setting,), **asked))


async def _forward(place: ClusterPlace, local_port: int, node: str) -> None:
    from pycilium.install.kubernetes_forwarding import forwarded

    async with place.reached() as cluster:
        pod, name, port = await _agent(cluster, place.namespace, node)
        with progress("port-forward") as tell:
            async with forwarded(cluster, place.namespace, pod, port, local_port, tell):
                click.echo(f"Hubble of node {name} is at 127.0.0.1:{local_port}; it has the flows of that node alone.")
                await asyncio.Event().wait()


async def _agent(cluster: Cluster, namespace: str, node: str) -> tuple[str, str, int]:
    """The pod, its node, and its Hubble's port."""
    from pycilium.install.kubernetes_cluster import CONFIG_MAP, POD
    from pycilium.install.kubernetes_names import AGENT, AGENT_CONTAINER, CONFIG, PEER_PORT
    from pycilium.install.kubernetes_pods import node_of, runs
    from pycilium.install.kubernetes_survey import SELECTORS

    data = ((await cluster.get(CONFIG_MAP, CONFIG, namespace)) or {}).get("data") or {}
    if data.get("enable-hubble") == "false":
        raise ConfigError("Hubble is off: `cilium hubble enable` switches it on")
    pods = await cluster.listed(POD, namespace, SELECTORS[AGENT])
    pod = chosen([each for each in pods if runs(each, AGENT_CONTAINER)], node)
    port = str(data.get("hubble-listen-address", "")).rpartition(":")[2]
    return pod["metadata"]["name"], node_of(pod), int(port) if port.isdecimal() else PEER_PORT


def chosen(pods: Sequence[Plain], node: str) -> Plain:
    """The agent that is meant; NotFound and ConfigError say which there are."""
    from pycilium.install.kubernetes_pods import node_of

    by_node = {node_of(pod): pod for pod in pods}
    if not by_node:
        raise NotFound("no agent runs: `cilium status` says why")
    if node:
        if node not in by_node:
            raise NotFound(f"no agent runs on node {node!r}; agents run on {', '.join(sorted(by_node))}")
        return by_node[node]
    if len(by_node) > 1:
        raise ConfigError(
            f"there is no relay yet, so one node is asked: name it with --node ({', '.join(sorted(by_node))})"
        )
    return next(iter(by_node.values()))

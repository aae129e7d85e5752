"""`cilium version` and `cilium-dbg version`."""

from __future__ import annotations

import asyncio

import click

from pycilium import __version__
from pycilium.cli.cluster import ClusterPlace
from pycilium.cli.render import machine_output_option, print_as
from pycilium.cli.target import Target, pass_target, place_options
from pycilium.errors import AgentUnavailable, CiliumError, PermissionRequired


@click.command()
@click.option("--client", is_flag=True, help="Of this command alone.")
@place_options
@machine_output_option()
@pass_target
def version(target: Target, client: bool, output: str | None) -> None:
    """The version of this command, and of the agents that it works with."""
    place = None if client else target.cluster
    running = None if client else asyncio.run(_image(place)) if place else _agent_version(target)
    if output:
        from pycilium.install.versions import for_clients

        known = running or ""
        if place is None and known[:1].isdecimal():
            known = for_clients(known)
        daemon = {} if client else {"Daemon": {"Version": known}}
        print_as({"Client": {"Version": for_clients()}, **daemon}, output)
    elif place is not None:
        from pycilium.install.values import Image

        click.echo(f"cilium-cli: {__version__}")
        click.echo(f"cilium image (default): {Image().tag}")
        click.echo(f"cilium image (running): {running}")
    else:
        click.echo(f"Client: {__version__}")
        if not client:
            click.echo(f"Daemon: {running or 'not running'}")


async def _image(place: ClusterPlace) -> str:
    """What a cluster's agents are made of; in words if that is not to be had."""
    from pycilium.install.kubernetes_cluster import DAEMON_SET
    from pycilium.install.kubernetes_names import AGENT

    try:
        async with place.reached() as cluster:
            found = await cluster.get(DAEMON_SET, AGENT, place.namespace)
    except CiliumError as error:
        return f"unknown ({error})"
    if found is None:
        return "unknown (Cilium is not installed: `cilium install` does so)"
    return ", ".join(each["image"] for each in found["spec"]["template"]["spec"]["containers"])


def _agent_version(target: Target) -> str | None:
    try:
        return str(target.agent().status().get("cilium", {}).get("version") or __version__)
    except AgentUnavailable:
        return None
    except PermissionRequired:
        return "unknown (root is needed)"

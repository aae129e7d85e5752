"""`cilium version` and `cilium-dbg version`."""

from __future__ import annotations

import click

from pycilium import __version__
from pycilium.cli.render import output_option, print_json
from pycilium.cli.target import Target, lab_option, pass_target
from pycilium.errors import AgentUnavailable, PermissionRequired


@click.command()
@lab_option
@output_option("json")
@pass_target
def version(target: Target, output: str | None) -> None:
    """The version of this command, and of the agent it talks to."""
    agent = _agent_version(target)
    if output == "json":
        print_json({"Client": {"Version": __version__}, "Daemon": {"Version": agent or ""}})
        return
    click.echo(f"Client: {__version__}")
    click.echo(f"Daemon: {agent or 'not running'}")


def _agent_version(target: Target) -> str | None:
    try:
        return str(target.agent().status().get("cilium", {}).get("version") or __version__)
    except AgentUnavailable:
        return None
    except PermissionRequired:
        return "unknown (root is needed)"

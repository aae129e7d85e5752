"""`cilium-health`: which nodes and health endpoints this node reaches, and how soon they answer."""

from __future__ import annotations

import os
import sys

import click

from pycilium.cli.boundary import run
from pycilium.cli.health_report import cluster_health, full_report
from pycilium.cli.render import output_option, print_json
from pycilium.cli.target import Target, lab_option, node_option, pass_target


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@lab_option
def cilium_health() -> None:
    """Is the way to the other nodes open?"""


@cilium_health.command()
@click.option("--probe", is_flag=True, help="Probe every node now, and wait for the answers.")
@click.option("--succinct", is_flag=True, help="One line per node.")
@node_option
@output_option("json")
@lab_option
@pass_target
def status(target: Target, probe: bool, succinct: bool, output: str | None) -> None:
    """What the last probes of every node came to."""
    client = target.health()
    answer = client.probe() if probe else client.status()
    if output == "json":
        print_json(answer)
    else:
        click.echo("\n".join(cluster_health(answer) if succinct else full_report(answer)))


@cilium_health.command()
@node_option
@output_option("json")
@lab_option
@pass_target
def get(target: Target, output: str | None) -> None:
    """Whether the agent that answers is well itself."""
    answer = target.health().health()
    if output == "json":
        print_json(answer)
        return
    load = answer.get("system-load") or {}
    state = answer["cilium"]
    click.echo(f"{'Cilium:':<14}{state['state']}   {state.get('msg', '')}".rstrip())
    click.echo(f"{'Uptime:':<14}{answer.get('uptime', '')}")
    click.echo(f"{'Load:':<14}{' '.join(load.get(key, '') for key in ('last1min', 'last5min', 'last15min'))}".rstrip())


@cilium_health.command()
@node_option
@lab_option
@pass_target
def ping(target: Target) -> None:
    """Whether the health API answers."""
    target.health().health()
    click.echo("OK")


def main() -> None:
    run(cilium_health, os.path.basename(sys.argv[0]))


if __name__ == "__main__":
    main()

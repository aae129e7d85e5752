"""`cilium lab node …`: nodes that come, go, lose their power, their address or their cable."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pycilium.cli.render import output_option, print_json, print_table, progress
from pycilium.cli.target import Target, lab_option, pass_target
from pycilium.errors import CiliumError, ConfigError
from pycilium.lab import labs

if TYPE_CHECKING:
    from pycilium.lab.layout import LabLayout, LabRecord

NODE_COLUMNS = ["NODE", "AGENT", "PID", "LINK", "PODS", "IPV4", "IPV6", "POD CIDRS"]
REORDER_MS = 10
"""How late reordered packets are, if nobody says."""
_WAYS = ("sent", "received", "both")


@click.group()
@lab_option
def node() -> None:
    """Nodes of a lab that is up."""


@node.command("list")
@output_option("json")
@lab_option
@pass_target
def list_nodes(target: Target, output: str | None) -> None:
    """The nodes: agent, link, pods, addresses."""
    rows = node_rows(target, *target.lab_and_record())
    if output == "json":
        print_json(rows)
    else:
        print_table(NODE_COLUMNS, [node_cells(row) for row in rows])


@node.command()
@click.argument("name", required=False)
@lab_option
@pass_target
def add(target: Target, name: str | None) -> None:
    """Make a further node, its agent running. Needs root."""
    from pycilium.lab import nodes

    labs.require_root("cilium lab node add")
    layout, _ = target.lab_and_record()
    with progress(f"lab {layout.name}") as tell:
        made = nodes.add(layout, name, tell)
    click.echo(f"node {made.name} is up: {' '.join(made.addresses)}, pods {' '.join(made.pod_cidrs)}")


@node.command()
@click.argument("name")
@lab_option
@pass_target
def rm(target: Target, name: str) -> None:
    """Drain a node and remove it, also from the store. Needs root."""
    from pycilium.lab import nodes

    labs.require_root("cilium lab node rm")
    layout, _ = target.lab_and_record()
    with progress(f"lab {layout.name}") as tell:
        nodes.remove(layout, name, tell)
    click.echo(f"node {name} removed")


@node.command()
@click.argument("name")
@lab_option
@pass_target
def kill(target: Target, name: str) -> None:
    """Take a node's power away: agent and pods end at once, and nobody is told. Needs root."""
    from pycilium.lab import nodes

    labs.require_root("cilium lab node kill")
    layout, _ = target.lab_and_record()
    click.echo(f"node {name} {'is off' if nodes.power_off(layout, name) else 'was off already'}")


@node.command()
@click.argument("name")
@lab_option
@pass_target
def start(target: Target, name: str) -> None:
    """Start a node that is off; its pods are attached anew, and nothing runs in them. Needs root."""
    _power_on(target, name, "is on")


@node.command()
@click.argument("name")
@lab_option
@pass_target
def reboot(target: Target, name: str) -> None:
    """Kill a node, then start it: what it had in memory is gone, what the store has is not. Needs root."""
    from pycilium.lab import nodes

    labs.require_root("cilium lab node reboot")
    layout, _ = target.lab_and_record()
    nodes.power_off(layout, name)
    _power_on(target, name, "rebooted")


@node.command()
@click.argument("name")
@click.option("--ipv4", metavar="ADDRESS", default=None)
@click.option("--ipv6", metavar="ADDRESS", default=None)
@lab_option
@pass_target
def readdress(target: Target, name: str, ipv4: str | None, ipv6: str | None) -> None:
    """Give a running node other addresses on the underlay; without options, free ones. Needs root."""
    from pycilium.lab import nodes

    labs.require_root("cilium lab node readdress")
    layout, _ = target.lab_and_record()
    new = nodes.readdress(layout, name, ipv4, ipv6)
    click.echo(f"node {name} is at {' '.join(new.addresses)}")


@node.command()
@click.argument("name")
@click.option(
    "--one-way", type=click.Choice(_WAYS[:2]), default=None, help="Lose only what the node sends, or receives."
)
@lab_option
@pass_target
def cut(target: Target, name: str, one_way: str | None) -> None:
    """Pull a node's cable, or lose everything in one direction. Needs root."""
    from pycilium.lab import impairments

    record = _running_node(target, name, "cut")
    if one_way:
        impairments.set_loss(record, name, impairments.PER_MYRIAD, _ways(one_way))
    else:
        impairments.cut(record, name)
    click.echo(f"node {name}: {impairments.cables(record)[name]}")


@node.command()
@click.argument("name")
@lab_option
@pass_target
def heal(target: Target, name: str) -> None:
    """Plug a node's cable in again, and lose nothing on it. Needs root."""
    from pycilium.lab import impairments

    record = _running_node(target, name, "heal")
    impairments.heal(record, name)
    click.echo(f"node {name}: {impairments.cables(record)[name]}")


@node.command()
@click.argument("name")
@click.option("--loss", metavar="PERCENT", default=None, help="Share of packets to lose, such as 5% or 0.5%.")
@click.option("--way", type=click.Choice(_WAYS), default="both", show_default=True, help="Lose what the node …")
@click.option("--delay", "delay_ms", metavar="MS", type=click.IntRange(0, 10_000), help="Hold back what it receives.")
@click.option(
    "--jitter", "jitter_ms", metavar="MS", type=click.IntRange(0, 10_000), default=0, help="So much more or less."
)
@click.option(
    "--reorder", metavar="PERCENT", default=None, help="Hold back only this share (by 10 ms without --delay)."
)
@lab_option
@pass_target
def impair(
    target: Target, name: str, loss: str | None, way: str, delay_ms: int | None, jitter_ms: int, reorder: str | None
) -> None:
    """Lose, delay or reorder packets on a node's cable, chosen by chance, instead of what was set before.

    `heal` ends it. Needs root.
    """
    from pycilium.lab import impairments
    from pycilium.lab.relay import Holding

    lost = parsed_share("--loss", loss or "0")
    late = parsed_share("--reorder", reorder) if reorder else impairments.PER_MYRIAD if delay_ms or jitter_ms else 0
    if loss is None and not late:
        raise click.UsageError("say how: --loss, --delay, --jitter or --reorder")
    record = _running_node(target, name, "impair")
    impairments.set_loss(record, name, lost, _ways(way))
    if late:
        holding = Holding(REORDER_MS if delay_ms is None and reorder else delay_ms or 0, jitter_ms)
        received_loss = lost if way != "sent" else 0
        impairments.set_late(record, name, received_loss, impairments.Late(late, holding))
    click.echo(f"node {name}: {impairments.cables(record)[name]}")


def parsed_share(option: str, text: str) -> int:
    """A share in ten thousandths. ConfigError for what is none."""
    try:
        share = float(text.removesuffix("%"))
    except ValueError:
        share = -1.0
    if not 0 <= share <= 100:
        raise ConfigError(f"{option} {text!r}: write a percentage from 0 to 100, such as 5% or 0.5%")
    return round(share * 100)


def node_rows(target: Target, layout: LabLayout, record: LabRecord) -> list[dict[str, Any]]:
    """Every node: its record, its agent's state, its cable and how many pods it has."""
    from pycilium.lab import agents, nodes
    from pycilium.lab.impairments import cables

    links = cables(record) if labs.is_root() else {}
    rows = []
    for place in record.nodes:
        pid = agents.pid_of(layout, place.name)
        is_on = nodes.is_on(place)
        rows.append(
            {
                "name": place.name,
                "netns": place.namespace,
                "on": is_on,
                "ipv4": place.ipv4,
                "ipv6": place.ipv6,
                "ipv4_pod_cidr": place.ipv4_pod_cidr,
                "ipv6_pod_cidr": place.ipv6_pod_cidr,
                "link": str(links[place.name]) if place.name in links else "unknown" if is_on else "off",
                "pods": len(nodes.pods_on(layout, place.name)),
                "agent_pid": pid,
                "agent": _agent_state(target, place.name) if pid else "stopped" if is_on else "off",
                "agent_log": str(agents.log_of(layout, place.name)),
            }
        )
    return rows


def node_cells(row: dict[str, Any]) -> tuple[object, ...]:
    cidrs = " ".join(filter(None, (row["ipv4_pod_cidr"], row["ipv6_pod_cidr"])))
    return (
        row["name"],
        row["agent"],
        row["agent_pid"],
        row["link"],
        row["pods"],
        row["ipv4"],
        row["ipv6"],
        cidrs,
    )


def _power_on(target: Target, name: str, what: str) -> None:
    from pycilium.lab import nodes

    labs.require_root("cilium lab node start")
    layout, _ = target.lab_and_record()
    with progress(f"lab {layout.name}") as tell:
        failed = nodes.power_on(layout, name, tell)
    if failed:
        raise CiliumError(f"node {name} {what}, but not all of its pods: {'; '.join(failed)}")
    click.echo(f"node {name} {what}; pods attached anew: {len(nodes.pods_on(layout, name))}")


def _running_node(target: Target, name: str, command: str) -> LabRecord:
    """The lab's record; refused unless the node is there and on: a node that is off has no cable."""
    from pycilium.lab import nodes

    labs.require_root(f"cilium lab node {command}")
    _, record = target.lab_and_record()
    nodes.check_on(record.node(name))
    return record


def _ways(word: str) -> Any:
    from pycilium.lab.impairments import BOTH_WAYS, Way

    return BOTH_WAYS if word == "both" else (Way[word.upper()],)


def _agent_state(target: Target, name: str) -> str:
    try:
        return str(target.agent(name).status()["cilium"]["state"])
    except CiliumError as error:
        return f"not ready ({error})"

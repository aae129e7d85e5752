"""`cilium lab agent …` and `cilium lab store …`: ending and starting what makes a lab work, to see what goes on."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from pycilium.cli.render import progress
from pycilium.cli.target import Target, lab_option, pass_target
from pycilium.errors import CiliumError
from pycilium.lab import labs

if TYPE_CHECKING:
    from pycilium.lab.layout import LabLayout, LabRecord


@click.group()
@lab_option
def agent() -> None:
    """The agents: stop, start, restart or kill them. What they pinned in the kernel goes on working."""


@click.group()
@lab_option
def store() -> None:
    """The lab's etcd: stop, kill, start it, or cut it off. A lab whose store is SQLite has no such process."""


def _agent_command(name: str, help_text: str, action: Callable[[LabLayout, LabRecord, str], str]) -> None:
    @agent.command(name, help=help_text)
    @click.option(
        "--node", "nodes", metavar="NODE", multiple=True, help="Whose; may be repeated. Else the first node's."
    )
    @click.option("--all", "everywhere", is_flag=True, help="Every node's, one after the other.")
    @lab_option
    @pass_target
    def command(target: Target, nodes: tuple[str, ...], everywhere: bool) -> None:
        labs.require_root(f"cilium lab agent {name}")
        if nodes and everywhere:
            raise click.UsageError("--node and --all exclude each other")
        layout, record = target.lab_and_record()
        if everywhere:
            chosen = [node.name for node in record.nodes]
        else:
            chosen = [record.node(node).name for node in nodes] or target.nodes[:1]
        _on_each(chosen, lambda node: f"agent of {node} {action(layout, record, node)}")


def _on_each(nodes: list[str], action: Callable[[str], str]) -> None:
    """Does it on one node after the other, past failures; they are told at the end."""
    failed = []
    for node in nodes:
        try:
            click.echo(action(node))
        except CiliumError as error:
            failed.append(str(error))
    if failed:
        raise CiliumError("; ".join(failed))


def _start(layout: LabLayout, record: LabRecord, node: str) -> str:
    from pycilium.lab import agents

    return f"started (pid {agents.start(layout, record, node)})"


def _stop(layout: LabLayout, _record: LabRecord, node: str) -> str:
    from pycilium.lab import agents

    return "stopped" if agents.stop(layout, node) else "was not running"


def _restart(layout: LabLayout, record: LabRecord, node: str) -> str:
    from pycilium.lab import agents

    agents.stop(layout, node)
    return f"restarted (pid {agents.start(layout, record, node)})"


def _kill(layout: LabLayout, _record: LabRecord, node: str) -> str:
    from pycilium.lab import agents

    return "killed" if agents.stop(layout, node, signal.SIGKILL) else "was not running"


_agent_command("start", "Start the agent and wait until it is ready.", _start)
_agent_command("stop", "Ask the agent to end, and wait for it.", _stop)
_agent_command("restart", "Stop, then start.", _restart)
_agent_command("kill", "Kill it (SIGKILL), as a crash would.", _kill)


def _store_command(name: str, help_text: str, action: Callable[[LabLayout, LabRecord], str]) -> None:
    @store.command(name, help=help_text)
    @lab_option
    @pass_target
    def command(target: Target) -> None:
        from pycilium.lab import etcd

        labs.require_root(f"cilium lab store {name}")
        layout, record = target.lab_and_record()
        etcd.namespace_of(record)
        with progress(f"lab {record.name}"):
            done = action(layout, record)
        click.echo(f"etcd of lab {record.name} {done}")


def _start_store(layout: LabLayout, record: LabRecord) -> str:
    from pycilium.lab import etcd

    return f"started (pid {etcd.start(layout, record)})"


def _stop_store(layout: LabLayout, _record: LabRecord) -> str:
    from pycilium.lab import etcd

    return "stopped" if etcd.stop(layout) else "was not running"


def _kill_store(layout: LabLayout, _record: LabRecord) -> str:
    from pycilium.lab import etcd

    return "killed" if etcd.stop(layout, signal.SIGKILL) else "was not running"


def _cut_store(_layout: LabLayout, record: LabRecord) -> str:
    from pycilium.lab import impairments

    impairments.cut(record, "etcd")
    return "is cut off from the nodes"


def _heal_store(_layout: LabLayout, record: LabRecord) -> str:
    from pycilium.lab import impairments

    impairments.heal(record, "etcd")
    return "is reachable by the nodes"


_store_command("start", "Start etcd with the data that it had, and wait until it answers.", _start_store)
_store_command("stop", "Ask etcd to end, and wait for it. Its data stay.", _stop_store)
_store_command("kill", "Kill it (SIGKILL), as a crash would. Its data stay.", _kill_store)
_store_command("cut", "Pull its cable: nodes wait for it in vain, and are not told that it is gone.", _cut_store)
_store_command("heal", "Plug its cable in again.", _heal_store)


def store_state(layout: LabLayout, record: LabRecord) -> str:
    """`running` or `stopped`; `a file` where nothing runs."""
    if record.etcd is None:
        return "a file"
    from pycilium.lab import etcd

    return "running" if etcd.pid_of(layout) else "stopped"

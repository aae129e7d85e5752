"""`cilium lab agent …` and `cilium lab store …`: ending and starting what makes a lab work, to see what goes on."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

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
    """The lab's etcd, or its gate to an API server: stop, kill, start it, or cut it off from the nodes.

    A lab whose store is SQLite has no such process.
    """


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
        labs.require_root(f"cilium lab store {name}")
        layout, record = target.lab_and_record()
        served_by = _served_by(record)
        with progress(f"lab {record.name}"):
            done = action(layout, record)
        click.echo(f"{served_by.NAME} of lab {record.name} {done}")


class _Serving(Protocol):
    """The modules `etcd` and `gate`."""

    NAME: str

    def start(self, layout: LabLayout, record: LabRecord) -> int: ...
    def stop(self, layout: LabLayout, number: signal.Signals = signal.SIGTERM) -> bool: ...
    def pid_of(self, layout: LabLayout) -> int | None: ...


def _served_by(record: LabRecord) -> _Serving:
    """ConfigError for a lab whose store is a file."""
    from pycilium.lab import etcd, gate

    if record.gate:
        return gate
    etcd.namespace_of(record)
    return etcd


def _start_store(layout: LabLayout, record: LabRecord) -> str:
    return f"started (pid {_served_by(record).start(layout, record)})"


def _stop_store(layout: LabLayout, record: LabRecord) -> str:
    return "stopped" if _served_by(record).stop(layout) else "was not running"


def _kill_store(layout: LabLayout, record: LabRecord) -> str:
    return "killed" if _served_by(record).stop(layout, signal.SIGKILL) else "was not running"


def _cut_store(_layout: LabLayout, record: LabRecord) -> str:
    from pycilium.lab import impairments

    impairments.cut(record, _served_by(record).NAME)
    return "is cut off from the nodes"


def _heal_store(_layout: LabLayout, record: LabRecord) -> str:
    from pycilium.lab import impairments

    impairments.heal(record, _served_by(record).NAME)
    return "is reachable by the nodes"


_store_command("start", "Start it with the data that it had, and wait until it answers.", _start_store)
_store_command("stop", "Ask it to end, and wait for it. Data stay.", _stop_store)
_store_command("kill", "Kill it (SIGKILL), as a crash would. Data stay.", _kill_store)
_store_command("cut", "Pull its cable: nodes wait for it in vain, and are not told that it is gone.", _cut_store)
_store_command("heal", "Plug its cable in again.", _heal_store)


def store_state(layout: LabLayout, record: LabRecord) -> str:
    """`running` or `stopped`; `a file` where nothing runs."""
    if not record.etcd and not record.gate:
        return "a file"
    return "running" if _served_by(record).pid_of(layout) else "stopped"

"""`cilium lab operator …`: the lab's operators, of which one leads."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import click

from pycilium.cli.render import output_option, print_json, print_table
from pycilium.cli.target import Target, lab_option, pass_target
from pycilium.lab import labs

if TYPE_CHECKING:
    from pycilium.lab.layout import LabLayout

_name = click.argument("name", default="operator1")


@click.group()
@lab_option
def operator() -> None:
    """Operators: start, stop or kill them, and see which one leads."""


@operator.command()
@_name
@lab_option
@pass_target
def start(target: Target, name: str) -> None:
    """Start an operator in the lab's underlay namespace. Needs root."""
    from pycilium.lab import operators

    labs.require_root("cilium lab operator start")
    record = labs.load(target.lab_name)
    click.echo(f"{name} started (pid {operators.start(_layout(target), record, name)})")


@operator.command()
@_name
@lab_option
@pass_target
def stop(target: Target, name: str) -> None:
    """End an operator; it gives its lease back. Needs root."""
    _end(target, name, signal.SIGTERM, "stopped")


@operator.command()
@_name
@lab_option
@pass_target
def kill(target: Target, name: str) -> None:
    """Kill an operator: another one leads once its lease has run out. Needs root."""
    _end(target, name, signal.SIGKILL, "killed")


@operator.command("status")
@output_option("json")
@lab_option
@pass_target
def operator_status(target: Target, output: str | None) -> None:
    """Every operator of the lab, and which one leads."""
    rows = operator_rows(_layout(target))
    if output == "json":
        print_json(rows)
        return
    print_table(
        ["NAME", "PID", "LEADS"],
        [(row["name"], row["pid"] or "stopped", "yes" if row["leads"] else "no") for row in rows],
    )


def operator_rows(layout: LabLayout) -> list[dict[str, Any]]:
    """Every operator that the lab ever had; none leads, as far as is known, while the store is away."""
    from pycilium.lab import operators

    names = operators.names(layout)
    leader = _leader(layout) if names else ""
    return [
        {"name": name, "pid": (pid := operators.pid_of(layout, name)), "leads": pid is not None and name == leader}
        for name in names
    ]


def operators_text(rows: list[dict[str, Any]]) -> str:
    """`operator1 (leads), operator2, operator3 (stopped)`."""
    notes = {row["name"]: "leads" if row["leads"] else "" if row["pid"] else "stopped" for row in rows}
    return ", ".join(f"{name} ({note})" if note else name for name, note in notes.items())


def _layout(target: Target) -> LabLayout:
    from pycilium.lab.layout import LabLayout

    labs.load(target.lab_name)
    return LabLayout(target.lab_name)


def _end(target: Target, name: str, number: signal.Signals, done: str) -> None:
    from pycilium.lab import operators

    labs.require_root(f"cilium lab operator {'kill' if number == signal.SIGKILL else 'stop'}")
    ended = operators.stop(_layout(target), name, number)
    click.echo(f"{name} {done if ended else 'was not running'}")


def _leader(layout: LabLayout) -> str:
    """Who holds the lease; a leader that was killed is named until its lease is taken over."""
    from pycilium.errors import StoreError
    from pycilium.model.resources import Lease
    from pycilium.store.leases import LEASE_NAMESPACE, OPERATOR_LEASE

    try:
        with labs.open_store(layout) as store:
            return store.get(Lease, OPERATOR_LEASE, LEASE_NAMESPACE).spec.holder_identity.partition("_")[0]
    except StoreError:
        return ""

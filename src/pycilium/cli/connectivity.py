"""`cilium connectivity test`: whether pods, nodes, Services and the outside reach each other as policies say."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pycilium.cli.durations import seconds
from pycilium.cli.render import output_option, print_json, print_table, progress
from pycilium.cli.target import Target, lab_option, pass_target, place_options
from pycilium.connectivity.selection import Selection
from pycilium.errors import ConfigError

if TYPE_CHECKING:
    from pycilium.connectivity.catalogue import ConnectivityTest
    from pycilium.connectivity.grounds import Ground
    from pycilium.connectivity.results import Report, TestResult

_MARKS = {"passed": "✅", "failed": "❌", "skipped": "⏭ "}


@click.group()
@lab_option
def connectivity() -> None:
    """Whether the network does what it should."""


@connectivity.command("test")
@click.option(
    "--test",
    "patterns",
    multiple=True,
    metavar="[!]PATTERN",
    help="Take, or with ! leave out, tests or test/scenario whose name matches it; again, or A,B, for more.",
)
@click.option("--list", "only_list", is_flag=True, help="Print tests, scenarios and policies, and run nothing.")
@click.option("--junit-file", type=click.Path(dir_okay=False), metavar="FILE", help="The results as JUnit's XML, too.")
@click.option(
    "--flow-validation",
    type=click.Choice(("strict", "disabled")),
    default="strict",
    show_default=True,
    help="Whether Hubble's flows are judged too.",
)
@click.option(
    "--timeout",
    "answer_s",
    type=seconds,
    default="5s",
    show_default=True,
    metavar="DURATION",
    help="For expected answers.",
)
@click.option("--cleanup", is_flag=True, help="Only take away what an earlier run left.")
@click.option("--image", default="", help="Of a cluster: the pods' image, if not the agents' own.")
@output_option("json")
@place_options
@pass_target
def connectivity_test(
    target: Target,
    patterns: tuple[str, ...],
    only_list: bool,
    junit_file: str | None,
    flow_validation: str,
    answer_s: float,
    cleanup: bool,
    output: str | None,
    image: str,
) -> None:
    """Make pods, apply policies, and see who reaches whom and what Hubble says of it; then take all of it away.

    In a lab, or in a cluster. Exit code 1: something is not as it should be.
    """
    selection = Selection.of(patterns)
    chosen = _chosen(selection)
    if only_list:
        _print_list(chosen, output)
        return
    if junit_file:
        _check_writable(junit_file)
    started = datetime.now(UTC).isoformat(timespec="seconds")
    if cleanup:
        _interruptible(lambda: _cleared(target, image))
        return
    quiet = output == "json"
    report = _interruptible(lambda: _run(target, image, selection, quiet, flow_validation == "strict", answer_s))
    if junit_file:
        from pycilium.connectivity.junit import render

        Path(junit_file).write_bytes(render(report, started))
    if quiet:
        print_json(report.plain)
    else:
        click.echo(f"\n{report.summary()}")
    sys.exit(0 if report.passed else 1)


async def _run(
    target: Target, image: str, selection: Selection, quiet: bool, with_flows: bool, answer_s: float
) -> Report:
    """Progress goes to stderr; each test's line to stdout, unless that is for JSON alone."""
    from pycilium.connectivity.catalogue import all_tests
    from pycilium.connectivity.running import Patience, Run

    async with _ground(target, image) as ground:
        if not quiet:
            click.echo(f"Testing {ground.name}, {len(ground.nodes)} {'nodes' if len(ground.nodes) > 1 else 'node'}.\n")
        with progress("connectivity test") as tell:
            run = Run(
                ground,
                all_tests(),
                selection,
                Patience(answer_s=answer_s),
                with_flows=with_flows,
                tell=tell if sys.stderr.isatty() else _silent,
                ended=_silent if quiet else lambda result, number, of: tell.result(_ended(result, number, of)),
            )
            return await run.run()


async def _cleared(target: Target, image: str) -> None:
    async with _ground(target, image) as ground:
        with progress("cleaning up") as tell:
            await ground.clear(tell)


def _interruptible(run: Any) -> Any:
    """SIGINT and SIGTERM end the run where it is; it takes everything away before it ends, and a second one waits."""

    async def main() -> Any:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, lambda: task.cancelling() or task.cancel())
        return await run()

    try:
        return asyncio.run(main())
    except asyncio.CancelledError as error:
        raise KeyboardInterrupt from error


@asynccontextmanager
async def _ground(target: Target, image: str) -> AsyncIterator[Ground]:
    """The cluster or the lab that is meant."""
    if place := target.cluster:
        from pycilium.connectivity.grounds.kubernetes import KubernetesGround

        async with place.reached() as cluster, KubernetesGround(cluster, place.namespace, image) as ground:
            yield ground
        return
    from pycilium.connectivity.grounds.lab import LabGround
    from pycilium.lab import labs

    if target.machine_option:
        raise ConfigError("a machine of its own has no pods to test with; use a lab (`cilium lab up`) or a cluster")
    layout, record = target.lab_and_record()
    labs.require_root("cilium connectivity test")
    async with LabGround(layout, record) as lab:
        yield lab


def _chosen(selection: Selection) -> list[tuple[ConnectivityTest, tuple[str, ...]]]:
    """ConfigError if nothing is."""
    from pycilium.connectivity.catalogue import all_tests

    found = [(test, selection.scenarios(test.name, test.scenarios)) for test in all_tests()]
    found = [(test, scenarios) for test, scenarios in found if scenarios]
    if not found:
        raise ConfigError("--test selects no test: `cilium connectivity test --list` names them all")
    return found


def _print_list(chosen: list[tuple[ConnectivityTest, tuple[str, ...]]], output: str | None) -> None:
    if output == "json":
        print_json(
            [{"name": test.name, "scenarios": scenarios, "policies": test.policies} for test, scenarios in chosen]
        )
        return
    rows = [(test.name, "\n".join(scenarios), "\n".join(test.policies)) for test, scenarios in chosen]
    print_table(("TEST", "SCENARIOS", "POLICIES"), rows)


def _ended(result: TestResult, number: int, of: int) -> str:
    """One line for a test; what is wrong below it."""
    what = f"skipped: {result.why_skipped}" if result.state == "skipped" else _counted(result)
    head = f"{_MARKS[result.state]} [{number}/{of}] {result.name}   {what}"
    return "\n".join((head, *(f"      {line}" for line in result.lines())))


def _counted(result: TestResult) -> str:
    left = list(result.skipped)
    parts = [f"{len(result.judgements)} actions"] if result.judgements else list(result.checked)
    parts += [f"without {', '.join(left)} ({result.why_skipped})"] if left else []
    return f"{', '.join(parts)}, {result.took_s:.1f} s"


def _check_writable(path: str) -> None:
    """ConfigError now rather than after the run."""
    folder = Path(path).absolute().parent
    if not folder.is_dir():
        raise ConfigError(f"--junit-file {path}: the folder {folder} does not exist")
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"--junit-file {path}: the folder {folder} cannot be written to")


def _silent(*_: object) -> None:
    """For what is not shown."""

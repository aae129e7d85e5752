"""`cilium install`, `upgrade`, `uninstall`, `preflight`, in a Kubernetes cluster."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pycilium.cli.cluster import cluster_options, found_kubeconfig, reached
from pycilium.cli.durations import seconds
from pycilium.cli.lazy import CONTRADICTIONS, loaded
from pycilium.cli.render import print_yaml, progress
from pycilium.errors import CiliumError, ConfigError, InstallRefused
from pycilium.install import settings
from pycilium.install.templates import Plain
from pycilium.install.versions import chosen, listed

if TYPE_CHECKING:
    from pycilium.install.findings import Finding
    from pycilium.install.kubernetes import Installer, Removed
    from pycilium.install.kubernetes_cluster import Cluster
    from pycilium.install.kubernetes_detection import Facts


_NOT_GIVEN = {
    **dict.fromkeys(("files", "sets", "strings"), ()),
    **dict.fromkeys(("dry_run", "dry_run_helm_values", "wait", "skip_preflight", "check_nodes", "reset_values"), False),
    "version": "",
}


def _value_options(command: Any) -> Any:
    for option in (
        click.option("--set", "sets", multiple=True, metavar="A.B=C", help="A value; again for more."),
        click.option("--set-string", "strings", multiple=True, metavar="A.B=C", help="The same, always a string."),
        click.option("-f", "--values", "files", multiple=True, metavar="FILE", help="A file of values; - is stdin."),
        click.option(
            "--version", default="", metavar="V", help="A release of ours, or a Cilium's that it agrees with."
        ),
        click.option("--dry-run", is_flag=True, help="Print the objects and change nothing."),
        click.option("--dry-run-helm-values", is_flag=True, help="Print the values and change nothing."),
        click.option("--wait/--no-wait", default=False, help="Until everything runs."),
        click.option("--wait-duration", type=seconds, default="5m", show_default=True, metavar="DURATION"),
        click.option("--skip-preflight", is_flag=True, help="Install whatever the checks say."),
        click.option("--check-nodes", is_flag=True, help="Look at the nodes too before, as `preflight --nodes` does."),
    ):
        command = option(command)
    return command


@click.command()
@cluster_options
@_value_options
@click.option("--list-versions", is_flag=True, help="Print what --version takes.")
def install(list_versions: bool, **asked: Any) -> None:
    """Install Cilium in a Kubernetes cluster. Run again, it finishes what was begun."""
    if list_versions:
        click.echo("\n".join(listed()))
        return
    asyncio.run(change(upgrading=False, **asked))


@click.command()
@cluster_options
@_value_options
@click.option("--reset-values", is_flag=True, help="Begin with the defaults, not with what is installed.")
def upgrade(**asked: Any) -> None:
    """Change what is installed: values, or its release. Packets flow on."""
    asyncio.run(change(upgrading=True, **asked))


@click.command()
@cluster_options
@click.option("--wait/--no-wait", default=True, hidden=True)
@click.option("--clean/--no-clean", default=True, help="Clean nodes of what agents made there.", show_default=True)
@click.option(
    "--wait-duration", type=seconds, default="5m", show_default=True, metavar="DURATION", help="For nodes to be clean."
)
def uninstall(
    namespace: str,
    context: str,
    kubeconfig: str,
    helm_release_name: str,
    wait: bool,  # noqa: ARG001 -- Cilium's command has it
    clean: bool,
    wait_duration: float,
) -> None:
    """Take everything away that `install` made, on nodes too. Policies stay, as do the CRDs that they are of.

    Pods that still run lose their network.
    """

    async def run() -> Removed:
        from pycilium.install.kubernetes import Installer

        async with reached(kubeconfig, context) as cluster:
            with progress("uninstalling") as tell:
                installer = Installer(cluster, namespace, helm_release_name, tell)
                return await installer.uninstall(clean_within_s=wait_duration if clean else 0.0)

    removed = asyncio.run(run())
    click.echo("Cilium is uninstalled." if removed.found else "There was no release; nothing of one is left.")
    if removed.unclean:
        listed = "\n".join(f"  {node}: {why}" for node, why in sorted(removed.unclean.items()))
        raise InstallRefused(
            f"what agents made is left on {len(removed.unclean)} nodes; "
            f"reboot them, or run `cilium-dbg cleanup` there:\n{listed}"
        )


@click.command()
@cluster_options
@click.option("--set", "sets", multiple=True, metavar="A.B=C", help="A value, as for `install`.")
@click.option("-f", "--values", "files", multiple=True, metavar="FILE", help="A file of values.")
@click.option("--nodes", is_flag=True, help="Look at the nodes themselves too, by pods that go again.")
@click.option("--repair", is_flag=True, help="Remove what an ended flannel left on nodes. What is in use stays.")
@click.option(
    "--wait-duration", type=seconds, default="2m", show_default=True, metavar="DURATION", help="For nodes to be seen."
)
def preflight(
    *,
    namespace: str,
    context: str,
    kubeconfig: str,
    helm_release_name: str,
    sets: Any,
    files: Any,
    nodes: bool,
    repair: bool,
    wait_duration: float,
) -> None:
    """Look whether the cluster can take Cilium, and say what to change. Exit code 1: it cannot."""
    if repair and not nodes:
        raise click.UsageError("--repair is done on the nodes: --nodes --repair")

    async def run() -> list[Finding]:
        from pycilium.install.kubernetes import Installer
        from pycilium.install.kubernetes_preflight import flannel_runs

        async with reached(kubeconfig, context) as cluster:
            found = await _facts(cluster, kubeconfig, context)
            given = _given(files, sets, ())
            values = settings.values_of(_detected(found, given), given)
            listed = await _findings(cluster, found, values, namespace)
            if not nodes:
                return listed
            runs = await flannel_runs(cluster, found) if repair else ""
            with progress("preflight") as tell:
                if runs:
                    tell(f"nothing is repaired, for flannel may run: {runs}")
                installer = Installer(cluster, namespace, helm_release_name, tell)
                return [*listed, *await _of_nodes(installer, values, wait_duration, repair=repair and not runs)]

    found = asyncio.run(run())
    click.echo("\n".join(map(str, found)))
    if not nodes:
        click.echo("Nodes themselves were not looked at: --nodes does.", err=True)
    sys.exit(1 if any(each.level == "error" for each in found) else 0)


async def change(*, upgrading: bool, **given_options: Any) -> None:
    """Install, or upgrade; the options are those of the commands, as far as they were given."""
    from pycilium.install.kubernetes import Installer, manifest_of
    from pycilium.install.kubernetes_manifests import objects
    from pycilium.install.kubernetes_waiting import wait

    asked = {**_NOT_GIVEN, **given_options}
    if asked["check_nodes"] and asked["skip_preflight"]:
        raise click.UsageError("--check-nodes and --skip-preflight contradict each other: leave one of them")
    release, dry = chosen(asked["version"]), asked["dry_run"] or asked["dry_run_helm_values"]
    given = _given(asked["files"], asked["sets"], asked["strings"])
    settings.values_of(given)
    namespace, name = asked["namespace"], asked["helm_release_name"]
    async with reached(asked["kubeconfig"], asked["context"]) as cluster:
        found = await _facts(cluster, asked["kubeconfig"], asked["context"])
        with nullcontext(_silent) if dry else progress("upgrading" if upgrading else "installing") as tell:
            tell(f"pycilium {release.release} ({release.why})")
            installer = Installer(cluster, namespace, name, tell)
            history = await installer.history() if upgrading else []
            reused = upgrading and history and not asked["reset_values"]
            config = settings.merged(history[-1].config if reused else _detected(found, given), given)
            values = settings.values_of(config)
            _refuse_contradictions(values, namespace)
            if asked["dry_run_helm_values"]:
                print_yaml(config)
                return
            if asked["dry_run"]:
                click.echo(manifest_of(objects(values, namespace)), nl=False)
                return
            if not asked["skip_preflight"]:
                found_wrong = await _findings(cluster, found, values, namespace)
                if asked["check_nodes"]:
                    found_wrong += await _of_nodes(installer, values, asked["wait_duration"])
                elif not upgrading:
                    tell("nodes themselves are looked at by their agents; --check-nodes does so before")
                _heed(found_wrong, tell)
            done = await (installer.upgrade(config) if upgrading else installer.install(config))
            if asked["wait"]:
                await wait(cluster, namespace, values, asked["wait_duration"], tell)
    click.echo(f"Cilium is {'upgraded' if upgrading else 'installed'}: release {name}, revision {done.version}.")
    if not asked["wait"]:
        click.echo("`cilium status --wait` tells when it runs.")


def _heed(findings: list[Finding], tell: Callable[[str], None]) -> None:
    """InstallRefused if there are errors."""
    for finding in findings:
        if finding.level == "warning":
            tell(str(finding))
    errors = [finding.what for finding in findings if finding.level == "error"]
    if errors:
        raise InstallRefused("\n".join(("the cluster cannot take it as it is (--skip-preflight tries):", *errors)))


def _refuse_contradictions(values: Plain, namespace: str) -> None:
    from pycilium.install.kubernetes_manifests import objects
    from pycilium.install.kubernetes_names import CONFIG

    loaded(CONTRADICTIONS)(
        next(each["data"] for each in objects(values, namespace) if each["metadata"]["name"] == CONFIG)
    )


def _given(files: Any, sets: Any, strings: Any) -> Plain:
    """What the user set, files first."""
    plain: Plain = {}
    for name in files:
        try:
            text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--values {name}: {getattr(error, 'strerror', None) or error}") from error
        plain = settings.merged(plain, settings.from_file(text, name))
    plain = settings.merged(plain, settings.from_options(sets))
    return settings.merged(plain, settings.from_options(strings, as_strings=True))


async def _facts(cluster: Cluster, kubeconfig: str, context: str) -> Facts:
    from pycilium.install.kubernetes_detection import facts
    from pycilium.store.kubernetes.access import cluster_name

    file = found_kubeconfig(kubeconfig)
    return await facts(cluster, cluster_name([Path(file)] if file else None, context, os.environ))


def _detected(found: Facts, given: Plain) -> Plain:
    from pycilium.install.kubernetes_detection import detected

    return detected(found, given)


async def _findings(cluster: Cluster, found: Facts, values: Plain, namespace: str) -> list[Finding]:
    from pycilium.install.kubernetes_preflight import findings

    return await findings(cluster, found, values, namespace)


async def _of_nodes(installer: Installer, values: Plain, patience_s: float, *, repair: bool = False) -> list[Finding]:
    """What is found on the nodes; that they cannot be looked at is a finding too."""
    from pycilium.install.findings import Finding

    try:
        return await installer.look_at_nodes(values, patience_s, repair=repair)
    except CiliumError as error:
        return [Finding("error", f"nodes could not be looked at: {error}")]


def _silent(_: str) -> None:
    """For what prints a result alone."""

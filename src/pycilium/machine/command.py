"""`cilium install` and `cilium uninstall`, where there is no Kubernetes: steps in order, each said as it is done."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from pycilium.agent.config import AgentConfig, check
from pycilium.cli.durations import seconds
from pycilium.cni import launcher
from pycilium.datapath import cleaning
from pycilium.errors import ConfigError, InstallRefused, PermissionRequired
from pycilium.machine import plan, preflight, service
from pycilium.machine.files import Files
from pycilium.operator.config import OperatorConfig
from pycilium.operator.config import check as check_operator
from pycilium.startup import config_in

machine_option = click.option(
    "--machine",
    is_flag=True,
    expose_value=False,
    help="On this machine alone, though there is a kubeconfig.",
)
root_option = click.option(
    "--root",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("/"),
    help="Work on the files below this folder, and start and stop nothing: for images of machines.",
)
dry_run_option = click.option("--dry-run", is_flag=True, help="Check everything, say what would be done, and end.")


@click.command()
@machine_option
@click.option("--set", "settings", multiple=True, metavar="FIELD=VALUE", help="A field of the agent's configuration.")
@click.option(
    "--operator/--no-operator",
    "with_operator",
    default=None,
    help="Run an operator here too; without either: as before, or, with a store that machines share, yes.",
)
@click.option("--exclusive", is_flag=True, help="Set aside every other CNI configuration, podman's networks too.")
@click.option(
    "--wait-duration",
    type=seconds,
    default="1m",
    show_default=True,
    metavar="DURATION",
    help="How long the agent may take to start.",
)
@root_option
@dry_run_option
def install(
    *,
    settings: tuple[str, ...],
    with_operator: bool | None,
    exclusive: bool,
    wait_duration: float,
    root: Path,
    dry_run: bool,
) -> None:
    """Install on this machine: the agent as a service, and the CNI plugin for podman, containerd and nerdctl.

    Run it again to change settings, to upgrade, or to complete what was interrupted.
    Where there is a kubeconfig, it installs in that cluster instead: --kubeconfig FILE, --context NAME.
    """
    files, is_live = Files(root, dry_run=dry_run), root == Path("/")
    _require_root(is_live=is_live and not dry_run)
    record = files.record()
    config_file, config = configuration(files, settings)
    _preflight(config, is_installed=record is not None)

    before = record or {}
    had_operator = plan.OPERATOR_UNIT in before.get("files", [])
    is_wanted = plan.wants_operator(config, had_one=had_operator, is_new=record is None, asked=with_operator)
    plugins = [plan.File(path, launcher.text(), 0o755) for path in _plugin_paths(root)]
    agent = [config_file, *plugins, plan.unit(_command("cilium-agent"))]
    operator = _operator_files(files, config) if is_wanted else []
    runs_services = is_live and not dry_run and preflight.has_systemd()
    if had_operator and not operator:
        if runs_services:
            service.stop(service.OPERATOR)
        files.remove(plan.OPERATOR_UNIT)
    aside = plan.set_aside(files.names(plan.CNI_FOLDER), exclusive=exclusive)
    written = [file.path for file in (*agent, *operator, plan.conflist())]
    kept = [path for path in before.get("files", []) if path == plan.OPERATOR_CONFIG and path not in written]
    files.save_record([*written, *kept], sorted({*before.get("aside", []), *aside}))
    for file in (*agent, *operator):
        files.write(file)
    if runs_services:
        click.echo("Starting the agent ...")
        service.start(service.AGENT, anew=_any_was_written(files, agent))
        if operator:
            service.start(service.OPERATOR, anew=_any_was_written(files, operator))
        service.wait_until_ready(f"{config.run_dir}/cilium.sock", wait_duration)
    for name in aside:
        files.put_aside(name)
    files.write(plan.conflist())  # last: from here on runtimes call the plugin
    _tell(files, dry_run=dry_run, nothing="Everything is installed already.")
    if is_live and not preflight.has_systemd():
        _tell_how_to_start(with_operator=bool(operator))


@click.command()
@machine_option
@click.option("--force", is_flag=True, help="Though containers are attached: they lose their network.")
@click.option("--purge", is_flag=True, help="Remove the configuration and the store with its policies, too.")
@root_option
@dry_run_option
def uninstall(*, force: bool, purge: bool, root: Path, dry_run: bool) -> None:
    """Undo `cilium install` on this machine; other networks' configurations are put back."""
    files, is_live = Files(root, dry_run=dry_run), root == Path("/")
    _require_root(is_live=is_live and not dry_run)
    record = files.record()
    if record is None and not purge:
        click.echo("Nothing is installed.")
        return
    if is_live and not force and (left := cleaning.attached()):
        shown = f"{', '.join(left[:3])}{' ...' if len(left) > 3 else ''}"
        raise InstallRefused(f"containers are attached ({len(left)}: {shown}): stop them first, or --force")
    config = _to_undo(files)
    if is_live and not dry_run:
        _require_service_or_no_agent(config)
    if record is None:  # what an earlier `uninstall` kept
        _purge(files, config)
        _tell(files, dry_run=dry_run, nothing="Nothing is installed.")
        return
    files.remove(plan.CONFLIST)  # first: from here on runtimes do not call the plugin
    for name in record.get("aside", []):
        files.put_back(name)
    if is_live and not dry_run and preflight.has_systemd():
        for unit in (service.AGENT, service.OPERATOR):
            service.stop(unit)
    for path in record.get("files", [plan.UNIT]):
        if path not in plan.KEPT:
            files.remove(path)
    if is_live and not dry_run:
        if preflight.has_systemd():
            service.forget()
        cleaning.clean(config.bpf_root, config.run_dir)
    if purge:
        _purge(files, config)
    files.remove(plan.RECORD)
    _tell(files, dry_run=dry_run, nothing="Nothing is left to remove.")
    if not purge:
        click.echo(f"{root / plan.CONFIG} and the store are kept; --purge removes them.")


def _to_undo(files: Files) -> AgentConfig:
    """It says where pins and run directory are."""
    try:
        return configuration(files, ())[1]
    except ConfigError as error:
        raise ConfigError(f"{error}; mend it, or remove it if it named no places of its own") from error


def _purge(files: Files, config: AgentConfig) -> None:
    for path in plan.KEPT:
        files.remove(path)
    if config.store == AgentConfig(node_name="").store:
        for ending in ("", "-wal", "-shm", "-notify"):
            files.remove(f"var/lib/cilium/store.db{ending}")


def _require_root(*, is_live: bool) -> None:
    if is_live and os.geteuid() != 0:
        raise PermissionRequired("root is needed to install on this machine: use sudo, or --dry-run to look first")


def configuration(files: Files, settings: tuple[str, ...]) -> tuple[plan.File, AgentConfig]:
    """As it shall be: ConfigError names what cannot."""
    path = files.root / plan.CONFIG
    file = plan.config(_object_in(files, plan.CONFIG), preflight.found_out(), dict(setting(text) for text in settings))
    config = config_in(file.content, AgentConfig, path)
    check(config, path)
    return file, config


def _object_in(files: Files, name: str) -> dict[str, Any]:
    """Empty if there is no such file."""
    path = files.root / name
    try:
        found = json.loads(files.read(name) or "{}")
    except ValueError as error:
        raise ConfigError(f"{path} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: it must be an object")
    return found


def setting(text: str) -> tuple[str, Any]:
    field, equals, value = text.partition("=")
    if not equals:
        raise click.UsageError(f"--set {text}: it must be FIELD=VALUE")
    try:
        return field, json.loads(value)
    except ValueError:
        return field, value


def _preflight(config: AgentConfig, *, is_installed: bool) -> None:
    findings = list(preflight.look(config, is_installed=is_installed))
    for finding in findings:
        if not finding.fatal:
            click.echo(f"Warning: {finding}", err=True)
    if fatal := [str(finding) for finding in findings if finding.fatal]:
        raise InstallRefused("; ".join(fatal))


def _plugin_paths(root: Path) -> list[str]:
    first, *others = plan.PLUGIN_FOLDERS
    return [f"{folder}/{plan.PLUGIN}" for folder in (first, *(each for each in others if (root / each).is_dir()))]


def _command(name: str) -> str:
    """Beside the one that runs."""
    return str(Path(sys.executable).with_name(name))


def _tell_how_to_start(*, with_operator: bool) -> None:
    click.echo(f"There is no systemd here: start the agent with `{_command('cilium-agent')} --config /{plan.CONFIG}`")
    if with_operator:
        click.echo(f"and the operator with `{_command('cilium-operator')} --config /{plan.OPERATOR_CONFIG}`")


def _operator_files(files: Files, config: AgentConfig) -> list[plan.File]:
    """ConfigError names what cannot be in its configuration."""
    path = files.root / plan.OPERATOR_CONFIG
    file = plan.operator_config(_object_in(files, plan.OPERATOR_CONFIG), config)
    config_of_operator = config_in(file.content, OperatorConfig, path)
    try:
        check_operator(config_of_operator)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return [file, plan.operator_unit(_command("cilium-operator"))]


def _any_was_written(files: Files, those: Sequence[plan.File]) -> bool:
    return any(f"write {files.root / file.path}" in files.done for file in those)


def _require_service_or_no_agent(config: AgentConfig) -> None:
    """What systemd did not start it cannot end."""
    if not preflight.has_systemd() and service.answers(f"{config.run_dir}/cilium.sock"):
        raise InstallRefused("the agent runs, and systemd did not start it: end it and run the same command again")


def _tell(files: Files, *, dry_run: bool, nothing: str) -> None:
    for line in files.done:
        click.echo(f"would {line}" if dry_run else line)
    if not files.done:
        click.echo(nothing)

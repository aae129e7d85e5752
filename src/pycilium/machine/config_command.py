"""`cilium config view|get|set|delete` of a machine without Kubernetes: /etc/cilium/agent.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import msgspec

from pycilium.agent.config import AgentConfig
from pycilium.cli.config import restart_option
from pycilium.cli.render import output_option, print_json
from pycilium.errors import ConfigError, NotFound, PermissionRequired
from pycilium.machine import plan, preflight, service
from pycilium.machine.command import configuration, machine_option
from pycilium.machine.files import Files
from pycilium.model.resources.checks import did_you_mean

ROOT = Path("/")
_FIELDS = frozenset(field.encode_name for field in msgspec.structs.fields(AgentConfig))


@click.group()
@machine_option
def config() -> None:
    """The agent's configuration, /etc/cilium/agent.json."""


@config.command()
@output_option("json")
@machine_option
def view(output: str | None) -> None:
    """What is set; `cilium-dbg config get` shows what the agent goes by."""
    found = _written()
    if output == "json":
        print_json(found)
        return
    width = max(map(len, found), default=0)
    click.echo("\n".join(f"{field:<{width}}   {json.dumps(value)}" for field, value in sorted(found.items())))


@config.command()
@click.argument("field")
@machine_option
def get(field: str) -> None:
    """The value of one field."""
    _check_known(field)
    found = _written()
    if field not in found:
        raise NotFound(f"{field} is not set: the agent goes by its default")
    click.echo(json.dumps(found[field]))


@config.command("set")
@click.argument("field")
@click.argument("value")
@restart_option
@machine_option
def set_field(field: str, value: str, restart: bool) -> None:
    """Set one field, checked as a whole before anything is written; VALUE is JSON, or a text."""
    _check_known(field)
    _written()
    _write(configuration(Files(ROOT), (f"{field}={value}",))[0], restart=restart)


@config.command()
@click.argument("field")
@restart_option
@machine_option
def delete(field: str, restart: bool) -> None:
    """Take one field away: the agent goes by its default."""
    _check_known(field)
    found = _written()
    if field not in found:
        raise NotFound(f"{field} is not set")
    del found[field]
    text = json.dumps(found)
    try:
        msgspec.json.decode(text, type=AgentConfig)
    except msgspec.DecodeError as error:
        raise ConfigError(f"{field} cannot be left out: {error}") from error
    _write(plan.config(found, {}, {}), restart=restart)


def _check_known(field: str) -> None:
    if field not in _FIELDS:
        raise ConfigError(f"the agent's configuration has no field {field!r}{did_you_mean(field, _FIELDS)}")


def _written() -> dict[str, Any]:
    """What the file holds; NotFound if nothing is installed."""
    files = Files(ROOT)
    text = files.read(plan.CONFIG)
    if text is None:
        raise NotFound(f"there is no /{plan.CONFIG}: `cilium install` makes it")
    try:
        found: dict[str, Any] = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"/{plan.CONFIG}: {error}") from error
    return found


def _write(file: plan.File, *, restart: bool) -> None:
    files = Files(ROOT)
    try:
        files.write(file)
    except PermissionError as error:
        raise PermissionRequired(f"root is needed to write /{file.path}: use sudo") from error
    if not files.done:
        click.echo("It is so already.")
    elif not restart:
        click.echo(f"/{file.path} is written; the agent reads it at its next start.")
    elif preflight.has_systemd():
        service.start(service.AGENT, anew=True)
        click.echo(f"/{file.path} is written, and the agent began anew.")
    else:
        click.echo(f"/{file.path} is written. There is no systemd here: end the agent and start it again.")

"""`cilium config view|get|set|delete` of a cluster: keys of cilium-config, and agents that begin anew with them.

A machine's is `machine/config_command.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from pycilium.cli.cluster import ClusterPlace
from pycilium.cli.lazy import CONTRADICTIONS, loaded
from pycilium.cli.render import output_option, print_json, progress
from pycilium.cli.target import Target, pass_target, place_options
from pycilium.errors import ConfigError, NotFound

if TYPE_CHECKING:
    from pycilium.install.kubernetes_cluster import Cluster

_RESTARTED = "cilium.io/restartedAt"


def restart_option(command: Any) -> Any:
    """`-r`, `--restart` and `--restart=false`, as Cilium's command has it."""
    return click.option(
        "-r",
        "--restart",
        type=bool,
        is_flag=False,
        flag_value=True,
        default=True,
        show_default=True,
        help="Let agents and operators begin anew, for they read it at their start.",
    )(command)


@click.group()
@place_options
def config() -> None:
    """What agents and operators read at their start: the config map cilium-config."""


@config.command()
@output_option("json")
@place_options
@pass_target
def view(target: Target, output: str | None) -> None:
    """All keys."""
    data = _read(_place(target))
    if output == "json":
        print_json(data)
        return
    width = max(map(len, data), default=0)
    click.echo("\n".join(f"{key:<{width}}   {value}".rstrip() for key, value in sorted(data.items())))


@config.command()
@click.argument("key")
@place_options
@pass_target
def get(target: Target, key: str) -> None:
    """The value of one key."""
    from pycilium.install.kubernetes_settings import check_known

    data = _read(_place(target))
    if key not in data:
        check_known(key)
        raise NotFound(f"{key} is not set; `cilium config view` shows what is")
    click.echo(data[key])


@config.command("set")
@click.argument("key")
@click.argument("value")
@restart_option
@place_options
@pass_target
def set_key(target: Target, key: str, value: str, restart: bool) -> None:
    """Set one key, until the next `cilium upgrade`; the command says how it would last."""
    from pycilium.install.kubernetes_settings import as_option

    option = as_option(key, value)
    asyncio.run(_change(_place(target), key, value, restart=restart))
    click.echo(f"{key} is {value!r} until the next `cilium upgrade`; `cilium upgrade --set '{option}'` makes it last.")


@config.command()
@click.argument("key")
@restart_option
@place_options
@pass_target
def delete(target: Target, key: str, restart: bool) -> None:
    """Take one key away: agents and operators go by its default. The next `cilium upgrade` sets it again."""
    asyncio.run(_change(_place(target), key, None, restart=restart))
    click.echo(f"{key} is not set. `cilium upgrade` sets it to what the release says again.")


def _place(target: Target) -> ClusterPlace:
    place = target.cluster
    if place is None:
        raise ConfigError(
            "this is a cluster's: name one with --context or --kubeconfig; "
            "`cilium-dbg config get` shows what a lab's agent has"
        )
    return place


def _read(place: ClusterPlace) -> dict[str, str]:
    async def read() -> dict[str, str]:
        async with place.reached() as cluster:
            return await _data(cluster, place)

    return asyncio.run(read())


async def _data(cluster: Cluster, place: ClusterPlace) -> dict[str, str]:
    from pycilium.install.kubernetes_cluster import CONFIG_MAP
    from pycilium.install.kubernetes_names import CONFIG

    found = await cluster.get(CONFIG_MAP, CONFIG, place.namespace)
    if found is None:
        raise NotFound(f"there is no config map {CONFIG} in namespace {place.namespace}: `cilium install` makes it")
    return dict(found.get("data") or {})


async def _change(place: ClusterPlace, key: str, value: str | None, *, restart: bool) -> None:
    """Set or take away; nothing begins anew if it was so before."""
    from pycilium.install.kubernetes_cluster import CONFIG_MAP
    from pycilium.install.kubernetes_names import CONFIG

    async with place.reached() as cluster:
        data = await _data(cluster, place)
        if data.get(key) == value:
            if value is None:
                raise NotFound(f"{key} is not set; `cilium config view` shows what is")
            return
        rest = {name: text for name, text in data.items() if name != key}
        loaded(CONTRADICTIONS)(rest if value is None else {**rest, key: value})
        with progress("changing") as tell:
            tell(f"config map {CONFIG}: {key}")
            await cluster.patch(CONFIG_MAP, CONFIG, {"data": {key: value}}, namespace=place.namespace)
            if restart:
                await _restart(cluster, place.namespace, tell)


async def _restart(cluster: Cluster, namespace: str, tell: Callable[[str], None]) -> None:
    """One after another, as in an upgrade: nodes go on meanwhile."""
    from pycilium.install.kubernetes_cluster import DAEMON_SET, DEPLOYMENT
    from pycilium.install.kubernetes_names import AGENT, OPERATOR

    mark = {"metadata": {"annotations": {_RESTARTED: datetime.now(UTC).isoformat(timespec="milliseconds")}}}
    for kind, name in ((DAEMON_SET, AGENT), (DEPLOYMENT, OPERATOR)):
        if await cluster.get(kind, name, namespace) is not None:
            tell(f"{kind.name} {name} begins anew")
            await cluster.patch(kind, name, {"spec": {"template": mark}}, namespace=namespace)

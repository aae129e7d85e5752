"""`cilium endpoint add|rm|list`: what no runtime attaches is attached by hand, by its network namespace."""

from __future__ import annotations

import os

import click

from pycilium.cli.dbg import endpoint_list
from pycilium.cli.target import Target, lab_option, node_option, pass_target
from pycilium.errors import InvalidResource, NotFound
from pycilium.model.resources.checks import check_dns_label, check_labels

_INTERFACE = "eth0"
_NETWORK = "by-hand"

namespace_option = click.option("-n", "--namespace", default="default", show_default=True, help="Where policies look.")


@click.group()
@lab_option
@node_option
def endpoint() -> None:
    """Endpoints that are added by hand; the list is of all."""


endpoint.add_command(endpoint_list)  # Cilium's own `cilium status` asks for it


@endpoint.command("add")
@click.option("--netns", required=True, metavar="PATH", help="The network namespace, such as /proc/PID/ns/net.")
@click.option("--name", required=True, help="What it is called, in flows too.")
@click.option("-l", "--label", "labels", multiple=True, metavar="KEY=VALUE", help="A label that policies may select.")
@namespace_option
@lab_option
@node_option
@pass_target
def add(target: Target, netns: str, name: str, labels: tuple[str, ...], namespace: str) -> None:
    """Give a network namespace an interface, addresses, an identity and policy; repeatable.

    For containers that run without a network of their own (docker run --network none) and for anything that `ip netns`
    or `unshare --net` made. It ends with the namespace, or with `rm`.
    """
    wanted = dict(label.partition("=")[::2] for label in labels)
    _check(name, namespace, wanted)
    if not os.path.exists(netns):
        raise NotFound(f"{netns} does not exist: is the process still there?")
    request = {
        **_attachment(name, namespace),
        "netns": netns,
        "config": {"name": _NETWORK, "args": {"cni": {"labels": wanted}}},
    }
    result = target.agent().cni("add", request)
    for address in result.get("ips", []):
        click.echo(address["address"].partition("/")[0])


@endpoint.command("rm")
@click.argument("name")
@namespace_option
@lab_option
@node_option
@pass_target
def rm(target: Target, name: str, namespace: str) -> None:
    """Take an endpoint that `add` made away; its namespace stays, without our interface."""
    _check(name, namespace, {})
    attachment, agent = _attachment(name, namespace), target.agent()
    agent.endpoint(f"container-id:{attachment['container_id']}")
    agent.cni("del", attachment)


def _attachment(name: str, namespace: str) -> dict[str, object]:
    return {
        "container_id": f"{_NETWORK}.{namespace}.{name}",
        "ifname": _INTERFACE,
        "args": {"K8S_POD_NAME": name, "K8S_POD_NAMESPACE": namespace},
    }


def _check(name: str, namespace: str, labels: dict[str, str]) -> None:
    try:
        check_dns_label(name, "--name")
        check_dns_label(namespace, "--namespace")
        check_labels(labels, "--label")
    except InvalidResource as error:
        raise click.UsageError(str(error)) from error

"""`cilium endpoint add|rm|list`: what no runtime attaches is attached by hand, by network namespace or cgroup."""

from __future__ import annotations

import os

import click

from pycilium.cli.dbg import endpoint_list
from pycilium.cli.systemd_units import cgroup_of_unit, is_unit, socket_units_of
from pycilium.cli.target import Target, lab_option, node_option, pass_target
from pycilium.errors import InvalidResource, NotFound
from pycilium.model.endpoint import process_container_id
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
@click.option("--netns", metavar="PATH", help="A network namespace, such as /proc/PID/ns/net.")
@click.option(
    "--cgroup", metavar="PATH", help="Processes of the node: their cgroup, such as /system.slice/web.service."
)
@click.option("--unit", metavar="NAME.service", help="The same of a systemd unit, running or not.")
@click.option("--name", required=True, help="What it is called, in flows too.")
@click.option("-l", "--label", "labels", multiple=True, metavar="KEY=VALUE", help="A label that policies may select.")
@namespace_option
@lab_option
@node_option
@pass_target
def add(
    target: Target,
    netns: str | None,
    cgroup: str | None,
    unit: str | None,
    name: str,
    labels: tuple[str, ...],
    namespace: str,
) -> None:
    """Give a network namespace, or processes of the node itself, an identity and policy; repeatable.

    A network namespace gets an interface and addresses too: that of a container without a network of its own
    (docker run --network none), or what `ip netns` or `unshare --net` made. It ends with the namespace, or with `rm`.

    Processes of a cgroup or of a systemd unit keep the node's addresses. They are an endpoint until `rm`, however often
    the service is restarted.
    """
    wanted = dict(label.partition("=")[::2] for label in labels)
    _check(name, namespace, wanted)
    if sum(each is not None for each in (netns, cgroup, unit)) != 1:
        raise click.UsageError("name one of --netns, --cgroup and --unit: what is to be the endpoint")
    if cgroup is not None and "/" not in cgroup and is_unit(cgroup):
        raise click.UsageError(f"{cgroup} is a unit and no cgroup: --unit {cgroup} finds where its processes are")
    if netns is not None:
        _add_netns(target, netns, name, namespace, wanted)
        return
    request = {
        "cgroup": cgroup_of_unit(unit) if unit is not None else cgroup,
        "name": name,
        "namespace": namespace,
        "labels": wanted,
        "may_be_absent": unit is not None,
    }
    made = target.agent().add_process(request)
    click.echo(f"endpoint {made['id']}: {made['status']['external-identifiers']['cgroup']}")
    if unit is not None:
        _tell_of_sockets(target, unit, namespace)


def _tell_of_sockets(target: Target, unit: str, namespace: str) -> None:
    """Those that systemd opens for it would silently stay the host's."""
    listed = target.agent().endpoints()
    known = {each["status"].get("external-identifiers", {}).get("cgroup") for each in listed}
    for socket in socket_units_of(unit):
        if cgroup_of_unit(socket) not in known:
            name = socket.replace(".", "-")
            click.echo(
                f"Warning: the sockets that {socket} opens for {unit} are not its own, and stay the host's: `cilium "
                f"endpoint add --unit {socket} --name {name} -n {namespace}` with the same labels adds them",
                err=True,
            )


def _add_netns(target: Target, netns: str, name: str, namespace: str, labels: dict[str, str]) -> None:
    if not os.path.exists(netns):
        raise NotFound(f"{netns} does not exist: is the process still there?")
    request = {
        **_attachment(name, namespace),
        "netns": netns,
        "config": {"name": _NETWORK, "args": {"cni": {"labels": labels}}},
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
    """Take an endpoint that `add` made away; its namespace stays, without our interface, and processes go on."""
    _check(name, namespace, {})
    agent = target.agent()
    by_hand = {f"{_NETWORK}.{namespace}.{name}", process_container_id(namespace, name)}
    try:
        found = agent.endpoint(f"pod-name:{namespace}/{name}")["status"]["external-identifiers"]
    except NotFound as error:
        raise NotFound(f"there is no endpoint {namespace}/{name}: `cilium endpoint list` shows all") from error
    if found["container-id"] not in by_hand:
        raise NotFound(f"endpoint {namespace}/{name} was not made by `cilium endpoint add`: its runtime removes it")
    container_id, _, ifname = found["cni-attachment-id"].rpartition(":")
    agent.cni("del", {"container_id": container_id, "ifname": ifname})


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

"""`cilium lab pod …` and `cilium lab pods`: pods made, removed, labelled and listed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pycilium.cli.render import output_option, print_json, print_table
from pycilium.cli.target import Target, lab_option, pass_target
from pycilium.errors import ConfigError
from pycilium.lab import labs
from pycilium.lab.layout import LabLayout

if TYPE_CHECKING:
    from pycilium.model.host_port import HostPort
    from pycilium.model.l4 import NamedTarget


@click.group()
@lab_option
def pod() -> None:
    """Pods, made through the real CNI plugin."""


@pod.command("add")
@click.argument("name")
@click.option("--node", metavar="NODE", default=None, help="Where; else the node with the fewest pods.")
@click.option("-n", "--namespace", default="default", show_default=True)
@click.option("-l", "--label", "labels", multiple=True, metavar="KEY=VALUE", help="A label; may be repeated.")
@click.option(
    "--host-port",
    "host_ports",
    multiple=True,
    metavar="[ADDRESS:]8080:80[/TCP]",
    help="A port of the node that leads to the pod; may be repeated.",
)
@click.option(
    "--port",
    "named_ports",
    multiple=True,
    metavar="http=8080[/TCP]",
    help="What the pod calls a port, for policies and Services that name it; may be repeated.",
)
@click.option("--service-account", default="", metavar="NAME", help="Who the pod is to policies; else `default`.")
@click.option("--existing", is_flag=True, help="Start a Pod that was applied before; works while the store is away.")
@output_option("json")
@lab_option
@pass_target
def pod_add(
    target: Target,
    name: str,
    node: str | None,
    namespace: str,
    labels: tuple[str, ...],
    host_ports: tuple[str, ...],
    named_ports: tuple[str, ...],
    service_account: str,
    existing: bool,
    output: str | None,
) -> None:
    """Make a pod. Its addresses, identity and policy are in force when this returns."""
    from pycilium.lab import pods

    labs.require_root("cilium lab pod add")
    layout, record = target.lab_and_record()
    node = node or pods.node_with_fewest(layout, record)
    if existing and (labels or named_ports or service_account):
        raise click.UsageError(
            "--existing excludes --label, --port and --service-account: the Pod has its own, and it is made already"
        )
    if existing and host_ports:
        raise click.UsageError("--existing and --host-port exclude each other")
    if existing:
        made = pods.start_existing(layout, record, name=name, namespace=namespace, node=node)
    else:
        made = pods.add(
            layout,
            record,
            name=name,
            namespace=namespace,
            node=node,
            labels=_parsed_labels(labels),
            host_ports=_parsed_host_ports(host_ports),
            named_ports=_parsed_named_ports(named_ports),
            service_account=service_account,
        )
    if output == "json":
        print_json(next(row for row in _pod_rows(target, layout) if _is(row, namespace, name)))
    else:
        click.echo(f"pod {namespace}/{name} on {node}: {' '.join(made.addresses)}")


@pod.command("rm")
@click.argument("name")
@click.option("-n", "--namespace", default="default", show_default=True)
@lab_option
@pass_target
def pod_rm(target: Target, name: str, namespace: str) -> None:
    """Remove a pod and end what runs in it."""
    from pycilium.lab import pods

    labs.require_root("cilium lab pod rm")
    layout, record = target.lab_and_record()
    pods.remove(layout, record, namespace, name)
    click.echo(f"pod {namespace}/{name} removed")


@pod.command("label")
@click.argument("name")
@click.argument("changes", nargs=-1, required=True, metavar="KEY=VALUE|KEY-...")
@click.option("-n", "--namespace", default="default", show_default=True)
@lab_option
@pass_target
def pod_label(target: Target, name: str, changes: tuple[str, ...], namespace: str) -> None:
    """Set labels (key=value) or take them away (key-). The pod keeps running."""
    from pycilium.lab import pods

    layout, _ = target.lab_and_record()
    removed = [change[:-1] for change in changes if change.endswith("-") and "=" not in change]
    added = _parsed_labels(tuple(change for change in changes if "=" in change or not change.endswith("-")))
    labels = pods.relabel(layout, namespace, name, added, removed)
    click.echo(f"pod {namespace}/{name}: {_label_text(labels) or 'no labels'}")


@click.command()
@output_option("json", "wide")
@click.option("-n", "--namespace", default=None, help="Only this namespace.")
@lab_option
@pass_target
def pods(target: Target, namespace: str | None, output: str | None) -> None:
    """The pods of the lab."""
    layout, _ = target.lab_and_record()
    rows = [row for row in _pod_rows(target, layout) if namespace in (None, row["namespace"])]
    if output == "json":
        print_json(rows)
        return
    print_table(
        ["NAMESPACE", "NAME", "NODE", "IPV4", "IPV6", "ENDPOINT", "IDENTITY", "STATE", "LABELS"],
        [
            (
                row["namespace"],
                row["name"],
                row["node"],
                row["ipv4"],
                row["ipv6"],
                row["endpoint_id"],
                row["identity"],
                row["state"],
                _label_text(row["labels"]),
            )
            for row in rows
        ],
    )


def _pod_rows(target: Target, layout: LabLayout) -> list[dict[str, Any]]:
    """Every pod: its record, its labels from the store, and what the node's agent says of its endpoint."""
    from pycilium.lab import pods

    records = labs.pod_records(layout)
    labels = pods.labels_of(layout)
    endpoints = {}
    for node in sorted({record.node for record in records}):
        endpoints.update(_endpoints_by_pod(target, node))
    rows = []
    for record in records:
        status = endpoints.get((record.namespace, record.name), {})
        rows.append(
            {
                "name": record.name,
                "namespace": record.namespace,
                "node": record.node,
                "ipv4": record.ipv4,
                "ipv6": record.ipv6,
                "labels": labels.get((record.namespace, record.name), {}),
                "identity": (status.get("identity") or {}).get("id"),
                "endpoint_id": status.get("endpoint_id"),
                "state": status.get("state", "unknown"),
            }
        )
    return rows


def _endpoints_by_pod(target: Target, node: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Nothing when the agent does not run: the pods are there all the same."""
    from pycilium.errors import AgentUnavailable

    try:
        endpoints = target.agent(node).endpoints()
    except AgentUnavailable:
        return {}
    found = {}
    for endpoint in endpoints:
        names = endpoint["status"].get("external-identifiers") or {}
        key = (names.get("k8s-namespace", ""), names.get("k8s-pod-name", ""))
        found[key] = {"endpoint_id": endpoint["id"], **endpoint["status"]}
    return found


def _is(row: dict[str, Any], namespace: str, name: str) -> bool:
    return bool(row["namespace"] == namespace and row["name"] == name)


def _parsed_labels(words: tuple[str, ...]) -> dict[str, str]:
    labels = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ConfigError(f"label {word!r}: write it as key=value")
        labels[key] = value
    return labels


def _parsed_host_ports(words: tuple[str, ...]) -> list[HostPort]:
    from pycilium.model.host_port import HostPort

    try:
        return [HostPort.parse(word) for word in words]
    except ValueError as error:
        raise ConfigError(f"--host-port: {error}") from error


def _parsed_named_ports(words: tuple[str, ...]) -> list[NamedTarget]:
    from pycilium.model.l4 import NamedTarget

    try:
        return [NamedTarget.parse(word) for word in words]
    except ValueError as error:
        raise ConfigError(f"--port: {error}") from error


def _label_text(labels: dict[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))

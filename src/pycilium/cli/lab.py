"""`cilium lab …`: virtual nodes and pods on this machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from pycilium.cli.render import output_option, print_json, print_table, progress
from pycilium.cli.target import Target, lab_option, pass_target
from pycilium.errors import CiliumError, ConfigError
from pycilium.lab import labs

if TYPE_CHECKING:
    from pycilium.lab.layout import LabLayout, LabRecord


@click.group()
@lab_option
def lab() -> None:
    """Nodes and pods made of network namespaces, apart from everything else on this machine."""


@lab.command()
@click.option("--nodes", "node_count", type=click.IntRange(min=1), default=1, show_default=True, help="Nodes.")
@click.option("--ip-families", default="ipv4,ipv6", show_default=True, help="ipv4, ipv6 or both.")
@click.option("--store", default="sqlite", show_default=True, help="Where resources live.")
@lab_option
@pass_target
def up(target: Target, node_count: int, ip_families: str, store: str) -> None:
    """Make a lab: nodes with agents, and a world outside them. Needs root."""
    families = tuple(part.strip() for part in ip_families.split(",") if part.strip())
    options = labs.UpOptions(name=target.lab_name, node_count=node_count, ip_families=families, store=store)
    with progress(f"lab {options.name}") as tell:
        record = labs.up(options, tell)
    addresses = "; ".join(f"{node.name} {' '.join(filter(None, (node.ipv4, node.ipv6)))}" for node in record.nodes)
    click.echo(f"lab {record.name} is up: {addresses}")


@lab.command()
@lab_option
@pass_target
def down(target: Target) -> None:
    """Remove the lab and everything in it. Needs root."""
    removed = labs.down(target.lab_name)
    click.echo(f"lab {target.lab_name} is {'down' if removed else 'not there: nothing to do'}")


@lab.command("list")
@output_option("json")
def list_labs(output: str | None) -> None:
    """The labs on this machine."""
    rows = []
    for name in labs.list_names():
        try:
            rows.append(_lab_row(name))
        except CiliumError as error:
            rows.append({"name": name, "nodes": [], "agents_running": 0, "pods": 0, "problem": str(error)})
    if output == "json":
        print_json(rows)
        return
    print_table(
        ["NAME", "NODES", "AGENTS", "PODS", "IP FAMILIES"],
        [
            (row["name"], len(row["nodes"]), row["agents_running"], row["pods"], ",".join(row.get("ip_families", ())))
            for row in rows
        ],
    )
    for row in rows:
        if row.get("problem"):
            click.echo(f"{row['name']}: {row['problem']}", err=True)


@lab.command()
@output_option("json")
@lab_option
@pass_target
def status(target: Target, output: str | None) -> None:
    """The lab's nodes, agents and world. Exit code 1 when an agent does not run."""
    from pycilium.lab import agents

    layout, record = _lab(target)
    nodes = [
        {
            "name": node.name,
            "netns": node.namespace,
            "ipv4": node.ipv4,
            "ipv6": node.ipv6,
            "ipv4_pod_cidr": node.ipv4_pod_cidr,
            "ipv6_pod_cidr": node.ipv6_pod_cidr,
            "agent_pid": (pid := agents.pid_of(layout, node.name)),
            "agent": _agent_state(target, node.name) if pid else "stopped",
            "agent_log": str(agents.log_of(layout, node.name)),
        }
        for node in record.nodes
    ]
    answer = {
        "name": record.name,
        "folder": str(layout.folder),
        "store": layout.store_url,
        "world": {"netns": record.world, "addresses": _world_addresses(record)},
        "nodes": nodes,
        "pods": len(labs.pod_records(layout)),
    }
    if output == "json":
        print_json(answer)
    else:
        _print_status(answer)
    sys.exit(0 if all(node["agent"] == "Ok" for node in nodes) else 1)


@lab.group()
@lab_option
def pod() -> None:
    """Pods, made through the real CNI plugin."""


@pod.command("add")
@click.argument("name")
@click.option("--node", default="node1", show_default=True)
@click.option("-n", "--namespace", default="default", show_default=True)
@click.option("-l", "--label", "labels", multiple=True, metavar="KEY=VALUE", help="A label; may be repeated.")
@output_option("json")
@lab_option
@pass_target
def pod_add(target: Target, name: str, node: str, namespace: str, labels: tuple[str, ...], output: str | None) -> None:
    """Make a pod. Its addresses, identity and policy are in force when this returns."""
    from pycilium.lab import pods

    labs.require_root("cilium lab pod add")
    layout, record = _lab(target)
    made = pods.add(layout, record, name=name, namespace=namespace, node=node, labels=_parsed_labels(labels))
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
    layout, record = _lab(target)
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

    layout, _ = _lab(target)
    removed = [change[:-1] for change in changes if change.endswith("-") and "=" not in change]
    added = _parsed_labels(tuple(change for change in changes if "=" in change or not change.endswith("-")))
    labels = pods.relabel(layout, namespace, name, added, removed)
    click.echo(f"pod {namespace}/{name}: {_label_text(labels) or 'no labels'}")


@lab.command()
@output_option("json", "wide")
@click.option("-n", "--namespace", default=None, help="Only this namespace.")
@lab_option
@pass_target
def pods(target: Target, namespace: str | None, output: str | None) -> None:
    """The pods of the lab."""
    layout, _ = _lab(target)
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


@lab.command("exec", context_settings={"allow_interspersed_args": False})
@click.option("-d", "--detach", is_flag=True, help="Leave it running; it ends with the pod.")
@click.option("-n", "--namespace", default="default", show_default=True, help="The pod's namespace.")
@click.option("--world", is_flag=True, help="In the world outside the nodes.")
@click.option("--node", metavar="NODE", default=None, help="On a node itself.")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[POD] -- COMMAND...")
@lab_option
@pass_target
def execute(
    target: Target, detach: bool, namespace: str, world: bool, node: str | None, words: tuple[str, ...]
) -> None:
    """Run a command in a pod, on a node or in the world. The exit code is the command's."""
    layout, record = _lab(target)
    labs.require_root("cilium lab exec")
    if world and node:
        raise click.UsageError("--world and --node exclude each other")
    if world:
        netns, argv, log = record.world, list(words), layout.world_folder / "exec.log"
    elif node:
        netns, argv, log = record.node(node).namespace, list(words), layout.node_folder(node) / "exec.log"
    else:
        if not words:
            raise click.UsageError("which pod? cilium lab exec [-n NAMESPACE] POD -- COMMAND...")
        found = labs.find_pod(layout, namespace, words[0])
        netns, argv, log = found.netns, list(words[1:]), layout.pod_log(namespace, words[0])
    argv = argv[1:] if argv[:1] == ["--"] else argv
    if not argv:
        raise click.UsageError("no command given: cilium lab exec POD -- COMMAND...")
    if detach:
        from pycilium.lab import processes

        pid = processes.start_in(netns, argv, log=log)
        click.echo(f"running as pid {pid}; its output goes to {log}")
        return
    _become(netns, argv)


def _become(netns: str, argv: list[str]) -> None:
    """Replaces this process by the command, so that terminal, signals and exit code are the command's own."""
    from pycilium.lab import namespaces

    namespaces.enter(netns)
    sys.stdout.flush()
    try:
        os.execvp(argv[0], argv)  # noqa: S606 - exactly what was asked for
    except FileNotFoundError:
        click.echo(f"Error: {argv[0]}: no such command", err=True)
        sys.exit(127)
    except OSError as error:
        click.echo(f"Error: {argv[0]}: cannot be run: {error.strerror}", err=True)
        sys.exit(126)


@lab.group()
@lab_option
def agent() -> None:
    """The agents: stop, start, restart or kill them. What they pinned in the kernel goes on working."""


def _agent_command(name: str, help_text: str, action: Callable[[LabLayout, LabRecord, str], str]) -> None:
    @agent.command(name, help=help_text)
    @click.option("--node", default="node1", show_default=True)
    @lab_option
    @pass_target
    def command(target: Target, node: str) -> None:
        labs.require_root(f"cilium lab agent {name}")
        layout, record = _lab(target)
        record.node(node)
        click.echo(f"agent of {node} {action(layout, record, node)}")


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
    import signal

    from pycilium.lab import agents

    return "killed" if agents.stop(layout, node, signal.SIGKILL) else "was not running"


_agent_command("start", "Start the agent and wait until it is ready.", _start)
_agent_command("stop", "Ask the agent to end, and wait for it.", _stop)
_agent_command("restart", "Stop, then start.", _restart)
_agent_command("kill", "Kill it (SIGKILL), as a crash would.", _kill)


def _lab(target: Target) -> tuple[LabLayout, LabRecord]:
    from pycilium.lab.layout import LabLayout

    return LabLayout(target.lab_name), labs.load(target.lab_name)


def _lab_row(name: str) -> dict[str, Any]:
    from pycilium.lab import agents
    from pycilium.lab.layout import LabLayout

    layout, record = LabLayout(name), labs.load(name)
    return {
        "name": name,
        "nodes": [node.name for node in record.nodes],
        "agents_running": sum(agents.pid_of(layout, node.name) is not None for node in record.nodes),
        "pods": len(labs.pod_records(layout)),
        "ip_families": record.ip_families,
    }


def _agent_state(target: Target, node: str) -> str:
    try:
        return str(target.agent(node).status()["cilium"]["state"])
    except CiliumError as error:
        return f"not ready ({error})"


def _world_addresses(record: LabRecord) -> list[str]:
    from pycilium.lab.layout import WORLD_IPV4, WORLD_IPV6

    families = {"ipv4": WORLD_IPV4, "ipv6": WORLD_IPV6}
    return [address for family in record.ip_families for address in families[family]]


def _print_status(answer: dict[str, Any]) -> None:
    print_table(
        ["NODE", "AGENT", "PID", "IPV4", "IPV6", "POD CIDRS"],
        [
            (
                node["name"],
                node["agent"],
                node["agent_pid"],
                node["ipv4"],
                node["ipv6"],
                " ".join(filter(None, (node["ipv4_pod_cidr"], node["ipv6_pod_cidr"]))),
            )
            for node in answer["nodes"]
        ],
    )
    click.echo(f"\nWorld:  {' '.join(answer['world']['addresses'])}")
    click.echo(f"Pods:   {answer['pods']}")
    click.echo(f"Folder: {answer['folder']}")


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


def _label_text(labels: dict[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))

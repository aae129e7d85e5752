"""`cilium lab …`: labs on this machine, and what is done to a lab as a whole."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, cast

import click
import msgspec

from pycilium.cli.lazy import LazyGroup
from pycilium.cli.render import output_option, print_json, print_table, progress
from pycilium.cli.target import Target, lab_option, pass_target
from pycilium.errors import CiliumError
from pycilium.lab import labs
from pycilium.lab.layout import LoadBalancing
from pycilium.lab.plan import UpOptions

if TYPE_CHECKING:
    from pycilium.lab.layout import IpamMode, LabRecord, RoutingMode, UnderlayFamily

_COMMANDS = {
    "pod": "pycilium.cli.lab_pods:pod",
    "pods": "pycilium.cli.lab_pods:pods",
    "node": "pycilium.cli.lab_nodes:node",
    "agent": "pycilium.cli.lab_processes:agent",
    "store": "pycilium.cli.lab_processes:store",
    "operator": "pycilium.cli.lab_operators:operator",
}
_MODES = click.Choice(("tunnel", "native"))


@click.group(cls=LazyGroup, commands_at=_COMMANDS)
@lab_option
def lab() -> None:
    """Nodes and pods made of network namespaces, apart from everything else on this machine."""


@lab.command()
@click.option("--nodes", "node_count", type=click.IntRange(min=1), default=1, show_default=True, help="Nodes.")
@click.option("--routing-mode", type=_MODES, default="tunnel", show_default=True, help="Between nodes.")
@click.option("--ip-families", default="ipv4,ipv6", show_default=True, help="Of pods: ipv4, ipv6 or both.")
@click.option(
    "--store",
    default="sqlite",
    show_default=True,
    help="Where resources live: sqlite, etcd, or the URL of an API server (kubernetes:…).",
)
@click.option(
    "--underlay-family",
    type=click.Choice(("auto", "ipv4", "ipv6")),
    default="auto",
    show_default=True,
    help="The only family that the network between the nodes speaks; auto: the pods' families.",
)
@click.option("--mtu", type=int, default=1500, show_default=True, help="Of the network between the nodes.")
@click.option(
    "--load-balancer-mode",
    type=click.Choice(("snat", "dsr", "hybrid")),
    default="snat",
    show_default=True,
    help="How backends on other nodes answer clients outside.",
)
@click.option(
    "--dsr-dispatch",
    type=click.Choice(("option", "ipip")),
    default="option",
    show_default=True,
    help="How their nodes learn what the client has called.",
)
@click.option(
    "--acceleration",
    type=click.Choice(("disabled", "native", "best-effort")),
    default="disabled",
    show_default=True,
    help="Translate for Services before the stack, by XDP.",
)
@click.option(
    "--kube-proxy-replacement/--no-kube-proxy-replacement",
    default=True,
    show_default=True,
    help="Without: Services are translated for pods alone, as beside a kube-proxy, which a lab does not have.",
)
@click.option(
    "--ipam",
    type=click.Choice(("host-scope", "cluster-pool")),
    default="host-scope",
    show_default=True,
    help="Where nodes get their pod CIDRs from; cluster-pool: from an operator.",
)
@lab_option
@pass_target
def up(
    target: Target,
    node_count: int,
    routing_mode: str,
    ip_families: str,
    store: str,
    underlay_family: str,
    mtu: int,
    load_balancer_mode: str,
    dsr_dispatch: str,
    acceleration: str,
    kube_proxy_replacement: bool,
    ipam: str,
) -> None:
    """Make a lab: nodes with agents, and a world outside them. Needs root."""
    options = UpOptions(
        name=target.lab_name,
        node_count=node_count,
        ip_families=tuple(part.strip() for part in ip_families.split(",") if part.strip()),
        store=store,
        routing_mode=cast("RoutingMode", routing_mode),
        underlay_family=cast("UnderlayFamily", underlay_family),
        mtu_bytes=mtu,
        load_balancing=msgspec.convert(
            {
                "mode": load_balancer_mode,
                "dispatch": dsr_dispatch,
                "acceleration": acceleration,
                "kube_proxy_replacement": kube_proxy_replacement,
            },
            LoadBalancing,
        ),
        ipam=cast("IpamMode", ipam),
    )
    with progress(f"lab {options.name}") as tell:
        record = labs.up(options, tell)
    addresses = "; ".join(f"{node.name} {' '.join(node.addresses)}" for node in record.nodes)
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
    """The lab's nodes, agents, store and world. Exit code 1 when an agent or the store does not run."""
    from pycilium.cli.lab_nodes import NODE_COLUMNS, node_cells, node_rows
    from pycilium.cli.lab_operators import operator_rows, operators_text
    from pycilium.cli.lab_processes import store_state

    layout, record = target.lab_and_record()
    nodes = node_rows(target, layout, record)
    world = _world_addresses(record)
    operators = operator_rows(layout)
    answer = {
        "name": record.name,
        "folder": str(layout.folder),
        "routing_mode": record.routing_mode,
        "store": layout.store_url,
        "store_state": store_state(layout, record),
        "world": {"netns": record.world, "addresses": world},
        "operators": operators,
        "nodes": nodes,
        "pods": len(labs.pod_records(layout)),
    }
    if output == "json":
        print_json(answer)
    else:
        print_table(NODE_COLUMNS, [node_cells(row) for row in nodes])
        lines = {
            "Routing": record.routing_mode,
            "Store": f"{layout.store_url} ({answer['store_state']})",
            "Operators": operators_text(operators),
            "World": " ".join(world),
            "Pods": answer["pods"],
            "Folder": layout.folder,
        }
        click.echo("")
        for name, value in lines.items():
            if value != "":
                click.echo(f"{name + ':':<11}{value}")
    works = answer["store_state"] != "stopped" and all(row["agent"] == "Ok" for row in nodes)
    sys.exit(0 if works else 1)


@lab.command("routing-mode")
@click.argument("mode", type=_MODES)
@click.option("--yes", is_flag=True, help="Do not ask.")
@lab_option
@pass_target
def routing_mode(target: Target, mode: str, yes: bool) -> None:
    """Switch a lab that is up between tunnel and native, after saying what that cuts. Needs root."""
    from pycilium.lab import switching

    wanted = cast("RoutingMode", mode)
    labs.require_root("cilium lab routing-mode")
    layout, record = target.lab_and_record()
    said = switching.consequences(record, wanted, labs.pod_records(layout))
    if not said:
        click.echo(f"lab {record.name} is in routing mode {mode} already")
        return
    click.echo(f"From {record.routing_mode} to {mode}:")
    for sentence in said:
        click.echo(f"* {sentence}")
    if not yes and not click.confirm("Switch?"):
        raise CiliumError(f"lab {record.name} stays in routing mode {record.routing_mode}")
    with progress(f"lab {record.name}") as tell:
        switching.switch(layout, wanted, tell)
    click.echo(f"lab {record.name} is in routing mode {mode}")


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
    from pycilium.lab import cgroups

    layout, record = target.lab_and_record()
    labs.require_root("cilium lab exec")
    if world and node:
        raise click.UsageError("--world and --node exclude each other")
    if world:
        netns, argv, log = record.world, list(words), layout.world_folder / "exec.log"
        cgroup = None
    elif node:
        netns, argv, log = record.node(node).namespace, list(words), layout.node_folder(node) / "exec.log"
        cgroup = cgroups.of_node(layout.name, node)
    else:
        if not words:
            raise click.UsageError("which pod? cilium lab exec [-n NAMESPACE] POD -- COMMAND...")
        found = labs.find_pod(layout, namespace, words[0])
        netns, argv, log = found.netns, list(words[1:]), layout.pod_log(namespace, words[0])
        cgroup = cgroups.of_pod(layout.name, found.node, namespace, found.name)
    argv = argv[1:] if argv[:1] == ["--"] else argv
    if not argv:
        raise click.UsageError("no command given: cilium lab exec POD -- COMMAND...")
    if detach:
        from pycilium.lab import processes

        with cgroups.inside(cgroup):
            pid = processes.start_in(netns, argv, log=log)
        click.echo(f"running as pid {pid}; its output goes to {log}")
        return
    cgroups.enter(cgroup)
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


def _world_addresses(record: LabRecord) -> list[str]:
    from pycilium.lab.layout import WORLD_IPV4, WORLD_IPV6

    families = {"ipv4": WORLD_IPV4, "ipv6": WORLD_IPV6}
    return [address for family in record.underlay_families for address in families[family]]

"""`cilium-dbg status|encrypt|endpoint|identity|ip|node|policy|config`: the agent's state, one GET each."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from pycilium.cli.health_report import cluster_health
from pycilium.cli.render import machine_output_option, output_option, print_as, print_json, print_table, print_yaml
from pycilium.cli.service_status import kube_proxy_text, services_text
from pycilium.cli.status import masquerading_text
from pycilium.cli.target import Target, lab_option, pass_target


@click.command()
@click.option("--brief", is_flag=True, help="One word: OK or what is wrong.")
@click.option("--verbose", is_flag=True, help="With every address of every node: does it answer, and how soon.")
@machine_output_option()
@lab_option
@pass_target
def status(target: Target, brief: bool, verbose: bool, output: str | None) -> None:
    """The agent's health. Exit code 1 unless it is Ok; with -o 0 whenever the agent answers, and the answer says it."""
    answer = target.agent().status()
    state, message = answer["cilium"]["state"], answer["cilium"].get("msg", "")
    if output:
        print_as(answer, output)
        return
    if brief:
        click.echo("OK" if state == "Ok" else f"{state}: {message}")
    else:
        for name, value in _status_lines(answer):
            click.echo(f"{name + ':':<24} {value}")
        click.echo("\n".join(_health_lines(target, answer, verbose)))
    sys.exit(0 if state == "Ok" else 1)


def _health_lines(target: Target, answer: dict[str, Any], verbose: bool) -> list[str]:
    summary = (answer.get("cluster") or {}).get("ciliumHealth") or {}
    if summary.get("state", "Disabled") == "Disabled":
        return [f"{'Cluster health:':<24} Disabled"]
    return cluster_health(target.health().status(), verbose=verbose)


def _status_lines(answer: dict[str, Any]) -> list[tuple[str, str]]:
    lines = [("KVStore", _part(answer.get("kvstore"))), ("Kubernetes", _part(answer.get("kubernetes")))]
    lines.append(("Cilium", f"{_part(answer['cilium'])}   {answer.get('version', '')}".rstrip()))
    lines.append(("Datapath", f"{answer.get('datapath-mode', '')}, {answer.get('attach-mode', '')}"))
    monitor = answer.get("nodeMonitor") or {}
    lines.append(("NodeMonitor", f"{monitor.get('seen', 0)} events seen, {monitor.get('lost', 0)} lost"))
    ipam = answer.get("ipam") or {}
    lines.append(("IPAM", ipam.get("status", "")))
    lines += [("  Allocated", f"{address}  {owner}") for address, owner in (ipam.get("allocations") or {}).items()]
    lines.append(("Masquerading", masquerading_text(answer)))
    lines.append(("KubeProxyReplacement", kube_proxy_text(answer)))
    lines.append(("Services", services_text(answer)))
    controllers = answer.get("controllers") or []
    failing = [entry for entry in controllers if (entry.get("status") or {}).get("consecutive-failure-count")]
    lines.append(("Controller Status", f"{len(controllers) - len(failing)}/{len(controllers)} healthy"))
    lines += [("  Failing", f"{entry['name']}: {entry['status'].get('last-failure-msg', '')}") for entry in failing]
    observer = (answer.get("hubble") or {}).get("observer") or {}
    flows = f"Current/Max Flows: {observer.get('current-flows', 0)}/{observer.get('max-flows', 0)}" if observer else ""
    lines.append(("Hubble", f"{_part(answer.get('hubble'))}   {flows}".rstrip()))
    for entry in (answer.get("bpf-maps") or {}).get("maps") or []:
        lines.append(("  BPF map", f"{entry['name']}: {entry.get('entries', '?')} of {entry['size']}"))
    return lines


def _part(part: dict[str, Any] | None) -> str:
    if not part:
        return "Disabled"
    return f"{part['state']} {part.get('msg', '')}".rstrip()


@click.group()
@lab_option
def encrypt() -> None:
    """Encryption between nodes."""


@encrypt.command("status")
@machine_output_option()
@lab_option
@pass_target
def encrypt_status(target: Target, output: str | None) -> None:
    """Whether there is any."""
    found = target.agent().status()["encryption"]
    if output:
        print_as(found, output)
    else:
        click.echo(f"Encryption: {found['mode']}")


@click.group()
@lab_option
def endpoint() -> None:
    """Workloads that this node manages."""


@endpoint.command("list")
@machine_output_option()
@lab_option
@pass_target
def endpoint_list(target: Target, output: str | None) -> None:
    """All endpoints of the node."""
    endpoints = target.agent().endpoints()
    if output:
        print_as(endpoints, output)
        return
    print_table(
        ["ENDPOINT", "POLICY", "IDENTITY", "LABELS (source:key[=value])", "IPv6", "IPv4", "STATUS", "NAME"],
        [_endpoint_row(one["id"], one["status"]) for one in sorted(endpoints, key=lambda one: one["id"])],
    )


def _endpoint_row(number: int, status: dict[str, Any]) -> list[object]:
    identity = status.get("identity") or {}
    addressing = ((status.get("networking") or {}).get("addressing") or [{}])[0]
    policy = ((status.get("policy") or {}).get("realized") or {}).get("policy-enabled", "none")
    return [
        number,
        policy,
        identity.get("id", ""),
        "\n".join(identity.get("labels") or []),
        addressing.get("ipv6", ""),
        addressing.get("ipv4", ""),
        status.get("state", ""),
        _endpoint_name(status.get("external-identifiers") or {}),
    ]


def _endpoint_name(known_as: dict[str, Any]) -> str:
    """After Cilium's columns, which has none for it: scripts count them from the left."""
    name = str(known_as.get("pod-name") or known_as.get("container-id") or "")
    return f"{name} ({cgroup})" if (cgroup := known_as.get("cgroup")) else name


@endpoint.command("get")
@click.argument("reference", metavar="ID|pod-name:NS/POD|ipv4:ADDRESS")
@output_option("json", "yaml", default="json")
@lab_option
@pass_target
def endpoint_get(target: Target, reference: str, output: str) -> None:
    """One endpoint, with everything about it."""
    _print(target.agent().endpoint(reference), output)


@click.group()
@lab_option
def identity() -> None:
    """Security identities: numbers for sets of labels."""


@identity.command("list")
@output_option("json")
@lab_option
@pass_target
def identity_list(target: Target, output: str | None) -> None:
    """All identities that the agent knows."""
    identities = target.agent().identities()
    if output == "json":
        print_json(identities)
        return
    print_table(
        ["ID", "LABELS"],
        [(one["id"], "\n".join(one.get("labels") or [])) for one in sorted(identities, key=lambda one: one["id"])],
    )


@identity.command("get")
@click.argument("number", type=int, metavar="ID")
@output_option("json", "yaml", default="json")
@lab_option
@pass_target
def identity_get(target: Target, number: int, output: str) -> None:
    """One identity."""
    _print(target.agent().identity(number), output)


@click.group()
@lab_option
def ip() -> None:
    """Which identity is behind an address."""


@ip.command("list")
@output_option("json")
@lab_option
@pass_target
def ip_list(target: Target, output: str | None) -> None:
    """The prefixes that the agent knows."""
    entries = target.agent().ip_entries()
    if output == "json":
        print_json(entries)
        return
    rows = []
    for entry in entries:
        metadata = entry.get("metadata") or {}
        name = "/".join(filter(None, (metadata.get("namespace"), metadata.get("name"))))
        rows.append((entry["cidr"], entry["identity"], metadata.get("source", ""), name))
    print_table(["IP", "IDENTITY", "SOURCE", "NAME"], rows)


@click.group()
@lab_option
def node() -> None:
    """Nodes of the cluster."""


@node.command("list")
@output_option("json")
@lab_option
@pass_target
def node_list(target: Target, output: str | None) -> None:
    """The nodes that the agent knows."""
    answer = target.agent().nodes()
    if output == "json":
        print_json(answer)
        return
    rows = []
    for one in answer.get("nodes-added") or []:
        addresses = one.get("primary-address") or {}
        ipv4, ipv6 = addresses.get("ipv4") or {}, addresses.get("ipv6") or {}
        rows.append(
            (
                one["name"],
                ipv4.get("ip", ""),
                ipv4.get("alloc-range", ""),
                ipv6.get("ip", ""),
                ipv6.get("alloc-range", ""),
                one.get("source", ""),
            )
        )
    print_table(["Name", "IPv4 Address", "Endpoint CIDR", "IPv6 Address", "Endpoint CIDR", "Source"], rows)


@click.group()
@lab_option
def policy() -> None:
    """The policies that the agent enforces."""


@policy.command("get")
@machine_output_option()
@lab_option
@pass_target
def policy_get(target: Target, output: str | None) -> None:
    """Every policy in force, and how often they changed since the agent's start."""
    answer = target.agent().policy()
    if output:
        print_as(answer, output)
        return
    click.echo(json.dumps(json.loads(answer["policy"] or "[]"), indent=2))
    click.echo(f"Revision: {answer['revision']}")


@click.group()
@lab_option
def config() -> None:
    """The agent's configuration."""


@config.command("get")
@output_option("json", "yaml", default="json")
@lab_option
@pass_target
def config_get(target: Target, output: str) -> None:
    """What the agent was started with."""
    _print(target.agent().config(), output)


def _print(value: object, output: str) -> None:
    if output == "yaml":
        print_yaml(value)
    else:
        print_json(value)

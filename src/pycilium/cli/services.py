"""`cilium service list|get`, in `cilium-dbg` too: frontends and the backends behind them."""

from __future__ import annotations

from typing import Any

import click

from pycilium.cli.render import output_option, print_json, print_table, print_yaml
from pycilium.cli.target import Target, lab_option, node_option, pass_target


@click.group()
@lab_option
@node_option
def service() -> None:
    """Services: the addresses that stand for sets of pods."""


@service.command("list")
@click.option("-n", "--namespace", default=None, help="Only Services of this namespace.")
@output_option("json", "wide")
@lab_option
@node_option
@pass_target
def service_list(target: Target, namespace: str | None, output: str | None) -> None:
    """Every frontend, as this node translates it."""
    services = [
        one for one in target.agent().services() if namespace in (None, one["spec"]["flags"].get("namespace", ""))
    ]
    if output == "json":
        print_json(services)
    else:
        _print(services, wide=output == "wide")


@service.command("get")
@click.argument("number", type=int, metavar="ID")
@output_option("json", "yaml")
@lab_option
@node_option
@pass_target
def service_get(target: Target, number: int, output: str | None) -> None:
    """One frontend."""
    found = target.agent().service(number)
    if output == "json":
        print_json(found)
    elif output == "yaml":
        print_yaml(found)
    else:
        _print([found], wide=True)


def _print(services: list[dict[str, Any]], *, wide: bool) -> None:
    headers = ["ID", "Frontend", "Service Type", *(["Name"] if wide else []), "Backend"]
    print_table(headers, [_row(one["spec"], wide=wide) for one in services])


def _row(spec: dict[str, Any], *, wide: bool) -> list[object]:
    frontend, flags = spec["frontend-address"], spec["flags"]
    internal = "/i" if frontend.get("scope") == "internal" else ""
    backends = "\n".join(
        f"{place} => {address_text(backend)} ({_state(backend, wide=wide)})"
        for place, backend in enumerate(spec.get("backend-addresses") or [], start=1)
    )
    name = [f"{flags['namespace']}/{flags['name']}"] if wide else []
    return [spec["id"] or "-", f"{address_text(frontend)}{internal}", flags["type"], *name, backends]


def _state(backend: dict[str, Any], *, wide: bool) -> str:
    """Weights of 0 show in the state, those of 1 are what all have."""
    weight = backend.get("weight", 1)
    return f"{backend['state']}, weight {weight}" if wide and weight > 1 else str(backend["state"])


def address_text(address: dict[str, Any]) -> str:
    """As Cilium writes a frontend or a backend: `10.96.0.1:443/TCP`, `[fd00::1]:53/UDP`."""
    ip = address["ip"]
    return f"{f'[{ip}]' if ':' in ip else ip}:{address['port']}/{address['protocol']}"

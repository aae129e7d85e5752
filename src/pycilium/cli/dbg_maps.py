"""`cilium-dbg bpf|map|metrics`: what is in the kernel's maps, decoded by the agent."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import click

from pycilium.cli.render import output_option, print_json, print_table
from pycilium.cli.target import Target, lab_option, pass_target
from pycilium.model.drop_reason import DropReason

_GROUPS: dict[str, tuple[str, tuple[str, ...]]] = {
    "policy": ("Policies: revision and banks, then the rows of each.", ("policies", "policy_rows")),
    "identity": ("Identities: the selectors that each belongs to.", ("identity_bits",)),
    "ct": ("Connections.", ("ct4", "ct6")),
    "nat": ("Masqueraded flows, with the source that the network sees.", ("nat4", "nat6")),
    "ipcache": ("Longest prefix to identity.", ("ipcache4", "ipcache6")),
    "endpoint": ("Local endpoints by address.", ("endpoints4", "endpoints6")),
    "metrics": ("Packets and bytes by direction and drop reason.", ("metrics",)),
}

_REASON = re.compile(r"reason=(?P<number>\d+) \((?P<text>.*)\) direction=(?P<direction>\w+)")
_NO_DROPS = {0: "forward", DropReason.MULTICAST_HANDLED: "consumed"}
"""What was meant for the datapath itself (duplicate address detection, gratuitous ARP) is no drop: nobody misses it."""
_COUNTS = re.compile(r"packets=(?P<packets>\d+) bytes=(?P<bytes>\d+)")


@click.group()
@lab_option
def bpf() -> None:
    """The content of the kernel's maps."""


_LB_MAPS = {
    "frontends": ("services4", "services6"),
    "backends": ("backends",),
    "affinity": ("affinity",),
    "maglev": ("services4", "services6"),
    "source-ranges": ("source_ranges4", "source_ranges6"),
    "flows": ("service_flows4", "service_flows6"),
    "sockets": ("socket_flows",),
}


@bpf.group()
@lab_option
def lb() -> None:
    """Services, as the kernel has them."""


@lb.command("list")
@click.option("--frontends", "shown", flag_value="frontends", default=True, help="Frontends and their backends.")
@click.option("--backends", "shown", flag_value="backends", help="Backends by id.")
@click.option("--affinity", "shown", flag_value="affinity", help="Which backend clients have had.")
@click.option("--maglev", "shown", flag_value="maglev", help="Frontends with Maglev tables, and each backend's share.")
@click.option("--source-ranges", "shown", flag_value="source-ranges", help="Clients that may, or may not, come.")
@click.option("--flows", "shown", flag_value="flows", help="Connections that are translated packet by packet.")
@click.option("--sockets", "shown", flag_value="sockets", help="Addresses of sockets that are translated.")
@output_option("json")
@lab_option
@pass_target
def lb_list(target: Target, shown: str, output: str | None) -> None:
    """What the kernel's maps of services hold: by default every frontend, with the backends that it chooses among.

    A backend of a larger weight has several slots. "inside" is for clients of the cluster, "outside" for all others.
    """
    found = _entries(target, _LB_MAPS[shown])
    if shown == "maglev":
        found = {name: [entry for entry in entries if _is_maglev(entry["value"])] for name, entries in found.items()}
    _print_maps(found, output)


def _is_maglev(value: str) -> bool:
    _, _, flags = value.partition("flags=")
    return "maglev" in flags.partition(" ")[0].split(",")


def _add_group(name: str, help_text: str, maps: Sequence[str]) -> None:
    @bpf.group(name, help=help_text)
    @lab_option
    def group() -> None: ...

    @group.command("list", help=help_text)
    @output_option("json")
    @lab_option
    @pass_target
    def show(target: Target, output: str | None) -> None:
        _print_maps(_entries(target, maps), output)


for _name, (_help, _maps) in _GROUPS.items():
    _add_group(_name, _help, _maps)


def _entries(target: Target, maps: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    agent = target.agent()
    return {one: agent.map(one).get("cache") or [] for one in maps}


def _print_maps(found: dict[str, list[dict[str, Any]]], output: str | None) -> None:
    if output == "json":
        print_json(_by_key(entry for entries in found.values() for entry in entries))
        return
    for position, (one, entries) in enumerate(found.items()):
        click.echo(f"{'' if position == 0 else chr(10)}{one}: {len(entries)}")
        _print_entries(entries)


def _by_key(entries: Iterable[dict[str, Any]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for entry in entries:
        found.setdefault(entry["key"], []).append(entry["value"])
    return found


def _print_entries(entries: list[dict[str, Any]]) -> None:
    print_table(
        ["KEY", "VALUE", "STATE", "ERROR"],
        [
            (entry["key"], entry["value"], entry.get("desired-action", ""), entry.get("last-error", ""))
            for entry in entries
        ],
    )


@click.group(name="map")
@lab_option
def map_group() -> None:
    """The maps: how full they are, and what the agent holds of them."""


@map_group.command("list")
@output_option("json")
@lab_option
@pass_target
def map_list(target: Target, output: str | None) -> None:
    """Every map with its fill."""
    maps = target.agent().maps()
    if output == "json":
        print_json(maps)
        return
    rows = []
    for one in maps:
        entries = one.get("entries")
        fill = f"{100 * entries / one['size']:.1f}%" if entries is not None and one["size"] else ""
        rows.append((one["name"], "" if entries is None else entries, one["size"], fill, one["path"]))
    print_table(["NAME", "ENTRIES", "SIZE", "FILL", "PATH"], rows)


@map_group.command("get")
@click.argument("name")
@output_option("json")
@lab_option
@pass_target
def map_get(target: Target, name: str, output: str | None) -> None:
    """One map's entries."""
    answer = target.agent().map(name)
    if output == "json":
        print_json(answer)
    else:
        _print_entries(answer.get("cache") or [])


@click.group()
@lab_option
def metrics() -> None:
    """Counters of the datapath."""


@metrics.command("list")
@click.option("-p", "--match-pattern", "pattern", default="", help="Only names that match this regular expression.")
@output_option("json")
@lab_option
@pass_target
def metrics_list(target: Target, pattern: str, output: str | None) -> None:
    """Packets and bytes, forwarded, dropped and answered here, under Cilium's names where it has them."""
    found = [metric for metric in _counters(target) if re.search(pattern, metric["name"])]
    if output == "json":
        print_json(found)
        return
    print_table(
        ["METRIC", "LABELS", "VALUE"],
        [
            (one["name"], " ".join(f'{key}="{value}"' for key, value in one["labels"].items()), one["value"])
            for one in found
        ],
    )


def _counters(target: Target) -> list[dict[str, Any]]:
    """The map of counters as metrics: what became of packets, by direction, and why they were dropped."""
    found = []
    for entry in target.agent().map("metrics").get("cache") or []:
        key, value = _REASON.fullmatch(entry["key"]), _COUNTS.fullmatch(entry["value"])
        if not key or not value:
            continue
        what = _NO_DROPS.get(int(key["number"]), "drop")
        labels = {"direction": key["direction"].upper()} | ({"reason": key["text"]} if what == "drop" else {})
        found += [
            {"name": f"cilium_{what}_count_total", "labels": labels, "value": int(value["packets"])},
            {"name": f"cilium_{what}_bytes_total", "labels": labels, "value": int(value["bytes"])},
        ]
    return found

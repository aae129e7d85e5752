"""The health API's answer as text, in Cilium's layout. Pure: `status` and `cilium-health` print what it gives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pycilium.cli.hubble_time import format_duration

_WAYS = (("icmp", "ICMP to stack"), ("http", "HTTP to agent"))


def cluster_health(answer: dict[str, Any], *, verbose: bool = False) -> list[str]:
    """The lines that follow a status: how many nodes are reachable, and which; verbose: by each address."""
    nodes = answer.get("nodes") or []
    reachable = sum(_is_reachable(node) for node in nodes)
    when = f"   ({answer['timestamp']})" if answer.get("timestamp") else ""
    interval = f" (Probe interval: {answer['probeInterval']})" if answer.get("probeInterval") else ""
    head = f"{'Cluster health:':<40}{reachable}/{len(nodes)} reachable{when}{interval}"
    return [head, *(_by_address(answer) if verbose else _table(answer))]


def full_report(answer: dict[str, Any]) -> list[str]:
    """What `cilium-health status` prints."""
    return [f"{'Probe time:':<14}{answer.get('timestamp') or 'none yet'}", "Nodes:", *_by_address(answer)]


def _table(answer: dict[str, Any]) -> Iterator[str]:
    rows = [("Name", "IP", "Node", "Endpoints")]
    for node in answer.get("nodes") or []:
        paths = _paths(node.get("host"))
        address = paths[0]["ip"] if paths else ""
        rows.append((f"  {_name(node, answer)}", address, _count(paths), _count(_paths(node.get("health-endpoint")))))
    widths = [40, *(max(len(row[column]) for row in rows) + 3 for column in (1, 2))]
    for row in rows:
        cells = [cell.ljust(width - 1) + " " for cell, width in zip(row, widths, strict=False)]
        yield "".join((*cells, row[3])).rstrip()


def _by_address(answer: dict[str, Any]) -> Iterator[str]:
    for node in answer.get("nodes") or []:
        yield f"  {_name(node, answer)}:"
        for what, part in (("Host", "host"), ("Endpoint", "health-endpoint")):
            for path in _paths(node.get(part)):
                yield f"    {what} connectivity to {path['ip']}:"
                for way, words in _WAYS:
                    yield f"      {words + ':':<17}{_connectivity(path.get(way))}"


def _connectivity(known: dict[str, Any] | None) -> str:
    if known is None:
        return "not probed yet"
    if known.get("status"):
        return str(known["status"])
    return f"OK, RTT={format_duration(known.get('latency', 0))}"


def _count(paths: list[dict[str, Any]]) -> str:
    return f"{sum(_answers(path) for path in paths)}/{len(paths)}"


def _is_reachable(node: dict[str, Any]) -> bool:
    hosts = _paths(node.get("host"))
    return bool(hosts) and all(_answers(path) for path in (*hosts, *_paths(node.get("health-endpoint"))))


def _answers(path: dict[str, Any]) -> bool:
    return all(path.get(way) is not None and not path[way].get("status") for way, _ in _WAYS)


def _paths(part: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The primary address and the others."""
    if not part:
        return []
    primary = part.get("primary-address")
    return ([primary] if primary else []) + list(part.get("secondary-addresses") or [])


def _name(node: dict[str, Any], answer: dict[str, Any]) -> str:
    return f"{node['name']} (localhost)" if node["name"] == answer["local"]["name"] else str(node["name"])

"""What agents say, read for the connectivity test: from the JSON of their API to what is waited for. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pycilium.connectivity.arena import NAMESPACE

Question = Literal["/policy", "/ip", "/service", "/map/metrics", "health"]
"""Targets of an agent's API; `health`: the health API, after probing every node."""

_FIRST_OF_PODS = 256
"""Identities below are reserved: a pod that is not known yet is the world, or unmanaged."""
_COUNTER = re.compile(r"reason=(?P<number>\d+) \((?P<text>.*)\) direction=\w+")
_PACKETS = re.compile(r"packets=(?P<packets>\d+)")

EXPECTED_DROPS = frozenset(
    {
        *("Policy denied", "Policy denied by denylist", "Unsupported L2 protocol", "Unsupported L3 protocol"),
        *("Stale or unroutable IP", "Authentication required", "Service backend not found"),
        *("Unsupported protocol for NAT masquerade", "Invalid source ip", "Unknown L3 target address"),
        *("Host datapath not ready", "Unknown ICMPv4 code", "Unknown ICMPv6 code", "Forbidden ICMPv6 message"),
        *("No egress gateway found", "Multicast handled"),
    }
)
"""Reasons that say nothing of a fault: Cilium's own list, and multicast that ends at a node."""


def policies_in_force(answer: Mapping[str, Any]) -> frozenset[str]:
    """Names of the test's policies that the agent enforces."""
    metadata = (each["metadata"] for each in json.loads(answer.get("policy") or "[]"))
    return frozenset(each["name"] for each in metadata if each.get("namespace") == NAMESPACE)


def unknown_addresses(answer: Iterable[Mapping[str, Any]], wanted: Iterable[str]) -> list[str]:
    """Those of `wanted` pods' addresses that the agent does not know as a pod's yet."""
    known = {str(each["cidr"]).partition("/")[0] for each in answer if int(each["identity"]) >= _FIRST_OF_PODS}
    return [address for address in wanted if address not in known]


def frontends_without_backends(
    answer: Iterable[Mapping[str, Any]], wanted: Iterable[tuple[str, int]]
) -> list[tuple[str, int]]:
    """Those of `wanted` addresses and ports behind which the agent has nobody yet."""
    served = set()
    for each in answer:
        spec = each.get("spec") or {}
        frontend = spec.get("frontend-address") or {}
        if spec.get("backend-addresses"):
            served.add((str(frontend.get("ip")), int(frontend.get("port", 0))))
    return [frontend for frontend in wanted if frontend not in served]


def drops(answer: Mapping[str, Any]) -> dict[str, int]:
    """Packets dropped so far, by reason."""
    found: dict[str, int] = {}
    for entry in answer.get("cache") or []:
        counter, packets = _COUNTER.fullmatch(entry["key"]), _PACKETS.match(entry["value"])
        if counter and packets and counter["number"] != "0":
            found[counter["text"]] = found.get(counter["text"], 0) + int(packets["packets"])
    return found


def unexpected_drops(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    """What was dropped in between for reasons that say of a fault."""
    more = {reason: count - before.get(reason, 0) for reason, count in after.items()}
    return {reason: count for reason, count in more.items() if count > 0 and reason not in EXPECTED_DROPS}


def unhealthy(answer: Mapping[str, Any], nodes: int) -> list[str]:
    """What `cilium-health status --probe` says is not reachable, in words."""
    reports = answer.get("nodes") or []
    wrong = [f"{len(reports)} of {nodes} nodes are known"] if len(reports) < nodes else []
    for report in reports:
        for part in ("host", "health-endpoint"):
            paths = report.get(part) or {}
            for path in filter(None, (paths.get("primary-address"), *(paths.get("secondary-addresses") or []))):
                wrong += [
                    f"{part} {path.get('ip')} of {report.get('name')} by {how}: {said['status']}"
                    for how in ("icmp", "http")
                    if (said := path.get(how) or {}).get("status")
                ]
    return wrong

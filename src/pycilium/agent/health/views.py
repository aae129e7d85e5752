"""The prober's report in the shapes of Cilium's health API. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from pycilium.api.health_messages import (
    ConnectivityStatus,
    HealthStatusResponse,
    HostStatus,
    NodeStatus,
    PathStatus,
    SelfStatus,
)
from pycilium.health import Connectivity, NodeReport, PathReport


def health_view(
    own_name: str, reports: Iterable[NodeReport], interval_s: float, probed_at_s: float
) -> HealthStatusResponse:
    """GET /status; the node itself comes first."""
    ordered = sorted(reports, key=lambda report: (report.name != own_name, report.name))
    return HealthStatusResponse(
        local=SelfStatus(name=own_name),
        nodes=[_node(report) for report in ordered],
        probe_interval=_duration(int(interval_s)),
        timestamp=_time(probed_at_s),
    )


def reachable(reports: Sequence[NodeReport]) -> str:
    """`2/3 reachable`."""
    return f"{sum(report.ok for report in reports)}/{len(reports)} reachable"


def _node(report: NodeReport) -> NodeStatus:
    endpoint = [_path(path) for path in report.endpoint]
    return NodeStatus(
        name=report.name,
        host=_host([_path(path) for path in report.host]),
        health_endpoint=_host(endpoint) if endpoint else None,
        endpoint=endpoint[0] if endpoint else None,
    )


def _host(paths: Sequence[PathStatus]) -> HostStatus:
    return HostStatus(primary_address=paths[0] if paths else None, secondary_addresses=list(paths[1:]))


def _path(report: PathReport) -> PathStatus:
    return PathStatus(ip=str(report.address), icmp=_connectivity(report.icmp), http=_connectivity(report.http))


def _connectivity(known: Connectivity | None) -> ConnectivityStatus | None:
    if known is None:
        return None
    return ConnectivityStatus(
        latency=known.answer.latency_ns, status=known.answer.status, last_probed=_time(known.probed_at_s)
    )


def _time(at_s: float) -> str:
    return datetime.fromtimestamp(int(at_s), UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if at_s else ""


def _duration(seconds: int) -> str:
    """As Go prints it."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"

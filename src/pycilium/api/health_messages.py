"""What health.sock answers, in the shapes of Cilium's health API. Latencies are nanoseconds."""

from __future__ import annotations

import msgspec


class _Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of what is answered."""


class ConnectivityStatus(_Message, frozen=True, rename="camel"):
    """One way of asking one address; `status` says what was wrong and is empty for an answer."""

    latency: int = 0
    status: str = ""
    last_probed: str = ""


class PathStatus(_Message, frozen=True):
    ip: str
    icmp: ConnectivityStatus | None = None
    http: ConnectivityStatus | None = None


class HostStatus(_Message, frozen=True, rename="kebab"):
    """Of a node, or of a health endpoint."""

    primary_address: PathStatus | None = None
    secondary_addresses: list[PathStatus] = []


class NodeStatus(_Message, frozen=True, rename="kebab"):
    name: str
    host: HostStatus = HostStatus()
    health_endpoint: HostStatus | None = None
    endpoint: PathStatus | None = None
    """The primary address of the health endpoint: what older clients read."""


class SelfStatus(_Message, frozen=True):
    name: str


class HealthStatusResponse(_Message, frozen=True, rename="camel"):
    """GET /status, PUT /status/probe."""

    local: SelfStatus
    nodes: list[NodeStatus] = []
    probe_interval: str = ""
    timestamp: str = ""
    """Of the latest probe."""


class LoadResponse(_Message, frozen=True):
    """Of this machine, as the kernel averages it."""

    last1min: str = ""
    last5min: str = ""
    last15min: str = ""


class HealthResponse(_Message, frozen=True, rename="kebab"):
    """GET /healthz. `cilium` is the agent's own state."""

    cilium: dict[str, str]
    uptime: str = ""
    system_load: LoadResponse = LoadResponse()

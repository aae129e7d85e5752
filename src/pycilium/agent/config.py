"""The agent's configuration: one frozen object, read once from one JSON file, unknown keys refused.

`cilium-agent --config FILE` is the only way in; the lab, the installer and the tests all write that file.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Literal

import msgspec

from pycilium.errors import ConfigError


class AgentConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one node's agent needs to know. Paths are absolute; sizes are entries unless the name says otherwise."""

    node_name: str
    cluster_name: str = "default"
    run_dir: str = "/var/run/cilium"
    """Sockets (cilium.sock, hubble.sock), state/ and the delete queue. On tmpfs: nothing here survives a reboot."""
    bpf_root: str = "/sys/fs/bpf/cilium"
    """A folder on a BPF file system; the agent mounts one there if it lies on none."""
    store: str = "sqlite:////var/lib/cilium/store.db"
    ipv4_pod_cidr: str | None = "10.0.0.0/24"
    ipv6_pod_cidr: str | None = "fd00:10::/112"
    devices: list[str] = []
    """The node's devices towards the outside; `netdev` programs are attached to them."""
    attach_mode: Literal["auto", "tcx", "tc"] = "auto"
    allow_localhost: Literal["always", "policy"] = "always"
    """always: the node reaches its own pods whatever the policy allows, as Kubernetes says; deny rules still hold."""
    cidr_matches: Literal["all", "world"] = "all"
    """all: CIDR rules match pods and nodes too, as the Kubernetes API says; world: only what is outside, as Cilium."""
    hubble_listen: str | None = "127.0.0.1:4244"
    """Where Hubble listens besides its unix socket. Not encrypted, so by default for this machine alone."""
    event_aggregation: Literal["none", "low", "medium", "maximum"] = "medium"
    report_interval_s: int = 5
    flow_capacity: int = 65536
    event_ring_bytes: int = 8 << 20
    conntrack_capacity: int = 262144
    endpoint_capacity: int = 4096
    ipcache_capacity: int = 524288
    identity_capacity: int = 131072
    policy_capacity: int = 4096
    policy_row_capacity: int = 262144
    pod_mtu_bytes: int = 1500
    log_level: Literal["debug", "info", "warning", "error"] = "info"


def load_config(path: str | Path) -> AgentConfig:
    """The configuration in `path`; ConfigError names the file, the field and what would be right."""
    try:
        config = msgspec.json.decode(Path(path).read_bytes(), type=AgentConfig)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path}: {error}") from error
    _check(config, path)
    return config


def _check(config: AgentConfig, path: str | Path) -> None:
    if not config.ipv4_pod_cidr and not config.ipv6_pod_cidr:
        raise ConfigError(f"{path}: ipv4_pod_cidr and ipv6_pod_cidr are both off: a node needs at least one")
    families: tuple[tuple[str, str | None, type[ipaddress.IPv4Network | ipaddress.IPv6Network]], ...] = (
        ("ipv4_pod_cidr", config.ipv4_pod_cidr, ipaddress.IPv4Network),
        ("ipv6_pod_cidr", config.ipv6_pod_cidr, ipaddress.IPv6Network),
    )
    for field, value, network in families:
        try:
            if value is not None:
                network(value)
        except ValueError as error:
            raise ConfigError(f"{path}: {field}: {error}") from error

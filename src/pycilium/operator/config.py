"""The operator's configuration: one frozen object, read once from one JSON file, unknown keys refused."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from pycilium.endpoint.slices import MOST
from pycilium.errors import ConfigError
from pycilium.ipam import CidrPool, ClusterPool
from pycilium.operator.election import ElectionTimes
from pycilium.operator.write_rate import RateLimit
from pycilium.startup import read_config
from pycilium.store.leases import OPERATOR_LEASE
from pycilium.store.urls import hide_password

Seconds = Annotated[float, Meta(gt=0, le=1_000_000)]


class OperatorConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What an operator needs to know. All operators of a cluster get the same, but for `name` and `health_listen`."""

    name: str
    """Of this operator, for people; what it holds the lease as is made unique."""
    store: str = "sqlite:////var/lib/cilium/store.db"
    cluster_pool_ipv4_cidrs: tuple[str, ...] = ("10.0.0.0/8",)
    """Append to let the pool grow. Empty: nodes get no IPv4 pod CIDR; both empty: nodes bring their own."""
    cluster_pool_ipv4_mask_size: Annotated[int, Meta(ge=1, le=30)] = 24
    cluster_pool_ipv6_cidrs: tuple[str, ...] = ("fd00::/104",)
    cluster_pool_ipv6_mask_size: Annotated[int, Meta(ge=1, le=126)] = 120
    lease_name: str = OPERATOR_LEASE
    lease_duration_s: Annotated[int, Meta(ge=1, le=3600)] = 15
    lease_renew_deadline_s: Seconds = 10.0
    lease_retry_period_s: Seconds = 2.0
    identity_gc_interval_s: Seconds = 900.0
    identity_grace_s: Seconds = 1800.0
    """How long nobody uses an identity before it is marked, and how long it is marked before it is deleted."""
    node_gc_interval_s: Seconds = 60.0
    node_grace_s: Seconds = 3600.0
    """How long a node gives no sign of life before it is removed with its endpoints."""
    unmanaged_pod_interval_s: Seconds | None = None
    """How often it is looked for pods that started without us, to restart them, where the store is a Kubernetes API;
    null: never."""
    unmanaged_pod_selector: str = "k8s-app=kube-dns"
    """Which pods may be restarted: a label selector; empty: all."""
    health_listen: str | None = "127.0.0.1:9234"
    """Where GET /healthz is answered."""
    endpoint_slices: bool = False
    """Gather CiliumEndpoints in CiliumEndpointSlices, which agents then follow, where the store is a Kubernetes API."""
    endpoint_slice_size: Annotated[int, Meta(ge=1, le=1000)] = MOST
    """The most endpoints of one slice."""
    endpoint_slice_rate_limits: Annotated[tuple[RateLimit, ...], Meta(min_length=1)] = (
        RateLimit(nodes=0, limit=10, burst=20),
    )
    """How fast slices are written, by how many nodes there are."""
    make_crds: bool = False
    """Make and upgrade the CustomResourceDefinitions, where the store is a Kubernetes API."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"


def load_config(path: str | Path) -> OperatorConfig:
    """The configuration in `path`; ConfigError names the file, the field and what would be right."""
    config = read_config(path, OperatorConfig)
    try:
        check(config)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return config


def check(config: OperatorConfig) -> None:
    """ConfigError for what the types alone allow."""
    pools_of(config)
    election_times(config)
    health_address(config)
    if config.unmanaged_pod_interval_s is not None and not is_kubernetes(config):
        raise ConfigError("unmanaged_pod_interval_s: only Kubernetes starts pods; leave it out with another store")
    if config.endpoint_slices and not is_kubernetes(config):
        raise ConfigError(f"endpoint_slices: not built yet with the store {hide_password(config.store)}: leave it out")


def is_kubernetes(config: OperatorConfig) -> bool:
    """Whether kubelets, controllers and the garbage collector work on the same store."""
    return config.store.startswith("kubernetes")


def pools_of(config: OperatorConfig) -> ClusterPool:
    """The pools of both families; ConfigError."""
    return ClusterPool(
        _pool(f"cluster_pool_ipv{version}_cidrs", cidrs, network, mask_size)
        for version, cidrs, network, mask_size in (
            (4, config.cluster_pool_ipv4_cidrs, ipaddress.IPv4Network, config.cluster_pool_ipv4_mask_size),
            (6, config.cluster_pool_ipv6_cidrs, ipaddress.IPv6Network, config.cluster_pool_ipv6_mask_size),
        )
        if cidrs
    )


def election_times(config: OperatorConfig) -> ElectionTimes:
    """ConfigError unless a leader has time to try again, and stops before its lease runs out."""
    times = ElectionTimes(config.lease_duration_s, config.lease_renew_deadline_s, config.lease_retry_period_s)
    if not times.retry_period_s < times.renew_deadline_s < times.lease_duration_s:
        raise ConfigError(
            f"lease_renew_deadline_s: {times.renew_deadline_s:g} must lie between lease_retry_period_s "
            f"({times.retry_period_s:g}) and lease_duration_s ({times.lease_duration_s})"
        )
    return times


def health_address(config: OperatorConfig) -> tuple[str, int] | None:
    """Host and port of `health_listen`; ConfigError."""
    if config.health_listen is None:
        return None
    host, colon, port = config.health_listen.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 0xFFFF:
        raise ConfigError(f"health_listen: {config.health_listen!r} is no address like 127.0.0.1:9234")
    return host.strip("[]"), int(port)


def _pool(
    field: str, cidrs: tuple[str, ...], network: type[ipaddress.IPv4Network | ipaddress.IPv6Network], mask_size: int
) -> CidrPool:
    try:
        return CidrPool([network(cidr) for cidr in cidrs], mask_size)
    except ValueError as error:
        raise ConfigError(f"{field}: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"{field}: {error}") from error

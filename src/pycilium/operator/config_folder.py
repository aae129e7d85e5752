"""An operator's configuration from cilium-config: the few of Cilium's keys that are the operator's."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pycilium.config_folder import Settings
from pycilium.install.kubernetes_names import OPERATOR_HEALTH_PORT
from pycilium.operator.config import OperatorConfig, check
from pycilium.operator.write_rate import RateLimit


def load_folder(
    folder: str | Path, environment: Mapping[str, str] = os.environ, warn: Callable[[str], None] = lambda _: None
) -> OperatorConfig:
    """ConfigError names the key and what would be right; `warn` is told what was set aside."""
    settings = Settings.of_folder(folder)
    config = operator_config(settings, environment.get("K8S_NODE_NAME") or socket.gethostname())
    settings.checked(lambda: check(config))
    for warning in settings.warnings:
        warn(warning)
    return config


def operator_config(settings: Settings, name: str) -> OperatorConfig:
    """The configuration that the keys make; ConfigError."""
    pools = settings.one_of("ipam", {"cluster-pool": True, "kubernetes": False}, "cluster-pool")
    host = "127.0.0.1" if settings.flag("enable-ipv4", True) else "[::1]"
    return OperatorConfig(
        name=name,
        store="kubernetes:",
        make_crds=True,
        cluster_pool_ipv4_cidrs=_pool(settings, "ipv4", pools),
        cluster_pool_ipv4_mask_size=settings.number("cluster-pool-ipv4-mask-size", 24),
        cluster_pool_ipv6_cidrs=_pool(settings, "ipv6", pools),
        cluster_pool_ipv6_mask_size=settings.number("cluster-pool-ipv6-mask-size", 120),
        identity_gc_interval_s=settings.seconds("identity-gc-interval", 900.0),
        unmanaged_pod_interval_s=settings.number("unmanaged-pod-watcher-interval", 15) or None,
        unmanaged_pod_selector=settings.text("pod-restart-selector"),
        endpoint_slices=settings.flag("enable-cilium-endpoint-slice", False),
        **_rate_limits(settings),
        health_listen=f"{host}:{OPERATOR_HEALTH_PORT}",
        log_level="debug" if settings.flag("debug", False) else "info",
    )


def _pool(settings: Settings, family: str, pools: bool) -> tuple[str, ...]:
    on = pools and settings.flag(f"enable-{family}", family == "ipv4")
    return tuple(settings.words(f"cluster-pool-{family}-cidr")) if on else ()


def _rate_limits(settings: Settings) -> dict[str, Any]:
    limits = settings.objects("ces-rate-limits", RateLimit)
    return {"endpoint_slice_rate_limits": limits} if limits else {}

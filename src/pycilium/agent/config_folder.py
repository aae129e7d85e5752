"""An agent's configuration from cilium-config: Cilium's keys, what follows from being a pod, and this node's own."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from pycilium.agent.config import AgentConfig, check
from pycilium.config_folder import Settings
from pycilium.errors import ConfigError
from pycilium.install.kubernetes_names import AGENT_HEALTH_PORT

STORE = "kubernetes:"
_WANTED = {"ipv4": "10.0.0.0/24", "ipv6": "fd00:10::/112"}
"""With cluster-pool the operator gives the CIDR: which one stands here says only that the family is wanted."""
CGROUP_DEFAULT = "/run/cilium/cgroupv2"


def load_folder(
    folder: str | Path, environment: Mapping[str, str] = os.environ, warn: Callable[[str], None] = lambda _: None
) -> AgentConfig:
    """ConfigError names the key and what would be right; `warn` is told what was set aside."""
    settings = Settings.of_folder(folder)
    name = environment.get("K8S_NODE_NAME", "")
    if not name:
        raise ConfigError("the environment has no K8S_NODE_NAME: it must be the Node's name, as the DaemonSet sets it")
    config = agent_config(settings, name)
    settings.checked(lambda: check(config, "it"))
    for warning in settings.warnings:
        warn(warning)
    return config


def agent_config(settings: Settings, node_name: str) -> AgentConfig:
    """The configuration that the keys make; ConfigError."""
    plain = {
        "node_name": node_name,
        "store": STORE,
        **_addresses(settings),
        **_routing(settings),
        **_services(settings),
        **_capacities(settings),
        **_watching(settings),
    }
    try:
        return msgspec.convert(plain, AgentConfig)
    except msgspec.ValidationError as error:
        raise settings.refused(str(error)) from error


def _addresses(settings: Settings) -> dict[str, Any]:
    families = {family: settings.flag(f"enable-{family}", family == "ipv4") for family in ("ipv4", "ipv6")}
    by_node = settings.one_of("ipam", {"cluster-pool": False, "kubernetes": True}, "cluster-pool")
    cidrs: dict[str, str | None] = {}
    for family, on in families.items():
        given = settings.text(f"{family}-range")
        if on and by_node and not given:
            raise settings.wrong("ipam", f"is kubernetes, and the Node has no {family} CIDR in spec.podCIDRs")
        cidrs[f"{family}_pod_cidr"] = (given if by_node else _WANTED[family]) if on else None
    masquerade = {settings.flag(f"enable-{family}-masquerade", True) for family, on in families.items() if on}
    if len(masquerade) > 1:
        raise settings.wrong("enable-ipv6-masquerade", "must be as enable-ipv4-masquerade, where both families are on")
    native = [text for family in families if (text := settings.text(f"{family}-native-routing-cidr"))]
    return {
        **cidrs,
        "ipam": "host-scope" if by_node else "cluster-pool",
        "masquerade": masquerade != {False},
        "non_masquerade_cidrs": native,
    }


def _routing(settings: Settings) -> dict[str, Any]:
    return {
        "endpoint_slices": settings.flag("enable-cilium-endpoint-slice", False),
        "cluster_name": settings.text("cluster-name", "default"),
        "bpf_root": f"{settings.text('bpf-root', '/sys/fs/bpf')}/cilium",
        "devices": settings.words("devices"),
        "routing_mode": settings.text("routing-mode", "tunnel"),
        "tunnel_port": settings.number("tunnel-port", 8472),
        "pod_mtu_bytes": settings.number("mtu", 0) or None,
        "auto_direct_node_routes": settings.flag("auto-direct-node-routes", False),
        "identity_change_grace_period_s": settings.seconds("identity-change-grace-period", 0.5),
        "cidr_matches": "all" if "nodes" in settings.words("policy-cidr-match-mode") else "world",
    }


def _services(settings: Settings) -> dict[str, Any]:
    cidrs = settings.words("k8s-service-cidrs")
    on = settings.flag("kube-proxy-replacement", False)
    return {
        "kube_proxy_replacement": on,
        "cgroup_root": settings.text("cgroup-root", CGROUP_DEFAULT) if on else None,
        "socket_lb_host_only": settings.flag("bpf-lb-sock-hostns-only", False),
        "node_port_range": settings.text("node-port-range", "30000,32767").replace(",", "-"),
        "load_balancer_algorithm": settings.text("bpf-lb-algorithm", "random"),
        "maglev_table_size": settings.number("bpf-lb-maglev-table-size", 16381),
        "load_balancer_mode": settings.text("bpf-lb-mode", "snat"),
        "dsr_dispatch": settings.one_of("bpf-lb-dsr-dispatch", {"opt": "option", "ipip": "ipip"}, "opt"),
        "load_balancer_acceleration": settings.text("bpf-lb-acceleration", "disabled"),
        **({"service_cidrs": cidrs} if cidrs else {}),
    }


def _capacities(settings: Settings) -> dict[str, Any]:
    """Room of maps: Cilium has one for TCP and one for all else, and counts the two entries of a mapping."""
    connections = settings.number("bpf-ct-global-tcp-max", 196608) + settings.number("bpf-ct-global-any-max", 65536)
    frontends = settings.number("bpf-lb-map-max", 65536)
    return {
        "conntrack_capacity": connections,
        "service_flow_capacity": connections,
        "nat_capacity": settings.number("bpf-nat-global-max", 262144) // 2,
        **dict.fromkeys(("service_capacity", "affinity_capacity", "source_range_capacity"), frontends),
        "backend_capacity": 4 * frontends,
        "service_slot_capacity": 32 * frontends,
    }


def _watching(settings: Settings) -> dict[str, Any]:
    hubble = settings.text("hubble-listen-address") or "127.0.0.1:4244"
    return {
        "hubble_listen": hubble if settings.flag("enable-hubble", True) else None,
        "flow_capacity": settings.number("hubble-event-buffer-capacity", 65536),
        "event_aggregation": settings.text("monitor-aggregation", "medium"),
        "health_checking": settings.flag("enable-health-checking", True),
        "endpoint_health_checking": settings.flag("enable-endpoint-health-checking", True),
        "log_level": "debug" if settings.flag("debug", False) else "info",
        "health_port": AGENT_HEALTH_PORT,
        "cni_configuration": settings.text("write-cni-conf-when-ready") or None,
        "cni_exclusive": settings.flag("cni-exclusive", True),
        "kubernetes_node": True,
    }

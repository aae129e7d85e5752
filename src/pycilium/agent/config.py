"""The agent's configuration: one frozen object, read once from one JSON file, unknown keys refused.

`cilium-agent --config FILE` is the only way in; the lab, the installer and the tests all write that file.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from pycilium.agent import runtimes
from pycilium.datapath.mtu import IPV6_MIN_MTU_BYTES
from pycilium.errors import ConfigError
from pycilium.startup import read_config
from pycilium.store.leases import OPERATOR_LEASE
from pycilium.store.urls import hide_password

MAGLEV_TABLE_SIZES = (251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521, 131071)
"""The primes that Cilium takes."""
_PORTS_END = 65535


class AgentConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one node's agent needs to know. Paths are absolute; sizes are entries unless the name says otherwise."""

    node_name: str
    cluster_name: str = "default"
    run_dir: str = "/var/run/cilium"
    """Sockets (cilium.sock, hubble.sock), state/ and the delete queue. On tmpfs: nothing here survives a reboot."""
    bpf_root: str = "/sys/fs/bpf/cilium"
    """A folder on a BPF file system; the agent mounts one there if it lies on none."""
    store: str = "sqlite:////var/lib/cilium/store.db"
    ipam: Literal["host-scope", "cluster-pool"] = "host-scope"
    """host-scope: the two CIDRs below are the node's; cluster-pool: the operator gives it others."""
    ipv4_pod_cidr: str | None = "10.0.0.0/24"
    """null: no IPv4 for pods. With cluster-pool it matters only whether it is null."""
    ipv6_pod_cidr: str | None = "fd00:10::/112"
    node_lease_duration_s: Annotated[int, Meta(ge=4, le=3600)] = 40
    """How long the node's sign of life in the store lasts; it is given four times as often."""
    devices: list[str] = []
    """The node's devices towards the outside; `netdev` programs are attached to them."""
    deadman_window_s: Annotated[float, Meta(ge=1, le=60)] = 3.0
    """How long a program on one of `devices` is watched: if the node loses its gateway or store meanwhile, it goes."""
    attach_mode: Literal["auto", "tcx", "tc"] = "auto"
    allow_localhost: Literal["always", "policy"] = "always"
    """always: the node reaches its own pods whatever the policy allows, as Kubernetes says; deny rules still hold."""
    cidr_matches: Literal["all", "world"] = "all"
    """all: CIDR rules match pods and nodes too, as the Kubernetes API says; world: only what is outside, as Cilium."""
    hubble_listen: str | None = "127.0.0.1:4244"
    """Where Hubble listens besides its unix socket. Not encrypted, so by default for this machine alone."""
    event_aggregation: Literal["none", "low", "medium", "maximum"] = "medium"
    report_interval_s: Annotated[int, Meta(ge=1, le=3600)] = 5
    flow_capacity: Annotated[int, Meta(ge=1, le=1 << 24)] = 65536
    event_ring_bytes: Annotated[int, Meta(ge=4096, le=1 << 30)] = 8 << 20
    """A power of two."""
    conntrack_capacity: Annotated[int, Meta(ge=1024, le=1 << 24)] = 262144
    endpoint_capacity: Annotated[int, Meta(ge=1, le=65535)] = 4096
    ipcache_capacity: Annotated[int, Meta(ge=16, le=1 << 24)] = 524288
    identity_capacity: Annotated[int, Meta(ge=16, le=1 << 24)] = 131072
    policy_capacity: Annotated[int, Meta(ge=2, le=1 << 24)] = 4096
    policy_row_capacity: Annotated[int, Meta(ge=16, le=1 << 24)] = 262144
    node_capacity: Annotated[int, Meta(ge=2, le=65535)] = 8192
    """Nodes of the cluster; one number is never given out."""
    routing_mode: Literal["tunnel", "native"] = "tunnel"
    """tunnel: through a VXLAN overlay, over any network; native: pods' packets as they are, where routes lead."""
    tunnel_port: Annotated[int, Meta(ge=1, le=65535)] = 8472
    """UDP port of the overlay, the same on all nodes."""
    underlay_family: Literal["auto", "ipv4", "ipv6"] = "auto"
    """Of the overlay's outer packets; auto: IPv4 if the node has an IPv4 address."""
    pod_mtu_bytes: Annotated[int, Meta(ge=576, le=65535)] | None = None
    """null: what the devices and the routing mode leave. With IPv6 at least 1280."""
    auto_direct_node_routes: bool = True
    """With native routing: make routes to the pods of nodes on the same link."""
    identity_change_grace_period_s: Annotated[float, Meta(ge=0, le=60)] = 0.5
    """How long a pod keeps its old identity when its labels are new, so that other nodes hear of the new one first."""
    operator_lease_name: str = OPERATOR_LEASE
    """As in the operators' configuration; status says who holds it."""
    endpoint_slices: bool = False
    """Learn of other nodes' endpoints from slices that operators gather, where the store is a Kubernetes API."""
    kube_apiserver: list[str] = []
    """Addresses of the Kubernetes API servers: what the entity kube-apiserver stands for."""
    masquerade: bool = True
    """Pods' packets to the outside leave with the node's address. The other end must know pods' addresses otherwise."""
    non_masquerade_cidrs: list[str] = []
    """Destinations outside of the cluster that see pods' own addresses all the same."""
    nat_capacity: Annotated[int, Meta(ge=1024, le=1 << 23)] = 131072
    """Masqueraded flows of each address family."""
    services: bool = True
    """Translate the addresses of Services; false: something else does, for pods too."""
    kube_proxy_replacement: bool = True
    """false: only what pods send is translated; kube-proxy does it for the node's own processes and clients outside."""
    cgroup_root: str | None = None
    """Sockets of processes under this cgroup (v2) are translated; auto: of the whole machine; null: none.

    Without `kube_proxy_replacement` none are."""
    socket_lb_host_only: bool = False
    """Translate only the node's own sockets: pods' packets are translated one by one, as service meshes want it."""
    service_cidrs: list[str] = msgspec.field(default_factory=lambda: ["10.96.0.0/16", "fd00:96::/112"])
    """Where ClusterIPs are from, at most one of each family."""
    node_port_range: str = "30000-32767"
    """Where node ports are from: first-last."""
    kube_proxy_healthz_port: Annotated[int, Meta(ge=0, le=65535)] = 0
    """Where kube-proxy's /healthz is answered, for load balancers that ask it; kube-proxy has 10256. 0: nowhere."""
    l2_announcement_lease_s: Annotated[int, Meta(ge=2, le=3600)] = 15
    """How long the lease lasts by which one node announces a Service's addresses: the most that a takeover waits."""
    load_balancer_algorithm: Literal["random", "maglev"] = "random"
    """How a backend is chosen; maglev: all nodes choose the same for one client. A Service may say otherwise."""
    maglev_table_size: Annotated[int, Meta(ge=251, le=131071)] = 16381
    """Slots of each Service that uses Maglev: a prime, the same on all nodes, a hundred times its backends."""
    load_balancer_mode: Literal["snat", "dsr", "hybrid"] = "snat"
    """How backends on other nodes answer clients outside: through this node or straight; hybrid: TCP straight."""
    dsr_dispatch: Literal["option", "ipip"] = "option"
    """How a backend's node learns what the client called: an IP option, or the packet in another."""
    load_balancer_acceleration: Literal["disabled", "native", "best-effort"] = "disabled"
    """Translate before the stack, by XDP, on `devices`; best-effort: on those whose drivers can."""
    service_capacity: Annotated[int, Meta(ge=16, le=1 << 24)] = 65536
    """Frontends of each address family."""
    service_slot_capacity: Annotated[int, Meta(ge=1024, le=1 << 26)] = 2097152
    """Backends of all frontends, as often as their weights say; of one with Maglev `maglev_table_size`."""
    backend_capacity: Annotated[int, Meta(ge=16, le=1 << 24)] = 262144
    service_flow_capacity: Annotated[int, Meta(ge=1024, le=1 << 24)] = 262144
    """Connections translated per packet take two; of each address family."""
    socket_capacity: Annotated[int, Meta(ge=1024, le=1 << 24)] = 131072
    """Sockets that are to see the Service's address again."""
    affinity_capacity: Annotated[int, Meta(ge=16, le=1 << 24)] = 65536
    """Clients of Services with session affinity."""
    source_range_capacity: Annotated[int, Meta(ge=16, le=1 << 24)] = 65536
    """loadBalancerSourceRanges of all Services, of each address family."""
    health_checking: bool = True
    """Answer on port 4240 and probe every node of the cluster."""
    endpoint_health_checking: bool = True
    """Make a health endpoint, so that the way to this node's pods is probed too."""
    health_probe_interval_s: Annotated[int, Meta(ge=1, le=3600)] = 60
    health_port: Annotated[int, Meta(ge=1, le=65535)] | None = None
    """Where GET /healthz is answered on loopback, for who restarts agents that hang; null: nowhere."""
    cni_configuration: str | None = None
    """Where the container runtime's configuration is written once the agent is ready; null: somebody else does."""
    cni_exclusive: bool = True
    """Set other plugins' configurations beside it aside."""
    kubernetes_node: bool = False
    """Keep this node's Node object true: its taint and condition. Its sign of life is then kubelet's."""
    container_runtimes: list[str] = msgspec.field(default_factory=lambda: list(runtimes.DEFAULT))
    """Asked for the names and labels of containers that no Pod stands for; what is not there is passed over."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"


def load_config(path: str | Path) -> AgentConfig:
    """The configuration in `path`; ConfigError names the file, the field and what would be right."""
    config = read_config(path, AgentConfig)
    check(config, path)
    return config


def check(config: AgentConfig, path: str | Path) -> None:
    """ConfigError for what the types alone allow, `path` named."""
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
    for index, address in enumerate(config.kube_apiserver):
        try:
            ipaddress.ip_address(address)
        except ValueError as error:
            raise ConfigError(f"{path}: kube_apiserver[{index}]: {error}") from error
    if config.endpoint_slices and not config.store.startswith("kubernetes"):
        raise ConfigError(
            f"{path}: endpoint_slices: not built yet with the store {hide_password(config.store)}: leave it out"
        )
    _check_networks("non_masquerade_cidrs", config.non_masquerade_cidrs, path)
    _check_services(config, path)
    try:
        runtimes.open_runtimes(config.container_runtimes)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    if config.event_ring_bytes & (config.event_ring_bytes - 1):
        raise ConfigError(f"{path}: event_ring_bytes: {config.event_ring_bytes} is no power of two, such as {8 << 20}")
    if config.ipv6_pod_cidr and config.pod_mtu_bytes is not None and config.pod_mtu_bytes < IPV6_MIN_MTU_BYTES:
        raise ConfigError(f"{path}: pod_mtu_bytes: IPv6 needs at least {IPV6_MIN_MTU_BYTES}, or ipv6_pod_cidr: null")


def _check_networks(field: str, cidrs: list[str], path: str | Path) -> None:
    for cidr in cidrs:
        try:
            ipaddress.ip_network(cidr)
        except ValueError as error:
            raise ConfigError(f"{path}: {field}: {error}") from error


def _check_services(config: AgentConfig, path: str | Path) -> None:
    _check_networks("service_cidrs", config.service_cidrs, path)
    families = [ipaddress.ip_network(cidr).version for cidr in config.service_cidrs]
    if len(set(families)) != len(families):
        raise ConfigError(f"{path}: service_cidrs: {config.service_cidrs} has two of one address family")
    if config.maglev_table_size not in MAGLEV_TABLE_SIZES:
        sizes = ", ".join(map(str, MAGLEV_TABLE_SIZES))
        raise ConfigError(f"{path}: maglev_table_size: {config.maglev_table_size} is none of {sizes}")
    try:
        node_ports(config.node_port_range)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    _check_beside_kube_proxy(config, path)
    if config.cgroup_root not in (None, "auto") and not str(config.cgroup_root).startswith("/"):
        raise ConfigError(f"{path}: cgroup_root: {config.cgroup_root!r} is neither auto nor an absolute path")


def _check_beside_kube_proxy(config: AgentConfig, path: str | Path) -> None:
    """What only clients outside come by is kube-proxy's where it is not replaced."""
    if config.kube_proxy_replacement:
        return
    for field, only in (
        ("load_balancer_mode", "snat"),
        ("load_balancer_acceleration", "disabled"),
        ("kube_proxy_healthz_port", 0),
    ):
        if (value := getattr(config, field)) != only:
            raise ConfigError(
                f"{path}: {field}: {value} needs kube_proxy_replacement: clients outside are kube-proxy's without it; "
                f"set {field} to {only}, or kube_proxy_replacement to true"
            )


def serves_all(config: AgentConfig) -> bool:
    """Are Services this agent's to translate for everybody, not for pods alone?"""
    return config.services and config.kube_proxy_replacement


def node_ports(text: str) -> range:
    """The ports that `node_port_range` names; ConfigError if it names none."""
    first, dash, last = text.partition("-")
    if not (dash and first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last) <= _PORTS_END):
        raise ConfigError(f"node_port_range: {text!r} is no range of ports, such as 30000-32767")
    return range(int(first), int(last) + 1)

"""What the configuration means for this node's datapath: how programs and maps are loaded, and where they hang."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Any

from pycilium.agent.config import AgentConfig, node_ports, serves_all
from pycilium.agent.flows import WAKEUP_NS
from pycilium.agent.intent import Intent
from pycilium.agent.link_operations import LinkTarget, sock_targets
from pycilium.agent.nodes.cluster import ClusterSettings
from pycilium.agent.plumbing import Plumbing
from pycilium.agent.services.controller import Services
from pycilium.agent.source_kinds import selects_endpoints
from pycilium.agent.targets import Targets
from pycilium.datapath import cgroup_links, layouts, links, loader, netns, overlay_device
from pycilium.datapath.gateway_device import HOST_NAME, Gateway
from pycilium.datapath.links import Hook
from pycilium.datapath.maps import possible_cpus
from pycilium.errors import ConfigError
from pycilium.model.endpoint import Endpoint
from pycilium.model.service import Algorithm
from pycilium.services import Capacities, ServiceSettings

ROOM_FOR_RESTART = 2
"""A restarted agent writes all policy under new numbers before it removes the old: the maps hold both."""
ENTRIES_PER_FLOW = 2
"""Of a masqueraded one."""
TRANSIENT_SHARE = 4
"""Of all connections one in so many may be half-open or over; no flood of them takes more room."""


def refuse_other_addresses(config: AgentConfig, plumbing: Plumbing, endpoints: Sequence[Endpoint]) -> None:
    """ConfigError if pods run with addresses that the configured pod CIDRs do not hold: they would lose them."""
    cidrs: dict[int, Any] = {
        4: IPv4Network(config.ipv4_pod_cidr or "0.0.0.0/0"),
        6: IPv6Network(config.ipv6_pod_cidr or "::/0"),
    }
    for endpoint in endpoints:
        for address in () if endpoint.is_health else endpoint.addresses:
            if address not in cidrs[address.version] and plumbing.exists(endpoint):
                raise ConfigError(
                    f"ipv{address.version}_pod_cidr: {cidrs[address.version]} does not hold {address} of {endpoint}: "
                    "set the CIDR back, or remove the pods that have other addresses first"
                )


def datapath_config(
    config: AgentConfig, plumbing: Plumbing, gateway: Gateway, overlay_ifindex: int
) -> loader.DatapathConfig:
    """What the programs are loaded with on this node."""
    ipv4, ipv6 = plumbing.gateways.get(4), plumbing.gateways.get(6)
    return loader.DatapathConfig(
        bpf_root=config.bpf_root,
        constants=layouts.ProgramConfig(
            gateway_ipv4=int(ipv4) if ipv4 else 0,
            gateway_ipv6=ipv6.packed if ipv6 else bytes(16),
            host_ifindex=gateway.ifindex,
            host_mac=gateway.mac,
            aggregation=layouts.Aggregation[config.event_aggregation.upper()],
            report_interval_s=config.report_interval_s,
            event_wakeup_ns=WAKEUP_NS,
            masquerade=int(config.masquerade),
            overlay_ifindex=overlay_ifindex,
            tunnel_port=config.tunnel_port,
            services=int(config.services),
            beside_kube_proxy=int(config.services and not config.kube_proxy_replacement),
            host_netns_cookie=netns.own_cookie(),
            socket_host_only=int(config.socket_lb_host_only),
            dsr_outer_family=plumbing.underlay_family if config.dsr_dispatch == "ipip" else 0,
            cpus=possible_cpus(),
        ),
        map_entries={
            "events": config.event_ring_bytes,
            "ct4": config.conntrack_capacity,
            "ct6": config.conntrack_capacity,
            "ct_transients": config.conntrack_capacity // TRANSIENT_SHARE,
            "nat4": ENTRIES_PER_FLOW * config.nat_capacity,
            "nat6": ENTRIES_PER_FLOW * config.nat_capacity,
            "endpoints4": config.endpoint_capacity,
            "endpoints6": config.endpoint_capacity,
            "ipcache4": config.ipcache_capacity,
            "ipcache6": config.ipcache_capacity,
            "nodes": config.node_capacity,
            "path_mtus": config.node_capacity,
            "identity_bits": ROOM_FOR_RESTART * config.identity_capacity,
            "policies": ROOM_FOR_RESTART * config.policy_capacity,
            "policy_rows": ROOM_FOR_RESTART * config.policy_row_capacity,
            "services4": config.service_capacity,
            "services6": config.service_capacity,
            "service_ips4": config.service_capacity,
            "service_ips6": config.service_capacity,
            "service_slots": config.service_slot_capacity,
            "backends": config.backend_capacity,
            "source_ranges4": config.source_range_capacity,
            "source_ranges6": config.source_range_capacity,
            "affinity": config.affinity_capacity,
            "service_flows4": config.service_flow_capacity,
            "service_flows6": config.service_flow_capacity,
            "socket_flows": config.socket_capacity,
        },
    )


def cluster_settings(config: AgentConfig, plumbing: Plumbing) -> ClusterSettings:
    """What this node's configuration says about the others."""
    cidrs = (config.ipv4_pod_cidr, config.ipv6_pod_cidr)
    return ClusterSettings(
        node_name=config.node_name,
        pod_cidrs=tuple(ip_network(cidr) for cidr in cidrs if cidr),
        tunnel=config.routing_mode == "tunnel",
        underlay_version=plumbing.underlay_family,
        devices=frozenset(config.devices),
        auto_direct_node_routes=config.auto_direct_node_routes,
        mtu_bytes=plumbing.pod_mtu_bytes,
        kube_apiserver=frozenset(ip_address(address) for address in config.kube_apiserver),
        node_capacity=config.node_capacity,
    )


def make_services(config: AgentConfig, intent: Intent, targets: Targets) -> Services | None:
    """What turns Services into frontends of this node; None where they are somebody else's to translate."""
    if targets.services is None:
        return None
    families = ((4, config.ipv4_pod_cidr), (6, config.ipv6_pod_cidr))
    settings = ServiceSettings(
        node=config.node_name,
        families=tuple(version for version, cidr in families if cidr),
        node_ports=node_ports(config.node_port_range),
        algorithm=Algorithm(config.load_balancer_algorithm),
        mode=config.load_balancer_mode,
        select_endpoints=selects_endpoints(config),
    )
    capacities = Capacities(
        slots=config.service_slot_capacity,
        backends=config.backend_capacity,
        maglev_table_size=config.maglev_table_size,
    )
    return Services(intent, targets.services, settings, capacities)


def attach_mode(config: AgentConfig) -> str:
    """The way in which programs are attached here: tcx or tc."""
    if config.attach_mode != "auto":
        return config.attach_mode
    return "tcx" if links.has_tcx() else "tc"


def desire_node_links(devices: Mapping[str, int], targets: Targets, gateway: Gateway, overlay_ifindex: int) -> None:
    """The programs that are not a pod's: on the gateway, on the overlay and on the devices towards the outside."""
    targets.links.desired_set(HOST_NAME, LinkTarget(gateway.ifindex, "from_host", Hook.EGRESS))
    if overlay_ifindex:
        targets.links.desired_set(overlay_device.NAME, LinkTarget(overlay_ifindex, "from_overlay", Hook.INGRESS))
    for device, ifindex in devices.items():
        targets.links.desired_set(device, LinkTarget(ifindex, "from_netdev", Hook.INGRESS, guarded=True))
        targets.links.desired_set(f"{device}:egress", LinkTarget(ifindex, "to_netdev", Hook.EGRESS, guarded=True))


def desire_sock_links(config: AgentConfig, targets: Targets) -> None:
    """The programs on sockets, if services are translated there. AttachError if there is no such cgroup."""
    if serves_all(config) and config.cgroup_root is not None:
        cgroup = cgroup_links.cgroup_root() if config.cgroup_root == "auto" else Path(config.cgroup_root)
        for target in sock_targets(cgroup):
            targets.links.desired_set(target.key, target)

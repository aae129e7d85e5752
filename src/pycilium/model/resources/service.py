"""v1 Service, all fields of the API. What the API server would fill in is left out; properties read it so.

`status.loadBalancer.ingress` are the addresses by which a Service of type LoadBalancer is reached from outside.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pycilium.model.resources.base import Condition, Part, Resource, always

ServiceType = Literal["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]
IPFamily = Literal["IPv4", "IPv6"]
TransportProtocol = Literal["TCP", "UDP", "SCTP"]
TrafficPolicy = Literal["Cluster", "Local"]

HEADLESS = "None"
"""The clusterIP of a Service that has none: names alone."""
DEFAULT_AFFINITY_S = 10800
"""Kubernetes' default of sessionAffinityConfig.clientIP.timeoutSeconds: three hours."""


class ServicePort(Part, frozen=True, kw_only=True):
    port: int
    name: str = ""
    protocol: TransportProtocol = "TCP"
    app_protocol: str = ""
    target_port: int | str | None = None
    """None is the port itself; a string is the name of a port of the pod."""
    node_port: int = 0


class ClientIPConfig(Part, frozen=True, kw_only=True):
    timeout_seconds: int | None = None


class SessionAffinityConfig(Part, frozen=True, kw_only=True):
    client_ip: ClientIPConfig | None = None


class ServiceSpec(Part, frozen=True, kw_only=True):
    type: ServiceType = "ClusterIP"
    selector: dict[str, str] | None = None
    ports: tuple[ServicePort, ...] = ()
    cluster_ip: str = ""
    cluster_ips: tuple[str, ...] = ()
    ip_families: tuple[IPFamily, ...] = ()
    ip_family_policy: Literal["SingleStack", "PreferDualStack", "RequireDualStack"] | None = None
    external_ips: tuple[str, ...] = ()
    external_name: str = ""
    external_traffic_policy: TrafficPolicy | None = None
    internal_traffic_policy: TrafficPolicy | None = None
    traffic_distribution: Literal["PreferClose", "PreferSameZone", "PreferSameNode"] | None = None
    session_affinity: Literal["None", "ClientIP"] | None = None
    session_affinity_config: SessionAffinityConfig | None = None
    publish_not_ready_addresses: bool = False
    load_balancer_ip: str = ""
    load_balancer_class: str | None = None
    load_balancer_source_ranges: tuple[str, ...] = ()
    allocate_load_balancer_node_ports: bool | None = None
    health_check_node_port: int = 0

    @property
    def all_cluster_ips(self) -> tuple[str, ...]:
        """Its cluster IPs, the first one first; `(HEADLESS,)` if it shall have none, empty if none was given yet."""
        return self.cluster_ips or ((self.cluster_ip,) if self.cluster_ip else ())

    @property
    def headless(self) -> bool:
        return self.all_cluster_ips == (HEADLESS,)

    @property
    def external_local(self) -> bool:
        """Whether clients outside reach only backends of the node that they came to."""
        return self.external_traffic_policy == "Local"

    @property
    def internal_local(self) -> bool:
        """Whether clients of the cluster reach only backends of their own node."""
        return self.internal_traffic_policy == "Local"

    @property
    def node_ports_wanted(self) -> bool:
        """Whether its ports are reached on every node too."""
        return self.type == "NodePort" or (
            self.type == "LoadBalancer" and self.allocate_load_balancer_node_ports is not False
        )

    @property
    def affinity_s(self) -> int:
        """How long a client keeps its backend; 0: each connection chooses anew."""
        if self.session_affinity != "ClientIP":
            return 0
        client_ip = self.session_affinity_config.client_ip if self.session_affinity_config else None
        timeout_s = client_ip.timeout_seconds if client_ip else None
        return DEFAULT_AFFINITY_S if timeout_s is None else timeout_s


class PortStatus(Part, frozen=True, kw_only=True):
    port: int
    protocol: TransportProtocol = "TCP"
    error: str | None = None


class LoadBalancerIngress(Part, frozen=True, kw_only=True):
    ip: str = ""
    hostname: str = ""
    ip_mode: Literal["VIP", "Proxy"] | None = None
    """Proxy: packets arrive there with the node's address as destination, so that the address is no frontend."""
    ports: tuple[PortStatus, ...] = ()


class LoadBalancerStatus(Part, frozen=True, kw_only=True):
    ingress: tuple[LoadBalancerIngress, ...] = ()


class ServiceStatus(Part, frozen=True, kw_only=True):
    load_balancer: LoadBalancerStatus = LoadBalancerStatus()
    conditions: tuple[Condition, ...] = ()


class Service(Resource, frozen=True, kw_only=True):
    api_version: Literal["v1"] = always("v1")
    kind: Literal["Service"] = always("Service")
    spec: ServiceSpec = ServiceSpec()
    status: ServiceStatus = ServiceStatus()

    @property
    def ingress_ips(self) -> tuple[str, ...]:
        """The addresses of its load balancer at which packets arrive as they were sent."""
        return tuple(each.ip for each in self.status.load_balancer.ingress if each.ip and each.ip_mode != "Proxy")

    @property
    def outward(self) -> bool:
        """Whether it may be reached from outside of the cluster."""
        return self.spec.type in ("NodePort", "LoadBalancer") or bool(self.spec.external_ips)

    @property
    def created(self) -> datetime | None:
        return self.metadata.creation_timestamp

"""Services as the agent answers for them (GET /service), in the shapes of Cilium's API.

One object per frontend. A frontend whose backends for clients outside differ from those for clients of the cluster is
two, as in Cilium: scope `external` and scope `internal`.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Scope = Literal["external", "internal"]


class Message(msgspec.Struct, frozen=True, kw_only=True, rename="kebab", omit_defaults=True):
    """Base of what is answered; as that of `messages`, which builds on this module."""


class FrontendAddress(Message, frozen=True, omit_defaults=False):
    ip: str
    port: int
    protocol: str
    scope: Scope = "external"


class BackendAddress(Message, frozen=True, omit_defaults=False):
    ip: str
    port: int
    protocol: str
    state: str
    """active or terminating."""
    weight: int = 1
    node_name: str = msgspec.field(default="", name="nodeName")
    zone: str = ""
    preferred: bool = False


class ServiceFlags(Message, frozen=True):
    name: str
    namespace: str
    type: str
    ext_traffic_policy: str = msgspec.field(default="", name="extTrafficPolicy")
    int_traffic_policy: str = msgspec.field(default="", name="intTrafficPolicy")
    nat_policy: str = msgspec.field(default="", name="natPolicy")
    health_check_node_port: int = msgspec.field(default=0, name="healthCheckNodePort")
    cluster: str = ""


class ServiceSpec(Message, frozen=True, omit_defaults=False):
    id: int
    """Number of the frontend in the kernel's maps; 0: it is not there (yet)."""
    frontend_address: FrontendAddress
    backend_addresses: list[BackendAddress]
    flags: ServiceFlags


class ServiceStatus(Message, frozen=True):
    realized: ServiceSpec


class ServiceView(Message, frozen=True):
    """What is desired, and what the kernel holds of it."""

    spec: ServiceSpec
    status: ServiceStatus | None = None


# == parts of GET /healthz ==


class Feature(Message, frozen=True, omit_defaults=False):
    enabled: bool = False


class NodePortFeature(Message, frozen=True, rename="camel", omit_defaults=False):
    enabled: bool = False
    mode: str = "SNAT"
    algorithm: str = "Random"
    acceleration: str = "Disabled"
    port_min: int = 0
    port_max: int = 0
    lut_size: int = 0


class SocketFeature(Message, frozen=True, rename="camel", omit_defaults=False):
    enabled: bool = False
    protocols: list[str] = []


class ServiceFeatures(Message, frozen=True, rename="camel"):
    external_ips: Feature = msgspec.field(default=Feature(), name="externalIPs")
    graceful_termination: Feature = Feature()
    host_port: Feature = Feature()
    host_reachable_services: SocketFeature = SocketFeature()
    node_port: NodePortFeature = NodePortFeature()
    session_affinity: Feature = Feature()
    socket_lb: SocketFeature = msgspec.field(default=SocketFeature(), name="socketLB")
    bpf_socket_lb_hostns_only: bool = msgspec.field(default=False, name="bpfSocketLBHostnsOnly")


class KubeProxyReplacement(Message, frozen=True, rename="camel"):
    """Whether Services are this agent's to translate, and how."""

    mode: Literal["True", "False"]
    devices: list[str] = []
    features: ServiceFeatures | None = None


class ServiceCounts(Message, frozen=True, omit_defaults=False):
    """Not in Cilium's shape."""

    services: int = 0
    frontends: int = 0
    backends: int = 0
    without_backends: int = 0
    problems: list[str] = []


class L2AnnouncementView(Message, frozen=True):
    """Addresses that one node of several announces on its links."""

    lease: str
    addresses: list[str] = []
    devices: list[str] = []
    announcing: bool = False
    """Whether it is this node that does."""

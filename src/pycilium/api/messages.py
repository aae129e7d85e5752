"""What the agent answers over its API, in the shapes of Cilium's own, so that its users' scripts keep working.

Names on the wire are Cilium's, mostly kebab-case. Fields that are not known are left out, never made up.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from pycilium.api.service_messages import KubeProxyReplacement, L2AnnouncementView, ServiceCounts

Health = Literal["Ok", "Warning", "Failure", "Disabled"]


class Message(msgspec.Struct, frozen=True, kw_only=True, rename="kebab", omit_defaults=True):
    """Base of what is answered."""


class Status(Message, frozen=True):
    """State of one part, in Cilium's words."""

    state: Health
    msg: str = ""


# == GET /healthz ==


class ControllerDetail(Message, frozen=True):
    success_count: int = 0
    failure_count: int = 0
    consecutive_failure_count: int = 0
    last_failure_msg: str = ""
    last_failure_timestamp: str = ""
    last_success_timestamp: str = ""


class ControllerStatus(Message, frozen=True):
    """A reconciler or background task."""

    name: str
    status: ControllerDetail = ControllerDetail()


class ClusterStatus(Message, frozen=True):
    cilium_health: Status | None = msgspec.field(default=None, name="ciliumHealth")
    nodes: list[Node] = []
    self: str = ""
    """Name of this node."""


class ObserverStatus(Message, frozen=True):
    current_flows: int = 0
    max_flows: int = 0
    seen_flows: int = 0
    uptime: str = ""


class HubbleStatus(Message, frozen=True):
    state: Health
    msg: str = ""
    observer: ObserverStatus | None = None


class OperatorStatus(Message, frozen=True):
    """What this node knows of the operators; not part of Cilium's answer."""

    state: Health
    msg: str = ""
    leader: str = ""


class IpamStatus(Message, frozen=True):
    allocations: dict[str, str] = {}
    """Address → owner."""
    ipv4: list[str] = []
    ipv6: list[str] = []
    status: str = ""


class MonitorStatus(Message, frozen=True):
    """Flow events since the agent started. `lost` is exact."""

    seen: int = 0
    lost: int = 0


class MapFill(Message, frozen=True):
    name: str
    size: int
    """Room, in entries."""
    entries: int | None = None


class BpfMapStatus(Message, frozen=True):
    maps: list[MapFill] = []


class MasqueradedFamilies(Message, frozen=True):
    ipv4: bool = False
    ipv6: bool = False


class Masquerading(Message, frozen=True):
    """Whether pods reach the outside with the node's address."""

    enabled: bool = False
    mode: str = ""
    enabled_protocols: MasqueradedFamilies | None = msgspec.field(default=None, name="enabledProtocols")


class EncryptionStatus(Message, frozen=True, omit_defaults=False):
    """Between nodes."""

    mode: str = "Disabled"


class StatusResponse(Message, frozen=True):
    cilium: Status
    version: str = ""
    node_name: str = ""
    kernel: str = ""
    attach_mode: str = ""
    acceleration: str = ""
    """How services are translated before the stack, by device; "" if they are not to be."""
    datapath_mode: str = ""
    cluster: ClusterStatus | None = None
    kubernetes: Status | None = None
    kvstore: Status | None = None
    hubble: HubbleStatus | None = None
    operator: OperatorStatus | None = None
    ipam: IpamStatus | None = None
    masquerading: Masquerading | None = None
    kube_proxy_replacement: KubeProxyReplacement | None = None
    encryption: EncryptionStatus | None = None
    services: ServiceCounts | None = None
    """Not in Cilium's shape."""
    l2_announcements: list[L2AnnouncementView] = []
    """Ours alone."""
    node_monitor: MonitorStatus | None = msgspec.field(default=None, name="nodeMonitor")
    bpf_maps: BpfMapStatus | None = None
    controllers: list[ControllerStatus] = []
    stale: dict[str, str] = {}


# == GET /endpoint, /endpoint/{id} ==


class Identity(Message, frozen=True):
    """Also GET /identity."""

    id: int
    labels: list[str] = []
    labels_sha256: str = msgspec.field(default="", name="labelsSHA256")


class AddressPair(Message, frozen=True):
    ipv4: str = ""
    ipv6: str = ""


class EndpointNetworking(Message, frozen=True):
    addressing: list[AddressPair] = []
    interface_index: int = 0
    interface_name: str = ""
    """Of the host's side."""
    mac: str = ""
    host_mac: str = ""
    container_interface_name: str = ""
    mtu: int = 0


class EndpointLabels(Message, frozen=True):
    security_relevant: list[str] = []
    derived: list[str] = []
    disabled: list[str] = []
    realized: dict[str, list[str]] = {}


PolicyEnabled = Literal["none", "ingress", "egress", "both"]


class EndpointPolicy(Message, frozen=True):
    id: int = 0
    """The endpoint's security identity."""
    policy_revision: int = 0
    """As GET /policy counts: everything up to that is taken into account."""
    policy_enabled: PolicyEnabled = "none"
    policy_id: int = 0
    """Index of its policy in the kernel's map."""


class EndpointPolicyStatus(Message, frozen=True):
    spec: EndpointPolicy = EndpointPolicy()
    realized: EndpointPolicy = EndpointPolicy()


class EndpointIdentifiers(Message, frozen=True):
    container_id: str = ""
    container_name: str = ""
    k8s_namespace: str = ""
    k8s_pod_name: str = ""
    pod_name: str = ""
    """namespace/name."""
    cni_attachment_id: str = ""
    """container id:interface."""
    cgroup: str = ""
    """Ours alone: of an endpoint that is processes of the node."""
    netns: str = ""


class EndpointHealth(Message, frozen=True):
    bpf: str = ""
    policy: str = ""
    connected: bool = False
    overall_health: str = msgspec.field(default="", name="overallHealth")


class EndpointLogEntry(Message, frozen=True):
    timestamp: str
    state: str
    code: str = ""
    message: str = ""


class NamedPort(Message, frozen=True):
    name: str
    port: int
    protocol: str


class EndpointStatus(Message, frozen=True):
    state: str
    identity: Identity | None = None
    labels: EndpointLabels = EndpointLabels()
    networking: EndpointNetworking = EndpointNetworking()
    policy: EndpointPolicyStatus = EndpointPolicyStatus()
    external_identifiers: EndpointIdentifiers = EndpointIdentifiers()
    health: EndpointHealth = EndpointHealth()
    controllers: list[ControllerStatus] = []
    log: list[EndpointLogEntry] = []
    named_ports: list[NamedPort] = msgspec.field(default_factory=list, name="namedPorts")
    """What policies mean by the names of its ports."""


class EndpointView(Message, frozen=True):
    id: int
    status: EndpointStatus
    spec: dict[str, Any] = {}


# == GET /ip, /policy, /map, /cluster/nodes, /config ==


class IpMetadata(Message, frozen=True):
    name: str = ""
    namespace: str = ""
    source: str = ""


class IpEntry(Message, frozen=True):
    """One prefix of the ipcache."""

    cidr: str
    identity: int
    host_ip: str = msgspec.field(default="", name="hostIP")
    encrypt_key: int = msgspec.field(default=0, name="encryptKey")
    metadata: IpMetadata | None = None


class PolicyResponse(Message, frozen=True):
    revision: int
    policy: str
    """The policies in force, as JSON text: Cilium's shape."""


class MapEntry(Message, frozen=True):
    key: str
    value: str
    desired_action: Literal["", "sync", "delete"] = ""
    last_error: str = ""


class BpfMap(Message, frozen=True):
    path: str
    name: str
    size: int
    entries: int | None = None
    cache: list[MapEntry] = []
    """Empty in the list of all maps; filled for one."""


class MapList(Message, frozen=True):
    maps: list[BpfMap]


class NodeFamily(Message, frozen=True):
    enabled: bool = False
    ip: str = ""
    alloc_range: str = ""


class NodeAddressing(Message, frozen=True):
    ipv4: NodeFamily | None = None
    ipv6: NodeFamily | None = None


class Node(Message, frozen=True):
    name: str
    primary_address: NodeAddressing = NodeAddressing()
    source: str = ""


class ClusterNodes(Message, frozen=True):
    self: str
    nodes_added: list[Node]


class ConfigResponse(Message, frozen=True):
    spec: dict[str, Any] = {}
    status: dict[str, Any] = {}


# == POST /policy/explain ==


class ExplainRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`source` and `destination` are namespace/pod, an address, or a reserved name such as `host` or `world`."""

    source: str
    destination: str
    protocol: str = "TCP"
    port: int | str = 0
    """For ICMP the type; or what the destination's pod calls the port."""


class ExplainPeer(Message, frozen=True):
    name: str
    identity: int
    labels: list[str] = []
    address: str = ""
    endpoint_id: int = 0


class ExplainRule(Message, frozen=True):
    kind: str
    name: str
    direction: str
    index: int
    namespace: str = ""
    action: Literal["allow", "deny"] = "allow"
    text: str = ""
    """As users see it: `default/allow-web ingress[0]`."""
    missing: str = ""
    """For a nearest rule: what does not match."""


class ExplainDecision(Message, frozen=True):
    """What one end's policy says."""

    direction: Literal["egress", "ingress"]
    verdict: Literal["allowed", "denied"]
    enforced: bool
    """False: no policy selects that end in this direction, so all is allowed."""
    reason: str
    rules: list[ExplainRule] = []
    nearest: ExplainRule | None = None


class ExplainReply(Message, frozen=True):
    verdict: Literal["allowed", "denied"]
    source: ExplainPeer
    destination: ExplainPeer
    decisions: list[ExplainDecision]
    what: str = ""
    """What was judged: `80/TCP`, or `ICMPv6 type 128`."""
    text: str = ""
    """The answer in a sentence."""

"""The kinds that agents and operators write for one another: CiliumIdentity, CiliumEndpoint, its slices, CiliumNode."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from pycilium.model.resources.base import Part, Resource, always, dashed_name, wire_name

_Port = Annotated[int, Meta(ge=0, le=65535)]
_IdentityNumber = Annotated[int, Meta(ge=0)]
_AddressText = Annotated[str, Meta(extra_json_schema={"pattern": r"^[0-9A-Fa-f.:]*$"})]
"""What an API server can see to by itself; that it is an address is judged when it is read."""
_CidrText = Annotated[str, Meta(extra_json_schema={"pattern": r"^[0-9A-Fa-f.:]+/[0-9]{1,3}$"})]


def _identity_name(attribute: str) -> str:
    return "security-labels" if attribute == "security_labels" else wire_name(attribute)


class CiliumIdentity(Resource, frozen=True, kw_only=True, rename=_identity_name):
    """`metadata.name` is the decimal number; a key of `security_labels` is `source:key`."""

    api_version: Literal["cilium.io/v2"] = always("cilium.io/v2")
    kind: Literal["CiliumIdentity"] = always("CiliumIdentity")
    security_labels: dict[str, str]


class AddressPair(Part, frozen=True, kw_only=True):
    ipv4: _AddressText = ""
    ipv6: _AddressText = ""


class EncryptionSpec(Part, frozen=True, kw_only=True):
    key: int = 0


class ExternalIdentifiers(Part, frozen=True, kw_only=True, rename=dashed_name):
    cni_attachment_id: str = ""
    container_id: str = ""
    container_name: str = ""
    docker_endpoint_id: str = ""
    docker_network_id: str = ""
    k8s_namespace: str = ""
    k8s_pod_name: str = ""
    pod_name: str = ""


class EndpointIdentity(Part, frozen=True, kw_only=True):
    id: _IdentityNumber = 0
    labels: tuple[str, ...] = ()


class EndpointNetworking(Part, frozen=True, kw_only=True):
    addressing: tuple[AddressPair, ...]
    node: str = ""


class IdentityTuple(Part, frozen=True, kw_only=True, rename=dashed_name):
    identity: int = 0
    identity_labels: dict[str, str] = {}
    dest_port: _Port = 0
    protocol: int = 0


class EndpointPolicyDirection(Part, frozen=True, kw_only=True):
    enforcing: bool
    allowed: tuple[IdentityTuple, ...] = ()
    denied: tuple[IdentityTuple, ...] = ()
    removing: tuple[IdentityTuple, ...] = ()
    adding: tuple[IdentityTuple, ...] = ()
    state: str = ""


class EndpointPolicy(Part, frozen=True, kw_only=True):
    ingress: EndpointPolicyDirection | None = None
    egress: EndpointPolicyDirection | None = None


class NamedPort(Part, frozen=True, kw_only=True):
    name: str = ""
    port: _Port = 0
    protocol: str = ""


EndpointState = Literal[
    "creating",
    "waiting-for-identity",
    "not-ready",
    "waiting-to-regenerate",
    "regenerating",
    "restoring",
    "ready",
    "disconnecting",
    "disconnected",
    "invalid",
]


class EndpointStatus(Part, frozen=True, kw_only=True, rename=dashed_name):
    id: int = 0
    external_identifiers: ExternalIdentifiers | None = None
    identity: EndpointIdentity | None = None
    networking: EndpointNetworking | None = None
    encryption: EncryptionSpec | None = None
    policy: EndpointPolicy | None = None
    state: EndpointState | None = None
    named_ports: tuple[NamedPort, ...] = ()
    service_account: str = ""


class CiliumEndpoint(Resource, frozen=True, kw_only=True):
    """Named as its pod. It has a status and no spec."""

    api_version: Literal["cilium.io/v2"] = always("cilium.io/v2")
    kind: Literal["CiliumEndpoint"] = always("CiliumEndpoint")
    status: EndpointStatus | None = None


class CoreEndpoint(Part, frozen=True, kw_only=True, rename=dashed_name):
    """What other nodes need to know of a CiliumEndpoint."""

    name: str = ""
    id: _IdentityNumber = 0
    """Of its identity."""
    pod_uid: str = ""
    networking: EndpointNetworking | None = None
    encryption: EncryptionSpec | None = None
    named_ports: tuple[NamedPort, ...] = ()
    service_account: str = ""


class CiliumEndpointSlice(Resource, frozen=True, kw_only=True):
    """Some of the CiliumEndpoints of one namespace, which is not its own: it belongs to the whole cluster."""

    api_version: Literal["cilium.io/v2alpha1"] = always("cilium.io/v2alpha1")
    kind: Literal["CiliumEndpointSlice"] = always("CiliumEndpointSlice")
    namespace: str = ""
    endpoints: tuple[CoreEndpoint, ...]


class NodeAddress(Part, frozen=True, kw_only=True):
    type: str
    ip: str


class AllocationIP(Part, frozen=True, kw_only=True):
    owner: str = ""
    resource: str = ""


class IpamPoolDemand(Part, frozen=True, kw_only=True, rename=dashed_name):
    ipv4_addrs: int = 0
    ipv6_addrs: int = 0


class IpamPoolRequest(Part, frozen=True, kw_only=True):
    pool: str
    needed: IpamPoolDemand | None = None


class IpamPoolAllocation(Part, frozen=True, kw_only=True):
    pool: str
    allow_first_ip: bool = False
    allow_last_ip: bool = False
    cidrs: tuple[str, ...] = ()


class IpamPoolSpec(Part, frozen=True, kw_only=True):
    requested: tuple[IpamPoolRequest, ...] = ()
    allocated: tuple[IpamPoolAllocation, ...] = ()


def _ipam_name(attribute: str) -> str:
    return "podCIDRs" if attribute == "pod_cidrs" else dashed_name(attribute)


class IpamSpec(Part, frozen=True, kw_only=True, rename=_ipam_name):
    pool: dict[str, AllocationIP] = {}
    ipv6_pool: dict[str, AllocationIP] = {}
    pools: IpamPoolSpec | None = None
    pod_cidrs: tuple[_CidrText, ...] = ()
    min_allocate: int = 0
    max_allocate: int = 0
    pre_allocate: int = 0
    max_above_watermark: int = 0
    static_ip_tags: dict[str, str] = {}


def _node_name(attribute: str) -> str:
    return "instance-id" if attribute == "instance_id" else wire_name(attribute)


class NodeSpec(Part, frozen=True, kw_only=True, rename=_node_name):
    instance_id: str = ""
    bootid: str = ""
    addresses: tuple[NodeAddress, ...] = ()
    health: AddressPair | None = None
    ingress: AddressPair | None = None
    encryption: EncryptionSpec | None = None
    ipam: IpamSpec | None = None


class PodCidrMapEntry(Part, frozen=True, kw_only=True):
    status: Literal["released", "depleted", "in-use"] | None = None


class IpamOperatorStatus(Part, frozen=True, kw_only=True):
    error: str = ""


_Release = Literal["marked-for-release", "ready-for-release", "do-not-release", "released"]


class IpamStatus(Part, frozen=True, kw_only=True, rename=dashed_name):
    used: dict[str, AllocationIP] = {}
    ipv6_used: dict[str, AllocationIP] = {}
    pod_cidrs: dict[str, PodCidrMapEntry] = {}
    operator_status: IpamOperatorStatus | None = None
    release_ips: dict[str, _Release] = {}
    release_ipv6s: dict[str, _Release] = {}
    assigned_static_ip: str = ""


class NodeStatus(Part, frozen=True, kw_only=True):
    ipam: IpamStatus | None = None


class CiliumNode(Resource, frozen=True, kw_only=True):
    """Named as its node. `spec.ipam.pod_cidrs` are the CIDRs that its pods' addresses come from."""

    api_version: Literal["cilium.io/v2"] = always("cilium.io/v2")
    kind: Literal["CiliumNode"] = always("CiliumNode")
    spec: NodeSpec = NodeSpec()
    status: NodeStatus | None = None

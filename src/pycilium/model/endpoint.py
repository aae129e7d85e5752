"""The endpoint: one workload interface that this node manages, or processes of the node itself."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from pycilium.model.host_port import HostPort
from pycilium.model.l4 import NamedTarget
from pycilium.model.labels import NO_LABELS, Labels
from pycilium.model.policy import Subject

HEALTH_CONTAINER, HEALTH_IFNAME = "cilium-health-ep", "eth0"
"""The attachment of the node's own health endpoint, which no runtime has."""
PROCESS_IFNAME = "cgroup"
"""What stands for the interface of an endpoint that is processes of the node, which has none."""


class EndpointState(enum.StrEnum):
    """Cilium's names. What leads from one to the next: `endpoint.state_machine`."""

    WAITING_FOR_IDENTITY = "waiting-for-identity"
    NOT_READY = "not-ready"
    """The kernel refused something; it is tried again."""
    WAITING_TO_REGENERATE = "waiting-to-regenerate"
    REGENERATING = "regenerating"
    RESTORING = "restoring"
    """Known from before a restart of the agent; the kernel still enforces what was realized then."""
    READY = "ready"
    DISCONNECTING = "disconnecting"
    DISCONNECTED = "disconnected"
    INVALID = "invalid"

    @property
    def is_leaving(self) -> bool:
        """Whether nothing may be made for it any more."""
        return self in (EndpointState.DISCONNECTING, EndpointState.DISCONNECTED, EndpointState.INVALID)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Everything that is known of an endpoint. Addresses of a family that is off are None."""

    endpoint_id: int
    """u16, of this node."""
    container_id: str
    ifname: str
    """Inside the pod. With container_id it names the attachment, of which there is one endpoint at most."""
    netns: str
    """Path of the pod's network namespace, as the runtime gave it."""
    host_ifname: str
    ifindex: int
    """Of the host's side."""
    mac: bytes
    """The pod's own."""
    host_mac: bytes
    ipv4: IPv4Address | None
    ipv6: IPv6Address | None
    mtu_bytes: int
    pod_name: str
    namespace: str
    labels: Labels
    """Security labels."""
    sec_identity: int = 0
    """0: not known yet."""
    state: EndpointState = EndpointState.WAITING_FOR_IDENTITY
    network: str = ""
    """Name of the CNI network that attached it: GC of another one leaves it alone."""
    host_ports: tuple[HostPort, ...] = ()
    """Ports of the node that lead to it."""
    named_ports: frozenset[NamedTarget] = frozenset()
    """What its Pod calls its ports."""
    cgroup: str = ""
    """Of processes of the node, which have no interface and no address of their own: their cgroup, from the root on."""
    cgroup_id: int = 0
    """The kernel's number of that cgroup; 0 while there is none."""
    past_cgroup_ids: frozenset[int] = frozenset()
    """Of cgroups that were at that path before, are gone, and have left sockets."""

    @property
    def attachment(self) -> str:
        """`container id:interface`; owns the addresses and the endpoint id."""
        return attachment_name(self.container_id, self.ifname)

    @property
    def subject(self) -> Subject:
        """What its policy is compiled for."""
        return Subject(self.labels, self.named_ports)

    @property
    def is_health(self) -> bool:
        """Whether it is the node's own health endpoint, which is nobody's pod."""
        return self.container_id == HEALTH_CONTAINER

    @property
    def is_process(self) -> bool:
        """Whether it is processes of the node itself, in a cgroup."""
        return bool(self.cgroup)

    @property
    def qualified_pod_name(self) -> str:
        """`namespace/name`, or "" when no pod is known."""
        return f"{self.namespace}/{self.pod_name}" if self.pod_name else ""

    @property
    def addresses(self) -> tuple[IPv4Address | IPv6Address, ...]:
        return tuple(address for address in (self.ipv4, self.ipv6) if address is not None)

    def __str__(self) -> str:
        return f"endpoint {self.endpoint_id} ({self.qualified_pod_name or self.attachment}, {self.state})"


def nameless_process(endpoint_id: int, cgroup: str, cgroup_id: int, sec_identity: int) -> Endpoint:
    """Processes of the node as the kernel knows them: without a name or labels, and with nothing that a pod has."""
    return Endpoint(
        endpoint_id=endpoint_id,
        container_id=cgroup,
        ifname=PROCESS_IFNAME,
        netns="",
        host_ifname="",
        ifindex=0,
        mac=bytes(6),
        host_mac=bytes(6),
        ipv4=None,
        ipv6=None,
        mtu_bytes=0,
        pod_name="",
        namespace="",
        labels=NO_LABELS,
        sec_identity=sec_identity,
        cgroup=cgroup,
        cgroup_id=cgroup_id,
    )


def process_container_id(namespace: str, name: str) -> str:
    """What stands for the container of an endpoint that is processes of the node."""
    return f"process.{namespace}.{name}"


def attachment_name(container_id: str, ifname: str) -> str:
    return f"{container_id}:{ifname}"


def mac_text(mac: bytes) -> str:
    """02:00:0a:00:00:05"""
    return mac.hex(":")

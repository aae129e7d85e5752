"""Services as the datapath sees them: frontends, and the backends that stand behind each.

What Kubernetes says in Services and EndpointSlices is turned into these by `pycilium.services`; what they are in the
kernel is `bpf/abi/service.h`. Invariant: the backends of a frontend have its protocol and its address's family.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, IntFlag, StrEnum
from functools import total_ordering
from ipaddress import IPv6Address
from typing import Final

import msgspec

from pycilium.model.l4 import Protocol
from pycilium.model.peer import Address, Network

_IPV6_NUMBERS: Final = 1 << 152
"""What comes before an IPv6 address, a port and a protocol."""


class FrontendKind(StrEnum):
    """By which of a Service's addresses it is reached; the values are those of Cilium's `service list`."""

    CLUSTER_IP = "ClusterIP"
    NODE_PORT = "NodePort"
    LOAD_BALANCER = "LoadBalancer"
    EXTERNAL_IP = "ExternalIPs"
    HOST_PORT = "HostPort"


class Algorithm(StrEnum):
    """How one of the backends is chosen for a new connection."""

    RANDOM = "random"
    MAGLEV = "maglev"


class ForwardingMode(StrEnum):
    """What a backend on another node sees of a client outside, and whom it answers."""

    SNAT = "snat"
    """This node: the answer comes back through it."""
    DSR = "dsr"
    """The client itself: the answer goes straight to it."""


class BackendState(IntEnum):
    """Numbers of `enum backend_state`."""

    ACTIVE = 1
    TERMINATING = 2
    """Keeps the connections that it has, and takes no new ones while another backend is active."""


class ServiceFlag(IntFlag):
    """Numbers of `enum service_flags`."""

    EXTERNAL = 1
    MAGLEV = 2
    AFFINITY = 4
    SOURCE_ALLOW = 8
    SOURCE_DENY = 16
    DSR = 32
    KEEP_SOURCE = 64
    NO_XDP = 128
    OWN_NODE = 256


@total_ordering
@dataclass(frozen=True, slots=True, eq=False)
class L4Address:
    """Where a service or a backend is reached. In order: IPv4 before IPv6, then by address, port and protocol."""

    address: Address
    """Unspecified (0.0.0.0, ::) in a NodePort frontend: any other node of the cluster; in a HostPort frontend: this
    node, by whatever address."""
    port: int
    protocol: Protocol
    number: int = field(init=False, repr=False)
    """Of each one another, in their order. By it they are compared and found: what an address of the library has for
    that takes ten times as long, and a node may have 100,000 backends."""

    def __post_init__(self) -> None:
        family = _IPV6_NUMBERS if isinstance(self.address, IPv6Address) else 0
        number = family | int(self.address) << 24 | self.port << 8 | self.protocol
        object.__setattr__(self, "number", number)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, L4Address) and self.number == other.number

    def __lt__(self, other: L4Address) -> bool:
        return self.number < other.number

    def __hash__(self) -> int:
        return hash(self.number)

    def __str__(self) -> str:
        host = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        return f"{host}:{self.port}/{self.protocol.name}"


class Backend(msgspec.Struct, frozen=True, gc=False):
    """One endpoint behind a frontend."""

    at: L4Address
    state: BackendState = BackendState.ACTIVE
    weight: int = 1
    """0: keeps the connections that it has, and is chosen for no new ones, whatever becomes of the others."""
    node: str = ""
    zone: str = ""


@dataclass(frozen=True, slots=True)
class SourceRanges:
    """Who may reach a frontend from outside: only clients within `networks`, or only those outside of them."""

    networks: tuple[Network, ...]
    deny: bool = False


@dataclass(frozen=True, slots=True)
class Frontend:
    """A frontend and all that decides what happens to a connection to it. Equal ones are realized equally."""

    at: L4Address
    kind: FrontendKind
    namespace: str
    service: str
    port_name: str = ""
    inside: tuple[Backend, ...] = ()
    """For clients of the cluster, in the order of their addresses."""
    outside: tuple[Backend, ...] = ()
    """For clients outside; of a ClusterIP always empty."""
    algorithm: Algorithm = Algorithm.RANDOM
    affinity_s: int = 0
    """0: none."""
    forwarding: ForwardingMode = ForwardingMode.SNAT
    source_ranges: SourceRanges | None = None
    external_local: bool = False
    """externalTrafficPolicy Local: only backends of this node for clients outside, which see the client's address."""
    internal_local: bool = False
    owns_address: bool = False
    """No machine is meant to have the address: what is for its other ports is for nobody."""
    health_check_node_port: int = 0

    @property
    def name(self) -> str:
        """`namespace/service`."""
        return f"{self.namespace}/{self.service}"

"""The intent tables of one node: everything that decides what the kernel should hold.

Who writes: `sources` (all that comes from the store, services and their endpoints too), `endpoints`
(endpoints: from the CNI and from files after a restart), `addresses` (host addresses: from netlink). Nobody else. The
one reader that matters is `controller`.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Self

from pycilium.model.endpoint import HEALTH_CONTAINER, HEALTH_IFNAME, Endpoint
from pycilium.model.identity import Identity
from pycilium.model.node import Node
from pycilium.model.policy import Policy
from pycilium.model.remote_endpoint import RemoteEndpoint
from pycilium.model.resources import CiliumL2AnnouncementPolicy, Namespace, Pod, Service
from pycilium.services import SliceView
from pycilium.tables import Database, Table


@dataclass(frozen=True, slots=True)
class HostAddress:
    """An address of the node itself, its gateway included."""

    address: IPv4Address | IPv6Address
    interface: str
    prefix_len: int = 0
    """Of the network that is reached over the interface; 0: not known."""
    ifindex: int = 0
    preference: int = 0
    """Among the addresses of its interface: the lowest is what the node uses for itself."""


@dataclass(frozen=True, slots=True)
class Intent:
    """The tables and the database that holds them."""

    db: Database
    policies: Table[Policy]
    namespaces: Table[Namespace]
    pods: Table[Pod]
    identities: Table[Identity]
    endpoints: Table[Endpoint]
    host_addresses: Table[HostAddress]
    nodes: Table[Node]
    """All but this one."""
    remote_endpoints: Table[RemoteEndpoint]
    """Of all nodes: which are this one's own, its addresses tell, and those change."""
    own_node: Table[Node]
    """What the store says of this node; empty or one."""
    services: Table[Service]
    slices: Table[SliceView]
    l2_policies: Table[CiliumL2AnnouncementPolicy]

    @classmethod
    def new(cls) -> Self:
        """Empty tables."""
        db = Database()
        return cls(
            db=db,
            policies=db.table("policies", key=lambda policy: policy.key),
            namespaces=db.table("namespaces", key=lambda namespace: namespace.key),
            pods=db.table("pods", key=lambda pod: pod.key),
            identities=db.table("identities", key=lambda identity: identity.number),
            endpoints=db.table(
                "endpoints",
                key=lambda endpoint: endpoint.endpoint_id,
                indexes={
                    "container": lambda endpoint: ((endpoint.container_id, endpoint.ifname),),
                    "pod": lambda endpoint: ((endpoint.namespace, endpoint.pod_name),),
                    "state": lambda endpoint: (endpoint.state,),
                },
            ),
            host_addresses=db.table("host-addresses", key=lambda host: host.address),
            nodes=db.table("nodes", key=lambda node: node.name),
            remote_endpoints=db.table("remote-endpoints", key=lambda endpoint: endpoint.key),
            own_node=db.table("own-node", key=lambda node: node.name),
            services=db.table(
                "services",
                key=lambda service: (service.metadata.namespace, service.metadata.name),
                indexes={"outward": lambda service: (True,) if service.outward else ()},
            ),
            slices=db.table("endpoint-slices", key=lambda view: (view.namespace, view.name)),
            l2_policies=db.table("l2-policies", key=lambda policy: policy.metadata.name),
        )


def health_endpoint(intent: Intent) -> Endpoint | None:
    """The node's own, if it has one."""
    attachment = (HEALTH_CONTAINER, HEALTH_IFNAME)
    return next(iter(intent.db.snapshot().by(intent.endpoints, "container", attachment)), None)

"""What a node knows of itself and of the cluster's nodes that decides what its frontends are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from pycilium.model.l4 import Protocol
from pycilium.model.peer import Address
from pycilium.model.service import Algorithm, ForwardingMode

LoadBalancerMode = Literal["snat", "dsr", "hybrid"]


@dataclass(frozen=True, slots=True)
class NodePlace:
    """A node's name and the zone that it stands in; "" is a zone that is not known."""

    name: str
    zone: str = ""


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """Equal ones give equal frontends. A change of `nodes` or `addresses` costs what it touches, any other all."""

    node: str
    zone: str = ""
    addresses: tuple[Address, ...] = ()
    """This node's own: at each of them NodePorts and host ports are reached."""
    families: tuple[int, ...] = (4, 6)
    """IP versions that are on; the first is that of a Service that says nothing of families."""
    node_ports: range = range(30000, 32768)
    algorithm: Algorithm = Algorithm.RANDOM
    """Of what is reached from outside. Of cluster IPs it is random unless the Service says otherwise: their clients
    choose once, on their own node, and a table for each would fill the slots."""
    mode: LoadBalancerMode = "snat"
    select_endpoints: bool = True
    """Whether nobody else makes EndpointSlices of what a Service's selector selects."""
    nodes: Mapping[str, NodePlace] = field(default_factory=dict)
    """What an endpoint may call its node (name or address) → the node."""

    @property
    def placeless(self) -> ServiceSettings:
        """These settings on a node without addresses that knows no nodes: what is left decides about all frontends."""
        return replace(self, addresses=(), nodes={})

    def place(self, reference: str) -> NodePlace:
        """Where an endpoint is that calls its node so."""
        return self.nodes.get(reference) or NodePlace(reference, self.zone if reference == self.node else "")

    def places_changed(self, before: ServiceSettings) -> set[str]:
        """What endpoints call the nodes that stand placeless now, or are other nodes."""
        names = self.nodes.keys() | before.nodes.keys()
        return {name for name in names if self.nodes.get(name) != before.nodes.get(name)}

    def forwarding(self, protocol: Protocol) -> ForwardingMode:
        """Of a Service that says nothing of it; hybrid is DSR for TCP alone."""
        dsr = self.mode == "dsr" or (self.mode == "hybrid" and protocol is Protocol.TCP)
        return ForwardingMode.DSR if dsr else ForwardingMode.SNAT

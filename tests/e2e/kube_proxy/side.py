"""What both sides of the matrix have in common: places with probes, pods, and Services that are brought in force."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from pycilium.model.resources import Resource
from tests.e2e.kube_proxy.cases import Client
from tests.e2e.kube_proxy.probes import Probe
from tests.e2e.kube_proxy.services import Pods

PODS = {"client": 0, "one": 0, "two": 1}
"""Each on the node of that index, or on the last one there is."""
WORLD = "world"


class Side(Protocol):
    """A cluster with its pods, in which Services work one way or the other."""

    name: str
    node_names: Sequence[str]
    pods: Pods
    addresses: Mapping[str, Mapping[int, str]]
    """Of nodes by name, by family: where their node ports are."""
    names: Mapping[str, str]
    """Who has which address: nodes, pods, and the world."""
    probes: Mapping[str, Probe]
    """By the same names."""

    def apply(self, resources: Sequence[Resource]) -> None:
        """Exactly these Services and EndpointSlices are in force when this returns."""


def place_of(client: Client, side: Side) -> str:
    """The name of the place where the client is."""
    return {
        Client.POD: "client",
        Client.BACKEND: "one",
        Client.HOST: side.node_names[0],
        Client.OTHER_NODE: side.node_names[-1],
        Client.OUTSIDE: WORLD,
    }[client]

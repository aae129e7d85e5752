"""What both sides of the matrix have in common: places with probes, pods, and Services that are brought in force."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from typing import Protocol

from pycilium.lab import namespaces
from pycilium.lab.layout import LabRecord
from pycilium.model.resources import Resource
from tests.e2e.kube_proxy import services
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


def route_services(record: LabRecord) -> None:
    """The world sends what is for Services to the first node."""
    node = record.nodes[0]
    cidrs = (services.CLUSTER_CIDRS, services.BALANCED_CIDRS, services.EXTERNAL_CIDRS)
    routes = [f"route add {each[4]} via {node.ipv4}\nroute add {each[6]} via {node.ipv6}" for each in cidrs]
    ip_batch(record.world, "\n".join(routes))


def quiet_about_nothing(netns: str) -> None:
    """Each refusal is to be seen: ICMP errors have no limit."""
    for name in ("net.ipv4.icmp_ratelimit", "net.ipv6.icmp.ratelimit"):
        namespaces.run_in(netns, lambda name=name: namespaces.write_sysctl(name, "0"))  # type: ignore[misc]


def run_with(netns: str, argv: Sequence[str], text: str) -> None:
    """A program that reads its standard input; RuntimeError with what it said when it fails."""

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(argv, input=text, capture_output=True, text=True, check=False)

    done = namespaces.run_in(netns, run)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)} in {netns}: {done.stderr[:2000]}")


def ip_batch(netns: str, batch: str) -> None:
    run_with(netns, ("ip", "-batch", "-"), batch)

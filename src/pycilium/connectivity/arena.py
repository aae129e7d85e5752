"""Who takes part in a run and where: pods, nodes, the world, and the Services before the pods. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

NAMESPACE = "cilium-test-1"
PORT = 8080
"""Where echo pods answer HTTP, and datagrams."""
PORT_NAME = "http-8080"
"""What they call it, for HTTP."""
HOST_PORT = 4000
WORLD_PORT = 80


@dataclass(frozen=True, slots=True)
class Peer:
    """One end of connections.

    Attributes:
        labels: a pod's own; for what has none, what expectations call it by (`kind: host`, `kind: world`).
        addresses: by family, `ipv4` and `ipv6`.
        node: where it is; "" for a world that all nodes reach.
        host_port: whether its node's port leads to it.
        asks: whether it can try to reach others.
    """

    name: str
    labels: Mapping[str, str]
    addresses: Mapping[str, tuple[str, ...]]
    node: str = ""
    host_port: bool = False
    asks: bool = True

    @property
    def kind(self) -> str:
        return self.labels["kind"]

    @property
    def is_pod(self) -> bool:
        return self.kind in ("client", "echo")

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class ServiceInFront:
    """A Service of one echo pod."""

    name: str
    backend: Peer
    addresses: Mapping[str, str]
    """Its cluster IPs, by family."""
    node_port: int = 0
    """0: it has none."""


@dataclass(frozen=True, slots=True)
class Arena:
    """Everything a ground made ready. What is missing says `lacking` why, and its scenarios are skipped."""

    families: tuple[str, ...]
    peers: tuple[Peer, ...]
    services: tuple[ServiceInFront, ...] = ()
    lacking: Mapping[str, str] = field(default_factory=dict)
    """By what is missing, `world` say, the reason in words."""
    outside_of: tuple[str, ...] | None = None
    """The nodes that see the world come by their own device; None: all of them."""

    def of_kind(self, kind: str) -> list[Peer]:
        return [peer for peer in self.peers if peer.kind == kind]

    def asking(self, kind: str) -> list[Peer]:
        return [peer for peer in self.of_kind(kind) if peer.asks]

    def node(self, name: str) -> Peer:
        return next(peer for peer in self.of_kind("host") if peer.node == name)

    def with_node_ports_for(self, source: Peer) -> list[Peer]:
        """The nodes whose node ports it may try: a world, those that it is outside of."""
        everybody = source.kind != "world" or self.outside_of is None
        return [node for node in self.of_kind("host") if everybody or node.node in (self.outside_of or ())]

    def pairs(self, sources: str, destinations: str) -> Iterator[tuple[Peer, Peer]]:
        """Every source of a kind with every other destination of a kind."""
        for source in self.asking(sources):
            for destination in self.of_kind(destinations):
                if source != destination and not _apart(source, destination):
                    yield source, destination


def _apart(one: Peer, other: Peer) -> bool:
    """Whether one is a world of a node's own, and the other is elsewhere."""
    return "world" in (one.kind, other.kind) and "" not in (one.node, other.node) and one.node != other.node


@dataclass(frozen=True, slots=True)
class PodPlan:
    """A pod that a ground is to make."""

    name: str
    labels: Mapping[str, str]
    other_node: bool = False
    """Not on the node where the others are."""
    serves: bool = False
    namespace: str = NAMESPACE

    @property
    def kind(self) -> str:
        return self.labels["kind"]

    @property
    def account(self) -> str:
        """The service account that it has, for itself alone."""
        return self.name


PODS = (
    PodPlan("client", {"kind": "client", "name": "client"}),
    PodPlan("client2", {"kind": "client", "name": "client2", "other": "client"}),
    PodPlan("client3", {"kind": "client", "name": "client3", "other": "client-other-node"}, other_node=True),
    PodPlan("echo-same-node", {"kind": "echo", "name": "echo-same-node", "other": "echo"}, serves=True),
    PodPlan(
        "echo-other-node", {"kind": "echo", "name": "echo-other-node", "first": "echo"}, other_node=True, serves=True
    ),
)


def pods_for(nodes: int) -> tuple[PodPlan, ...]:
    """On a single node nobody is elsewhere."""
    return tuple(pod for pod in PODS if nodes > 1 or not pod.other_node)


def service_of(pod: PodPlan, families: tuple[str, ...]) -> dict[str, object]:
    """The Service in front of an echo pod, as users write it."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": pod.name, "namespace": pod.namespace, "labels": {"kind": "echo"}},
        "spec": {
            "type": "NodePort",
            "selector": {"name": pod.name},
            "ipFamilyPolicy": "PreferDualStack" if len(families) > 1 else "SingleStack",
            "ports": [{"name": "http", "port": PORT, "targetPort": PORT, "protocol": "TCP"}],
        },
    }


def by_family(addresses: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Addresses by `ipv4` and `ipv6`; a family that has none is left out."""
    found = {
        "ipv4": tuple(address for address in addresses if ":" not in address),
        "ipv6": tuple(address for address in addresses if ":" in address),
    }
    return {family: of_it for family, of_it in found.items() if of_it}

"""What is tried, as values: each way in, protocol, family, client and behaviour of the Service, and changes of backends under
a connection that is held. Pure.

Pods `one` and `client` are on the first node, `two` is on the second (in a lab of one node all are on that). `outside`
is the world, whose routes to all addresses of Services lead through the first node.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from tests.e2e.kube_proxy import services
from tests.e2e.kube_proxy.services import Behaviour

TRIES_OF_ONE, TRIES_OF_MANY, TRIES_OF_AFFINITY = 2, 24, 8


class Way(StrEnum):
    CLUSTER_IP = "ClusterIP"
    NODE_PORT = "NodePort"
    NODE_PORT_ELSEWHERE = "NodePort of the second node"
    NODE_PORT_LOOPBACK = "NodePort at loopback"
    BALANCED_IP = "LoadBalancer"
    EXTERNAL_IP = "externalIP"


class Client(StrEnum):
    POD = "pod"
    HOST = "host"
    OTHER_NODE = "other node"
    OUTSIDE = "outside"
    BACKEND = "backend itself"


class Transport(StrEnum):
    TCP = "TCP"
    UDP = "UDP"
    UDP_UNCONNECTED = "UDP, unconnected"


@dataclass(frozen=True, slots=True)
class Case:
    """One thing that is tried."""

    way: Way
    transport: Transport
    family: int
    client: Client
    behaviour: Behaviour
    number: int
    """Of the Service."""

    def __str__(self) -> str:
        return f"{self.way}, {self.transport}, IPv{self.family}, from {self.client}, {self.behaviour.name}"

    @property
    def most_backends(self) -> int:
        return max(1, len(self.behaviour.backends))

    @property
    def tries(self) -> int:
        if self.behaviour.affinity:
            return TRIES_OF_AFFINITY
        return TRIES_OF_MANY if self.most_backends > 1 else TRIES_OF_ONE


@dataclass(frozen=True, slots=True)
class Change:
    """What happens to a Service while a connection to `one` is held. The last step of a flapping one is its end."""

    name: str
    steps: tuple[Behaviour | None, ...]
    """None: the Service is deleted."""
    before: Behaviour


PLACEMENTS: dict[str, tuple[tuple[str, services.Condition], ...]] = {
    "backends here and elsewhere": (("one", "ready"), ("two", "ready")),
    "backend here": (("one", "ready"),),
    "backend elsewhere": (("two", "ready"),),
    "no backend": (),
    "one backend of two terminating": (("one", "terminating"), ("two", "ready")),
    "all backends terminating": (("one", "terminating"), ("two", "terminating")),
    "backends not ready": (("one", "not ready"), ("two", "not ready")),
}
_WORLD = ("172.18.0.1/32", "fd00:172:18::1/128")
_NOBODY = ("203.0.113.0/24", "2001:db8:0:113::/64")


def behaviours(node_count: int) -> list[Behaviour]:
    """Every Service of the matrix; its number is its place here."""
    placed = [
        Behaviour(_slug(placement, policy), backends, policy)
        for policy in ("Cluster", "Local")
        for placement, backends in PLACEMENTS.items()
        if node_count > 1 or placement != "backend elsewhere"
    ]
    everywhere = PLACEMENTS["backends here and elsewhere"]
    return [
        *placed,
        Behaviour("affinity", everywhere, affinity=True),
        Behaviour("affinity-local", everywhere, "Local", affinity=True),
        Behaviour("source-ranges-of-the-world", everywhere, source_ranges=_WORLD),
        Behaviour("source-ranges-of-nobody-here", everywhere, source_ranges=_NOBODY),
    ]


def changes() -> list[Change]:
    one, two, both = (("one", "ready"),), (("two", "ready"),), (("one", "ready"), ("two", "ready"))

    def change(name: str, before: tuple[tuple[str, services.Condition], ...], *steps: object) -> Change:
        made = tuple(None if step is None else Behaviour(name, step) for step in steps)  # type: ignore[arg-type]
        return Change(name, made, Behaviour(name, before))

    return [
        change("removed", both, two),
        change("terminating", both, (("one", "terminating"), ("two", "ready"))),
        change("last-one-terminating", one, (("one", "terminating"),)),
        change("none-left", one, ()),
        change("no-longer-ready", one, (("one", "not ready"),)),
        change("another-one-comes", one, both),
        change("flapping", both, *(each for _ in range(5) for each in (two, both))),
        change("service-deleted", one, None),
    ]


def first_number_of_changes(node_count: int) -> int:
    return len(behaviours(node_count)) + 1


def cases(node_count: int) -> list[Case]:
    """The whole matrix without changes."""
    return [
        Case(way, transport, family, client, behaviour, number)
        for number, behaviour in enumerate(behaviours(node_count), start=1)
        for way, client in _ways(behaviour, node_count)
        for family in (4, 6)
        for transport in _transports(way, client, behaviour)
    ]


def change_cases(node_count: int) -> list[tuple[Case, Change]]:
    """Who holds connections while the backends change."""
    holders = [
        (Way.CLUSTER_IP, Client.POD),
        (Way.CLUSTER_IP, Client.HOST),
        (Way.NODE_PORT, Client.OUTSIDE),
        (Way.NODE_PORT, Client.HOST),
    ]
    if node_count > 1:
        holders.append((Way.NODE_PORT, Client.OTHER_NODE))
    return [
        (Case(way, transport, family, client, change.before, number), change)
        for number, change in enumerate(changes(), start=first_number_of_changes(node_count))
        for way, client in holders
        for family in (4, 6)
        for transport in (Transport.TCP, Transport.UDP)
    ]


def sampled(cases: Sequence[Case]) -> list[Case]:
    """A part of the whole in which every way, client, transport and behaviour is met, each with one of the families."""
    return [
        case
        for case in cases
        if case.transport == Transport.UDP_UNCONNECTED
        or (case.number + list(Client).index(case.client) + (case.family == 6) + (case.transport == Transport.UDP)) % 2
    ]


def sampled_changes(held: Sequence[tuple[Case, Change]]) -> list[tuple[Case, Change]]:
    """As `sampled`."""
    wanted = set(sampled([case for case, _ in held]))
    return [(case, change) for case, change in held if case in wanted]


def _ways(behaviour: Behaviour, node_count: int) -> Iterator[tuple[Way, Client]]:
    clients = [Client.POD, Client.HOST, Client.OUTSIDE, *([Client.OTHER_NODE] if node_count > 1 else [])]
    for way in (Way.CLUSTER_IP, Way.NODE_PORT, Way.NODE_PORT_ELSEWHERE, Way.BALANCED_IP, Way.EXTERNAL_IP):
        if way != Way.NODE_PORT_ELSEWHERE or node_count > 1:
            yield from ((way, client) for client in clients)
    if len(behaviour.ready) == 2 and behaviour.policy == "Cluster":
        yield Way.NODE_PORT_LOOPBACK, Client.HOST
    if behaviour.ready == ("one",):
        for way in (Way.CLUSTER_IP, Way.NODE_PORT, Way.BALANCED_IP, Way.EXTERNAL_IP):
            yield way, Client.BACKEND


def _transports(way: Way, client: Client, behaviour: Behaviour) -> Iterator[Transport]:
    yield Transport.TCP
    yield Transport.UDP
    if behaviour.backends == PLACEMENTS["backends here and elsewhere"] and not behaviour.source_ranges:
        yield Transport.UDP_UNCONNECTED


def _slug(placement: str, policy: str) -> str:
    return f"{placement} {policy}".lower().replace(" ", "-")

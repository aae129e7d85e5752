"""Security identities: the numbers that stand for label sets, and where each number may come from.

Invariant: a number's scope can be told from the number alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Network, IPv6Network

from pycilium.model.labels import CIDR_SOURCE, RESERVED_SOURCE, Label, Labels

CLUSTER_IDENTITIES = range(256, 65536)
"""Shared by all nodes, one per label set."""

LOCAL_IDENTITIES = range((1 << 24) + 1, 2 << 24)
"""Of one node: the CIDRs of its rules."""

NODE_LOCAL_IDENTITIES = range((2 << 24) + 1, 3 << 24)
"""Of one node, too: label sets of its pods, for as long as the store is away and cannot give them a number of all."""


class ReservedIdentity(IntEnum):
    """Numbers that never change, as in Hubble's flow API."""

    UNKNOWN = 0
    HOST = 1
    WORLD = 2
    UNMANAGED = 3
    HEALTH = 4
    INIT = 5
    REMOTE_NODE = 6
    KUBE_APISERVER = 7
    INGRESS = 8
    WORLD_IPV4 = 9
    WORLD_IPV6 = 10

    @property
    def label_key(self) -> str:
        """`host`, `remote-node`, ..."""
        return self.name.lower().replace("_", "-")


@dataclass(frozen=True, slots=True)
class Identity:
    """A number and the labels that it stands for."""

    number: int
    labels: Labels

    def __str__(self) -> str:
        return f"{self.number} ({self.labels})"


def _reserved(*keys: str) -> Labels:
    return Labels(Label(RESERVED_SOURCE, key) for key in keys)


RESERVED_IDENTITIES: tuple[Identity, ...] = (
    *(
        Identity(int(number), _reserved(number.label_key))
        for number in ReservedIdentity
        if number not in (ReservedIdentity.UNKNOWN, ReservedIdentity.WORLD_IPV4, ReservedIdentity.WORLD_IPV6)
        and number is not ReservedIdentity.KUBE_APISERVER
    ),
    Identity(int(ReservedIdentity.KUBE_APISERVER), _reserved("kube-apiserver", "remote-node")),
    Identity(int(ReservedIdentity.WORLD_IPV4), _reserved("world", "world-ipv4")),
    Identity(int(ReservedIdentity.WORLD_IPV6), _reserved("world", "world-ipv6")),
)
"""All but unknown. The worlds of the two families are also the world, and the API server is also a remote node."""


HOST = next(identity for identity in RESERVED_IDENTITIES if identity.number == ReservedIdentity.HOST)
"""Of this node itself."""

HOST_SERVING_API = Identity(HOST.number, _reserved("host", "kube-apiserver"))
"""The same where an API server runs on this node: policies name it both ways."""

HEALTH = next(identity for identity in RESERVED_IDENTITIES if identity.number == ReservedIdentity.HEALTH)
"""Of the nodes' own health endpoints."""


def cidr_labels(network: IPv4Network | IPv6Network) -> Labels:
    """The labels of what lies outside and in `network`."""
    world = _reserved("world", f"world-ipv{network.version}")
    return Labels((Label(CIDR_SOURCE, str(network)), *world))


def cluster_identity_number(name: str) -> int | None:
    """The number that names an identity of the cluster, in its one way of writing it; None for any other name."""
    number = int(name) if name.isascii() and name.isdigit() and len(name) <= 5 else 0
    return number if number in CLUSTER_IDENTITIES and name == str(number) else None


def is_local(number: int) -> bool:
    """Whether the number stands for a CIDR of this node's rules."""
    return number in LOCAL_IDENTITIES


def is_node_local(number: int) -> bool:
    """Whether the number stands for labels on this node alone: never published, never sent."""
    return number in NODE_LOCAL_IDENTITIES

"""What the flow store needs to know about names, as protocols, and plain in-memory directories that the agent fills.

An event carries numbers only. Whom a number belongs to changes (endpoint ids are reused), so endpoints are looked up
when an event is ingested; identities and rows are never reused soon, so their names are looked up when a flow is read,
and a directory must keep them for a while after they are gone.
"""

from __future__ import annotations

import socket
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple, Protocol, TypeVar

from pycilium.hubble.service_names import ServiceDirectory, ServiceTable
from pycilium.model.labels import Labels

Key = TypeVar("Key")

REMEMBERED_CHANGES = 4096
"""Of addresses; whoever did not look for longer looks at all of them."""
CLUSTER_LABEL = "k8s:io.cilium.k8s.policy.cluster="


class Direction(IntEnum):
    """From the endpoint's point of view; numbers of flow.TrafficDirection and of the datapath."""

    UNKNOWN = 0
    INGRESS = 1
    EGRESS = 2


class Outcome(IntEnum):
    """How a policy decision ended."""

    ALLOWED = 0
    DENIED = 1
    """A deny rule matched."""
    NO_RULE = 2
    """The direction is restricted and no rule allows the peer."""


@dataclass(frozen=True, slots=True)
class Workload:
    name: str
    kind: str = ""


@dataclass(frozen=True, slots=True)
class EndpointName:
    """Who an endpoint was when the packet was seen."""

    namespace: str
    pod_name: str
    cluster_name: str = ""
    workloads: tuple[Workload, ...] = ()


class Decision(NamedTuple):
    """A policy decision as an event reports it: enough to find the rules behind it."""

    direction: Direction
    outcome: Outcome
    row_id: int
    selector: int
    endpoint_id: int
    """The local endpoint whose policy decided."""
    peer_identity: int
    peer_address: str
    protocol: int
    port: int
    """The destination port; the type for ICMP."""
    revision: int = 0
    """Of the policy that decided; 0: not known."""


@dataclass(frozen=True, slots=True)
class PolicyName:
    kind: str
    namespace: str
    name: str
    labels: tuple[str, ...] = ()
    revision: int = 0


@dataclass(frozen=True, slots=True)
class DecisionRules:
    """The rules behind a decision.

    `policies` are those that allowed or denied; for Outcome.NO_RULE those that restrict the direction. `text` is one
    line for people: the deciding rule's name, or which rule comes nearest to allowing it.
    """

    policies: tuple[PolicyName, ...] = ()
    text: str = ""
    match_type: int = 0
    """0 none, 1 L3-Only, 2 L3-L4, 3 L4-Only, 4 all, 5 L3-Proto, 6 Proto-Only."""


class EndpointDirectory(Protocol):
    """Endpoints by their local id and, for those of other nodes, by address (16 bytes, IPv4 in mapped form)."""

    @property
    def revision(self) -> int:
        """Differs after every change, so that nobody needs to look at the rest without need."""

    def endpoints(self) -> Mapping[int, EndpointName]: ...
    def addresses(self) -> Mapping[bytes, EndpointName]: ...
    def addresses_changed(self, since: int) -> tuple[int, Collection[bytes] | None]:
        """Where the changes of addresses are now, and those since `since`; None: too many, look at all."""


class IdentityDirectory(Protocol):
    def labels(self, identity: int) -> tuple[str, ...] | None:
        """`source:key=value`, sorted; None if the number is not known (yet)."""


class RuleDirectory(Protocol):
    def rules(self, decision: Decision) -> DecisionRules | None: ...


class InterfaceDirectory(Protocol):
    def name(self, ifindex: int) -> str: ...


@dataclass(frozen=True, slots=True)
class Directories:
    """All that turns numbers into names."""

    endpoints: EndpointDirectory
    identities: IdentityDirectory
    rules: RuleDirectory
    interfaces: InterfaceDirectory
    services: ServiceDirectory = field(default_factory=ServiceTable)


class EndpointTable:
    """An EndpointDirectory that its owner keeps up to date."""

    def __init__(self, addresses: Mapping[bytes, EndpointName] | None = None) -> None:
        """`addresses` is a view of names that are kept elsewhere: of its changes `address_changed` must tell."""
        self._revision = 0
        self._endpoints: dict[int, EndpointName] = {}
        self._own_addresses: dict[bytes, EndpointName] = {}
        self._addresses = self._own_addresses if addresses is None else addresses
        self._changed: list[bytes] = []
        self._changed_before = 0
        """How many changes of addresses there were before those in the list."""

    @property
    def revision(self) -> int:
        return self._revision

    def endpoints(self) -> Mapping[int, EndpointName]:
        return self._endpoints

    def addresses(self) -> Mapping[bytes, EndpointName]:
        return self._addresses

    def set_endpoint(self, endpoint_id: int, name: EndpointName | None) -> None:
        """Names the endpoint; None forgets it."""
        self._set(self._endpoints, endpoint_id, name)

    def set_address(self, address: bytes, name: EndpointName | None) -> None:
        """Names the owner of an address (16 bytes, IPv4 in mapped form); None forgets it."""
        if self._set(self._own_addresses, address, name):
            self.address_changed(address)

    def address_changed(self, address: bytes) -> None:
        """The owner of an address may have another name now."""
        self._revision += 1
        self._changed.append(address)
        if len(self._changed) > 2 * REMEMBERED_CHANGES:
            del self._changed[:REMEMBERED_CHANGES]
            self._changed_before += REMEMBERED_CHANGES

    def addresses_changed(self, since: int) -> tuple[int, Collection[bytes] | None]:
        now = self._changed_before + len(self._changed)
        if since < self._changed_before:
            return now, None
        return now, dict.fromkeys(self._changed[since - self._changed_before :])

    def _set(self, table: dict[Key, EndpointName], key: Key, name: EndpointName | None) -> bool:
        """Whether that was a change."""
        if table.get(key) == name:
            return False
        if name is None:
            table.pop(key, None)
        else:
            table[key] = name
        self._revision += 1
        return True


RESERVED_IDENTITY_LABELS: dict[int, tuple[str, ...]] = {
    1: ("reserved:host",),
    2: ("reserved:world",),
    3: ("reserved:unmanaged",),
    4: ("reserved:health",),
    5: ("reserved:init",),
    6: ("reserved:remote-node",),
    7: ("reserved:kube-apiserver", "reserved:remote-node"),
    8: ("reserved:ingress",),
    9: ("reserved:world-ipv4",),
    10: ("reserved:world-ipv6",),
}


class IdentityTable:
    """An IdentityDirectory that its owner keeps up to date; removed identities stay until `history` newer ones went.

    Labels are taken as they are and become text when somebody asks: flows know few of the identities that there are.
    """

    def __init__(self, history: int = 65536) -> None:
        self._labels: dict[int, Labels | tuple[str, ...]] = dict(RESERVED_IDENTITY_LABELS)
        self._removed: OrderedDict[int, None] = OrderedDict()
        self._history = history

    def labels(self, identity: int) -> tuple[str, ...] | None:
        labels = self._labels.get(identity)
        return None if labels is None else _texts(labels)

    def set_identity(self, identity: int, labels: Labels | tuple[str, ...]) -> None:
        self._removed.pop(identity, None)
        self._labels[identity] = labels

    def remove_identity(self, identity: int) -> None:
        if identity not in self._labels or identity in RESERVED_IDENTITY_LABELS:
            return
        self._removed[identity] = None
        while len(self._removed) > self._history:
            oldest, _ = self._removed.popitem(last=False)
            del self._labels[oldest]


@lru_cache(maxsize=1024)
def _texts(labels: Labels | tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(map(str, labels)))


class NoRules:
    """A RuleDirectory for when nobody knows the rules."""

    def rules(self, decision: Decision) -> DecisionRules | None:
        del decision
        return None


class KernelInterfaces:
    """Interface names from the kernel of the caller's network namespace, remembered after the interface is gone."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}

    def name(self, ifindex: int) -> str:
        found = self._names.get(ifindex)
        if found is None:
            try:
                found = socket.if_indextoname(ifindex)
            except OSError:
                return ""
            self._names[ifindex] = found
        return found

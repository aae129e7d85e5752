"""A policy as the engine sees it: sections that select subjects, each with rules that name peers and ports.

One CiliumNetworkPolicy `spec` (or item of `specs`) or one NetworkPolicy is one section. Which words the user wrote is
gone here, except in names: every rule knows what to call itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from pycilium.model.l4 import NamedTarget, Ports
from pycilium.model.labels import Labels
from pycilium.model.peer import PeerSet
from pycilium.model.resources.base import ResourceKey
from pycilium.model.selector import LabelSelector

PolicyKey = ResourceKey
"""Kind, namespace (empty for what is cluster-wide) and name."""


class Direction(IntEnum):
    """Always from the subject's point of view."""

    INGRESS = 1
    EGRESS = 2

    def __str__(self) -> str:
        return self.name.lower()


class Subject(NamedTuple):
    """What a policy is compiled for: local endpoints that have the same labels and call the same ports the same."""

    labels: Labels
    ports: frozenset[NamedTarget] = frozenset()

    def __str__(self) -> str:
        return str(self.labels)


@dataclass(frozen=True, slots=True)
class PolicyRef:
    """What flows and commands say of a policy."""

    kind: str
    namespace: str
    name: str
    labels: tuple[str, ...] = ()
    revision: int = 0

    @property
    def key(self) -> PolicyKey:
        """The key of the policy."""
        return PolicyKey(self.kind, self.namespace, self.name)

    def __str__(self) -> str:
        return str(self.key)


@dataclass(frozen=True, slots=True)
class RuleRef:
    """What flows and commands say of a rule. `path` is where it stands: `ingress[0]`, `specs[1].egressDeny[2]`."""

    kind: str
    namespace: str
    name: str
    direction: Direction
    index: int
    path: str
    deny: bool = False
    labels: tuple[str, ...] = ()
    revision: int = 0
    log: str = ""
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.kind, self.namespace, self.name, self.path, self.revision)))

    def __hash__(self) -> int:
        return self._hash

    @property
    def policy(self) -> PolicyRef:
        """The policy that it belongs to."""
        return PolicyRef(self.kind, self.namespace, self.name, self.labels, self.revision)

    def __str__(self) -> str:
        """`default/allow-web ingress[0]`."""
        owner = f"{self.namespace}/{self.name}" if self.namespace else self.name
        return f"{owner} {self.path}" if self.path else owner


@dataclass(frozen=True, slots=True)
class Rule:
    """Whom (`peers`) and what (`ports`, of which one must match) it allows or denies."""

    ref: RuleRef
    peers: PeerSet
    ports: tuple[Ports, ...]

    @property
    def direction(self) -> Direction:
        """The direction that it is about."""
        return self.ref.direction

    @property
    def deny(self) -> bool:
        """Whether it denies."""
        return self.ref.deny

    def __str__(self) -> str:
        return str(self.ref)


@dataclass(frozen=True, slots=True)
class Section:
    """Rules for one choice of subjects; `enforces` names the directions that it puts on default deny."""

    policy: PolicyRef
    index: int
    subject: LabelSelector
    enforces: frozenset[Direction]
    rules: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class Policy:
    """All sections of one resource."""

    key: PolicyKey
    sections: tuple[Section, ...]
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash(self.key))

    def __hash__(self) -> int:
        return self._hash


ALLOW_LOCALHOST = RuleRef(
    kind="",
    namespace="",
    name="the local host always reaches its pods",
    direction=Direction.INGRESS,
    index=0,
    path="",
)
"""The rule that stands for Kubernetes' promise that a node reaches the pods that run on it."""

"""What every resource has: apiVersion, kind, metadata. Owns the naming rule between Python and the wire.

Attributes are snake_case here and Kubernetes' names on the wire (`from_cidr_set` is `fromCIDRSet`).
Invariant: a resource is frozen, and unknown fields never get this far.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, NamedTuple, Self, TypeVar

import msgspec

T = TypeVar("T")

_SPELLED = {"cidr": "CIDR", "cidrs": "CIDRs", "fqdns": "FQDNs", "ip": "IP", "ips": "IPs", "tls": "TLS", "ca": "CA"}


def wire_name(attribute: str) -> str:
    """Kubernetes' name of an attribute: camelCase with its acronyms in capitals."""
    first, *rest = attribute.rstrip("_").split("_")
    return first + "".join(_SPELLED.get(word, word.capitalize()) for word in rest)


def dashed_name(attribute: str) -> str:
    """The spelling `external-identifiers`, which parts of CiliumEndpoint and CiliumNode use."""
    return attribute.replace("_", "-")


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, rename=wire_name):
    """A part of a resource: frozen, strict, and silent about what was not said."""


def always(value: T) -> T:
    """A default that is written out too, as apiVersion and kind must be; other defaults are left out."""
    default: T = msgspec.field(default_factory=lambda: value)
    return default


class ResourceKey(NamedTuple):
    """What names a resource; `namespace` is empty for what belongs to the whole cluster."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


class Condition(Part, frozen=True, kw_only=True):
    """What somebody found of a resource, as Kubernetes writes it everywhere."""

    type: str
    status: Literal["True", "False", "Unknown"]
    observed_generation: int = 0
    last_transition_time: datetime | None = None
    reason: str = ""
    message: str = ""


class OwnerReference(Part, frozen=True, kw_only=True):
    api_version: str
    kind: str
    name: str
    uid: str = ""
    controller: bool | None = None
    block_owner_deletion: bool | None = None


class ObjectMeta(Part, frozen=True, kw_only=True):
    """`uid`, `resource_version`, `generation` and `creation_timestamp` are the store's to set."""

    name: str
    generate_name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    deletion_grace_period_seconds: int | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    owner_references: tuple[OwnerReference, ...] = ()
    finalizers: tuple[str, ...] = ()


class Resource(Part, frozen=True, kw_only=True):
    """Base of all kinds. A kind narrows `api_version` and `kind` and adds its spec and status."""

    api_version: str
    kind: str
    metadata: ObjectMeta

    @property
    def key(self) -> ResourceKey:
        return ResourceKey(self.kind, self.metadata.namespace, self.metadata.name)

    def with_metadata(self, **changes: Any) -> Self:
        """The same resource with these fields of its metadata changed."""
        return msgspec.structs.replace(self, metadata=msgspec.structs.replace(self.metadata, **changes))

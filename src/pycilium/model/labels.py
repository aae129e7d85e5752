"""Labels as identities carry them: `source:key=value`, kept sorted, hashable and shared where it saves memory.

Owns the rule of which labels of a pod make its security labels. Invariant: two equal label sets compare and hash equal
whatever order they were given in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from sys import intern
from typing import NamedTuple, Self, cast
from weakref import WeakValueDictionary

ANY_SOURCE = "any"
K8S_SOURCE = "k8s"
CONTAINER_SOURCE = "container"
"""What a container runtime said."""
RESERVED_SOURCE = "reserved"
CIDR_SOURCE = "cidr"

NAMESPACE_KEY = "io.kubernetes.pod.namespace"
CLUSTER_KEY = "io.cilium.k8s.policy.cluster"
SERVICE_ACCOUNT_KEY = "io.cilium.k8s.policy.serviceaccount"
NAMESPACE_LABELS_PREFIX = "io.cilium.k8s.namespace.labels."
_NAME_OF_NAMESPACE = "kubernetes.io/metadata.name"

_ALWAYS_RELEVANT = re.compile(
    r"io\.kubernetes\.pod\.namespace|io\.cilium\.k8s\.namespace\.labels|app\.kubernetes\.io"
    r"|io\.cilium\.k8s\.policy\.(cluster|serviceaccount)"
)
_NEVER_RELEVANT = re.compile(
    r"io\.kubernetes|kubernetes\.io|statefulset\.kubernetes\.io/pod-name|apps\.kubernetes\.io/pod-index"
    r"|batch\.kubernetes\.io/(job-completion-index|controller-uid)|.*beta\.kubernetes\.io|k8s\.io"
    r"|pod-template-(generation|hash)|controller-revision-hash|annotation\.|etcd_node"
)
_NEVER_RELEVANT_OF_CONTAINERS = re.compile(
    r"io\.kubernetes\.|io\.cilium\.|org\.opencontainers\.|org\.label-schema\.|io\.buildah\.|io\.podman\."
    r"|io\.containers\.|PODMAN_SYSTEMD_UNIT$|io\.container\.manager$|nerdctl/|io\.containerd\.|containerd\.io/|io\.cri-containerd"
    r"|com\.docker\.(?!compose\.(project|service)$)|maintainer$"
)
"""What tools and images say of themselves, another one for every build, container or version; and what says where a
pod belongs, which is not for a container to claim."""


class Label(NamedTuple):
    """One label. Sorts by source, then key."""

    source: str
    key: str
    value: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """The label that `source:key=value` writes; no source means any, no `=` an empty value."""
        name, _, value = text.partition("=")
        return cls(*split_key(name), intern(value))

    def __str__(self) -> str:
        return f"{self.source}:{self.key}={self.value}" if self.value else f"{self.source}:{self.key}"


@lru_cache(maxsize=65536)
def split_key(name: str) -> tuple[str, str]:
    """The source and key of `source:key`; a bare key is of any source."""
    source, colon, key = name.partition(":")
    return (intern(source), intern(key)) if colon else (ANY_SOURCE, intern(name))


@lru_cache(maxsize=16384)
def _shared(name: str, value: str) -> Label:
    """The label `name=value`. Thousands of identities have most of their labels in common, so they share them."""
    return Label(*split_key(name), intern(value))


@lru_cache(maxsize=16384)
def _shared_text(text: str) -> Label:
    """The label that `name=value` writes, the same one."""
    name, _, value = text.partition("=")
    return _shared(name, value)


class Labels:
    """A label set: sorted, immutable, hashable."""

    __slots__ = ("__weakref__", "_hash", "_items")

    def __init__(self, labels: Iterable[Label] = ()) -> None:
        self._items: tuple[Label, ...] = tuple(sorted(set(labels)))
        self._hash = hash(self._items)

    @classmethod
    def parse(cls, *texts: str) -> Self:
        """Labels from their texts; each may hold several, separated by commas."""
        return cls(Label.parse(part) for text in texts for part in text.split(",") if part)

    @classmethod
    def from_map(cls, labels: Mapping[str, str]) -> Self:
        """Labels from `source:key` → value, the form of CiliumIdentity's security-labels."""
        return cls(_shared(name, value) for name, value in labels.items())._one()

    @classmethod
    def of_texts(cls, texts: Iterable[str]) -> Self:
        """Labels from texts `source:key=value`, the form of CiliumEndpoint's identity."""
        return cls(map(_shared_text, texts))._one()

    def _one(self) -> Self:
        """The one object for these labels: an identity and all its endpoints hold it."""
        return cast("Self", _ONE_OF_EACH.setdefault(self._items, self))

    def to_map(self) -> dict[str, str]:
        """`source:key` → value."""
        return {f"{label.source}:{label.key}": label.value for label in self._items}

    def values_of(self, source: str, key: str) -> tuple[str, ...]:
        """The values that `key` has, in one source or in any."""
        # They are few: looking through them costs less than an index in each of ten thousand label sets.
        return tuple([value for of, name, value in self._items if name == key and source in (ANY_SOURCE, of)])

    def get(self, source: str, key: str) -> str | None:
        """The value of `key`, or None."""
        values = self.values_of(source, key)
        return values[0] if values else None

    @property
    def namespace(self) -> str:
        """The namespace of the pods that carry these labels; empty for what is no pod."""
        return self.get(K8S_SOURCE, NAMESPACE_KEY) or ""

    def __iter__(self) -> Iterator[Label]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, label: object) -> bool:
        return label in self._items

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Labels) and self._hash == other._hash and self._items == other._items

    def __hash__(self) -> int:
        return self._hash

    def __lt__(self, other: Labels) -> bool:
        return self._items < other._items

    def __reduce__(self) -> tuple[type[Labels], tuple[tuple[Label, ...]]]:
        return Labels, (self._items,)

    def __str__(self) -> str:
        return ",".join(str(label) for label in self._items)

    def __repr__(self) -> str:
        return f"<Labels {self}>"


_ONE_OF_EACH: WeakValueDictionary[tuple[Label, ...], Labels] = WeakValueDictionary()
"""Label sets that came from the store, for as long as anybody has them."""

NO_LABELS = Labels()


@lru_cache(maxsize=65536)
def is_identity_relevant(key: str) -> bool:
    """Whether a pod's label of this key is part of its identity.

    Labels that differ from pod to pod (a template's hash, the index in a stateful set) would give each pod an identity
    of its own, so they are left out: the same ones as in Cilium's default filter.
    """
    return _ALWAYS_RELEVANT.match(key) is not None or _NEVER_RELEVANT.match(key) is None


def pod_labels(
    labels: Mapping[str, str],
    namespace: str,
    *,
    namespace_labels: Mapping[str, str] | None = None,
    cluster: str = "default",
    service_account: str = "default",
) -> Labels:
    """The security labels of a pod. Every namespace has its name among its labels, as the Kubernetes API sees to."""
    own = {key: value for key, value in labels.items() if is_identity_relevant(key)}
    labels_of_namespace = {_NAME_OF_NAMESPACE: namespace, **(namespace_labels or {})}
    of_namespace = {f"{NAMESPACE_LABELS_PREFIX}{key}": value for key, value in labels_of_namespace.items()}
    given = {NAMESPACE_KEY: namespace, CLUSTER_KEY: cluster, SERVICE_ACCOUNT_KEY: service_account}
    return Labels(
        Label(K8S_SOURCE, intern(key), intern(value)) for key, value in {**own, **of_namespace, **given}.items()
    )


def container_labels(
    labels: Mapping[str, str],
    namespace: str,
    *,
    namespace_labels: Mapping[str, str] | None = None,
    cluster: str = "default",
) -> Labels:
    """The security labels of a container that no pod stands for: those of a pod without labels, and what is its own."""
    own = {key: value for key, value in labels.items() if is_identity_relevant_of_container(key)}
    given = pod_labels({}, namespace, namespace_labels=namespace_labels, cluster=cluster)
    return Labels([*given, *(Label(CONTAINER_SOURCE, intern(key), intern(value)) for key, value in own.items())])


def is_identity_relevant_of_container(key: str) -> bool:
    """Whether a container's label of this key is part of its identity; as `is_identity_relevant`, of a pod's."""
    return is_identity_relevant(key) and _NEVER_RELEVANT_OF_CONTAINERS.match(key) is None

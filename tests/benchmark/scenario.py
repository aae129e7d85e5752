"""A busy cluster's worth of identities and rules, made up: what the identity and memory rows are measured with.

10 namespaces of 20 apps. An app has 50 releases, each an identity of its own (10,000 in all), belongs to one of 20
teams and 10 tiers, and has one pod on this node (200). 1,000 policies of one rule each allow the peers of one port:

    800   an app from another app of its namespace
    150   all pods of a namespace from a team of another namespace
     50   all pods of the cluster from a tier, such as monitoring

So a new release of an app matters to a handful of apps, a namespace or two, and every pod there is.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pycilium.model.identity import Identity
from pycilium.model.labels import Labels, pod_labels

NAMESPACES, APPS, RELEASES, TEAMS, TIERS = 10, 20, 50, 20, 10
FIRST_IDENTITY = 1000
NAMESPACE_LABEL = "k8s:io.kubernetes.pod.namespace"


@dataclass(frozen=True, slots=True)
class Workload:
    """One release of one app."""

    namespace: int
    app: int
    release: int

    @property
    def labels(self) -> dict[str, str]:
        """Of its pods."""
        return {
            "app": f"app-{self.app}",
            "team": f"team-{(self.app + self.namespace) % TEAMS}",
            "tier": f"tier-{self.app % TIERS}",
            "release": f"r{self.release}",
        }

    @property
    def security_labels(self) -> Labels:
        return pod_labels(self.labels, self.namespace_name)

    @property
    def namespace_name(self) -> str:
        return f"ns-{self.namespace}"


@dataclass(frozen=True, slots=True)
class Rule:
    """A policy: the pods that it selects, the peers that it allows, the port. None selects any namespace."""

    number: int
    port: int
    subject_namespace: int | None
    subject: Mapping[str, str]
    peer_namespace: int | None
    peer: Mapping[str, str]

    def selects(self, workload: Workload) -> bool:
        return _matches(self.subject_namespace, self.subject, workload)

    def allows(self, workload: Workload) -> bool:
        return _matches(self.peer_namespace, self.peer, workload)

    def document(self, *, own_peer_set: bool = False) -> dict[str, Any]:
        """As a user writes it; with `own_peer_set` its peer selector is like no other rule's, but matches the same."""
        peer: dict[str, Any] = {"matchLabels": dict(self.peer)}
        if self.peer_namespace is not None:
            peer["matchLabels"][NAMESPACE_LABEL] = f"ns-{self.peer_namespace}"
        else:
            peer["matchExpressions"] = [{"key": NAMESPACE_LABEL, "operator": "Exists"}]
        if own_peer_set:
            other = {"key": "release", "operator": "NotIn", "values": [f"never-{self.number}"]}
            peer["matchExpressions"] = [*peer.get("matchExpressions", ()), other]
        metadata: dict[str, Any] = {"name": f"rule-{self.number}"}
        kind = "CiliumClusterwideNetworkPolicy"
        if self.subject_namespace is not None:
            kind, metadata["namespace"] = "CiliumNetworkPolicy", f"ns-{self.subject_namespace}"
        ingress = {"fromEndpoints": [peer], "toPorts": [{"ports": [{"port": str(self.port), "protocol": "TCP"}]}]}
        return {
            "apiVersion": "cilium.io/v2",
            "kind": kind,
            "metadata": metadata,
            "spec": {"endpointSelector": {"matchLabels": dict(self.subject)}, "ingress": [ingress]},
        }


def workloads() -> Iterator[Workload]:
    """Every release of every app; the first release of each comes first."""
    for release in range(RELEASES):
        for namespace in range(NAMESPACES):
            for app in range(APPS):
                yield Workload(namespace, app, release)


def local_workloads() -> list[Workload]:
    """Those with a pod on this node."""
    return [Workload(namespace, app, 0) for namespace in range(NAMESPACES) for app in range(APPS)]


def new_workloads(count: int) -> Iterator[Workload]:
    """Releases that were not there before, of various apps."""
    for number in range(count):
        yield Workload(number % NAMESPACES, number * 7 % APPS, RELEASES + number)


def identities() -> Iterator[Identity]:
    for number, workload in enumerate(workloads()):
        yield Identity(FIRST_IDENTITY + number, workload.security_labels)


def rules() -> list[Rule]:
    """The same in every run."""
    made = random.Random(1)
    found: list[Rule] = []
    for number in range(800):
        namespace, app = number % NAMESPACES, number // NAMESPACES % APPS
        other = made.randrange(APPS)
        found.append(
            Rule(number, 8000 + number % 40, namespace, {"app": f"app-{app}"}, namespace, {"app": f"app-{other}"})
        )
    for number in range(800, 950):
        namespace, other = number % NAMESPACES, made.randrange(NAMESPACES)
        team = f"team-{made.randrange(TEAMS)}"
        found.append(Rule(number, 9000 + number % 15, namespace, {}, other, {"team": team}))
    found += [
        Rule(number, 9100 + number % 50, None, {}, None, {"tier": f"tier-{number % TIERS}"})
        for number in range(950, 1000)
    ]
    return found


def entries_per_identity(workload: Workload, rules_of: Mapping[Workload, list[Rule]]) -> list[tuple[int, int]]:
    """(endpoint, port) of each map entry that a per-identity datapath writes for a new identity."""
    return [
        (endpoint, port)
        for endpoint, selected in enumerate(rules_of.values())
        for port in sorted({rule.port for rule in selected if rule.allows(workload)})
    ]


def _matches(namespace: int | None, labels: Mapping[str, str], workload: Workload) -> bool:
    has = workload.labels
    return (namespace is None or namespace == workload.namespace) and all(
        has[key] == value for key, value in labels.items()
    )

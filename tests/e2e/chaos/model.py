"""What is intended of the lab at one instant, and how each action changes it. Pure.

Invariant: a state says only what somebody asked for; addresses, identities and other outcomes are not in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

Labels = Mapping[str, str]
PodName = tuple[str, str]
"""Namespace and name."""


@dataclass(frozen=True)
class Pod:
    """A pod that is to run."""

    node: str
    labels: Labels
    life: int = 0
    """Of its sandbox: another one when its node reboots, and when a pod of its name comes again."""


@dataclass(frozen=True)
class Node:
    """A node that is to be on."""

    agent: bool = True
    cable: str = "up"
    """up, cut or poor."""
    life: int = field(default=0, compare=False)
    """Counts its reboots."""


@dataclass(frozen=True, eq=False)
class State:
    """Everything that is intended. Compared by identity: what is derived of a state is remembered."""

    nodes: Mapping[str, Node] = field(default_factory=dict)
    pods: Mapping[PodName, Pod] = field(default_factory=dict)
    namespaces: Mapping[str, Labels] = field(default_factory=dict)
    policies: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By kind and name; the resource as it would stand in a file."""
    store: str = "up"
    """up, cut, frozen or killed."""
    operators: Mapping[str, bool] = field(default_factory=dict)
    lives: int = 0
    """How many lives of pods there have been."""

    @property
    def healthy(self) -> bool:
        """Whether nothing is broken on purpose."""
        nodes = all(node == Node() for node in self.nodes.values())
        return nodes and self.store == "up" and all(self.operators.values())

    def pods_on(self, node: str) -> list[PodName]:
        return [name for name, pod in self.pods.items() if pod.node == node]


@dataclass(frozen=True)
class Action:
    """One thing that is done: `verb` to `subject`, with details that the verb knows."""

    verb: str
    subject: str = ""
    pod: PodName = ("", "")
    labels: Labels = field(default_factory=dict)
    resource: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, int] = field(default_factory=dict)
    pause_s: float = 0.0
    """How long to wait after it."""

    def __str__(self) -> str:
        said = [self.verb, self.subject, "/".join(self.pod).strip("/")]
        said += [f"{key}={value}" for key, value in {**self.labels, **self.options}.items()]
        said += [str(self.resource["spec"])] if self.resource else []
        return " ".join(filter(None, said))


def applied(state: State, action: Action) -> State:
    """What is intended after the action."""
    subject, nodes, pods = action.subject, state.nodes, state.pods
    match action.verb:
        case "add node":
            return replace(state, nodes={**nodes, subject: Node()})
        case "remove node":
            left = {name: pod for name, pod in pods.items() if pod.node != subject}
            return replace(state, nodes=_without(nodes, subject), pods=left)
        case "reboot node":
            life = state.lives + 1
            anew = {name: replace(pod, life=life if pod.node == subject else pod.life) for name, pod in pods.items()}
            rebooted = {**nodes, subject: Node(life=nodes[subject].life + 1)}
            return replace(state, nodes=rebooted, pods=anew, lives=life)
        case "kill agent" | "start agent":
            node = replace(nodes[subject], agent=action.verb == "start agent")
            return replace(state, nodes={**nodes, subject: node})
        case "cut node" | "impair node" | "heal node":
            cable = {"cut node": "cut", "impair node": "poor", "heal node": "up"}[action.verb]
            return replace(state, nodes={**nodes, subject: replace(nodes[subject], cable=cable)})
        case "cut store" | "freeze store" | "kill store" | "restore store":
            became = {"cut store": "cut", "freeze store": "frozen", "kill store": "killed", "restore store": "up"}
            return replace(state, store=became[action.verb])
        case "kill operator" | "start operator":
            return replace(state, operators={**state.operators, subject: action.verb == "start operator"})
        case "add pod":
            life = state.lives + 1
            return replace(state, pods={**pods, action.pod: Pod(subject, action.labels, life)}, lives=life)
        case "remove pod":
            return replace(state, pods=_without(pods, action.pod))
        case "label pod":
            return replace(state, pods={**pods, action.pod: replace(pods[action.pod], labels=action.labels)})
        case "label namespace":
            return replace(state, namespaces={**state.namespaces, subject: action.labels})
        case "apply policy":
            return replace(state, policies={**state.policies, subject: action.resource})
        case "delete policy":
            return replace(state, policies=_without(state.policies, subject))
    raise ValueError(action.verb)


def _without(mapping: Mapping[Any, Any], key: Any) -> dict[Any, Any]:
    return {known: value for known, value in mapping.items() if known != key}

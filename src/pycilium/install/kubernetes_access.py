"""What agents and operators may do, and why: least privileges, each rule with its reason.

The reasons are the documentation: `docs/install.md` has them as a table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pycilium.install.crds import definitions
from pycilium.install.kubernetes_names import AGENT, CONFIG, CONFIG_ROLE, OPERATOR, OPERATOR_ROLE, named
from pycilium.install.templates import Namespace
from pycilium.store.leases import OPERATOR_LEASE

FOLLOW = ("list", "watch")
READ = ("get", *FOLLOW)
_POLICIES = ("ciliumnetworkpolicies", "ciliumclusterwidenetworkpolicies")
RBAC = "rbac.authorization.k8s.io/v1"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of a role."""

    group: str
    resources: tuple[str, ...]
    verbs: tuple[str, ...]
    why: str
    names: tuple[str, ...] = ()
    """Of the objects; none: all."""

    @property
    def plain(self) -> Any:
        rule = {"apiGroups": [self.group], "resources": list(self.resources), "verbs": list(self.verbs)}
        return {**rule, "resourceNames": list(self.names)} if self.names else rule


AGENT_CLUSTER_RULES = (
    Rule("", ("pods",), READ, "labels and named ports of its own pods; it asks for no others"),
    Rule("", ("namespaces",), FOLLOW, "labels of namespaces are part of identities"),
    Rule("", ("nodes",), ("get",), "pod CIDRs of its Node with ipam.mode kubernetes; whether the taint is there"),
    Rule("", ("nodes",), ("patch",), "takes the taint node.cilium.io/agent-not-ready off its Node"),
    Rule("", ("nodes/status",), ("patch",), "sets its Node's condition NetworkUnavailable to False"),
    Rule("", ("services",), FOLLOW, "frontends"),
    Rule("discovery.k8s.io", ("endpointslices",), FOLLOW, "backends"),
    Rule("networking.k8s.io", ("networkpolicies",), FOLLOW, "policy"),
    Rule("cilium.io", _POLICIES, FOLLOW, "policy"),
    Rule("cilium.io", ("ciliuml2announcementpolicies",), FOLLOW, "which Services' addresses it may announce"),
    Rule("cilium.io", ("ciliumidentities",), (*READ, "create", "update"), "finds and makes the numbers of label sets"),
    Rule("cilium.io", ("ciliumnodes",), (*READ, "create", "update"), "the other nodes; its own one"),
    Rule(
        "cilium.io",
        ("ciliumendpoints",),
        (*READ, "create", "update", "delete"),
        "other nodes' endpoints; its own ones, which go with their pods",
    ),
    Rule("cilium.io", ("ciliumendpointslices",), FOLLOW, "other nodes' endpoints, with ciliumEndpointSlice.enabled"),
)
OPERATOR_CLUSTER_RULES = (
    Rule("apiextensions.k8s.io", ("customresourcedefinitions",), ("create",), "makes the CRDs that are not there"),
    Rule(
        "apiextensions.k8s.io",
        ("customresourcedefinitions",),
        ("get", "patch"),
        "upgrades the CRDs, and waits until they are served",
        names=tuple(each["metadata"]["name"] for each in definitions()),
    ),
    Rule("", ("pods",), (*FOLLOW, "delete"), "restarts pods that started without us"),
    Rule("", ("events",), ("create",), "says why"),
    Rule("", ("services",), READ, "load balancers that want addresses"),
    Rule("", ("services/status",), ("patch",), "gives them"),
    Rule("cilium.io", ("ciliumloadbalancerippools",), READ, "the pools"),
    Rule("cilium.io", ("ciliumloadbalancerippools/status",), ("patch",), "says how full they are"),
    Rule("cilium.io", _POLICIES, READ, "policies that may not be valid"),
    Rule("cilium.io", tuple(f"{each}/status" for each in _POLICIES), ("patch",), "says whether they are, and why not"),
    Rule("cilium.io", ("ciliumidentities",), (*FOLLOW, "update", "delete"), "collects identities that nobody has"),
    Rule("cilium.io", ("ciliumnodes",), (*READ, "update", "delete"), "gives pod CIDRs; collects nodes that are gone"),
    Rule("cilium.io", ("ciliumnodes/status",), ("patch",), "says why a node has no pod CIDR"),
    Rule("cilium.io", ("ciliumendpoints",), (*FOLLOW, "delete"), "collects endpoints whose nodes are gone"),
    Rule(
        "cilium.io",
        ("ciliumendpointslices",),
        (*FOLLOW, "create", "update", "delete"),
        "gathers endpoints in slices with ciliumEndpointSlice.enabled; removes slices without",
    ),
)
AGENT_RULES = (
    Rule("", ("configmaps",), ("get",), "its configuration", names=(CONFIG,)),
    Rule(
        "coordination.k8s.io",
        ("leases",),
        ("get", "create", "update"),
        "whether an operator leads; who announces an address",
    ),
)
OPERATOR_RULES = (
    Rule("coordination.k8s.io", ("leases",), ("create",), "stands for election"),
    Rule(
        "coordination.k8s.io",
        ("leases",),
        ("get", "update"),
        "leads",
        names=(OPERATOR_LEASE,),
    ),
)
OPERATOR_NODE_LEASE_RULES = (
    Rule("coordination.k8s.io", ("leases",), ("list", "delete"), "which nodes give signs of life"),
)
NODE_LEASES = "kube-node-lease"
"""The namespace in which kubelets give signs of life."""


@dataclass(frozen=True, slots=True)
class Grant:
    """A role, and the service account that has it."""

    role: str
    account: str
    rules: tuple[Rule, ...]
    namespace: Any = None
    """None: the whole cluster."""

    @property
    def objects(self) -> list[Any]:
        kind = "Role" if self.namespace is not None else "ClusterRole"
        heads = [named(f"{kind}{suffix}", RBAC, self.role, inside=False) for suffix in ("", "Binding")]
        if self.namespace is not None:
            for head in heads:
                head["metadata"]["namespace"] = self.namespace
        subject = {"kind": "ServiceAccount", "name": self.account, "namespace": Namespace()}
        return [
            {**heads[0], "rules": [rule.plain for rule in self.rules]},
            {
                **heads[1],
                "roleRef": {"apiGroup": RBAC.partition("/")[0], "kind": kind, "name": self.role},
                "subjects": [subject],
            },
        ]


GRANTS = (
    Grant("cilium", AGENT, AGENT_CLUSTER_RULES),
    Grant(CONFIG_ROLE, AGENT, AGENT_RULES, Namespace()),
    Grant("cilium-operator", OPERATOR, OPERATOR_CLUSTER_RULES),
    Grant(OPERATOR_ROLE, OPERATOR, OPERATOR_RULES, Namespace()),
    Grant("cilium-operator-node-leases", OPERATOR, OPERATOR_NODE_LEASE_RULES, NODE_LEASES),
)


def accounts() -> list[Any]:
    return [named("ServiceAccount", "v1", name) for name in (AGENT, OPERATOR)]

"""CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy, every field of the API.

What is written but not built yet is decoded here and refused by name where policies are parsed.
In a rule's item an L3 member that is None was not written (any peer); one that is empty matches nothing.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pycilium.model.resources.base import Part, Resource, always
from pycilium.model.resources.selector import LabelSelector

Entity = Literal[
    "all",
    "world",
    "cluster",
    "cluster-mesh",
    "host",
    "init",
    "ingress",
    "unmanaged",
    "remote-node",
    "health",
    "none",
    "kube-apiserver",
]
L4Protocol = Literal["TCP", "UDP", "SCTP", "VRRP", "IGMP", "GRE", "IPIP", "IPV6", "ESP", "AH", "ANY"]


class Secret(Part, frozen=True, kw_only=True):
    name: str
    namespace: str = ""


class TLSContext(Part, frozen=True, kw_only=True):
    secret: Secret
    trusted_ca: str = ""
    certificate: str = ""
    private_key: str = ""


class PortProtocol(Part, frozen=True, kw_only=True):
    port: str = ""
    """A number, the name of a port, or "" or "0" for every port of the protocol."""
    end_port: int = 0
    protocol: L4Protocol = "ANY"


class EnvoyConfigReference(Part, frozen=True, kw_only=True):
    name: str
    kind: Literal["CiliumEnvoyConfig", "CiliumClusterwideEnvoyConfig"] | None = None


class Listener(Part, frozen=True, kw_only=True):
    envoy_config: EnvoyConfigReference
    name: str
    priority: int | None = None


class HeaderMatch(Part, frozen=True, kw_only=True):
    name: str
    mismatch: Literal["LOG", "ADD", "DELETE", "REPLACE"] | None = None
    secret: Secret | None = None
    value: str = ""


class PortRuleHTTP(Part, frozen=True, kw_only=True):
    path: str = ""
    method: str = ""
    host: str = ""
    headers: tuple[str, ...] = ()
    header_matches: tuple[HeaderMatch, ...] = ()


class FQDNSelector(Part, frozen=True, kw_only=True):
    match_name: str = ""
    match_pattern: str = ""


class L7Rules(Part, frozen=True, kw_only=True):
    http: tuple[PortRuleHTTP, ...] | None = None
    dns: tuple[FQDNSelector, ...] | None = None


class PortDenyRule(Part, frozen=True, kw_only=True):
    ports: tuple[PortProtocol, ...] = ()


class PortRule(Part, frozen=True, kw_only=True):
    ports: tuple[PortProtocol, ...] = ()
    terminating_tls: TLSContext | None = None
    originating_tls: TLSContext | None = None
    server_names: tuple[str, ...] | None = None
    listener: Listener | None = None
    rules: L7Rules | None = None


class CIDRRule(Part, frozen=True, kw_only=True):
    cidr: str = ""
    cidr_group_ref: str = ""
    cidr_group_selector: LabelSelector | None = None
    except_: tuple[str, ...] = ()


class ICMPField(Part, frozen=True, kw_only=True):
    type: int | str
    family: Literal["IPv4", "IPv6"] = "IPv4"


class ICMPRule(Part, frozen=True, kw_only=True):
    fields: tuple[ICMPField, ...] = ()


class AwsGroup(Part, frozen=True, kw_only=True):
    labels: dict[str, str] = {}
    security_groups_ids: tuple[str, ...] = ()
    security_groups_names: tuple[str, ...] = ()
    region: str = ""


class Groups(Part, frozen=True, kw_only=True):
    aws: AwsGroup | None = None


class K8sServiceSelectorNamespace(Part, frozen=True, kw_only=True):
    selector: LabelSelector
    namespace: str = ""


class K8sServiceNamespace(Part, frozen=True, kw_only=True):
    service_name: str = ""
    namespace: str = ""


class Service(Part, frozen=True, kw_only=True):
    k8s_service_selector: K8sServiceSelectorNamespace | None = None
    k8s_service: K8sServiceNamespace | None = None


class Authentication(Part, frozen=True, kw_only=True):
    mode: Literal["disabled", "required", "test-always-fail"]


class IngressCommon(Part, frozen=True, kw_only=True):
    """What an ingress item may say of its peers, allowing or denying."""

    from_endpoints: tuple[LabelSelector, ...] | None = None
    from_requires: tuple[str, ...] | None = None
    from_cidr: tuple[str, ...] | None = None
    from_cidr_set: tuple[CIDRRule, ...] | None = None
    from_entities: tuple[Entity, ...] | None = None
    from_groups: tuple[Groups, ...] | None = None
    from_nodes: tuple[LabelSelector, ...] | None = None
    icmps: tuple[ICMPRule, ...] | None = None


class IngressRule(IngressCommon, frozen=True, kw_only=True):
    to_ports: tuple[PortRule, ...] | None = None
    authentication: Authentication | None = None


class IngressDenyRule(IngressCommon, frozen=True, kw_only=True):
    to_ports: tuple[PortDenyRule, ...] | None = None


class EgressCommon(Part, frozen=True, kw_only=True):
    """What an egress item may say of its peers, allowing or denying."""

    to_endpoints: tuple[LabelSelector, ...] | None = None
    to_requires: tuple[str, ...] | None = None
    to_cidr: tuple[str, ...] | None = None
    to_cidr_set: tuple[CIDRRule, ...] | None = None
    to_entities: tuple[Entity, ...] | None = None
    to_services: tuple[Service, ...] | None = None
    to_groups: tuple[Groups, ...] | None = None
    to_nodes: tuple[LabelSelector, ...] | None = None
    icmps: tuple[ICMPRule, ...] | None = None


class EgressRule(EgressCommon, frozen=True, kw_only=True):
    to_ports: tuple[PortRule, ...] | None = None
    to_fqdns: tuple[FQDNSelector, ...] | None = None
    authentication: Authentication | None = None


class EgressDenyRule(EgressCommon, frozen=True, kw_only=True):
    to_ports: tuple[PortDenyRule, ...] | None = None


class RuleLabel(Part, frozen=True, kw_only=True):
    key: str
    value: str = ""
    source: str = ""


class DefaultDeny(Part, frozen=True, kw_only=True):
    """None leaves a direction to the rule lists: default deny if the rule has any for it."""

    ingress: bool | None = None
    egress: bool | None = None


class LogConfig(Part, frozen=True, kw_only=True):
    value: str = ""


class Rule(Part, frozen=True, kw_only=True):
    endpoint_selector: LabelSelector | None = None
    node_selector: LabelSelector | None = None
    ingress: tuple[IngressRule, ...] | None = None
    ingress_deny: tuple[IngressDenyRule, ...] | None = None
    egress: tuple[EgressRule, ...] | None = None
    egress_deny: tuple[EgressDenyRule, ...] | None = None
    labels: tuple[RuleLabel, ...] = ()
    enable_default_deny: DefaultDeny = DefaultDeny()
    description: str = ""
    log: LogConfig | None = None


class PolicyNodeStatus(Part, frozen=True, kw_only=True):
    ok: bool = False
    error: str = ""
    last_updated: datetime | None = None
    local_policy_revision: int = 0
    enforcing: bool = False
    annotations: dict[str, str] = {}


class PolicyCondition(Part, frozen=True, kw_only=True):
    type: str
    status: Literal["True", "False", "Unknown"]
    last_transition_time: datetime | None = None
    reason: str = ""
    message: str = ""


class PolicyStatus(Part, frozen=True, kw_only=True):
    derivative_policies: dict[str, PolicyNodeStatus] = {}
    conditions: tuple[PolicyCondition, ...] = ()


class CiliumNetworkPolicy(Resource, frozen=True, kw_only=True):
    api_version: Literal["cilium.io/v2"] = always("cilium.io/v2")
    kind: Literal["CiliumNetworkPolicy"] = always("CiliumNetworkPolicy")
    spec: Rule | None = None
    specs: tuple[Rule, ...] | None = None
    status: PolicyStatus | None = None


class CiliumClusterwideNetworkPolicy(Resource, frozen=True, kw_only=True):
    api_version: Literal["cilium.io/v2"] = always("cilium.io/v2")
    kind: Literal["CiliumClusterwideNetworkPolicy"] = always("CiliumClusterwideNetworkPolicy")
    spec: Rule | None = None
    specs: tuple[Rule, ...] | None = None
    status: PolicyStatus | None = None

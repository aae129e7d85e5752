"""What types alone cannot say of CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy.

These are the rules of the API (what Cilium's own validation refuses), not of what we have built: a rule that is valid
but not built yet passes here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from pycilium.model.resources import checks
from pycilium.model.resources.base import Part, wire_name
from pycilium.model.resources.checks import refuse
from pycilium.model.resources.cilium_policy import (
    CIDRRule,
    CiliumClusterwideNetworkPolicy,
    CiliumNetworkPolicy,
    EgressCommon,
    EgressRule,
    FQDNSelector,
    ICMPRule,
    IngressCommon,
    L7Rules,
    PortDenyRule,
    PortProtocol,
    PortRule,
    Rule,
    Service,
)
from pycilium.model.resources.icmp_types import ICMP_TYPES, icmp_type_number
from pycilium.model.resources.selector import LabelSelector
from pycilium.model.resources.validate import check_selector

MAX_PORTS = 40
MAX_ICMP_FIELDS = 40
MAX_LOG_CHARACTERS = 32
_PORTLESS = frozenset({"VRRP", "IGMP", "GRE", "IPIP", "IPV6", "ESP", "AH"})
_DNS_NAME = re.compile(r"[-a-zA-Z0-9_]+")
_DNS_PATTERN = re.compile(r"[-a-zA-Z0-9_*]+")
_RULE_LISTS = ("ingress", "ingress_deny", "egress", "egress_deny")


def check_cilium_policy(policy: CiliumNetworkPolicy | CiliumClusterwideNetworkPolicy) -> None:
    if policy.spec is None and not policy.specs:
        refuse("spec", "a policy needs a spec (one rule) or specs (a list of rules)")
    clusterwide = isinstance(policy, CiliumClusterwideNetworkPolicy)
    if policy.spec is not None:
        _check_rule(policy.spec, "spec", clusterwide=clusterwide)
    for index, rule in enumerate(policy.specs or ()):
        _check_rule(rule, f"specs[{index}]", clusterwide=clusterwide)


def _check_rule(rule: Rule, path: str, *, clusterwide: bool) -> None:
    _check_subject(rule, path, clusterwide=clusterwide)
    if not any(getattr(rule, name) for name in _RULE_LISTS):
        refuse(
            path,
            "none of ingress, ingressDeny, egress and egressDeny has an item: to deny by default and allow nothing, "
            "write one empty item, as in `ingress: [{}]`",
        )
    for name in _RULE_LISTS:
        for index, item in enumerate(getattr(rule, name) or ()):
            _check_item(item, f"{path}.{wire_name(name)}[{index}]")
    for index, label in enumerate(rule.labels):
        if not label.key:
            refuse(f"{path}.labels[{index}].key", "must not be empty")
    value = rule.log.value if rule.log else ""
    if len(value) > MAX_LOG_CHARACTERS or not value.isprintable():
        refuse(f"{path}.log.value", f"must be at most {MAX_LOG_CHARACTERS} printable characters")


def _check_subject(rule: Rule, path: str, *, clusterwide: bool) -> None:
    if rule.endpoint_selector is not None and rule.node_selector is not None:
        refuse(path, "a rule has either endpointSelector or nodeSelector, not both")
    if rule.endpoint_selector is not None:
        check_selector(rule.endpoint_selector, f"{path}.endpointSelector", cilium=True)
    elif rule.node_selector is None:
        refuse(path, "a rule needs an endpointSelector ({} selects every endpoint in its scope)")
    elif clusterwide:
        check_selector(rule.node_selector, f"{path}.nodeSelector", cilium=True)
    else:
        refuse(f"{path}.nodeSelector", "only a CiliumClusterwideNetworkPolicy may select nodes")


def _check_item(item: IngressCommon | EgressCommon, path: str) -> None:
    """One item of a rule list: who, then what."""
    members = [name for name in _l3_members(item) if getattr(item, name) is not None]
    if len(members) > 1:
        first, second = (wire_name(name) for name in members[:2])
        refuse(path, f"{first} and {second} cannot stand in one item: make each an item of its own")
    for name in ("from_requires", "to_requires"):
        if getattr(item, name, None):
            refuse(f"{path}.{wire_name(name)}", "is no longer part of the API: use matchExpressions in the selector")
    for name in members:
        _check_member(getattr(item, name), f"{path}.{wire_name(name)}")
    to_ports: Sequence[PortRule | PortDenyRule] | None = getattr(item, "to_ports", None)
    if to_ports is not None and item.icmps is not None:
        refuse(path, "toPorts and icmps cannot stand in one item: make each an item of its own")
    for index, port_rule in enumerate(to_ports or ()):
        _check_port_rule(port_rule, f"{path}.toPorts[{index}]", ingress=isinstance(item, IngressCommon))
    _check_icmps(item.icmps or (), f"{path}.icmps")
    if isinstance(item, EgressRule) and item.to_fqdns is not None:
        _check_fqdn_ports(item.to_ports or (), path)


def _l3_members(item: Part) -> Iterator[str]:
    not_peers = {"from_requires", "to_requires", "icmps", "to_ports", "authentication"}
    return (name for name in item.__struct_fields__ if name not in not_peers)


def _check_member(members: Sequence[object], path: str) -> None:
    for index, member in enumerate(members):
        here = f"{path}[{index}]"
        if isinstance(member, LabelSelector):
            check_selector(member, here, cilium=True)
        elif isinstance(member, CIDRRule):
            _check_cidr_rule(member, here)
        elif isinstance(member, FQDNSelector):
            _check_fqdn(member, here)
        elif isinstance(member, Service):
            _check_service(member, here)
        elif isinstance(member, str) and path.endswith("CIDR"):
            checks.network_of(member, here)


def _check_cidr_rule(rule: CIDRRule, path: str) -> None:
    given = [bool(rule.cidr), bool(rule.cidr_group_ref), rule.cidr_group_selector is not None]
    if sum(given) != 1:
        refuse(path, "needs exactly one of cidr, cidrGroupRef and cidrGroupSelector")
    if rule.cidr:
        network = checks.network_of(rule.cidr, f"{path}.cidr")
        checks.check_excepted(rule.except_, network, f"{path}.except", strictly=False)
    for index, value in enumerate(rule.except_):
        checks.network_of(value, f"{path}.except[{index}]")
    if rule.cidr_group_ref:
        checks.check_dns_subdomain(rule.cidr_group_ref, f"{path}.cidrGroupRef")
    if rule.cidr_group_selector is not None:
        check_selector(rule.cidr_group_selector, f"{path}.cidrGroupSelector", cilium=True)


def _check_fqdn(selector: FQDNSelector, path: str) -> None:
    if bool(selector.match_name) == bool(selector.match_pattern):
        refuse(path, "needs exactly one of matchName and matchPattern")
    for field, value, allowed in (
        ("matchName", selector.match_name, _DNS_NAME),
        ("matchPattern", selector.match_pattern, _DNS_PATTERN),
    ):
        if value and not _matches_dns(allowed, value):
            star = ", '*'" if field == "matchPattern" else ""
            refuse(
                f"{path}.{field}",
                f"{value!r} must be at most 255 letters, digits, '-', '_'{star} and single dots between them",
            )


def _matches_dns(allowed: re.Pattern[str], value: str) -> bool:
    """Whether every part between the dots is as `allowed` says; one dot may stand at the end."""
    return len(value) <= 255 and all(allowed.fullmatch(part) for part in value.removesuffix(".").split("."))


def _check_service(service: Service, path: str) -> None:
    if (service.k8s_service is None) == (service.k8s_service_selector is None):
        refuse(path, "needs exactly one of k8sService and k8sServiceSelector")
    if service.k8s_service_selector is not None:
        check_selector(service.k8s_service_selector.selector, f"{path}.k8sServiceSelector.selector", cilium=True)


def _check_port_rule(rule: PortRule | PortDenyRule, path: str, *, ingress: bool) -> None:
    if len(rule.ports) > MAX_PORTS:
        refuse(
            f"{path}.ports", f"{len(rule.ports)} ports are too many: at most {MAX_PORTS}; use endPort or a further item"
        )
    for index, port in enumerate(rule.ports):
        _check_port(port, f"{path}.ports[{index}]")
    if isinstance(rule, PortRule):
        _check_l7(rule, path, ingress=ingress)


def _check_port(port: PortProtocol, path: str) -> None:
    number = checks.port_number(port.port, f"{path}.port") if port.port else 0
    if port.protocol in _PORTLESS and (number != 0 or port.end_port):
        refuse(f"{path}.port", f"protocol {port.protocol} has no ports: leave port and endPort out")
    if port.end_port:
        checks.check_end_port(number, port.end_port, f"{path}.endPort")
    elif port.end_port < 0:
        checks.check_port(port.end_port, f"{path}.endPort")


def _check_l7(rule: PortRule, path: str, *, ingress: bool) -> None:
    if rule.rules is not None:
        _check_l7_rules(rule.rules, rule.ports, f"{path}.rules", ingress=ingress)
    if rule.server_names is not None:
        if not rule.server_names:
            refuse(f"{path}.serverNames", "must hold at least one name")
        for index, name in enumerate(rule.server_names):
            if not _matches_dns(_DNS_PATTERN, name):
                refuse(f"{path}.serverNames[{index}]", f"{name!r} is not a DNS name or pattern")
        if rule.rules is not None and rule.rules.http is not None and rule.terminating_tls is None:
            refuse(f"{path}.serverNames", "cannot stand beside rules.http unless terminatingTLS is set")
    if rule.listener is not None:
        if ingress:
            refuse(f"{path}.listener", "is possible for egress only")
        if rule.rules is not None:
            refuse(f"{path}.listener", "cannot stand beside rules")
        if rule.listener.priority is not None and not 1 <= rule.listener.priority <= 100:
            refuse(f"{path}.listener.priority", f"must be 1 to 100, not {rule.listener.priority}")
        for field, value in (("name", rule.listener.name), ("envoyConfig.name", rule.listener.envoy_config.name)):
            if not value:
                refuse(f"{path}.listener.{field}", "must not be empty")


def _check_l7_rules(rules: L7Rules, ports: Sequence[PortProtocol], path: str, *, ingress: bool) -> None:
    if (rules.http is None) == (rules.dns is None):
        refuse(path, "needs exactly one of http and dns")
    for index, port in enumerate(ports):
        if port.port in ("", "0"):
            refuse(path, f"L7 rules need a port, and ports[{index}] means every port")
        allowed = ("TCP", "ANY") if rules.dns is None else ("TCP", "UDP", "ANY")
        if port.protocol not in allowed:
            refuse(path, f"ports[{index}] is {port.protocol}: these rules need {' or '.join(allowed)}")
    if not ports:
        refuse(path, "L7 rules need ports")
    if rules.dns is not None and ingress:
        refuse(f"{path}.dns", "is possible for egress only")
    for index, selector in enumerate(rules.dns or ()):
        _check_fqdn(selector, f"{path}.dns[{index}]")


def _check_fqdn_ports(rules: Sequence[PortRule], path: str) -> None:
    for index, rule in enumerate(rules):
        if rule.rules is not None and rule.rules.dns is not None:
            refuse(f"{path}.toPorts[{index}].rules.dns", "cannot stand beside toFQDNs: make it an item of its own")


def _check_icmps(icmps: Sequence[ICMPRule], path: str) -> None:
    for index, rule in enumerate(icmps):
        if len(rule.fields) > MAX_ICMP_FIELDS:
            refuse(f"{path}[{index}].fields", f"{len(rule.fields)} fields are too many: at most {MAX_ICMP_FIELDS}")
        for position, field in enumerate(rule.fields):
            if icmp_type_number(field.family, field.type) is None:
                hint = checks.did_you_mean(str(field.type), ICMP_TYPES[field.family])
                refuse(
                    f"{path}[{index}].fields[{position}].type",
                    f"{field.type!r} is no type of ICMP over {field.family}: 0 to 255, or a name as EchoRequest{hint}",
                )

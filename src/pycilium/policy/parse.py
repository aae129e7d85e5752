"""From resources as users write them to policies as the engine sees them.

Takes resources that were decoded. Cilium's kinds are validated here again: an API server that somebody else wrote them
to checks their structure alone. What they may say but is not built yet is refused with the path of the field: a rule is
built whole or not at all, and nothing in it is ever ignored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NoReturn

from pycilium.errors import InvalidResource, NotSupported
from pycilium.model.l4 import ANY_PORT, PORT_PROTOCOLS, PortName, PortRange, Ports, Protocol
from pycilium.model.labels import (
    ANY_SOURCE,
    K8S_SOURCE,
    NAMESPACE_KEY,
    NAMESPACE_LABELS_PREFIX,
    RESERVED_SOURCE,
    is_identity_relevant,
    split_key,
)
from pycilium.model.peer import ANYONE, NOBODY, CidrPeer, LabelPeer, Peer, PeerSet, entity_peers, peer_set
from pycilium.model.policy import Direction, Policy, PolicyRef, Rule, RuleRef, Section
from pycilium.model.resources import checks
from pycilium.model.resources import cilium_policy as cilium
from pycilium.model.resources import network_policy as kubernetes
from pycilium.model.resources import selector as written
from pycilium.model.resources.base import wire_name
from pycilium.model.resources.icmp_types import icmp_type_number
from pycilium.model.resources.kinds import kind_of
from pycilium.model.selector import LabelSelector, Operator, Requirement

PolicyResource = kubernetes.NetworkPolicy | cilium.CiliumNetworkPolicy | cilium.CiliumClusterwideNetworkPolicy

_IS_ENDPOINT = Requirement(K8S_SOURCE, NAMESPACE_KEY, Operator.EXISTS)
_CiliumItem = cilium.IngressRule | cilium.IngressDenyRule | cilium.EgressRule | cilium.EgressDenyRule


def parse_policy(resource: PolicyResource, *, cluster: str = "default") -> Policy:
    """The policy that `resource` writes. `cluster` is the name of ours, for the entity "cluster".

    Raises NotSupported for what is not built yet and InvalidResource for what cannot be meant, both with the path.
    """
    if isinstance(resource, kubernetes.NetworkPolicy):
        return Policy(resource.key, (_KubernetesSection(resource).section(),))
    kind_of(resource).validate(resource)
    rules = [("spec", resource.spec)] if resource.spec is not None else []
    rules += [(f"specs[{index}]", rule) for index, rule in enumerate(resource.specs or ())]
    sections = (
        _CiliumSection(resource, cluster, index, path, rule).section() for index, (path, rule) in enumerate(rules)
    )
    return Policy(resource.key, tuple(sections))


class _KubernetesSection:
    """networking.k8s.io/v1: an empty or missing `from`, `to` or `ports` is everything."""

    def __init__(self, resource: kubernetes.NetworkPolicy) -> None:
        self._spec = resource.spec
        self._namespace = resource.metadata.namespace
        self._ref = _policy_ref(resource, ())
        self._in_namespace = Requirement(K8S_SOURCE, NAMESPACE_KEY, Operator.IN, (self._namespace,))

    def section(self) -> Section:
        enforces = self._enforces()
        subject = self._pods(self._spec.pod_selector, "spec.podSelector").also((self._in_namespace,))
        rules: list[Rule] = []
        if Direction.INGRESS in enforces:
            for index, ingress in enumerate(self._spec.ingress or ()):
                rules.append(self._rule(Direction.INGRESS, index, ingress.from_, "from", ingress.ports))
        if Direction.EGRESS in enforces:
            for index, egress in enumerate(self._spec.egress or ()):
                rules.append(self._rule(Direction.EGRESS, index, egress.to, "to", egress.ports))
        return Section(self._ref, 0, subject, enforces, tuple(rules))

    def _enforces(self) -> frozenset[Direction]:
        """The API's default: ingress always, egress if there are egress rules."""
        if self._spec.policy_types:
            return frozenset(Direction[word.upper()] for word in self._spec.policy_types)
        return frozenset(Direction) if self._spec.egress else frozenset({Direction.INGRESS})

    def _rule(
        self,
        direction: Direction,
        index: int,
        peers: Sequence[kubernetes.NetworkPolicyPeer] | None,
        field: str,
        ports: Sequence[kubernetes.NetworkPolicyPort] | None,
    ) -> Rule:
        path = f"spec.{direction}[{index}]"
        chosen = peer_set(self._peer(peer, f"{path}.{field}[{n}]") for n, peer in enumerate(peers)) if peers else ANYONE
        ranges = tuple(dict.fromkeys(map(_kubernetes_port, ports or ())))
        return Rule(_rule_ref(self._ref, direction, index, path), chosen, ranges or (ANY_PORT,))

    def _peer(self, peer: kubernetes.NetworkPolicyPeer, path: str) -> Peer:
        if peer.ip_block is not None:
            return _cidr(peer.ip_block.cidr, peer.ip_block.except_, f"{path}.ipBlock")
        pods = self._pods(peer.pod_selector or written.LabelSelector(), f"{path}.podSelector")
        if peer.namespace_selector is None:
            return LabelPeer(pods.also((self._in_namespace,)))
        namespaces = _requirements(
            peer.namespace_selector, f"{path}.namespaceSelector", K8S_SOURCE, NAMESPACE_LABELS_PREFIX
        )
        return LabelPeer(pods.also((_IS_ENDPOINT, *namespaces)))

    def _pods(self, selector: written.LabelSelector, path: str) -> LabelSelector:
        return LabelSelector(tuple(_requirements(selector, path, K8S_SOURCE)))


class _CiliumSection:
    """cilium.io/v2: one spec. In an item a missing L3 member is everybody, an empty one nobody; `{}` is nothing."""

    def __init__(
        self,
        resource: cilium.CiliumNetworkPolicy | cilium.CiliumClusterwideNetworkPolicy,
        cluster: str,
        index: int,
        path: str,
        rule: cilium.Rule,
    ) -> None:
        self._namespace = resource.metadata.namespace
        self._cluster, self._index, self._path, self._rule = cluster, index, path, rule
        labels = (f"{label.source or 'unspec'}:{label.key}={label.value}" for label in rule.labels)
        self._ref = _policy_ref(resource, labels)

    def section(self) -> Section:
        rule = self._rule
        if rule.node_selector is not None or rule.endpoint_selector is None:
            _not_built(f"{self._path}.nodeSelector", "policies for nodes (the host firewall)")
        subject = self._subject(rule.endpoint_selector, f"{self._path}.endpointSelector")
        lists: tuple[tuple[str, Direction, bool, Sequence[_CiliumItem]], ...] = (
            ("ingress", Direction.INGRESS, False, rule.ingress or ()),
            ("ingressDeny", Direction.INGRESS, True, rule.ingress_deny or ()),
            ("egress", Direction.EGRESS, False, rule.egress or ()),
            ("egressDeny", Direction.EGRESS, True, rule.egress_deny or ()),
        )
        rules: list[Rule] = []
        enforces = set()
        for name, direction, deny, items in lists:
            asked = (
                rule.enable_default_deny.ingress if direction is Direction.INGRESS else rule.enable_default_deny.egress
            )
            if asked or (asked is None and items):
                enforces.add(direction)
            for index, item in enumerate(items):
                path = f"{self._path}.{name}[{index}]"
                log = rule.log.value if rule.log else ""
                ref = _rule_ref(self._ref, direction, index, path, deny=deny, log=log)
                rules.append(self._item(item, ref, path))
        return Section(self._ref, self._index, subject, frozenset(enforces), tuple(rules))

    def _item(self, item: _CiliumItem, ref: RuleRef, path: str) -> Rule:
        _refuse_unbuilt(item, path)
        prefix = "from" if isinstance(item, cilium.IngressCommon) else "to"
        ports = tuple(dict.fromkeys(_cilium_ports(item, path)))
        peers = self._peers(item, prefix, path)
        if peers is None:
            peers = ANYONE if ports else NOBODY
        return Rule(ref, peers, ports or (ANY_PORT,))

    def _peers(self, item: _CiliumItem, prefix: str, path: str) -> PeerSet | None:
        """The peers of an item; None if it says nothing of peers."""
        endpoints: Sequence[written.LabelSelector] | None = getattr(item, f"{prefix}_endpoints")
        cidrs: Sequence[str] | None = getattr(item, f"{prefix}_cidr")
        cidr_rules: Sequence[cilium.CIDRRule] | None = getattr(item, f"{prefix}_cidr_set")
        entities: Sequence[str] | None = getattr(item, f"{prefix}_entities")
        if endpoints is not None:
            return peer_set(
                self._endpoints(selector, f"{path}.{prefix}Endpoints[{n}]") for n, selector in enumerate(endpoints)
            )
        if cidrs is not None:
            return peer_set(_cidr(cidr, (), f"{path}.{prefix}CIDR[{n}]") for n, cidr in enumerate(cidrs))
        if cidr_rules is not None:
            return peer_set(_cidr_rule(rule, f"{path}.{prefix}CIDRSet[{n}]") for n, rule in enumerate(cidr_rules))
        if entities is not None:
            return peer_set(self._entities(entities, f"{path}.{prefix}Entities"))
        return None

    def _endpoints(self, selector: written.LabelSelector, path: str) -> LabelPeer:
        """Endpoints, of the policy's own namespace unless the selector speaks of namespaces."""
        requirements = list(_requirements(selector, path))
        if any(requirement.source == RESERVED_SOURCE for requirement in requirements):
            return LabelPeer(LabelSelector(tuple(requirements)))
        if not self._namespace or any(map(_speaks_of_namespace, requirements)):
            return LabelPeer(LabelSelector((*requirements, _IS_ENDPOINT)))
        return LabelPeer(LabelSelector((*requirements, self._in_own_namespace())))

    def _entities(self, entities: Sequence[str], path: str) -> Iterator[Peer]:
        for index, entity in enumerate(entities):
            if entity in _UNBUILT_ENTITIES:
                _not_built(f"{path}[{index}]", f"the entity {entity} ({_UNBUILT_ENTITIES[entity]})")
            yield from entity_peers(entity, self._cluster)

    def _subject(self, selector: written.LabelSelector, path: str) -> LabelSelector:
        requirements = list(_requirements(selector, path))
        if not self._namespace:
            # reserved:health is an endpoint of no namespace: whoever means it says so.
            says_reserved = any(requirement.source == RESERVED_SOURCE for requirement in requirements)
            return LabelSelector(tuple(requirements) if says_reserved else (*requirements, _IS_ENDPOINT))
        for requirement in requirements:
            elsewhere = requirement.operator is Operator.IN and self._namespace not in requirement.values
            if requirement.key == NAMESPACE_KEY and elsewhere:
                reason = f"the policy lies in namespace {self._namespace} and can select endpoints there only"
                raise InvalidResource(reason, path=path)
        return LabelSelector((*requirements, self._in_own_namespace()))

    def _in_own_namespace(self) -> Requirement:
        return Requirement(K8S_SOURCE, NAMESPACE_KEY, Operator.IN, (self._namespace,))


# ---- selectors and peers ----


def _requirements(
    selector: written.LabelSelector, path: str, source: str = "", key_prefix: str = ""
) -> Iterator[Requirement]:
    """What a selector requires. Without `source` the keys name theirs, or mean any."""
    for key, value in selector.match_labels.items():
        yield _requirement(f"{path}.matchLabels", source, key_prefix, key, Operator.IN, (value,))
    for index, expression in enumerate(selector.match_expressions):
        operator = Operator(expression.operator)
        values = tuple(sorted(set(expression.values)))
        here = f"{path}.matchExpressions[{index}].key"
        yield _requirement(here, source, key_prefix, expression.key, operator, values)


def _requirement(
    path: str, source: str, key_prefix: str, written_key: str, operator: Operator, values: tuple[str, ...]
) -> Requirement:
    own_source, key = (source, key_prefix + written_key) if source else split_key(written_key)
    if own_source in (ANY_SOURCE, K8S_SOURCE) and not is_identity_relevant(key):
        _not_built(path, f"selecting by the label {key}, which is not part of identities: it differs from pod to pod")
    return Requirement(own_source, key, operator, values)


def _speaks_of_namespace(requirement: Requirement) -> bool:
    return requirement.key == NAMESPACE_KEY or requirement.key.startswith(NAMESPACE_LABELS_PREFIX)


def _cidr(cidr: str, excepts: Iterable[str], path: str) -> CidrPeer:
    network = checks.network_of(cidr, path)
    excepted = {checks.network_of(other, f"{path}.except[{n}]") for n, other in enumerate(excepts)}
    return CidrPeer(network, tuple(sorted(excepted)))


def _cidr_rule(rule: cilium.CIDRRule, path: str) -> CidrPeer:
    if rule.cidr_group_ref:
        _not_built(f"{path}.cidrGroupRef", "groups of CIDRs")
    if rule.cidr_group_selector is not None:
        _not_built(f"{path}.cidrGroupSelector", "groups of CIDRs")
    return _cidr(rule.cidr, rule.except_, path)


# ---- ports ----


def _kubernetes_port(port: kubernetes.NetworkPolicyPort) -> Ports:
    protocol = Protocol[port.protocol]
    if port.port is None:
        return PortRange(protocol)
    if isinstance(port.port, str):
        return PortName(protocol, port.port.lower())
    return PortRange(protocol, port.port, port.end_port or port.port)


def _cilium_ports(item: _CiliumItem, path: str) -> Iterator[Ports]:
    """What `toPorts` and `icmps` name; nothing if the item has neither."""
    port_rules: Sequence[cilium.PortRule | cilium.PortDenyRule] = item.to_ports or ()
    for index, port_rule in enumerate(port_rules):
        here = f"{path}.toPorts[{index}]"
        _refuse_unbuilt(port_rule, here)
        if not port_rule.ports:
            reason = 'names no port and would match nothing: list ports ("0" is every port), or leave toPorts out'
            raise InvalidResource(reason, path=f"{here}.ports")
        for n, port in enumerate(port_rule.ports):
            yield from _cilium_port(port, f"{here}.ports[{n}]")
    for index, icmp_rule in enumerate(item.icmps or ()):
        if not icmp_rule.fields:
            raise InvalidResource("names no ICMP type and would match nothing", path=f"{path}.icmps[{index}].fields")
        for field in icmp_rule.fields:
            number = icmp_type_number(field.family, field.type)
            assert number is not None
            yield PortRange.single(Protocol.ICMP if field.family == "IPv4" else Protocol.ICMPV6, number)


def _cilium_port(port: cilium.PortProtocol, path: str) -> Iterator[Ports]:
    if port.protocol == "ANY":
        protocols: tuple[Protocol, ...] = PORT_PROTOCOLS
    elif port.protocol in ("TCP", "UDP", "SCTP"):
        protocols = (Protocol[port.protocol],)
    else:
        _not_built(f"{path}.protocol", f"protocol {port.protocol}")
    number = checks.port_number(port.port, f"{path}.port") if port.port else 0
    for protocol in protocols:
        if number is None:
            yield PortName(protocol, port.port.lower())
            continue
        yield PortRange(protocol, number, port.end_port or number) if number else PortRange(protocol)


# ---- what is not built yet ----

_UNBUILT = {
    "from_requires": "requirements on peers",
    "to_requires": "requirements on peers",
    "from_groups": "groups of a cloud provider",
    "to_groups": "groups of a cloud provider",
    "from_nodes": "selecting nodes by their labels",
    "to_nodes": "selecting nodes by their labels",
    "to_services": "services as peers",
    "to_fqdns": "DNS names as peers",
    "authentication": "mutual authentication",
    "terminating_tls": "TLS interception",
    "originating_tls": "TLS interception",
    "server_names": "TLS server names",
    "listener": "redirection to a listener",
    "rules": "L7 rules",
}

_UNBUILT_ENTITIES = {
    "cluster-mesh": "other clusters",
    "ingress": "an ingress of ours",
    "unmanaged": "telling pods that are not ours",
}
"""Those that somebody may mean whom we cannot tell: a rule for one would match nothing, in silence.

"init" is none of them: an endpoint sends no packet before it has its identity, so nobody ever is "init".
"""


def _refuse_unbuilt(part: _CiliumItem | cilium.PortRule | cilium.PortDenyRule, path: str) -> None:
    for field, what in _UNBUILT.items():
        value = getattr(part, field, None)
        says_nothing = value is None or (field.endswith("requires") and not value)
        if says_nothing or value == cilium.Authentication(mode="disabled"):
            continue
        _not_built(f"{path}.{wire_name(field)}", what)


def _not_built(path: str, what: str) -> NoReturn:
    raise NotSupported(f"{what}: not built yet", path=path)


# ---- names ----


def _policy_ref(resource: PolicyResource, labels: Iterable[str]) -> PolicyRef:
    meta = resource.metadata
    derived = [f"k8s:io.cilium.k8s.policy.derived-from={resource.kind}", f"k8s:io.cilium.k8s.policy.name={meta.name}"]
    if meta.namespace:
        derived.append(f"k8s:io.cilium.k8s.policy.namespace={meta.namespace}")
    return PolicyRef(resource.kind, meta.namespace, meta.name, (*labels, *derived), meta.generation)


def _rule_ref(
    policy: PolicyRef, direction: Direction, index: int, path: str, *, deny: bool = False, log: str = ""
) -> RuleRef:
    return RuleRef(
        kind=policy.kind,
        namespace=policy.namespace,
        name=policy.name,
        direction=direction,
        index=index,
        path=path.removeprefix("spec."),
        deny=deny,
        labels=policy.labels,
        revision=policy.revision,
        log=log,
    )

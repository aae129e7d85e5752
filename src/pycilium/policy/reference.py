"""The oracle: what a connection's fate is by the words of the APIs. Slow, and meant to be read from top to bottom.

Works on resources as they stand in a file and shares nothing with the parser, the model of rules or the engine, so that
a mistake there cannot be a mistake here. Decides one direction of one connection: may `subject`, an endpoint, send to
(egress) or get from (ingress) `peer`?
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any

from pycilium.model.labels import Labels
from pycilium.model.policy import Direction
from pycilium.model.resources import to_plain
from pycilium.model.resources.icmp_types import icmp_type_number

_NAMESPACE = "io.kubernetes.pod.namespace"
_NAMESPACE_LABELS = "io.cilium.k8s.namespace.labels."
_CLUSTER = "io.cilium.k8s.policy.cluster"
_PROTOCOLS = {"TCP": 6, "UDP": 17, "SCTP": 132}
_ICMP = {"IPv4": 1, "IPv6": 58}

Spec = Mapping[str, Any]
_ANYBODY: Spec = {}


class Verdict(Enum):
    """A connection's fate."""

    ALLOWED = "allowed"
    DENIED = "denied by a rule"
    NOT_ALLOWED = "allowed by no rule"


@dataclass(frozen=True, slots=True)
class End:
    """One end of a connection: the labels of its identity and its address. What lies outside has reserved:world.

    `ports`: what a pod calls its ports, each with name, protocol and number.
    """

    labels: Labels
    address: IPv4Address | IPv6Address | None = None
    ports: frozenset[tuple[str, int, int]] = frozenset()


LOCALHOST = "the local host always reaches its pods"


@dataclass(frozen=True, slots=True)
class Judgement:
    """Whether some policy puts the direction on default deny, and the names of the rules that match."""

    restricted: bool
    allowing: frozenset[str]
    denying: frozenset[str]

    @property
    def verdict(self) -> Verdict:
        """What follows."""
        if self.denying:
            return Verdict.DENIED
        return Verdict.ALLOWED if self.allowing or not self.restricted else Verdict.NOT_ALLOWED

    @property
    def deciding(self) -> frozenset[str]:
        """The rules of which one is to blame; empty if no rule had a say."""
        return self.denying or self.allowing


@dataclass(frozen=True, slots=True)
class Options:
    """What the agent's configuration has a say in; and the pods of the cluster, among which egress looks for names."""

    cluster: str = "default"
    allow_localhost: bool = True
    cidr_matches_pods: bool = True
    pods: tuple[End, ...] = ()


def verdict(
    resources: Iterable[Any],
    source: End,
    destination: End,
    direction: Direction,
    protocol: int,
    port: int,
    options: Options = Options(),
) -> Verdict:
    """The fate of a connection by the policies of its destination (ingress) or of its source (egress).

    `resources` are decoded resources or plain mappings. For ICMP the port is the type.
    """
    return judge(resources, source, destination, direction, protocol, port, options).verdict


def judge(
    resources: Iterable[Any],
    source: End,
    destination: End,
    direction: Direction,
    protocol: int,
    port: int,
    options: Options = Options(),
) -> Judgement:
    """The same, with what it rests on."""
    subject, peer = (destination, source) if direction is Direction.INGRESS else (source, destination)
    packet = _Packet(subject, peer, direction, protocol, port, options)
    restricted, allowing, denying = False, set[str](), set[str]()
    for document in resources:
        resource = document if isinstance(document, Mapping) else {**to_plain(document), "kind": document.kind}
        for outcome in _outcomes(resource, subject, packet):
            restricted |= outcome.restricts
            allowing |= outcome.allowing
            denying |= outcome.denying
    if options.allow_localhost and direction is Direction.INGRESS and _has(peer.labels, "reserved", "host"):
        allowing.add(LOCALHOST)
    return Judgement(restricted, frozenset(allowing), frozenset(denying))


@dataclass(frozen=True, slots=True)
class _Packet:
    subject: End
    peer: End
    direction: Direction
    protocol: int
    port: int
    options: Options


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What one spec says of one packet."""

    restricts: bool = False  # what it does not allow, somebody else must
    allowing: frozenset[str] = frozenset()  # names of the rules that match
    denying: frozenset[str] = frozenset()


def _outcomes(resource: Spec, subject: End, packet: _Packet) -> Iterable[_Outcome]:
    namespace = resource["metadata"].get("namespace", "")
    name = f"{namespace}/{resource['metadata']['name']}".lstrip("/")
    if resource["kind"] == "NetworkPolicy":
        yield _network_policy(resource.get("spec", {}), name, namespace, subject, packet)
        return
    if resource.get("spec"):
        yield _cilium_spec(resource["spec"], f"{name} ", namespace, subject, packet)
    for index, spec in enumerate(resource.get("specs") or ()):
        yield _cilium_spec(spec, f"{name} specs[{index}].", namespace, subject, packet)


# ---- networking.k8s.io/v1 NetworkPolicy ----


def _network_policy(spec: Spec, name: str, namespace: str, subject: End, packet: _Packet) -> _Outcome:
    if not _is_pod_of(subject, namespace) or not _selects(spec.get("podSelector", {}), subject.labels, source="k8s"):
        return _Outcome()
    types = spec.get("policyTypes") or (["Ingress", "Egress"] if spec.get("egress") else ["Ingress"])
    if packet.direction.name.capitalize() not in types:
        return _Outcome()
    items, peers_field = ("ingress", "from") if packet.direction is Direction.INGRESS else ("egress", "to")
    return _Outcome(
        restricts=True,
        allowing=frozenset(
            f"{name} {items}[{index}]"
            for index, item in enumerate(spec.get(items) or ())
            if any(
                _network_policy_peer(peer, namespace, packet)
                and _network_policy_ports(item.get("ports"), packet, by_address="ipBlock" in peer)
                for peer in item.get(peers_field) or (_ANYBODY,)
            )
        ),
    )


def _network_policy_peer(peer: Spec, namespace: str, packet: _Packet) -> bool:
    if peer is _ANYBODY:
        return True
    block = peer.get("ipBlock")
    if block is not None:
        return _in_cidr(block["cidr"], block.get("except") or (), packet)
    labels = packet.peer.labels
    if not _selects(peer.get("podSelector") or {}, labels, source="k8s"):
        return False
    namespaces = peer.get("namespaceSelector")
    if namespaces is None:
        return _is_pod_of(packet.peer, namespace)
    return _is_pod(packet.peer) and _selects(namespaces, labels, source="k8s", key_prefix=_NAMESPACE_LABELS)


def _network_policy_ports(ports: Sequence[Spec] | None, packet: _Packet, *, by_address: bool) -> bool:
    return not ports or any(
        packet.protocol == _PROTOCOLS[port.get("protocol", "TCP")]
        and _is_port(port.get("port"), port.get("endPort"), packet, by_address=by_address)
        for port in ports
    )


# ---- cilium.io/v2 ----


def _cilium_spec(spec: Spec, prefix: str, namespace: str, subject: End, packet: _Packet) -> _Outcome:
    """`prefix` begins the names of its rules."""
    says_reserved = not namespace and any(key.startswith("reserved:") for key in _keys(spec["endpointSelector"]))
    if not (_is_pod(subject) or says_reserved) or not _selects(spec["endpointSelector"], subject.labels):
        return _Outcome()
    if namespace and not _is_pod_of(subject, namespace):
        return _Outcome()
    word = packet.direction.name.lower()
    allowing, denying = spec.get(word) or (), spec.get(f"{word}Deny") or ()

    def matching(items: Sequence[Spec], field: str) -> frozenset[str]:
        found = (index for index, item in enumerate(items) if _cilium_item(item, namespace, packet))
        return frozenset(f"{prefix}{field}[{index}]" for index in found)

    asked = spec.get("enableDefaultDeny", {}).get(word)
    return _Outcome(
        restricts=bool(allowing or denying) if asked is None else asked,
        allowing=matching(allowing, word),
        denying=matching(denying, f"{word}Deny"),
    )


def _cilium_item(item: Spec, namespace: str, packet: _Packet) -> bool:
    """Whether an item's peers and ports both match. A field that is missing says nothing; `{}` matches nothing."""
    matching_peer = _cilium_peers(item, namespace, packet)
    matching_port = _cilium_ports(item, packet, by_address=any(field in item for field in ("toCIDR", "toCIDRSet")))
    if matching_peer is None and matching_port is None:
        return False
    return matching_peer is not False and matching_port is not False


def _cilium_peers(item: Spec, namespace: str, packet: _Packet) -> bool | None:
    prefix = "from" if packet.direction is Direction.INGRESS else "to"
    if (selectors := item.get(f"{prefix}Endpoints")) is not None:
        return any(_cilium_endpoints(selector, namespace, packet.peer) for selector in selectors)
    if (cidrs := item.get(f"{prefix}CIDR")) is not None:
        return any(_in_cidr(cidr, (), packet) for cidr in cidrs)
    if (rules := item.get(f"{prefix}CIDRSet")) is not None:
        return any(_in_cidr(rule["cidr"], rule.get("except") or (), packet) for rule in rules)
    if (entities := item.get(f"{prefix}Entities")) is not None:
        return any(_is_entity(entity, packet) for entity in entities)
    return None


def _cilium_endpoints(selector: Spec, namespace: str, peer: End) -> bool:
    if not _selects(selector, peer.labels):
        return False
    keys = _keys(selector)
    if any(key.startswith("reserved:") for key in keys):
        return True
    bare = [key.removeprefix("k8s:").removeprefix("any:") for key in keys]
    names_a_namespace = any(key == _NAMESPACE or key.startswith(_NAMESPACE_LABELS) for key in bare)
    return _is_pod(peer) if names_a_namespace or not namespace else _is_pod_of(peer, namespace)


def _keys(selector: Spec) -> list[str]:
    return [*(selector.get("matchLabels") or {}), *(each["key"] for each in selector.get("matchExpressions") or ())]


def _is_entity(entity: str, packet: _Packet) -> bool:
    labels = packet.peer.labels
    inside = ("host", "remote-node", "init", "ingress", "health", "unmanaged", "kube-apiserver")
    if entity in ("all", "none"):
        return entity == "all"
    if entity in ("cluster", "cluster-mesh"):
        clusters = labels.values_of("k8s", _CLUSTER)
        ours = packet.options.cluster in clusters if entity == "cluster" else bool(clusters)
        return ours or any(_has(labels, "reserved", word) for word in inside)
    return _has(labels, "reserved", entity)


def _cilium_ports(item: Spec, packet: _Packet, *, by_address: bool) -> bool | None:
    port_rules, icmp_rules = item.get("toPorts") or (), item.get("icmps") or ()
    if not port_rules and not icmp_rules:
        return None
    ports = (port for rule in port_rules for port in rule["ports"])
    fields = (field for rule in icmp_rules for field in rule["fields"])
    return any(_cilium_port(port, packet, by_address=by_address) for port in ports) or any(
        _icmp(field, packet) for field in fields
    )


def _cilium_port(port: Spec, packet: _Packet, *, by_address: bool) -> bool:
    protocol = port.get("protocol", "ANY")
    if packet.protocol not in (_PROTOCOLS.values() if protocol == "ANY" else (_PROTOCOLS[protocol],)):
        return False
    written = str(port.get("port") or "0")
    if not written.isdigit():
        return _is_port(written, None, packet, by_address=by_address)
    return written == "0" or _is_port(int(written), port.get("endPort"), packet, by_address=by_address)


def _icmp(field: Spec, packet: _Packet) -> bool:
    family = field.get("family", "IPv4")
    return packet.protocol == _ICMP[family] and packet.port == icmp_type_number(family, field["type"])


# ---- both ----


def _is_port(port: int | str | None, end: int | None, packet: _Packet, *, by_address: bool) -> bool:
    """`by_address`: the peer was named by its address, which does not say which pod it is."""
    if port is None:
        return True
    if isinstance(port, int):
        return port <= packet.port <= (end or port)
    return (port.lower(), packet.protocol, packet.port) in _ports_in_question(packet, by_address=by_address)


def _ports_in_question(packet: _Packet, *, by_address: bool) -> set[tuple[str, int, int]]:
    """Of ingress the subject's own; of egress those of the pods that the peer cannot be told from."""
    if packet.direction is Direction.INGRESS:
        return set(packet.subject.ports)
    if _has(packet.peer.labels, "reserved", "world"):
        return set()
    alike = (pod for pod in packet.options.pods if by_address or pod.labels == packet.peer.labels)
    return {port for pod in alike for port in pod.ports}


def _is_pod(end: End) -> bool:
    return _has(end.labels, "k8s", _NAMESPACE)


def _is_pod_of(end: End, namespace: str) -> bool:
    return namespace in end.labels.values_of("k8s", _NAMESPACE)


def _has(labels: Labels, source: str, key: str) -> bool:
    return bool(labels.values_of(source, key))


def _in_cidr(cidr: str, excepted: Iterable[str], packet: _Packet) -> bool:
    address = packet.peer.address
    if address is None:
        return False
    if not packet.options.cidr_matches_pods and not _has(packet.peer.labels, "reserved", "world"):
        return False
    return _holds(cidr, address) and not any(_holds(other, address) for other in excepted)


def _holds(cidr: str, address: IPv4Address | IPv6Address) -> bool:
    network = ip_network(cidr if "/" in cidr else f"{cidr}/{address.max_prefixlen}", strict=False)
    return network.version == address.version and address in network


def _selects(selector: Spec, labels: Labels, *, source: str = "", key_prefix: str = "") -> bool:
    """Kubernetes' label selector. Without `source` a key may name one, as in `k8s:app`, and else means any."""

    def values(key: str) -> tuple[str, ...]:
        of, colon, rest = key.partition(":")
        if not source and colon:
            return labels.values_of(of, rest)
        return labels.values_of(source or "any", key_prefix + key)

    def holds(expression: Spec) -> bool:
        found, wanted = values(expression["key"]), expression.get("values") or ()
        match expression["operator"]:
            case "In":
                return any(value in wanted for value in found)
            case "NotIn":
                return all(value not in wanted for value in found)
            case "Exists":
                return len(found) > 0
            case _:
                return len(found) == 0

    exact = selector.get("matchLabels") or {}
    return all(value in values(key) for key, value in exact.items()) and all(
        holds(expression) for expression in selector.get("matchExpressions") or ()
    )

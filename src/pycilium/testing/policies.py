"""Generated policies and the small world that they are about.

The world is fixed: a dozen pods in three namespaces, the host, other reserved identities and addresses outside, so that
generated selectors, CIDRs and ports meet often. Documents are plain mappings as they stand in a file; `parsed` makes
policies of them. `connections` draws what to ask about.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any

from hypothesis import strategies as st

from pycilium.model.identity import RESERVED_IDENTITIES, Identity, ReservedIdentity
from pycilium.model.l4 import NamedTarget, Protocol
from pycilium.model.labels import pod_labels
from pycilium.model.policy import Direction, Policy, Subject
from pycilium.model.resources import CiliumClusterwideNetworkPolicy, CiliumNetworkPolicy, NetworkPolicy, decode_object
from pycilium.policy import parse_policy
from pycilium.policy.reference import End

Document = dict[str, Any]

NAMESPACE_LABELS: Mapping[str, Mapping[str, str]] = {"a": {"team": "x"}, "b": {"team": "y", "env": "prod"}, "c": {}}
APPS = ("web", "api", "db")
CLUSTER = "default"


@dataclass(frozen=True, slots=True)
class Party:
    """Somebody who can be an end of a connection. `identity` 0: outside, so its prefix decides."""

    name: str
    end: End
    identity: int

    def __repr__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Connection:
    """A question: may `subject` send to (egress) or get from (ingress) `peer`? For ICMP the port is the type."""

    subject: Party
    peer: Party
    direction: Direction
    protocol: int
    port: int


def _pod(number: int, namespace: str, labels: Mapping[str, str], address: str, *ports: str) -> Party:
    """`ports`: each as `http=8080/TCP`."""
    security_labels = pod_labels(labels, namespace, namespace_labels=NAMESPACE_LABELS[namespace], cluster=CLUSTER)
    end = End(security_labels, ip_address(address), frozenset(map(_port_of, ports)))
    return Party(f"{namespace}/{number}", end, number)


def _port_of(text: str) -> tuple[str, int, int]:
    name, _, target = text.partition("=")
    number, _, protocol = target.partition("/")
    return name, int(Protocol[protocol]), int(number)


PODS = (
    _pod(1001, "a", {"app": "web"}, "10.0.0.1", "http=80/TCP", "dns=53/UDP"),
    _pod(1002, "a", {"app": "api", "role": "front"}, "10.0.0.2", "http=8443/TCP", "dns=8443/TCP"),
    _pod(1003, "a", {"app": "db", "role": "back"}, "10.0.0.5"),
    _pod(1004, "a", {}, "fd00::1", "http=80/UDP"),
    _pod(1005, "b", {"app": "web", "role": "front"}, "10.0.0.6", "http=81/TCP", "http=81/UDP"),
    _pod(1006, "b", {"app": "api"}, "10.0.1.1", "dns=53/UDP", "dns=53/TCP"),
    _pod(1007, "b", {"app": "db"}, "fd00::5", "http=80/TCP"),
    _pod(1008, "c", {"app": "web"}, "10.0.1.9"),
    _pod(1009, "c", {"role": "back"}, "fd00:0:0:1::1", "dns=443/SCTP"),
    replace(_pod(1001, "a", {"app": "web"}, "10.0.0.8", "http=8080/TCP"), name="a/1001 again"),
)
"""The first and the last are alike, but for what they call their ports."""

_BY_NUMBER = {identity.number: identity.labels for identity in RESERVED_IDENTITIES}


def _reserved(identity: ReservedIdentity, address: str) -> Party:
    return Party(f"{identity.label_key}@{address}", End(_BY_NUMBER[identity], ip_address(address)), int(identity))


def _outside(text: str) -> Party:
    address = ip_address(text)
    world = ReservedIdentity.WORLD_IPV4 if address.version == 4 else ReservedIdentity.WORLD_IPV6
    return Party(text, End(_BY_NUMBER[world], address), 0)


PEERS = (
    *PODS,
    _reserved(ReservedIdentity.HOST, "10.0.0.254"),
    _reserved(ReservedIdentity.HOST, "fd00::ffff"),
    _reserved(ReservedIdentity.REMOTE_NODE, "192.168.0.2"),
    _reserved(ReservedIdentity.HEALTH, "10.0.0.7"),
    _reserved(ReservedIdentity.KUBE_APISERVER, "172.16.0.1"),
    *map(_outside, ("10.0.0.3", "10.0.2.1", "10.9.9.9", "1.1.1.1", "1.1.1.2", "8.8.8.8", "192.168.0.9")),
    *map(_outside, ("fd00::9", "fd01::1", "2606:4700:4700::1111", "2001:db8::1")),
)

CIDRS = (
    "0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/16", "10.0.0.0/24", "10.0.0.0/30", "10.0.0.4/30", "10.0.0.5/32", "1.1.1.0/24",
    "1.1.1.1/32", "192.168.0.0/24", "::/0", "fd00::/8", "fd00::/16", "fd00::/64", "fd00::5/128", "2606:4700::/32",
)  # fmt: skip
_PORTS = (1, 22, 53, 79, 80, 81, 90, 443, 8080, 8443, 65535)
_PORT_NAMES = ("http", "dns", "http", "nobodys")
ENTITIES = ("all", "world", "cluster", "host", "none", "remote-node", "health", "kube-apiserver")

IDENTITIES = tuple(dict.fromkeys(Identity(pod.identity, pod.end.labels) for pod in PODS))
ENDS = tuple(pod.end for pod in PODS)


def subject_of(pod: Party) -> Subject:
    """What the engine compiles a policy for."""
    return Subject(pod.end.labels, targets_of(pod.end.ports))


def targets_of(ports: Iterable[tuple[str, int, int]]) -> frozenset[NamedTarget]:
    """As the engine has them."""
    return frozenset(NamedTarget(name, Protocol(protocol), number) for name, protocol, number in ports)


def ports_of(pods: Iterable[Party]) -> dict[int, frozenset[NamedTarget]]:
    """What identities call their ports, if these are all the pods that have them."""
    found: dict[int, frozenset[NamedTarget]] = {}
    for pod in pods:
        found[pod.identity] = found.get(pod.identity, frozenset()) | targets_of(pod.end.ports)
    return found


SUBJECTS: tuple[Subject, ...] = tuple(map(subject_of, PODS))
PORTS: Mapping[int, frozenset[NamedTarget]] = ports_of(PODS)


def parsed(documents: Iterable[Document]) -> list[Policy]:
    """The policies that the documents write, through decoding and all checks."""
    return [_parse(document) for document in documents]


def _parse(document: Document) -> Policy:
    resource = decode_object(document)
    assert isinstance(resource, NetworkPolicy | CiliumNetworkPolicy | CiliumClusterwideNetworkPolicy)
    return parse_policy(resource, cluster=CLUSTER)


def connections() -> st.SearchStrategy[Connection]:
    """Questions about pods; ports are those that rules like to name and their neighbours."""
    with_port = st.tuples(st.sampled_from((6, 17, 132)), st.sampled_from((*_PORTS, 82, 91, 442, 3000)))
    icmp = st.tuples(st.sampled_from((1, 58)), st.sampled_from((0, 3, 8, 128, 129, 135)))
    return st.builds(
        lambda subject, peer, direction, what: Connection(subject, peer, direction, *what),
        st.sampled_from(PODS),
        st.sampled_from(PEERS),
        st.sampled_from(Direction),
        st.one_of(with_port, with_port, icmp),
    )


def documents(max_size: int = 5) -> st.SearchStrategy[list[Document]]:
    """Policies of all three kinds, each with its own name."""
    return st.lists(policy_documents(), max_size=max_size).map(
        lambda found: [_named(document, f"p{index}") for index, document in enumerate(found)]
    )


def policy_documents() -> st.SearchStrategy[Document]:
    """One policy of any kind."""
    return st.one_of(network_policies(), cilium_policies(), cilium_policies(clusterwide=True))


def _named(document: Document, name: str) -> Document:
    return {**document, "metadata": {**document["metadata"], "name": name}}


# ---- networking.k8s.io/v1 ----


@st.composite
def network_policies(draw: st.DrawFn) -> Document:
    """A NetworkPolicy."""
    spec: Document = {"podSelector": draw(selectors())}
    _maybe(draw, spec, "policyTypes", st.lists(st.sampled_from(("Ingress", "Egress")), unique=True))
    for field, peers in (("ingress", "from"), ("egress", "to")):
        _maybe(draw, spec, field, st.lists(_network_policy_rules(peers), max_size=3))
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "p", "namespace": draw(st.sampled_from(("a", "b", "c")))},
        "spec": spec,
    }


@st.composite
def _network_policy_rules(draw: st.DrawFn, peers: str) -> Document:
    rule: Document = {}
    _maybe(draw, rule, peers, st.lists(_network_policy_peers(), max_size=3))
    _maybe(draw, rule, "ports", st.lists(_network_policy_ports(), max_size=3))
    return rule


@st.composite
def _network_policy_peers(draw: st.DrawFn) -> Document:
    kind = draw(st.sampled_from(("pods", "namespaces", "both", "block")))
    if kind == "block":
        cidr, excepts = draw(_cidrs_with_excepts(strictly=True))
        return {"ipBlock": {"cidr": cidr, **({"except": excepts} if excepts else {})}}
    peer: Document = {}
    if kind in ("pods", "both"):
        peer["podSelector"] = draw(selectors())
    if kind in ("namespaces", "both"):
        peer["namespaceSelector"] = draw(selectors(keys=("team", "env", "kubernetes.io/metadata.name")))
    return peer


@st.composite
def _network_policy_ports(draw: st.DrawFn) -> Document:
    port: Document = {}
    _maybe(draw, port, "protocol", st.sampled_from(("TCP", "UDP", "SCTP")))
    form = draw(st.sampled_from(("none", "number", "number", "name")))
    if form == "number":
        first, last = draw(_port_ranges())
        port |= {"port": first} if last is None else {"port": first, "endPort": last}
    elif form == "name":
        port["port"] = draw(st.sampled_from(_PORT_NAMES))
    return port


# ---- cilium.io/v2 ----


@st.composite
def cilium_policies(draw: st.DrawFn, *, clusterwide: bool = False) -> Document:
    """A CiliumNetworkPolicy or CiliumClusterwideNetworkPolicy, with `spec`, `specs` or both."""
    kind = "CiliumClusterwideNetworkPolicy" if clusterwide else "CiliumNetworkPolicy"
    metadata: Document = {"name": "p"}
    if not clusterwide:
        metadata["namespace"] = draw(st.sampled_from(("a", "b", "c")))
    document: Document = {"apiVersion": "cilium.io/v2", "kind": kind, "metadata": metadata}
    form = draw(st.sampled_from(("spec", "spec", "specs", "both")))
    if form != "specs":
        document["spec"] = draw(_cilium_rules())
    if form != "spec":
        document["specs"] = draw(st.lists(_cilium_rules(), min_size=1, max_size=2))
    return document


_LISTS = ("ingress", "ingressDeny", "egress", "egressDeny")


@st.composite
def _cilium_rules(draw: st.DrawFn) -> Document:
    rule: Document = {"endpointSelector": draw(selectors(sources=True))}
    for name in draw(st.lists(st.sampled_from(_LISTS), min_size=1, max_size=4, unique=True)):
        prefix = "from" if name.startswith("ingress") else "to"
        rule[name] = draw(st.lists(_cilium_items(prefix), min_size=1, max_size=3))
    _maybe(
        draw,
        rule,
        "enableDefaultDeny",
        st.fixed_dictionaries({}, optional={"ingress": st.booleans(), "egress": st.booleans()}),
        chance=4,
    )
    return rule


@st.composite
def _cilium_items(draw: st.DrawFn, prefix: str) -> Document:
    item: Document = {}
    member = draw(st.sampled_from(("Endpoints", "Endpoints", "CIDR", "CIDRSet", "Entities", "")))
    if member == "Endpoints":
        item[f"{prefix}Endpoints"] = draw(st.lists(_peer_selectors(), max_size=2))
    elif member == "CIDR":
        item[f"{prefix}CIDR"] = draw(st.lists(st.sampled_from(CIDRS), max_size=3))
    elif member == "CIDRSet":
        rules = draw(st.lists(_cidrs_with_excepts(), max_size=2))
        item[f"{prefix}CIDRSet"] = [{"cidr": cidr, "except": excepts} for cidr, excepts in rules]
    elif member == "Entities":
        item[f"{prefix}Entities"] = draw(st.lists(st.sampled_from(ENTITIES), max_size=2))
    what = draw(st.sampled_from(("", "toPorts", "toPorts", "icmps")))
    if what == "toPorts":
        ports = st.lists(_cilium_ports(), min_size=1, max_size=3)
        item["toPorts"] = draw(st.lists(st.fixed_dictionaries({"ports": ports}), max_size=2))
    elif what == "icmps":
        fields = st.lists(_icmp_fields(), min_size=1, max_size=2)
        item["icmps"] = draw(st.lists(st.fixed_dictionaries({"fields": fields}), max_size=2))
    return item


@st.composite
def _cilium_ports(draw: st.DrawFn) -> Document:
    port: Document = {}
    _maybe(draw, port, "protocol", st.sampled_from(("TCP", "UDP", "SCTP", "ANY")))
    form = draw(st.sampled_from(("number", "number", "number", "name", "name", "zero", "none")))
    if form == "number":
        first, last = draw(_port_ranges())
        port |= {"port": str(first)} if last is None else {"port": str(first), "endPort": last}
    elif form == "name":
        port["port"] = draw(st.sampled_from(_PORT_NAMES))
    elif form == "zero":
        port["port"] = "0"
    return port


@st.composite
def _icmp_fields(draw: st.DrawFn) -> Document:
    family = draw(st.sampled_from(("IPv4", "IPv6")))
    kind = draw(st.sampled_from((0, 3, 8, 128, 129, "EchoRequest", "EchoReply", "DestinationUnreachable")))
    return {"family": family, "type": kind}


@st.composite
def _peer_selectors(draw: st.DrawFn) -> Document:
    """A selector for peers, now and then one that speaks of namespaces or reserved labels."""
    selector: Document = draw(selectors(sources=True))
    form = draw(st.sampled_from(("plain", "plain", "namespace", "namespace labels", "any namespace", "reserved")))
    if form == "namespace":
        key = draw(st.sampled_from(("io.kubernetes.pod.namespace", "k8s:io.kubernetes.pod.namespace")))
        _match(selector, key, draw(st.sampled_from(("a", "b", "c"))))
    elif form == "namespace labels":
        _match(selector, "k8s:io.cilium.k8s.namespace.labels.team", draw(st.sampled_from(("x", "y"))))
    elif form == "any namespace":
        expressions = selector.setdefault("matchExpressions", [])
        expressions.append({"key": "io.kubernetes.pod.namespace", "operator": "Exists"})
    elif form == "reserved":
        return {"matchLabels": {f"reserved:{draw(st.sampled_from(('host', 'health', 'world', 'remote-node')))}": ""}}
    return selector


def _match(selector: Document, key: str, value: str) -> None:
    selector["matchLabels"] = {**selector.get("matchLabels", {}), key: value}


# ---- both ----


@st.composite
def selectors(draw: st.DrawFn, *, keys: tuple[str, ...] = ("app", "role"), sources: bool = False) -> Document:
    """A label selector over `keys`; with `sources` a key may be `k8s:` or `any:`."""

    def key() -> str:
        prefix = draw(st.sampled_from(("", "", "k8s:", "any:"))) if sources else ""
        return prefix + draw(st.sampled_from(keys))

    values = st.sampled_from(("web", "api", "db", "front", "back", "x", "y", "prod", "a"))
    selector: Document = {}
    if draw(st.booleans()):
        selector["matchLabels"] = {key(): draw(values) for _ in range(draw(st.integers(0, 2)))}
    if draw(st.booleans()):
        expressions: list[Document] = []
        for _ in range(draw(st.integers(0, 2))):
            operator = draw(st.sampled_from(("In", "NotIn", "Exists", "DoesNotExist")))
            expression: Document = {"key": key(), "operator": operator}
            if operator in ("In", "NotIn"):
                expression["values"] = draw(st.lists(values, min_size=1, max_size=3, unique=True))
            expressions.append(expression)
        selector["matchExpressions"] = expressions
    return selector


@st.composite
def _cidrs_with_excepts(draw: st.DrawFn, *, strictly: bool = False) -> tuple[str, list[str]]:
    cidr = draw(st.sampled_from(CIDRS))
    inside = [other for other in CIDRS if _lies_in(other, cidr) and not (strictly and other == cidr)]
    excepts = draw(st.lists(st.sampled_from(inside), max_size=2, unique=True)) if inside else []
    return cidr, excepts


def _lies_in(inner: str, outer: str) -> bool:
    address, _, inner_length = inner.partition("/")
    base, _, length = outer.partition("/")
    first, second = ip_address(address), ip_address(base)
    if first.version != second.version or int(inner_length) < int(length):
        return False
    shift = first.max_prefixlen - int(length)
    return int(first) >> shift == int(second) >> shift


@st.composite
def _port_ranges(draw: st.DrawFn) -> tuple[int, int | None]:
    first = draw(st.sampled_from(_PORTS))
    last = draw(st.one_of(st.none(), st.sampled_from(_PORTS)))
    return first, last if last is None or last >= first else None


def _maybe(draw: st.DrawFn, into: Document, field: str, values: st.SearchStrategy[Any], chance: int = 2) -> None:
    """Set the field in one of `chance` cases."""
    if draw(st.integers(1, chance)) == 1:
        into[field] = draw(values)

"""Why a connection is allowed or denied, told by the rules themselves: no packet is sent and no map is read.

For a denial without a rule it finds the nearest rule that would have allowed the connection, and says what differs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address
from typing import Any

from pycilium.model.identity import RESERVED_IDENTITIES, ReservedIdentity
from pycilium.model.l4 import ANY_PORT, NamedTarget, PortRange, Ports, protocol_name, resolved
from pycilium.model.labels import NAMESPACE_KEY, NAMESPACE_LABELS_PREFIX, RESERVED_SOURCE, Labels
from pycilium.model.peer import Address, AnyPeer, CidrPeer, LabelPeer, Peer, entity_peers, peer_set
from pycilium.model.policy import ALLOW_LOCALHOST, Direction, PolicyRef, Rule, RuleRef, Section
from pycilium.model.selector import Operator, Requirement

_LOCALHOST = Rule(ALLOW_LOCALHOST, peer_set(entity_peers("host", "")), (ANY_PORT,))


class Reason(StrEnum):
    """What a decision rests on."""

    ALLOW_RULE = "a rule allows it"
    DENY_RULE = "a rule denies it"
    NOT_RESTRICTED = "no policy restricts this direction"
    NO_RULE = "no rule allows it"


@dataclass(frozen=True, slots=True)
class Party:
    """One end: what to call it, the labels of its identity, its address if it has one.

    `managed`: it is an endpoint, so policies can select it.
    """

    name: str
    labels: Labels
    address: Address | None = None
    managed: bool = False
    ports: frozenset[NamedTarget] = frozenset()
    """What it calls its own ports: its ingress rules go by that."""
    identity_ports: frozenset[NamedTarget] = frozenset()
    """What all pods with its identity call theirs: the egress rules of others go by that."""

    @property
    def is_outside(self) -> bool:
        """Whether it is neither a pod nor a node."""
        return bool(self.labels.values_of(RESERVED_SOURCE, "world"))


@dataclass(frozen=True, slots=True)
class Nearest:
    """A rule that would have allowed it, were it not for these differences."""

    rule: RuleRef
    differences: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.rule}, but {' and '.join(self.differences)}"


@dataclass(frozen=True, slots=True)
class Decision:
    """What the policies of one endpoint say. `enforcing`: those that put the direction on default deny."""

    direction: Direction
    reason: Reason
    rules: tuple[RuleRef, ...] = ()
    enforcing: tuple[PolicyRef, ...] = ()
    nearest: Nearest | None = None

    @property
    def allowed(self) -> bool:
        """The verdict."""
        return self.reason in (Reason.ALLOW_RULE, Reason.NOT_RESTRICTED)


@dataclass(frozen=True, slots=True)
class Explanation:
    """Both halves of the answer. A half is None if that end is no endpoint, so no policy applies there."""

    source: Party
    destination: Party
    what: PortRange
    egress: Decision | None
    ingress: Decision | None

    @property
    def allowed(self) -> bool:
        """Whether the connection comes about."""
        return all(half.allowed for half in (self.egress, self.ingress) if half is not None)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "source": _party_dict(self.source),
            "destination": _party_dict(self.destination),
            "protocol": protocol_name(self.what.protocol),
            "port": self.what.first,
            "verdict": _verdict(self.allowed),
            "egress": _decision_dict(self.egress),
            "ingress": _decision_dict(self.ingress),
        }

    def __str__(self) -> str:
        lines = [f"{self.source.name} -> {self.destination.name} {self.what}: {_verdict(self.allowed)}"]
        for decision, party in ((self.egress, self.source), (self.ingress, self.destination)):
            if decision is not None:
                lines.append(f"  {decision.direction} of {party.name}: {_verdict(decision.allowed)}, {decision.reason}")
                lines.extend(f"    {line}" for line in _details(decision))
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Options:
    """What a decision depends on besides the policies: the agent's settings, and what all pods call their ports."""

    allow_localhost: bool = True
    cidr_matches_pods: bool = True
    named_ports: frozenset[NamedTarget] = frozenset()


@dataclass(frozen=True, slots=True)
class Question:
    """One direction of a connection as the endpoint sees it. For ICMP `port` is the type.

    `own_ports`: what the endpoint calls its ports.
    """

    direction: Direction
    own_ports: frozenset[NamedTarget]
    peer: Party
    protocol: int
    port: int
    options: Options = Options()

    def decide(self, sections: Iterable[Section]) -> Decision:
        """What the sections that select the endpoint say."""
        sections = list(sections)
        rules = [rule for section in sections for rule in section.rules if rule.direction is self.direction]
        enforcing = tuple(dict.fromkeys(section.policy for section in sections if self.direction in section.enforces))
        if enforcing and self.options.allow_localhost and self.direction is Direction.INGRESS:
            rules.append(_LOCALHOST)
        denying = tuple(rule.ref for rule in rules if rule.deny and self._matches(rule))
        if denying:
            return Decision(self.direction, Reason.DENY_RULE, denying, enforcing)
        allowing = tuple(rule.ref for rule in rules if not rule.deny and self._matches(rule))
        if allowing:
            return Decision(self.direction, Reason.ALLOW_RULE, allowing, enforcing)
        if not enforcing:
            return Decision(self.direction, Reason.NOT_RESTRICTED)
        return Decision(self.direction, Reason.NO_RULE, (), enforcing, self._nearest(rules))

    def _matches(self, rule: Rule) -> bool:
        return any(self._covers(rule.ports, peer) and not self._differences(peer) for peer in rule.peers.peers)

    def _covers(self, ports: Iterable[Ports], peer: Peer) -> bool:
        return any(each.covers(self.protocol, self.port) for each in resolved(ports, self._named_ports(peer)))

    def _named_ports(self, peer: Peer) -> frozenset[NamedTarget]:
        """Whose names count: the endpoint's own, or on egress those of whoever `peer` is."""
        if self.direction is Direction.INGRESS:
            return self.own_ports
        if not isinstance(peer, CidrPeer):
            return self.peer.identity_ports
        return frozenset() if self.peer.is_outside else self.options.named_ports

    def _nearest(self, rules: Iterable[Rule]) -> Nearest | None:
        """The allowing rule with the fewest differences; the same peer on another port before other peers."""
        found: list[tuple[int, int, Nearest]] = []
        for rule in rules:
            if rule.deny or rule.peers.is_nobody or rule.ref is ALLOW_LOCALHOST:
                continue
            for each in rule.peers.peers:
                peer = self._differences(each)
                ports = () if self._covers(rule.ports, each) else (self._other_ports(rule.ports, each),)
                found.append((len(peer) + len(ports), len(peer), Nearest(rule.ref, (*ports, *peer))))
        return min(found, key=lambda entry: entry[:2])[2] if found else None

    def _other_ports(self, ports: Sequence[Ports], peer: Peer) -> str:
        named = ", ".join(self._in_words(each, peer) for each in ports[:4]) + (", ..." if len(ports) > 4 else "")
        return f"it allows {named} and this is {PortRange.single(self.protocol, self.port)}"

    def _in_words(self, port: Ports, peer: Peer) -> str:
        """A port, and which numbers a name stands for here."""
        if isinstance(port, PortRange):
            return str(port)
        numbers = " or ".join(str(target.port) for target in port.among(self._named_ports(peer)))
        word = "destination" if self.direction is Direction.EGRESS else "endpoint"
        return f"{port} ({numbers})" if numbers else f"{port} (which the {word} does not have)"

    def _differences(self, peer: Peer) -> tuple[str, ...]:
        """What keeps `peer` from being the peer of the question; nothing if it is."""
        match peer:
            case AnyPeer():
                return ()
            case LabelPeer():
                return tuple(self._difference(missing) for missing in peer.selector.unmet(self.peer.labels))
            case CidrPeer():
                return self._cidr_differences(peer)

    def _cidr_differences(self, peer: CidrPeer) -> tuple[str, ...]:
        address = self.peer.address
        if address is None:
            return (f"it wants an address in {peer.network}",)
        if not self.options.cidr_matches_pods and not self.peer.is_outside:
            return ("its CIDRs match only what is outside",)
        if address not in peer.network:
            return (f"{address} is not in {peer.network}",)
        return tuple(f"{address} is in the excepted {other}" for other in peer.excepts if address in other)

    def _difference(self, wanted: Requirement) -> str:
        word = "source" if self.direction is Direction.INGRESS else "destination"
        has = self.peer.labels.values_of(wanted.source, wanted.key)
        if wanted.key == NAMESPACE_KEY:
            place = f"in namespace {has[0]}" if has else "not a pod"
            wish = f"namespace {' or '.join(wanted.values)}" if wanted.operator is Operator.IN else "a pod"
            return f"the {word} is {place} and it wants {wish}"
        if wanted.source == RESERVED_SOURCE:
            return f"the {word} is not {wanted.key}"
        owner = word
        key = wanted.key
        if key.startswith(NAMESPACE_LABELS_PREFIX):
            owner, key = f"{word}'s namespace", key.removeprefix(NAMESPACE_LABELS_PREFIX)
        found = f"has {key}={has[0]}" if has else f"has no label {key}"
        return f"the {owner} {found} and it wants {_wish(wanted, key)}"


def explain(
    source: Party,
    destination: Party,
    protocol: int,
    port: int,
    *,
    sections: dict[Labels, Sequence[Section]],
    options: Options = Options(),
) -> Explanation:
    """Why the connection is allowed or denied. `sections`: those that select each end, by its labels."""
    egress = Question(Direction.EGRESS, source.ports, destination, protocol, port, options)
    ingress = Question(Direction.INGRESS, destination.ports, source, protocol, port, options)
    return Explanation(
        source=source,
        destination=destination,
        what=PortRange.single(protocol, port),
        egress=egress.decide(sections[source.labels]) if source.managed else None,
        ingress=ingress.decide(sections[destination.labels]) if destination.managed else None,
    )


def outside(address: Address) -> Party:
    """An address that is no pod's and no node's."""
    world = ReservedIdentity.WORLD_IPV4 if isinstance(address, IPv4Address) else ReservedIdentity.WORLD_IPV6
    return Party(str(address), _reserved_labels(world), address)


def entity(name: str) -> Party:
    """Somebody of an entity that is one identity: host, world, remote-node, health, ... Raises KeyError."""
    for identity in RESERVED_IDENTITIES:
        if ReservedIdentity(identity.number).label_key == name:
            return Party(name, identity.labels)
    raise KeyError(name)


def _reserved_labels(number: int) -> Labels:
    return next(identity.labels for identity in RESERVED_IDENTITIES if identity.number == number)


def _wish(wanted: Requirement, key: str) -> str:
    match wanted.operator:
        case Operator.IN:
            return f"{key}={' or '.join(wanted.values)}"
        case Operator.NOT_IN:
            return f"{key} other than {' or '.join(wanted.values)}"
        case Operator.EXISTS:
            return "one"
        case Operator.DOES_NOT_EXIST:
            return "none"


def _verdict(allowed: bool) -> str:
    return "allowed" if allowed else "denied"


def _details(decision: Decision) -> Iterator[str]:
    if decision.rules:
        yield f"by {', '.join(str(rule) for rule in decision.rules)}"
    elif decision.enforcing:
        yield f"restricted by {', '.join(str(policy) for policy in decision.enforcing)}"
    if decision.nearest is not None:
        yield f"nearest is {decision.nearest}"
    elif decision.reason is Reason.NO_RULE:
        yield "they allow nothing in this direction"


def _party_dict(party: Party) -> dict[str, Any]:
    return {
        "name": party.name,
        "address": None if party.address is None else str(party.address),
        "labels": [str(label) for label in party.labels],
    }


def _decision_dict(decision: Decision | None) -> dict[str, Any] | None:
    if decision is None:
        return None
    nearest = decision.nearest
    return {
        "verdict": _verdict(decision.allowed),
        "reason": decision.reason.value,
        "rules": [_rule_dict(rule) for rule in decision.rules],
        "enforcing": [
            {"kind": policy.kind, "namespace": policy.namespace, "name": policy.name} for policy in decision.enforcing
        ],
        "nearest": nearest and {"rule": _rule_dict(nearest.rule), "differences": list(nearest.differences)},
    }


def _rule_dict(rule: RuleRef) -> dict[str, Any]:
    return {
        "kind": rule.kind,
        "namespace": rule.namespace,
        "name": rule.name,
        "rule": rule.path,
        "deny": rule.deny,
        "revision": rule.revision,
    }

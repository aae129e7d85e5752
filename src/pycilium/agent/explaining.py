"""`cilium policy explain`, and the rules behind a flow: questions to the policy engine in the words of API and Hubble.

Who a name or an address is, is looked up here; what the rules say of it is the engine's.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv6Address, ip_address

import msgspec

from pycilium.agent.endpoints.named_ports import case_folded
from pycilium.agent.intent import Intent
from pycilium.agent.nodes.cluster import Cluster, ClusterSettings
from pycilium.api import messages
from pycilium.api.messages import ExplainReply, ExplainRequest
from pycilium.errors import InvalidResource, NotFound
from pycilium.hubble import directories as hubble
from pycilium.model.endpoint import Endpoint
from pycilium.model.identity import RESERVED_IDENTITIES, ReservedIdentity
from pycilium.model.l4 import ANY_PORT, MAX_PORT, PortName, PortRange, Protocol
from pycilium.model.labels import Labels
from pycilium.model.peer import Address, AnyPeer
from pycilium.model.policy import Direction, PolicyRef, Rule, RuleRef
from pycilium.model.remote_endpoint import RemoteEndpoint
from pycilium.model.resources import ResourceKey
from pycilium.policy import PolicyEngine
from pycilium.policy.explain import Decision, Party, Reason, entity, outside

REMEMBERED = 4096
FAMILIES = (4, 6)
MAX_ICMP_TYPE = 255
ICMP_ECHO = {8: 128, 0: 129}
"""Echo request and reply, the only types that mean the same in both families: ICMP's and ICMPv6's."""


@dataclass(frozen=True, slots=True)
class _Peer:
    """An end of the question and how to show it.

    `families`: those in which it can have a connection; `addresses`: a pod's, of which the connection has one.
    """

    party: Party
    shown: messages.ExplainPeer
    families: frozenset[int]
    addresses: tuple[Address, ...] = ()


class Explainer:
    """Answers from the intent tables and the engine; sends no packet and reads no map.

    Policies are the cluster's and identities too, so the agent of any node explains both ends, wherever they are.
    `families`: those that the node has on; every connection is of one of them.
    """

    def __init__(
        self,
        intent: Intent,
        engine: PolicyEngine,
        families: Collection[int] = FAMILIES,
        cluster: Cluster | None = None,
    ) -> None:
        self._intent, self._engine = intent, engine
        self._cluster = cluster or Cluster(ClusterSettings())
        self._families = frozenset(families)

    def answer(self, request: ExplainRequest) -> ExplainReply:
        """Whether the source may open the connection, and which rules say so. NotFound for an unknown name."""
        source, destination = self._peer(request.source), self._peer(request.destination)
        asked = _asked(request, destination.party)
        family = self._family(Protocol(asked.protocol), source, destination)
        what = _in_words_of(asked, family)
        source, destination = _in_family(source, family), _in_family(destination, family)
        explained = self._engine.explain(source.party, destination.party, what.protocol, what.first)
        halves = [half for half in (explained.egress, explained.ingress) if half is not None]
        return ExplainReply(
            verdict="allowed" if explained.allowed else "denied",
            source=source.shown,
            destination=destination.shown,
            decisions=[_decision(half) for half in halves],
            what=_with_number(request.port, what) if isinstance(request.port, str) else str(what),
            text=str(explained),
        )

    def party_at(self, identity: int, address: Address | None) -> Party:
        """Who an event means by an identity and an address."""
        labels = self._engine.labels_of(identity)
        if labels is None:
            return outside(address) if address is not None else Party(f"identity {identity}", Labels())
        ports = self._engine.named_ports_of(identity)
        return Party(str(address) if address is not None else str(labels), labels, address, identity_ports=ports)

    def _peer(self, word: str) -> _Peer:
        try:
            address = ip_address(word)
        except ValueError:
            return self._named(word)
        return self._at(address)

    def _named(self, word: str) -> _Peer:
        namespace, _, name = word.rpartition("/")
        if not namespace:
            try:
                party = entity(word)
            except KeyError:
                namespace = "default"
            else:
                return _Peer(party, _shown(party, _number_of(party.labels)), frozenset(FAMILIES))
        snapshot = self._intent.db.snapshot()
        found = snapshot.by(self._intent.endpoints, "pod", (namespace, name))
        if (endpoint := next(iter(found), None)) is not None:
            return (
                _of_process(endpoint)
                if endpoint.is_process
                else _in_all_families(self._of_endpoint(endpoint, endpoint.addresses[0]))
            )
        remote = snapshot.get(self._intent.remote_endpoints, ResourceKey("CiliumEndpoint", namespace, name))
        if remote is not None:
            return _in_all_families(self._of_remote_endpoint(remote, remote.addresses[0]))
        raise NotFound(f"no pod {namespace}/{name} is known here; name a pod, an address or an entity such as world")

    def _at(self, address: Address) -> _Peer:
        snapshot = self._intent.db.snapshot()
        for endpoint in snapshot.all(self._intent.endpoints):
            if address in endpoint.addresses:
                return self._of_endpoint(endpoint, address)
        if snapshot.get(self._intent.host_addresses, address) is not None:
            party = replace(entity("host"), address=address)
            return _Peer(party, _shown(party, ReservedIdentity.HOST), frozenset({address.version}))
        if (remote := self._cluster.endpoints.holder(address)) is not None:
            return self._of_remote_endpoint(remote, address)
        if (of_node := self._cluster.view.addresses.get(address)) is not None:
            party = self.party_at(of_node[0], address)
            return _Peer(party, _shown(party, of_node[0]), frozenset({address.version}))
        party = outside(address)
        number = self._engine.world_identity(address)
        return _Peer(party, _shown(party, number), frozenset({address.version}))

    def _family(self, protocol: Protocol, source: _Peer, destination: _Peer) -> int:
        """The family that the connection would be of: IPv4 where both are possible."""
        for end in (source, destination):
            if not end.families & self._families:
                raise InvalidResource(f"{end.party.name} has {_words(end.families)} only, which is off on this node")
        common = source.families & destination.families & self._families
        if not common:
            ends = " and ".join(f"{end.party.name} has {_words(end.families)}" for end in (source, destination))
            raise InvalidResource(f"no connection is possible: {ends}, and this node has {_words(self._families)} on")
        if protocol is not Protocol.ICMPV6:
            return min(common)
        if 6 not in common:
            raise InvalidResource(f"ICMPv6 needs IPv6 at both ends, and these have {_words(common)} in common")
        return 6

    def _of_endpoint(self, endpoint: Endpoint, address: Address) -> _Peer:
        party = Party(
            endpoint.qualified_pod_name or endpoint.attachment,
            endpoint.labels,
            address,
            managed=True,
            ports=endpoint.named_ports,
            identity_ports=self._engine.named_ports_of(endpoint.sec_identity),
        )
        shown = _shown(party, endpoint.sec_identity, endpoint.endpoint_id)
        return _Peer(party, shown, frozenset({address.version}), endpoint.addresses)

    def _of_remote_endpoint(self, remote: RemoteEndpoint, address: Address) -> _Peer:
        labels = self._engine.labels_of(remote.sec_identity)
        if labels is None:
            raise NotFound(
                f"pod {remote} is on another node, and its identity ({remote.sec_identity or 'none yet'}) is not known "
                "here yet; ask again in a moment"
            )
        party = Party(
            str(remote),
            labels,
            address,
            managed=True,
            ports=case_folded(remote.targets),
            identity_ports=self._engine.named_ports_of(remote.sec_identity),
        )
        return _Peer(party, _shown(party, remote.sec_identity), frozenset({address.version}), remote.addresses)


class Rules:
    """Hubble's RuleDirectory: which policies stand behind a decision, by what its event says."""

    def __init__(self, intent: Intent, engine: PolicyEngine, explainer: Explainer) -> None:
        self._intent, self._engine, self._explainer = intent, engine, explainer
        self._known: dict[hubble.Decision, hubble.DecisionRules | None] = {}
        self._revision = -1

    def rules(self, decision: hubble.Decision) -> hubble.DecisionRules | None:
        """The deciding rules; for an implicit deny those that restrict, and the nearest that would have allowed."""
        if self._revision != self._intent.db.revision or len(self._known) > REMEMBERED:
            self._known.clear()
            self._revision = self._intent.db.revision
        if decision not in self._known:
            self._known[decision] = self._look_up(decision)
        return self._known[decision]

    def _look_up(self, decision: hubble.Decision) -> hubble.DecisionRules | None:
        endpoint = self._intent.db.snapshot().get(self._intent.endpoints, decision.endpoint_id)
        if decision.outcome is hubble.Outcome.NO_RULE:
            return self._implicit(decision, endpoint)
        rules = self._engine.rules_for(decision.row_id, decision.selector)
        if not rules:
            return None
        return hubble.DecisionRules(
            policies=tuple(dict.fromkeys(_policy_name(rule) for rule in rules if rule.kind)),
            text=", ".join(dict.fromkeys(str(rule) for rule in rules)),
            match_type=self._match_type(endpoint, rules),
        )

    def _implicit(self, decision: hubble.Decision, endpoint: Endpoint | None) -> hubble.DecisionRules | None:
        entry = self._engine.policy_entry(endpoint.subject) if endpoint is not None else None
        if endpoint is None or (decision.revision and entry and entry.revision != decision.revision):
            return None  # who restricted then is not known any more
        address = ip_address(decision.peer_address)
        if isinstance(address, IPv6Address):
            address = address.ipv4_mapped or address
        peer = self._explainer.party_at(decision.peer_identity, address)
        direction = Direction(int(decision.direction))
        judged = self._engine.decide(endpoint.subject, direction, peer, decision.protocol, decision.port)
        if judged.reason is not Reason.NO_RULE:
            return None  # the policy has changed since
        return hubble.DecisionRules(
            policies=tuple(_policy_name(policy) for policy in judged.enforcing),
            text=f"no rule allows it; nearest is {judged.nearest}"
            if judged.nearest is not None
            else "no rule allows it",
        )

    def _match_type(self, endpoint: Endpoint | None, refs: Sequence[RuleRef]) -> int:
        """How specific the deciding rule is: numbers of Hubble's policy_match_type."""
        if endpoint is None:
            return 0
        for section in self._engine.sections(endpoint.labels):
            for rule in section.rules:
                if rule.ref in refs:
                    return match_type_of(rule)
        return 0


def match_type_of(rule: Rule) -> int:
    """1 L3-Only, 2 L3-L4, 3 L4-Only, 4 all, 5 L3-Proto, 6 Proto-Only."""
    any_peer = any(isinstance(peer, AnyPeer) for peer in rule.peers.peers)
    if ANY_PORT in rule.ports:
        return 4 if any_peer else 1
    if all(ports.all_ports for ports in rule.ports):
        return 6 if any_peer else 5
    return 3 if any_peer else 2


def _asked(request: ExplainRequest, destination: Party) -> PortRange:
    """Protocol and port (or ICMP type) of the question. InvalidResource for what no packet can have."""
    try:
        protocol = Protocol[request.protocol.upper()]
    except KeyError:
        known = ", ".join(protocol.name for protocol in Protocol)
        raise InvalidResource(f"protocol {request.protocol!r} is not known; {known} are", path="protocol") from None
    if isinstance(request.port, str):
        return PortRange.single(protocol, _number_of_name(PortName(protocol, request.port.lower()), destination))
    is_icmp = protocol in (Protocol.ICMP, Protocol.ICMPV6)
    name, last = ("ICMP type", MAX_ICMP_TYPE) if is_icmp else ("port", MAX_PORT)
    if not 0 <= request.port <= last:
        raise InvalidResource(f"{name} {request.port} is impossible; 0 to {last} are possible", path="port")
    return PortRange.single(protocol, request.port)


def _with_number(name: str, what: PortRange) -> str:
    return f"{PortName(Protocol(what.protocol), name)} ({what.first})"


def _number_of_name(name: PortName, destination: Party) -> int:
    meant = name.among(destination.ports)
    if len(meant) == 1:
        return meant[0].port
    if meant:
        numbers = " and ".join(str(target.port) for target in meant)
        raise InvalidResource(f"{destination.name} has {name} at {numbers}: ask about a number", path="port")
    has = ", ".join(str(target) for target in sorted(destination.ports)) or "none with a name"
    raise InvalidResource(f"{destination.name} has no port {name}; it has {has}", path="port")


def _in_words_of(asked: PortRange, family: int) -> PortRange:
    """ICMP between IPv6 ends is ICMPv6, whose types are others."""
    if asked.protocol != Protocol.ICMP or family == 4:
        return asked
    if asked.first not in ICMP_ECHO:
        raise InvalidResource(
            f"the connection is of IPv6 and ICMP type {asked.first} has no counterpart there; "
            "name the type of ICMPv6, such as 1/ICMPv6",
            path="port",
        )
    return PortRange.single(Protocol.ICMPV6, ICMP_ECHO[asked.first])


def _words(families: Collection[int]) -> str:
    return " and ".join(f"IPv{family}" for family in sorted(families)) or "no family"


def _of_process(endpoint: Endpoint) -> _Peer:
    """It has its node's addresses, of any family."""
    party = Party(endpoint.qualified_pod_name, endpoint.labels, managed=True)
    return _Peer(party, _shown(party, endpoint.sec_identity, endpoint.endpoint_id), frozenset(FAMILIES))


def _in_all_families(peer: _Peer) -> _Peer:
    """The pod as it is meant when it is named: by any of its addresses."""
    return replace(peer, families=frozenset(address.version for address in peer.addresses))


def _in_family(peer: _Peer, family: int) -> _Peer:
    """The same pod by its address of that family, where it has one."""
    same = [address for address in peer.addresses if address.version == family]
    if not same or peer.party.address in same:
        return peer
    party = replace(peer.party, address=same[0])
    return replace(peer, party=party, shown=msgspec.structs.replace(peer.shown, address=str(same[0])))


def _shown(party: Party, identity: int, endpoint_id: int = 0) -> messages.ExplainPeer:
    return messages.ExplainPeer(
        name=party.name,
        identity=identity,
        labels=[str(label) for label in party.labels],
        address=str(party.address) if party.address is not None else "",
        endpoint_id=endpoint_id,
    )


def _number_of(labels: Labels) -> int:
    return next(identity.number for identity in RESERVED_IDENTITIES if identity.labels == labels)


def _decision(half: Decision) -> messages.ExplainDecision:
    nearest = half.nearest
    return messages.ExplainDecision(
        direction="ingress" if half.direction is Direction.INGRESS else "egress",
        verdict="allowed" if half.allowed else "denied",
        enforced=bool(half.enforcing),
        reason=half.reason.value,
        rules=[_rule(rule) for rule in half.rules],
        nearest=_rule(nearest.rule, " and ".join(nearest.differences)) if nearest is not None else None,
    )


def _rule(rule: RuleRef, missing: str = "") -> messages.ExplainRule:
    return messages.ExplainRule(
        kind=rule.kind,
        name=rule.name,
        namespace=rule.namespace,
        direction=str(rule.direction),
        index=rule.index,
        action="deny" if rule.deny else "allow",
        text=str(rule),
        missing=missing,
    )


def _policy_name(ref: RuleRef | PolicyRef) -> hubble.PolicyName:
    return hubble.PolicyName(ref.kind, ref.namespace, ref.name, tuple(ref.labels), ref.revision)

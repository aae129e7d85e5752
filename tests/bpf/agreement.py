"""The agent's controller on the loaded programs, and packets of connections between the parties of its small world.

The world is that of `pycilium.testing.policies`, with an address of each family for everyone who sends packets here.
`AgentOnNode` programs the maps just as the agent does; three witnesses then speak of the same connection: the reference
(`by_reference`), the compiled entries (`AgentOnNode.by_lookup`) and the loaded program (`AgentOnNode.by_packet`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import Any

from hypothesis import strategies as st
from scapy.layers.inet import ICMP
from scapy.layers.inet6 import ICMPv6Unknown
from scapy.packet import Packet, Raw

from pycilium.agent.controller import Controller
from pycilium.agent.earlier_agent import numbers_in_use
from pycilium.agent.intent import HostAddress, Intent
from pycilium.agent.ipcache import IpcacheTarget
from pycilium.agent.link_operations import LinkTarget
from pycilium.agent.targets import make_targets
from pycilium.datapath.layouts import EventType, FlowEvent, VerdictFlags
from pycilium.model.endpoint import Endpoint, EndpointState
from pycilium.model.identity import RESERVED_IDENTITIES, ReservedIdentity
from pycilium.model.policy import Direction
from pycilium.policy import PolicyEngine
from pycilium.policy.lookup import KernelTables, LookupVerdict
from pycilium.policy.reference import End, Judgement, Options, Verdict, judge
from pycilium.testing import policies as gen
from tests.bpf.node import Node, Pod, mac
from tests.bpf.packets import from_host, from_network, from_pod, sctp, tcp, udp

ICMP4, TCP, UDP, GRE, ICMP6, SCTP_ = 1, 6, 17, 47, 58, 132
ECHO = {4: (8, 0), 6: (128, 129)}
"""Request and reply."""
FIRST_MARK = 20_000
ALLOWED, DENIED, DENY = 0, 133, 181
REASONS = {Verdict.ALLOWED: ALLOWED, Verdict.NOT_ALLOWED: DENIED, Verdict.DENIED: DENY}

# == who there is ==

OTHER_FAMILY = (
    "fd00::11", "fd01::2", "fd00:0:0:1::5", "10.0.0.4", "fd00::6", "2606:4700::6", "10.0.0.9", "fd00::8", "10.9.0.9",
    "fd00::12",
)  # fmt: skip
"""The pods' second addresses, spread over the prefixes that generated rules name."""


@dataclass(frozen=True, slots=True)
class Party:
    """Who sends and gets packets. `pod`: it is a local endpoint; else its packets come by `program`."""

    name: str
    ends: dict[int, End]
    identity: int = 0
    pod: Pod | None = None
    program: str = "from_netdev"

    def __repr__(self) -> str:
        return self.name

    def __hash__(self) -> int:
        return hash(self.name)


def _local(number: int, party: gen.Party) -> Party:
    addresses = [party.end.address, ip_address(OTHER_FAMILY[number - 1])]
    by_family = {address.version: address for address in addresses}
    macs = [f"{first}:00:00:00:00:{number:02x}" for first in ("02", "06")]
    pod = Pod(f"pod{number}", number, party.identity, 0, str(by_family[4]), str(by_family[6]), *macs)
    ends = {family: replace(party.end, address=address) for family, address in by_family.items()}
    return Party(party.name, ends, party.identity, pod, "from_container")


def _others() -> Iterable[Party]:
    host = {}
    for party in gen.PEERS[len(gen.PODS) :]:
        ends = {party.end.address.version: party.end}
        if party.identity == ReservedIdentity.HOST:
            host |= ends
        else:
            yield Party(party.name, ends, party.identity)
    yield Party("host", host, int(ReservedIdentity.HOST), program="from_host")


PODS = tuple(_local(number, party) for number, party in enumerate(gen.PODS, start=1))
OTHERS = tuple(_others())
NODES = tuple(party for party in OTHERS if party.identity and party.program != "from_host")
"""Reserved identities that only other nodes' knowledge gives: the tests write their ipcache entries themselves."""
DEVICES = {party.pod.name: party.pod.host_mac for party in PODS}


def endpoint_of(pod: Pod, ifindex: int) -> Endpoint:
    party = next(party for party in PODS if party.pod is pod)
    return Endpoint(
        endpoint_id=pod.endpoint_id,
        container_id=f"container{pod.endpoint_id}",
        ifname="eth0",
        netns="/none",
        host_ifname=pod.name,
        ifindex=ifindex,
        mac=mac(pod.mac),
        host_mac=mac(pod.host_mac),
        ipv4=party.ends[4].address,
        ipv6=party.ends[6].address,
        mtu_bytes=1500,
        pod_name=party.name,
        namespace="a",
        labels=party.ends[4].labels,
        sec_identity=pod.identity,
        state=EndpointState.REGENERATING,
        named_ports=gen.targets_of(party.ends[4].ports),
    )


# == connections ==


@dataclass(frozen=True, slots=True)
class Connection:
    """`port` is the ICMP type; `mark` tells connections apart: the source port, or the echo identifier."""

    source: Party
    destination: Party
    family: int
    protocol: int
    port: int
    mark: int = 0

    @property
    def can_be_answered(self) -> bool:
        """Whether there are packets of the other direction that belong to it."""
        return self.protocol not in (ICMP4, ICMP6) or self.port == ECHO[self.family][0]

    @property
    def tuple_key(self) -> object:
        """What conntrack could mistake for another connection, marks apart."""
        if self.protocol == GRE:
            return (self.family, frozenset((self.source.name, self.destination.name)))
        return self

    def packet(self, *, reply: bool = False, first: bool = True) -> tuple[str, str, bytes]:
        """Program, device and bytes of a packet of it."""
        sender, target = (self.destination, self.source) if reply else (self.source, self.destination)
        to = str(target.ends[self.family].address)
        fields = {"proto" if self.family == 4 else "nh": self.protocol}
        if sender.pod is not None:
            device, header = sender.pod.name, from_pod(sender.pod, to, self.family, **fields)
        else:
            start = from_host if sender.program == "from_host" else from_network
            device = "cilium_host" if sender.program == "from_host" else "uplink"
            header = start(str(sender.ends[self.family].address), target.pod, self.family, **fields)
        return sender.program, device, bytes(header / self._payload(reply=reply, first=first))

    def _payload(self, *, reply: bool, first: bool) -> Packet:
        ports = (self.port, self.mark) if reply else (self.mark, self.port)
        match self.protocol:
            case 6:
                return tcp(*ports, ("S" if first else "A") if not reply else ("SA" if first else "A"))
            case 17:
                return udp(*ports)
            case 132:
                return sctp(*ports, "data" if not first else ("init ack" if reply else "init"))
            case 1:
                return ICMP(type=ECHO[4][1] if reply else self.port, id=self.mark)
            case 58:
                kind = ECHO[6][1] if reply else self.port
                return ICMPv6Unknown(type=kind, msgbody=self.mark.to_bytes(2, "big") + bytes(6))
        return Raw(bytes(20))


PORTS = (1, 22, 53, 79, 80, 81, 82, 90, 91, 442, 443, 3000, 8080, 8443, 65535)
"""Those that generated rules name, and their neighbours."""
WHAT = {
    family: (
        *((TCP, port) for port in PORTS),
        *((protocol, port) for protocol in (UDP, SCTP_) for port in PORTS[::2]),
        *icmp,
        (GRE, 0),
    )
    for family, icmp in (
        (4, ((ICMP4, 0), (ICMP4, 3), (ICMP4, 8), (ICMP4, 13))),
        (6, ((ICMP6, 3), (ICMP6, 128), (ICMP6, 129), (ICMP6, 139))),
    )
}
PAIRS = tuple(
    (family, source, destination)
    for family in (4, 6)
    for source in (*PODS, *OTHERS)
    for destination in (*PODS, *OTHERS)
    if source is not destination
    and (source.pod or destination.pod)
    and family in source.ends
    and family in destination.ends
)
POSSIBLE = tuple(
    Connection(source, destination, family, *what) for family, source, destination in PAIRS for what in WHAT[family]
)


def connections(*, min_size: int, max_size: int) -> st.SearchStrategy[list[Connection]]:
    """Connections between a pod and anybody, in both directions, each with a mark of its own."""
    return st.lists(
        st.sampled_from(POSSIBLE), min_size=min_size, max_size=max_size, unique_by=lambda each: each.tuple_key
    ).map(lambda found: [replace(each, mark=FIRST_MARK + number) for number, each in enumerate(found)])


# == what the three witnesses say ==


@dataclass(frozen=True, slots=True)
class Fate:
    """A connection's: a drop reason (0: it passes), and whose policy said so."""

    reason: int
    direction: int = 0


@dataclass(frozen=True, slots=True)
class Expected:
    """The reference's word, with what each side's word rests on."""

    fate: Fate
    sides: dict[Direction, Judgement]
    """Of those that were asked: egress comes first, and its denial is final."""


def by_reference(documents: Sequence[gen.Document], connection: Connection, options: Options) -> Expected:
    sides: dict[Direction, Judgement] = {}
    options = replace(options, pods=gen.ENDS)
    source, destination = connection.source, connection.destination
    ends = source.ends[connection.family], destination.ends[connection.family]
    for direction, subject in ((Direction.EGRESS, source), (Direction.INGRESS, destination)):
        if subject.pod is None:
            continue
        sides[direction] = judge(documents, *ends, direction, connection.protocol, connection.port, options)
        if sides[direction].verdict is not Verdict.ALLOWED:
            return Expected(Fate(REASONS[sides[direction].verdict], int(direction)), sides)
    return Expected(Fate(ALLOWED), sides)


class _Links:
    """reconcile.Operations of attached programs, in memory: packets are run through the programs by hand."""

    def __init__(self) -> None:
        self.attached: dict[str, LinkTarget] = {}

    def update(self, entries: Any) -> dict[str, Exception]:
        self.attached |= entries
        return {}

    def delete(self, keys: Iterable[str]) -> dict[str, Exception]:
        for key in keys:
            self.attached.pop(key, None)
        return {}

    def dump(self) -> list[tuple[str, LinkTarget]]:
        return list(self.attached.items())


@dataclass
class AgentOnNode:
    """One run of the agent on whatever the maps hold: a second one on the same node is a restart."""

    node: Node
    options: Options = field(default_factory=Options)

    def __post_init__(self) -> None:
        self.targets = make_targets(self.node, _Links(), _Links())
        self.targets.stages.resync()
        self.intent = Intent.new()
        self.engine = PolicyEngine(
            numbers_in_use(self.targets),
            allow_localhost=self.options.allow_localhost,
            cidr_matches_pods=self.options.cidr_matches_pods,
        )
        self.controller = Controller(self.intent, self.engine, self.targets)
        self.now = 0.0

    def start(self, documents: Sequence[gen.Document]) -> None:
        """Everybody is there, and these are the policies; one round does it all."""
        with self.intent.db.write() as txn:
            for identity in (*RESERVED_IDENTITIES, *gen.IDENTITIES):
                txn.insert(self.intent.identities, identity)
            for end in next(party for party in OTHERS if party.program == "from_host").ends.values():
                txn.insert(self.intent.host_addresses, HostAddress(end.address, "cilium_host"))
            for party in PODS:
                txn.insert(self.intent.endpoints, endpoint_of(party.pod, self.node.devices[party.pod.name]))
        self.policies_are(documents)

    def policies_are(self, documents: Sequence[gen.Document]) -> None:
        wanted = {policy.key: policy for policy in gen.parsed(documents)}
        with self.intent.db.write() as txn:
            for policy in txn.all(self.intent.policies):
                if policy.key not in wanted:
                    txn.delete(self.intent.policies, policy.key)
            for policy in wanted.values():
                txn.insert(self.intent.policies, policy)
        self.now += 100.0
        assert not self.controller.run(self.now).failed
        assert self.targets.stages.in_sync
        for party in NODES:
            for end in party.ends.values():
                self.node.identity(str(end.address), party.identity, cidr=self.engine.cidr_identity(end.address))

    # -- the compiled entries --

    @property
    def tables(self) -> KernelTables:
        return KernelTables(
            bits=dict(self.targets.bits.tracker.realized),
            rows=dict(self.targets.rows.tracker.realized),
            policies=dict(self.targets.policies.tracker.realized),
        )

    def by_lookup(self, tables: KernelTables, connection: Connection) -> dict[Direction, LookupVerdict]:
        """What the entries decide, for the sides that are asked."""
        found: dict[Direction, LookupVerdict] = {}
        source, destination = connection.source, connection.destination
        for direction, subject, peer in (
            (Direction.EGRESS, source, destination),
            (Direction.INGRESS, destination, source),
        ):
            if subject.pod is None:
                continue
            policy_id = self._endpoint(subject.ends[connection.family]).policy_id
            identities = self._identities(peer, connection.family)
            found[direction] = tables.decide(policy_id, direction, *identities, connection.protocol, connection.port)
            if not found[direction].allowed:
                break
        return found

    def _endpoint(self, end: End) -> Any:
        return self.targets.endpoints.of(end.address).tracker.realized[end.address]

    def _identities(self, peer: Party, family: int) -> tuple[int, int]:
        """Identity and the identity of the CIDR that is OR-ed in."""
        address = peer.ends[family].address
        if peer.pod is not None:
            entry = self._endpoint(peer.ends[family])
            return entry.sec_identity, entry.cidr_identity
        if peer in NODES:
            return peer.identity, self.engine.cidr_identity(address)
        prefixes: dict[Any, IpcacheTarget] = dict(self.controller.realized_prefixes())
        covering = [prefix for prefix in prefixes if prefix.version == family and address in prefix]
        found = prefixes[max(covering, key=lambda prefix: prefix.prefixlen)]
        return found.sec_identity, found.cidr_identity

    # -- the loaded program --

    def by_packet(self, connection: Connection, *, reply: bool = False, first: bool = True) -> FlowEvent:
        """The one event of one packet."""
        ran = self.node.run(*connection.packet(reply=reply, first=first))
        (event,) = ran.events
        assert (event.type == EventType.DROP) == (ran.verdict.name == "DROP")
        return event

    def rules(self, event: FlowEvent, direction: Direction) -> set[str]:
        """The names of the rules that the event blames."""
        egress = direction is Direction.EGRESS
        row, selector = (
            (event.egress_row, event.egress_selector) if egress else (event.ingress_row, event.ingress_selector)
        )
        return {str(rule) for rule in self.engine.rules_for(row, selector)}


def fate_of(event: FlowEvent) -> Fate:
    return Fate(event.subtype, event.direction) if event.type == EventType.DROP else Fate(ALLOWED)


def denied_flags(fate: Fate) -> int:
    """What an event of a packet with this fate says of denials."""
    if fate.reason == ALLOWED:
        return 0
    return int(VerdictFlags.EGRESS_DENIED if fate.direction == Direction.EGRESS else VerdictFlags.INGRESS_DENIED)

"""What the kernel decides depends on the policies alone, not on the path there; and on the way nothing else shows.

A model of the agent applies the engine's changes write by write, in stages, and is interrupted and restarted at will.
"""

from dataclasses import dataclass, field, replace
from ipaddress import ip_network

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pycilium.policy import NumbersInUse, PolicyEngine
from pycilium.policy.lookup import KernelTables
from pycilium.policy.reference import Options, Verdict, verdict
from pycilium.testing import policies as gen

STAGES = ("bits", "rows", "policies", "ipcache", "peers", "endpoints")


@dataclass
class Node:
    """What is desired and what the kernel has, each as one dict per stage."""

    engine: PolicyEngine = field(default_factory=PolicyEngine)
    desired: dict = field(default_factory=lambda: {stage: {} for stage in STAGES})
    kernel: dict = field(default_factory=lambda: {stage: {} for stage in STAGES})
    documents: dict = field(default_factory=dict)
    pods: tuple = ()
    """Those that are there."""

    def take_pods(self, pods, **updates):
        """These pods are there and no others, besides other changes."""
        before, self.pods = self.pods, tuple(pods)
        there = {pod.identity for pod in self.pods}
        self.take(
            identities_upserted=[identity for identity in gen.IDENTITIES if identity.number in there],
            identities_removed=[pod.identity for pod in before if pod.identity not in there],
            ports_changed={pod.identity: frozenset() for pod in before} | gen.ports_of(self.pods),
            subjects_added=[gen.subject_of(pod) for pod in self.pods],
            subjects_removed=[gen.subject_of(pod) for pod in before if pod not in self.pods],
            **updates,
        )

    def take(self, **updates):
        changes = self.engine.update(**updates)
        for stage in ("bits", "rows", "policies"):
            _apply(self.desired[stage], getattr(changes, stage))
        _apply(self.desired["ipcache"], changes.cidrs)
        _apply(self.desired["endpoints"], changes.subjects)
        self.desired["peers"] = {
            peer.end.address: (peer.identity, self.engine.cidr_identity(peer.end.address))
            for peer in gen.PEERS
            if peer.identity and (peer.identity < 256 or peer in self.pods)
        }

    def writes(self):
        """Every write that is due, in order; the caller makes it by calling it."""
        for stage in STAGES:
            for key, value in list(self.desired[stage].items()):
                if self.kernel[stage].get(key) != value:
                    yield lambda stage=stage, key=key, value=value: self.kernel[stage].__setitem__(key, value)
        for stage in reversed(STAGES):
            for key in list(self.kernel[stage]):
                if key not in self.desired[stage]:
                    yield lambda stage=stage, key=key: self.kernel[stage].pop(key)

    def settle(self):
        """Rounds until nothing is left to do."""
        for _ in range(6):
            for write in self.writes():
                write()
            self.engine.realized()
            self.take()
        assert not list(self.writes())

    def restart(self):
        """A new agent, which knows what the kernel's maps hold and what is intended."""
        rows, bits = self.kernel["rows"], self.kernel["bits"]
        numbers = {number for number, _ in bits} | set(self.kernel["ipcache"].values())
        numbers |= {cidr_identity for _, cidr_identity in self.kernel["peers"].values()}
        policies = self.kernel["policies"]
        self.engine = PolicyEngine(
            NumbersInUse(
                policy_ids=frozenset(
                    {key.policy_id for key in rows} | set(policies) | set(self.kernel["endpoints"].values())
                ),
                banks=frozenset({bank for _, bank in bits} | {key.bank for key in rows}),
                local_identities=frozenset(number for number in numbers if number >> 24 == 1),
                max_revision=max((entry.revision for entry in policies.values()), default=0),
                max_row_id=max((row.row_id for row in rows.values()), default=0),
                cidrs=dict(self.kernel["ipcache"]),
                bits=dict(bits),
            )
        )
        self.desired = {stage: {} for stage in STAGES}
        self.pods = ()

    def decide(self, connection):
        """The kernel's verdict; None if it has not heard of one of the ends."""
        policy_id = self.kernel["endpoints"].get(gen.subject_of(connection.subject))
        peer = connection.peer
        identity, cidr_identity = self.kernel["peers"].get(peer.end.address, (0, 0))
        if policy_id is None or (peer.identity and not identity):
            return None
        tables = KernelTables(
            bits=self.kernel["bits"],
            rows=self.kernel["rows"],
            policies=self.kernel["policies"],
            cidrs=self.kernel["ipcache"],
        )
        identity = identity or tables.outside_identity(peer.end.address)
        found = tables.decide(
            policy_id, connection.direction, identity, cidr_identity, connection.protocol, connection.port
        )
        assert found.row_id, f"{connection}: no row in policy {policy_id}"
        return Verdict.ALLOWED if found.allowed else Verdict.DENIED if found.denied else Verdict.NOT_ALLOWED


def _apply(table, changes):
    for key, value in changes.items():
        if value is None:
            table.pop(key, None)
        else:
            table[key] = value


def expected(documents, pods, connection):
    subject, peer = connection.subject.end, connection.peer.end
    source, destination = (peer, subject) if connection.direction == 1 else (subject, peer)
    options = Options(pods=tuple(pod.end for pod in pods))
    return verdict(
        documents.values(), source, destination, connection.direction, connection.protocol, connection.port, options
    )


NAMES = ("p0", "p1", "p2")


def named(document, name):
    return {**document, "metadata": {**document["metadata"], "name": name}}


@dataclass(frozen=True)
class Step:
    """One change of the intent, and how far the kernel gets before the next."""

    upserts: dict
    removals: frozenset
    toggled: frozenset  # pods that come, or go if they are there
    restart: bool
    writes: int  # -1: all, and then the engine hears that they are realized


@st.composite
def steps(draw):
    upserts = draw(st.dictionaries(st.sampled_from(NAMES), gen.policy_documents(), max_size=2))
    return Step(
        upserts={name: named(document, name) for name, document in upserts.items()},
        removals=frozenset(draw(st.sets(st.sampled_from(NAMES), max_size=1))) - set(upserts),
        toggled=frozenset(draw(st.sets(st.sampled_from(range(len(gen.PODS))), max_size=2))),
        restart=draw(st.sampled_from((False, False, False, True))),
        writes=draw(st.one_of(st.just(-1), st.just(-1), st.integers(0, 60))),
    )


def key_of(document):
    metadata = document["metadata"]
    return (document["kind"], metadata.get("namespace", ""), metadata["name"])


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    path=st.lists(steps(), min_size=1, max_size=6),
    asked=st.lists(gen.connections(), min_size=8, max_size=16),
)
def test_every_write_shows_the_old_policy_or_the_new_one(path, asked):
    node = Node()
    node.take_pods(gen.PODS)
    node.settle()
    absent, unsettled = set(), set()
    versions = [(dict(node.documents), node.pods)]

    for step in path:
        documents = dict(node.documents)
        for name in (*step.removals, *step.upserts):
            for key in [key for key in documents if key[2] == name]:
                del documents[key]
        for document in step.upserts.values():
            documents[key_of(document)] = document
        gone = [policy for policy in gen.parsed(node.documents.values()) if policy.key not in documents]
        node.documents = documents
        absent ^= step.toggled
        present = [pod for index, pod in enumerate(gen.PODS) if index not in absent]
        versions.append((documents, present))

        if step.restart:
            node.restart()
            node.take_pods(present, policies_upserted=gen.parsed(documents.values()))
        else:
            node.take_pods(present, policies_upserted=gen.parsed(documents.values()), policies_removed=gone)

        # Who comes or goes meanwhile may meet either, and so may who is like him; the others never notice.
        unsettled |= {gen.PODS[index].identity for index in step.toggled}
        possible = {
            connection: {expected(*version, connection) for version in versions}
            for connection in asked
            if not {connection.subject.identity, connection.peer.identity} & unsettled
        }
        for count, write in enumerate(node.writes()):
            if count == step.writes:
                break
            write()
            for connection, verdicts in possible.items():
                found = node.decide(connection)
                assert found is None or found in verdicts, (connection, found, verdicts)
        if step.writes == -1:
            node.engine.realized()
            versions, unsettled = [(documents, present)], set()

    node.settle()
    for connection in asked:
        found = node.decide(connection)
        present = connection.subject in node.pods
        peer_present = connection.peer.identity < 256 or connection.peer in node.pods
        assert (found is not None) == (present and peer_present)
        assert found in (None, expected(node.documents, node.pods, connection)), connection


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(documents=gen.documents(), order=st.randoms(use_true_random=False))
def test_order_and_split_of_updates_make_no_difference_to_what_remains(documents, order):
    """Everything in any order, one by one, with things that come and go between: the same number of entries remains."""
    at_once, one_by_one = Node(), Node()
    policies = gen.parsed(documents)
    at_once.take_pods(gen.PODS, policies_upserted=policies)
    at_once.settle()
    one_by_one.pods = gen.PODS

    updates = [
        *({"policies_upserted": [policy]} for policy in policies),
        *({"identities_upserted": [identity]} for identity in gen.IDENTITIES),
        *({"subjects_added": [subject]} for subject in gen.SUBJECTS),
        *({"ports_changed": {number: ports}} for number, ports in gen.PORTS.items()),
        {"ports_changed": {1002: gen.PORTS[1001]}},
        {"policies_upserted": [replace(policy, sections=policy.sections[:1]) for policy in policies[:1]]},
        {"identities_upserted": [replace(gen.IDENTITIES[0], number=4000)], "ports_changed": {4000: gen.PORTS[1001]}},
    ]
    order.shuffle(updates)
    for update in updates:
        one_by_one.take(**update)
        if order.random() < 0.3:
            one_by_one.settle()
    one_by_one.take(
        policies_upserted=policies[:1],
        identities_removed=[4000],
        ports_changed={1002: gen.PORTS[1002], 4000: frozenset()},
    )
    one_by_one.settle()

    for stage in STAGES:
        assert len(at_once.kernel[stage]) == len(one_by_one.kernel[stage]), stage
    assert set(at_once.kernel["ipcache"]) == set(one_by_one.kernel["ipcache"])


def test_an_update_that_says_nothing_new_changes_nothing():
    document = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "p", "namespace": "a"},
        "spec": {"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}]},
    }
    engine = PolicyEngine()
    everything = {
        "policies_upserted": gen.parsed([document]),
        "identities_upserted": gen.IDENTITIES,
        "ports_changed": gen.PORTS,
        "subjects_added": gen.SUBJECTS,
    }

    first = engine.update(**everything)
    again = engine.update(**everything)

    assert first
    assert not again


def test_a_restart_keeps_the_numbers_of_prefixes():
    document = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "p", "namespace": "a"},
        "spec": {
            "podSelector": {},
            "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}]}],
        },
    }
    node = Node()
    node.take(policies_upserted=gen.parsed([document]), subjects_added=gen.SUBJECTS)
    node.settle()
    before = dict(node.kernel["ipcache"])

    node.restart()
    node.take(policies_upserted=gen.parsed([document]), subjects_added=gen.SUBJECTS)
    node.settle()

    assert node.kernel["ipcache"] == before
    assert set(before) == {ip_network("10.0.0.0/8"), ip_network("10.1.0.0/16")}

"""The compiled entries decide as the oracle does, over generated policies and connections."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pycilium.policy import PolicyEngine
from pycilium.policy.lookup import KernelTables, LookupVerdict
from pycilium.policy.reference import Options, Verdict, verdict
from pycilium.testing import policies as gen

DEFAULT = Options(pods=gen.ENDS)


def expected(documents, connection, options=DEFAULT):
    """The oracle's answer."""
    subject, peer = connection.subject.end, connection.peer.end
    source, destination = (peer, subject) if connection.direction == 1 else (subject, peer)
    return verdict(documents, source, destination, connection.direction, connection.protocol, connection.port, options)


def looked_up(kernel: KernelTables, engine: PolicyEngine, connection: gen.Connection) -> LookupVerdict:
    """What the kernel's tables say."""
    peer = connection.peer
    identity = peer.identity or kernel.outside_identity(peer.end.address)
    cidr_identity = engine.cidr_identity(peer.end.address) if peer.identity else 0
    policy_id = kernel.subjects[gen.subject_of(connection.subject)]
    return kernel.decide(policy_id, connection.direction, identity, cidr_identity, connection.protocol, connection.port)


def in_words(found: LookupVerdict) -> Verdict:
    assert found.row_id, "no row: the endpoint is not configured"
    if found.allowed:
        return Verdict.ALLOWED
    return Verdict.DENIED if found.denied else Verdict.NOT_ALLOWED


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    documents=gen.documents(),
    asked=st.lists(gen.connections(), min_size=10, max_size=40),
    allow_localhost=st.booleans(),
    cidr_matches_pods=st.booleans(),
)
def test_entries_decide_as_the_reference(documents, asked, allow_localhost, cidr_matches_pods):
    engine = PolicyEngine(allow_localhost=allow_localhost, cidr_matches_pods=cidr_matches_pods)
    kernel = KernelTables()

    kernel.apply(
        engine.update(
            policies_upserted=gen.parsed(documents),
            identities_upserted=gen.IDENTITIES,
            ports_changed=gen.PORTS,
            subjects_added=gen.SUBJECTS,
        )
    )

    options = Options(allow_localhost=allow_localhost, cidr_matches_pods=cidr_matches_pods, pods=gen.ENDS)
    for connection in asked:
        found = looked_up(kernel, engine, connection)
        assert in_words(found) == expected(documents, connection, options), connection
        rules = engine.rules_for(found.row_id, found.selector)
        assert all(rule.deny == found.denied for rule in rules)
        if found.denied:
            assert rules

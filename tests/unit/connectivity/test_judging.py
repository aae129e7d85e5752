"""An action is right if the probe and the flows say so."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pycilium.connectivity.flows import POLICY_DENIED, POLICY_DENY, Flow
from pycilium.connectivity.judging import Judgement, judge
from pycilium.connectivity.outcomes import LET_THROUGH, Outcome, allowed, forbidden, not_allowed
from pycilium.connectivity.probes import ProbeResult
from pycilium.connectivity.scenarios import SCENARIOS
from tests.unit.connectivity.arenas import arena

TCP = SCENARIOS["pod-to-pod"].actions(arena(1))[0]
UDP = SCENARIOS["pod-to-pod-udp"].actions(arena(1))[0]
ECHO = SCENARIOS["client-to-client"].actions(arena(1))[0]
ITSELF = SCENARIOS["pod-to-itself-via-service"].actions(arena(1))[0]
LOCAL = ("10.0.1.2", 40000)
ANSWERED = ProbeResult(True, local=LOCAL, seen=LOCAL, took_s=0.001)
SILENCE = ProbeResult(False, "ETIMEDOUT", local=LOCAL, took_s=1.0)
SYN = Flow(
    time="2026-01-02T03:04:05.000Z",
    node="node1",
    verdict="FORWARDED",
    source="10.0.1.2",
    destination="10.0.1.5",
    protocol="tcp",
    ports=(40000, 8080),
    ends=("cilium-test-1/client", "cilium-test-1/echo-same-node"),
    direction="egress",
    syn=True,
)
DROP = replace(
    SYN,
    verdict="DROPPED",
    drop_reason=POLICY_DENIED,
    policies={"egress_denied_by": ("deny-all-egress",)},
)


def wrong(outcome: Outcome, result: ProbeResult, *flows: Flow, action=TCP) -> tuple[str, ...]:
    return judge(action, outcome, result, flows).wrong


class TestLetThrough:
    def test_an_answer_and_the_flow_that_began_it(self):
        assert wrong(LET_THROUGH, ANSWERED, SYN) == ()

    def test_no_answer_is_wrong_whatever_the_flows_say(self):
        assert wrong(LET_THROUGH, SILENCE, SYN) == ("it was to be let through, and had no answer",)

    def test_an_answer_of_which_hubble_saw_nothing_is_wrong_and_may_become_right(self):
        judged = judge(TCP, LET_THROUGH, ANSWERED, [replace(SYN, ports=(1, 8080))])

        assert (judged.wrong, judged.incomplete) == (("Hubble has not seen its SYN",), True)

    def test_a_packet_that_was_dropped_on_the_way(self):
        assert wrong(LET_THROUGH, ANSWERED, SYN, replace(DROP, syn=False)) == (
            "a packet of it was dropped: POLICY_DENIED",
        )

    def test_the_policy_that_let_it_through_must_be_named(self):
        outcome = allowed(egress="client-egress")
        named = replace(SYN, policies={"egress_allowed_by": ("client-egress",)})
        other = replace(SYN, policies={"egress_allowed_by": ("allow-all-egress",)})

        assert wrong(outcome, ANSWERED, named) == ()
        assert wrong(outcome, ANSWERED, other) == (
            "no flow names policy client-egress as having allowed it at egress; named are allow-all-egress",
        )

    def test_what_never_leaves_the_pod_has_no_flows(self):
        assert wrong(LET_THROUGH, ANSWERED, action=ITSELF) == ()

    @pytest.mark.parametrize(
        ("action", "protocol", "said"),
        [(UDP, "udp", "Hubble has not seen its datagram"), (ECHO, "icmp", "Hubble has not seen its echo request")],
    )
    def test_other_protocols_begin_otherwise(self, action, protocol, said):
        begun = replace(SYN, protocol=protocol, syn=False, echo_request=protocol == "icmp")
        begun = replace(begun, destination=action.probe.address)

        assert wrong(LET_THROUGH, ANSWERED, begun, action=action) == ()
        assert wrong(LET_THROUGH, ANSWERED, action=action) == (said,)

    def test_a_translated_connection_is_found_by_what_the_other_side_saw(self):
        seen = replace(SYN, source="172.18.0.12", ports=(55000, 8080))

        assert wrong(LET_THROUGH, replace(ANSWERED, seen=("172.18.0.12", 55000)), seen) == ()


class TestDenied:
    OUTCOME = not_allowed("egress", "deny-all-egress")

    def test_silence_and_the_drop_with_its_policy(self):
        assert wrong(self.OUTCOME, SILENCE, DROP) == ()

    def test_an_answer_is_wrong(self):
        assert wrong(self.OUTCOME, ANSWERED, DROP) == ("it was to be denied, and was answered",)

    def test_a_refusal_is_not_silence(self):
        assert wrong(self.OUTCOME, replace(SILENCE, error="ECONNREFUSED"), DROP) == (
            "its packets were to be dropped without a word, and it failed with ECONNREFUSED",
        )

    def test_a_drop_that_hubble_has_not_seen_may_still_come(self):
        judged = judge(TCP, self.OUTCOME, SILENCE, [])

        assert (judged.wrong, judged.incomplete) == (("Hubble has seen no drop of it",), True)

    def test_a_drop_on_the_other_side_or_for_another_reason_is_not_it(self):
        elsewhere = replace(DROP, direction="ingress", drop_reason=POLICY_DENY)

        assert wrong(self.OUTCOME, SILENCE, elsewhere) == ("Hubble has seen other drops of it: POLICY_DENY at ingress",)
        assert wrong(forbidden("ingress", ""), SILENCE, replace(elsewhere, policies={"ingress_denied_by": ("",)})) == ()

    def test_a_drop_that_names_another_policy_is_wrong(self):
        assert wrong(not_allowed("egress", "other"), SILENCE, DROP) == (
            "no drop names policy other as having denied it at egress; named are deny-all-egress",
        )


def test_without_flows_the_probe_alone_is_judged():
    assert judge(TCP, LET_THROUGH, ANSWERED, [], with_flows=False).right


def test_what_is_wrong_is_told_with_what_was_tried_and_the_flows():
    judged: Judgement = judge(TCP, LET_THROUGH, SILENCE, [SYN])

    assert judged.lines() == [
        "pod-to-pod: client -> echo-same-node, 10.0.1.5:8080/TCP",
        "  expected: let through",
        "  found:    no answer within 1.0 s",
        "  wrong:    it was to be let through, and had no answer",
        "  flows:",
        f"  {SYN}",
    ]


def test_many_flows_are_not_all_told():
    judged = judge(TCP, LET_THROUGH, SILENCE, [SYN] * 40)

    assert judged.lines()[-1] == "  … and 28 more"

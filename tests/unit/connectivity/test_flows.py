"""What is read in the lines of `hubble observe -o json`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pycilium.connectivity.flows import Flow, flow_of, of_connection, of_echo

LINE: dict[str, Any] = {
    "flow": {
        "time": "2026-01-02T03:04:05.678901Z",
        "verdict": "DROPPED",
        "IP": {"source": "10.0.1.2", "destination": "10.0.1.5", "ipVersion": "IPv4"},
        "l4": {"TCP": {"source_port": 40000, "destination_port": 8080, "flags": {"SYN": True}}},
        "source": {"namespace": "cilium-test-1", "pod_name": "client", "labels": ["k8s:kind=client"]},
        "destination": {"identity": 2, "labels": ["reserved:world"]},
        "node_name": "default/node1",
        "traffic_direction": "EGRESS",
        "is_reply": False,
        "drop_reason_desc": "POLICY_DENIED",
        "egress_denied_by": [{"name": "deny-all-egress", "namespace": "cilium-test-1"}],
        "Summary": "TCP Flags: SYN; no rule allows it",
    },
    "node_name": "default/node1",
}
FLOW = flow_of(LINE)
ECHO = flow_of({"flow": {**LINE["flow"], "l4": {"ICMPv4": {"type": 8}}}})


def test_a_line_tells_who_where_why_and_by_which_policy():
    assert (
        Flow(
            time="2026-01-02T03:04:05.678901Z",
            node="node1",
            verdict="DROPPED",
            source="10.0.1.2",
            destination="10.0.1.5",
            protocol="tcp",
            ports=(40000, 8080),
            ends=("cilium-test-1/client", "world"),
            direction="egress",
            syn=True,
            drop_reason="POLICY_DENIED",
            policies={
                "egress_allowed_by": (),
                "ingress_allowed_by": (),
                "egress_denied_by": ("deny-all-egress",),
                "ingress_denied_by": (),
            },
            summary="TCP Flags: SYN; no rule allows it",
        )
        == FLOW
    )


def test_it_reads_as_one_line():
    assert str(FLOW) == (
        "03:04:05.678 node1: cilium-test-1/client 10.0.1.2:40000 -> world 10.0.1.5:8080 egress "
        "DROPPED POLICY_DENIED (TCP Flags: SYN; no rule allows it)"
    )


def test_a_flow_with_nothing_in_it_is_read_too():
    assert flow_of({"flow": {}}).protocol == ""


def test_an_answer_to_a_syn_is_no_syn():
    answered = {"TCP": {"source_port": 8080, "destination_port": 40000, "flags": {"SYN": True, "ACK": True}}}

    assert not flow_of({"flow": {**LINE["flow"], "l4": answered}}).syn


def test_a_connections_flows_are_found_both_ways_by_any_address_it_had():
    reply = replace(FLOW, source="10.0.1.5", destination="10.0.1.2", ports=(8080, 40000), is_reply=True)
    translated = replace(FLOW, source="10.0.1.1", ports=(50000, 8080))
    other = replace(FLOW, ports=(40001, 8080))
    elsewhere = replace(FLOW, protocol="udp")

    found = of_connection(
        [FLOW, reply, translated, other, elsewhere], "tcp", {("10.0.1.2", 40000), ("10.0.1.1", 50000)}
    )

    assert found == [FLOW, reply, translated]


def test_two_that_ping_each_other_have_their_own_flows():
    reply = replace(ECHO, source="10.0.1.5", destination="10.0.1.2", echo_request=False, is_reply=True)
    back = replace(ECHO, source="10.0.1.5", destination="10.0.1.2")

    assert of_echo([ECHO, reply, back], "10.0.1.2", "10.0.1.5") == [ECHO, reply]

"""What a client sees of an event: whole messages, so that a field too many shows as well."""

from __future__ import annotations

import numpy as np
import pytest
from google.protobuf.json_format import MessageToDict

from pycilium.hubble.directories import Direction, IdentityTable, Outcome
from pycilium.hubble.field_mask import FieldMaskError, FlowMask
from pycilium.hubble.flow import FILLED_FIELDS, FlowConverter, flow_uuid, sequence_of_uuid
from pycilium.hubble.proto import flow_pb2
from tests.unit.hubble.synthetic import (
    ACK,
    CLIENT,
    DROP,
    EGRESS,
    ICMP,
    ICMPV6,
    INGRESS,
    POLICY_DENIED,
    POLICY_DENY,
    SCTP,
    TO_HOST,
    TO_OVERLAY,
    TO_STACK,
    TRACE_SOCK,
    UDP,
    WEB,
    KnownRules,
    client_to_web,
    event,
    filled_store,
    web_to_client,
)

NODE = "default/node1"


def flows_of(*made: np.ndarray) -> list[flow_pb2.Flow]:
    store, known = filled_store(*made)
    converter = FlowConverter(store, known, NODE)
    return [
        flow
        for first, rows in store.segments(0, store.next)
        for flow in converter.flows(range(first, first + len(rows.type)), rows)
    ]


def flow_of(made: np.ndarray) -> flow_pb2.Flow:
    return flows_of(made)[-1]


def shown(flow: flow_pb2.Flow) -> dict:
    content = MessageToDict(flow, preserving_proto_field_name=True)
    content.pop("uuid")
    return content


CLIENT_END = {
    "ID": 10,
    "identity": 5001,
    "namespace": "default",
    "labels": ["k8s:app=client", "k8s:io.cilium.k8s.policy.cluster=default"],
    "pod_name": "client-1",
    "workloads": [{"name": "client", "kind": "Deployment"}],
    "cluster_name": "default",
}
WEB_END = {
    "ID": 20,
    "identity": 5002,
    "namespace": "shop",
    "labels": ["k8s:app=web", "k8s:tier=front"],
    "pod_name": "web-abc",
    "cluster_name": "default",
}
ALLOW = {
    "name": "allow-web",
    "namespace": "shop",
    "labels": ["k8s:policy=allow-web"],
    "revision": "3",
    "kind": "CiliumNetworkPolicy",
}


def test_a_forwarded_packet() -> None:
    made = client_to_web(time_ns=1_700_000_000_123_456_789, egress_row=1, ingress_row=2, ingress_selector=3)

    assert shown(flow_of(made)) == {
        "time": "2023-11-14T22:13:20.123456789Z",
        "verdict": "FORWARDED",
        "ethernet": {"source": "0a:00:00:00:00:01", "destination": "0a:00:00:00:00:02"},
        "IP": {"source": "10.0.0.1", "destination": "10.0.0.2", "ipVersion": "IPv4"},
        "l4": {"TCP": {"source_port": 40000, "destination_port": 80, "flags": {"SYN": True}}},
        "source": CLIENT_END,
        "destination": WEB_END,
        "Type": "L3_L4",
        "node_name": NODE,
        "event_type": {"type": 4},
        "traffic_direction": "INGRESS",
        "trace_observation_point": "TO_ENDPOINT",
        "is_reply": False,
        "trace_reason": "NEW",
        "interface": {"index": 8, "name": "lxc0008"},
        "egress_allowed_by": [ALLOW],
        "ingress_allowed_by": [ALLOW],
        "Summary": "TCP Flags: SYN",
    }


def test_a_reply() -> None:
    content = shown(flow_of(web_to_client(subtype=TO_STACK)))

    assert (content["is_reply"], content["reply"], content["traffic_direction"]) == (True, True, "INGRESS")
    assert (content["event_type"], content["trace_observation_point"]) == ({"type": 4, "sub_type": 3}, "TO_STACK")
    assert content["Summary"] == "TCP Flags: SYN, ACK"


def test_what_goes_to_another_node_has_both_identities() -> None:
    content = shown(flow_of(client_to_web(subtype=TO_OVERLAY, destination_endpoint=0)))

    assert (content["event_type"], content["trace_observation_point"]) == ({"type": 4, "sub_type": 4}, "TO_OVERLAY")
    assert (content["source"]["identity"], content["destination"]["identity"]) == (CLIENT, WEB)
    assert content["traffic_direction"] == "EGRESS"


def test_a_drop_without_a_rule_names_the_restricting_policies_and_the_nearest_rule() -> None:
    made = client_to_web(
        type=DROP, subtype=POLICY_DENIED, direction=INGRESS, verdict_flags=2 | 8, destination_port=8080
    )
    verdict, drop = flows_of(made)

    assert (drop.verdict, drop.drop_reason, drop.drop_reason_desc) == (flow_pb2.DROPPED, 133, flow_pb2.POLICY_DENIED)
    assert [policy.name for policy in drop.ingress_denied_by] == ["allow-web"]
    assert drop.Summary == "TCP Flags: SYN; no ingress rule allows port 8080; nearest: shop/allow-web"
    assert (verdict.event_type.type, verdict.event_type.sub_type, verdict.policy_match_type) == (5, -133, 0)
    assert verdict.Summary == drop.Summary
    assert not verdict.HasField("is_reply") or not verdict.is_reply.value


def test_a_drop_by_a_deny_rule_names_it() -> None:
    made = client_to_web(type=DROP, subtype=POLICY_DENY, direction=INGRESS, verdict_flags=1 | 2 | 8, egress_row=1)
    egress, ingress, drop = flows_of(made)

    assert drop.Summary == "TCP Flags: SYN; denied by no-ssh ingressDeny[0]"
    assert [policy.kind for policy in drop.ingress_denied_by] == ["CiliumClusterwideNetworkPolicy"]
    assert [policy.name for policy in drop.egress_allowed_by] == ["allow-web"]
    assert (egress.verdict, egress.policy_match_type, list(egress.ingress_denied_by)) == (flow_pb2.FORWARDED, 2, [])
    assert egress.Summary == "TCP Flags: SYN; allowed by shop/allow-web ingress[0]"
    assert (ingress.verdict, ingress.policy_match_type, ingress.drop_reason) == (flow_pb2.DROPPED, 1, 181)


def test_whether_it_is_a_reply_is_left_out_where_nobody_knows() -> None:
    flow = flow_of(event(type=DROP, subtype=132, direction=EGRESS, is_reply=2))

    assert not flow.HasField("is_reply")
    assert flow.traffic_direction == flow_pb2.EGRESS


@pytest.mark.parametrize(
    ("made", "layer4", "summary"),
    [
        (
            event(tcp_flags=ACK | 8),
            {"TCP": {"source_port": 40000, "destination_port": 80, "flags": {"PSH": True, "ACK": True}}},
            "TCP Flags: ACK, PSH",
        ),
        (event(tcp_flags=0xFF), None, "TCP Flags: SYN, ACK, RST, FIN, PSH, URG, ECE, CWR"),
        (event(protocol=UDP), {"UDP": {"source_port": 40000, "destination_port": 80}}, "UDP"),
        (event(protocol=SCTP), {"SCTP": {"source_port": 40000, "destination_port": 80}}, "SCTP"),
        (event(protocol=ICMP, icmp_type=8), {"ICMPv4": {"type": 8}}, "ICMPv4 EchoRequest"),
        (event(protocol=ICMP), {"ICMPv4": {}}, "ICMPv4 EchoReply"),
        (event(protocol=ICMP, icmp_type=3, icmp_code=3), None, "ICMPv4 DestinationUnreachable(Port)"),
        (event(protocol=ICMP, icmp_type=99, icmp_code=1), None, "ICMPv4 99(1)"),
        (
            event("fd00::1", "fd00::2", protocol=ICMPV6, icmp_type=135),
            {"ICMPv6": {"type": 135}},
            "ICMPv6 NeighborSolicitation",
        ),
        (
            event("fd00::1", "fd00::2", protocol=ICMPV6, icmp_type=1, icmp_code=4),
            None,
            "ICMPv6 DestinationUnreachable(PortUnreachable)",
        ),
        (event(protocol=47), {}, "IPv4 protocol 47"),
        (event(family=0, ether_type=0x88CC), {}, "LLDP"),
        (event(family=0, ether_type=0x1234), {}, "EtherType 0x1234"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_layer_4_and_summary(made: np.ndarray, layer4: dict | None, summary: str) -> None:
    content = shown(flow_of(made))

    assert content["Summary"] == summary
    assert layer4 is None or content.get("l4", {}) == layer4


def test_a_packet_that_is_not_ip_has_no_ends() -> None:
    content = shown(flow_of(event(family=0, protocol=0, type=DROP, subtype=166, direction=EGRESS, is_reply=2)))

    assert {"IP", "source", "destination", "l4"} & set(content) == set()
    assert content["ethernet"]["source"] == "0a:00:00:00:00:01"


def test_ipv6_and_the_world() -> None:
    made = client_to_web(destination_endpoint=0, destination_identity=10, subtype=TO_HOST)
    made["family"] = 6
    made["source"][0, :2] = made["destination"][0, :2] = 0x20
    flow = flow_of(made)

    assert flow.IP.source == "2020::ffff:a00:1"
    assert (flow.IP.ipVersion, list(flow.destination.labels)) == (flow_pb2.IPv6, ["reserved:world-ipv6"])


class TestWhatTheRuleDirectoryIsAsked:
    def asked(self, made: np.ndarray) -> list:
        store, known = filled_store(made)
        ((first, rows),) = store.segments(store.next - 1, store.next)
        FlowConverter(store, known, NODE).flows([first], rows)
        assert isinstance(known.rules, KnownRules)
        return known.rules.asked

    def test_about_an_implicit_deny_all_that_the_nearest_rule_depends_on(self) -> None:
        made = client_to_web(
            type=DROP,
            subtype=POLICY_DENIED,
            direction=INGRESS,
            verdict_flags=2 | 8,
            ingress_row=7,
            destination_port=22,
            ingress_revision=31,
        )

        (decision,) = self.asked(made)
        assert decision._asdict() == {
            "direction": Direction.INGRESS,
            "outcome": Outcome.NO_RULE,
            "row_id": 7,
            "selector": 0,
            "endpoint_id": 20,
            "peer_identity": 5001,
            "peer_address": "10.0.0.1",
            "protocol": 6,
            "port": 22,
            "revision": 31,
        }

    def test_about_a_reply_the_connection_it_belongs_to(self) -> None:
        (decision,) = self.asked(web_to_client(egress_row=7, egress_selector=4))

        assert (decision.direction, decision.outcome, decision.selector) == (Direction.EGRESS, Outcome.ALLOWED, 4)
        assert (decision.endpoint_id, decision.peer_identity, decision.port) == (10, 5002, 80)


def test_rules_are_asked_for_once_per_row_and_selector() -> None:
    store, known = filled_store(*(client_to_web(ingress_row=7, source_port=port) for port in range(20)))
    ((_, rows),) = store.segments(0, 20)
    FlowConverter(store, known, NODE).flows(range(20), rows)

    assert isinstance(known.rules, KnownRules)
    assert len(known.rules.asked) == 1


def test_an_implicit_deny_names_the_policies_of_its_moment_and_not_those_of_an_earlier_one() -> None:
    denied = {"type": DROP, "subtype": POLICY_DENIED, "direction": INGRESS, "verdict_flags": 2 | 8}
    store, known = filled_store(*(client_to_web(ingress_revision=revision, **denied) for revision in (31, 31, 32)))
    ((first, rows),) = store.segments(0, store.next)
    FlowConverter(store, known, NODE).flows(range(first, store.next), rows)

    assert isinstance(known.rules, KnownRules)
    assert [decision.revision for decision in known.rules.asked] == [31, 32]


def test_labels_that_become_known_later_are_shown_then() -> None:
    store, known = filled_store(client_to_web(source_identity=6000))
    converter = FlowConverter(store, known, NODE)
    ((_, rows),) = store.segments(0, 1)
    before = list(converter.flows([0], rows)[0].source.labels)

    assert isinstance(known.identities, IdentityTable)
    known.identities.set_identity(6000, ("k8s:b=1", "k8s:a=1"))

    assert (before, list(converter.flows([0], rows)[0].source.labels)) == ([], ["k8s:a=1", "k8s:b=1"])


def test_a_uuid_leads_back_to_its_flow_and_to_no_other_store() -> None:
    text = flow_uuid(0x1234_5678_9ABC_DEF0, 987654)

    assert sequence_of_uuid(0x1234_5678_9ABC_DEF0, text) == 987654
    assert sequence_of_uuid(0x1234_5678_9ABC_DEF1, text) is None
    assert text[14] == "8"


class TestSockets:
    """Translations, as the agent hands them over."""

    COOKIES = {"egress_row": 0x2, "ingress_row": 0x1, "egress_revision": 0x4, "ingress_revision": 0x3}  # noqa: RUF012

    def test_before_the_translation(self) -> None:
        made = client_to_web(type=TRACE_SOCK, subtype=1, is_reply=2, source_port=0, ifindex=0, tcp_flags=0, reason=0)
        for name, value in self.COOKIES.items():
            made[name] = value

        assert shown(flow_of(made)) == {
            "time": "1970-01-01T00:00:01Z",
            "verdict": "TRACED",
            "IP": {"source": "10.0.0.1", "destination": "10.0.0.2", "ipVersion": "IPv4"},
            "l4": {"TCP": {"destination_port": 80}},
            "source": CLIENT_END,
            "destination": WEB_END,
            "Type": "SOCK",
            "node_name": NODE,
            "event_type": {"type": 7, "sub_type": 1},
            "sock_xlate_point": "SOCK_XLATE_POINT_PRE_DIRECTION_FWD",
            "socket_cookie": str(1 << 32 | 2),
            "cgroup_id": str(3 << 32 | 4),
            "Summary": "TCP",
        }

    def test_after_the_translation_to_a_process_of_nobody_that_is_known(self) -> None:
        made = event("10.0.0.1", "0.0.0.0", type=TRACE_SOCK, subtype=4, is_reply=2, protocol=UDP)
        made["destination"] = 0

        flow = flow_of(made)

        assert flow.verdict == flow_pb2.TRANSLATED
        assert flow.sock_xlate_point == flow_pb2.SOCK_XLATE_POINT_POST_DIRECTION_REV
        assert (flow.IP.source, flow.IP.destination) == ("10.0.0.1", "")
        assert flow.Summary == "UDP"


class TestFieldMask:
    def test_leaves_only_what_is_named(self) -> None:
        flow = flow_of(client_to_web(ingress_row=2))
        FlowMask(["time", "source.pod_name", "source.namespace", "l4.TCP.flags", "Summary"]).apply(flow)

        assert MessageToDict(flow, preserving_proto_field_name=True) == {
            "time": "1970-01-01T00:00:01Z",
            "source": {"namespace": "default", "pod_name": "client-1"},
            "l4": {"TCP": {"source_port": 40000, "destination_port": 80, "flags": {"SYN": True}}},
            "Summary": "TCP Flags: SYN",
        }

    def test_a_whole_field_wins_over_a_part_of_it(self) -> None:
        flow = flow_of(client_to_web())
        FlowMask(["source.pod_name", "source"]).apply(flow)

        assert MessageToDict(flow, preserving_proto_field_name=True) == {"source": CLIENT_END}

    def test_the_type_of_a_verdict_brings_what_is_needed_to_read_it(self) -> None:
        verdict, trace = flows_of(client_to_web(verdict_flags=2, ingress_row=2))
        for flow in (verdict, trace):
            FlowMask(["event_type"]).apply(flow)

        assert {field.name for field, _ in verdict.ListFields()} == {
            "event_type",
            "traffic_direction",
            "policy_match_type",
            "ingress_allowed_by",
        }
        assert [field.name for field, _ in trace.ListFields()] == ["event_type"]

    @pytest.mark.parametrize("path", ["nonsense", "source.nonsense", "time.seconds.x", "egress_allowed_by.name", ""])
    def test_an_unknown_field_is_refused(self, path: str) -> None:
        with pytest.raises(FieldMaskError, match="field_mask: "):
            FlowMask([path])

    def test_knows_every_field_that_a_row_can_fill(self) -> None:
        made = (
            client_to_web(type=DROP, subtype=POLICY_DENY, direction=INGRESS, verdict_flags=1 | 2 | 8, egress_row=1),
            client_to_web(type=DROP, subtype=POLICY_DENY, direction=EGRESS, verdict_flags=1 | 4),
            web_to_client(egress_row=1, ingress_row=2),
            client_to_web(service_id=2),
            web_to_client(service_id=2),
            client_to_web(type=TRACE_SOCK, subtype=1, egress_row=1, egress_revision=1),
        )
        filled = {field.name for flow in flows_of(*made) for field, _ in flow.ListFields()}

        assert filled == FILLED_FIELDS

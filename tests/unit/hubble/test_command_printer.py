"""The forms that scripts rely on, line by line; they were compared with the genuine command's output."""

from __future__ import annotations

import io
import json

import pytest

from pycilium.cli.hubble_printer import Printer, PrintOptions, flow_type, status_text, table_text
from pycilium.hubble.flow import FlowConverter
from pycilium.hubble.proto import flow_pb2, observer_pb2, relay_pb2
from pycilium.hubble.store import Loss, LossSource
from tests.unit.hubble.synthetic import (
    ACK,
    DROP,
    EGRESS,
    ICMPV6,
    INGRESS,
    POLICY_DENIED,
    POLICY_DENY,
    TO_HOST,
    TO_NETWORK,
    TO_STACK,
    UDP,
    client_to_web,
    event,
    filled_store,
    web_to_client,
)

TIME_NS = 1_700_000_000_123_456_789
WORLD = {"destination_endpoint": 0, "destination_identity": 9}


def responses() -> list[observer_pb2.GetFlowsResponse]:
    store, known = filled_store(
        client_to_web(verdict_flags=2, ingress_row=2, time_ns=TIME_NS),
        web_to_client(time_ns=TIME_NS),
        client_to_web(
            type=DROP,
            subtype=POLICY_DENIED,
            direction=INGRESS,
            verdict_flags=8 | 2,
            destination_port=8080,
            time_ns=TIME_NS,
        ),
        client_to_web(
            type=DROP, subtype=POLICY_DENY, direction=INGRESS, verdict_flags=8 | 2, destination_port=22, time_ns=TIME_NS
        ),
        client_to_web(subtype=TO_STACK, protocol=UDP, time_ns=TIME_NS, **WORLD),
        event(
            "fd00::1",
            "2606:4700::1",
            subtype=TO_NETWORK,
            protocol=ICMPV6,
            icmp_type=128,
            source_port=0,
            time_ns=TIME_NS,
        ),
        event("fd00::1", "fd00::2", subtype=TO_HOST, tcp_flags=ACK, source_identity=1, is_reply=2, time_ns=TIME_NS),
        event(
            family=0,
            protocol=0,
            ether_type=0x88CC,
            type=DROP,
            subtype=166,
            direction=EGRESS,
            is_reply=2,
            time_ns=TIME_NS,
        ),
    )
    converter = FlowConverter(store, known, "default/node1")
    ((first, rows),) = store.segments(0, store.next)
    made = list(converter.responses(range(first, store.next), rows))
    made.insert(4, converter.loss(Loss(4, 17, 17, TIME_NS, LossSource.KERNEL_RING, cpu=1)))
    return made


def printed(*made: observer_pb2.GetFlowsResponse, **options: object) -> str:
    out = io.StringIO()
    printer = Printer(PrintOptions(**options), out, io.StringIO())  # type: ignore[arg-type]
    for response in made or responses():
        printer.response(response)
    printer.close()
    return out.getvalue()


def test_compact() -> None:
    stamp = "Nov 14 22:13:20.123"
    pair = "default/client-1:40000 (ID:5001) -> shop/web-abc"
    nearest = "TCP Flags: SYN; no ingress rule allows port 8080; nearest: shop/allow-web"

    assert printed().splitlines() == [
        f"{stamp}: {pair}:80 (ID:5002) policy-verdict:L3-L4 INGRESS ALLOWED (TCP Flags: SYN; allowed by shop/allow-web ingress[0])",
        f"{stamp}: {pair}:80 (ID:5002) to-endpoint FORWARDED (TCP Flags: SYN)",
        f"{stamp}: default/client-1:40000 (ID:5001) <- shop/web-abc:80 (ID:5002) to-endpoint FORWARDED (TCP Flags: SYN, ACK)",
        f"{stamp}: {pair}:8080 (ID:5002) policy-verdict:none INGRESS DENIED ({nearest})",
        f"{stamp} EVENTS LOST: PERF_EVENT_RING_BUFFER CPU(1) 17",
        f"{stamp}: {pair}:8080 (ID:5002) Policy denied DROPPED ({nearest})",
        f"{stamp}: {pair}:22 (ID:5002) policy-verdict:L3-Only INGRESS DENIED (TCP Flags: SYN; denied by no-ssh ingressDeny[0])",
        f"{stamp}: {pair}:22 (ID:5002) Policy denied by denylist DROPPED (TCP Flags: SYN; denied by no-ssh ingressDeny[0])",
        f"{stamp}: default/client-1:40000 (ID:5001) -> 10.0.0.2:80 (world-ipv4) to-stack FORWARDED (UDP)",
        f"{stamp}: fd00::1 (unknown) -> 2606:4700::1 (unknown) to-network FORWARDED (ICMPv6 EchoRequest)",
        f"{stamp}: [fd00::1]:40000 (host) <> [fd00::2]:80 (unknown) to-host FORWARDED (TCP Flags: ACK)",
        f"{stamp}: 0a:00:00:00:00:01 (unknown) <> 0a:00:00:00:00:02 (unknown) Unsupported L2 protocol DROPPED (LLDP)",
    ]


def test_compact_with_policies_node_and_plain_addresses() -> None:
    lines = printed(policy_names=True, node_name=True, translate_ips=False, time_format="RFC3339").splitlines()

    assert lines[0] == (
        "2023-11-14T22:13:20Z [default/node1]: 10.0.0.1:40000 (ID:5001) -> 10.0.0.2:80 (ID:5002) "
        "policy-verdict:L3-L4 INGRESS ALLOWED BY allow-web (CiliumNetworkPolicy) "
        "(TCP Flags: SYN; allowed by shop/allow-web ingress[0])"
    )


def test_compact_in_colour() -> None:
    line = printed(responses()[2], color=True)

    assert line == (
        "Nov 14 22:13:20.123: \x1b[36mdefault/client-1:\x1b[33m40000\x1b[0m\x1b[0m \x1b[35m(ID:5001)\x1b[0m <- "
        "\x1b[36mshop/web-abc:\x1b[33m80\x1b[0m\x1b[0m \x1b[35m(ID:5002)\x1b[0m to-endpoint "
        "\x1b[32mFORWARDED\x1b[0m (TCP Flags: SYN, ACK)\n"
    )


def test_dict() -> None:
    made = responses()

    assert printed(made[2], made[4], output="dict", node_name=True) == (
        "  TIMESTAMP: Nov 14 22:13:20.123\n"
        "       NODE: default/node1\n"
        "     SOURCE: shop/web-abc:80\n"
        "DESTINATION: default/client-1:40000\n"
        "       TYPE: to-endpoint\n"
        "    VERDICT: FORWARDED\n"
        "    SUMMARY: TCP Flags: SYN, ACK\n"
        "------------\n"
        "  TIMESTAMP: Nov 14 22:13:20.123\n"
        "       NODE: default/node1\n"
        "     SOURCE: PERF_EVENT_RING_BUFFER\n"
        "       TYPE: EVENTS LOST\n"
        "    VERDICT: -\n"
        "    SUMMARY: CPU(1) - 17\n"
    )


def test_table() -> None:
    made = responses()

    assert printed(made[2], made[4], made[8], output="table").splitlines() == [
        "TIMESTAMP             SOURCE                   DESTINATION              TYPE          VERDICT     SUMMARY",
        "Nov 14 22:13:20.123   shop/web-abc:80          default/client-1:40000   to-endpoint   FORWARDED   TCP Flags: SYN, ACK",
        "Nov 14 22:13:20.123   PERF_EVENT_RING_BUFFER   -                        EVENTS LOST   -           CPU(1) - 17",
        "Nov 14 22:13:20.123   default/client-1:40000   10.0.0.2:80              to-stack      FORWARDED   UDP",
    ]


def test_json_is_the_response_on_one_line_with_the_fields_own_names() -> None:
    made = responses()[4]

    assert printed(made, output="json") == (
        '{"lost_events":{"source":"PERF_EVENT_RING_BUFFER","num_events_lost":"17","cpu":1},'
        '"node_name":"default/node1","time":"2023-11-14T22:13:20.123456789Z"}\n'
    )
    flow = json.loads(printed(responses()[1], output="jsonpb"))["flow"]
    assert (flow["IP"]["ipVersion"], flow["Summary"], flow["source"]["pod_name"]) == (
        "IPv4",
        "TCP Flags: SYN",
        "client-1",
    )


def test_legacy_json_is_the_flow_alone() -> None:
    assert json.loads(printed(responses()[2], output="json", legacy_json=True))["Summary"] == "TCP Flags: SYN, ACK"


def test_text_from_outside_cannot_steer_the_terminal() -> None:
    response = responses()[2]
    response.flow.source.pod_name = "\x1b[2Jweb\r"
    response.flow.Summary = "<&>\x1b]0;x"

    assert "^[[2Jweb\\r" in printed(response)
    assert "\x1b" not in printed(response)
    assert "\\u003c\\u0026\\u003e\\u001b" in printed(response, output="json")


@pytest.mark.parametrize(
    ("flow", "expected"),
    [
        (flow_pb2.Flow(event_type={"type": 4, "sub_type": 13}), "to-crypto"),
        (flow_pb2.Flow(event_type={"type": 4, "sub_type": 99}), "99"),
        (flow_pb2.Flow(event_type={"type": 1, "sub_type": 255}), "255"),
        (flow_pb2.Flow(event_type={"type": 5}, policy_match_type=4), "policy-verdict:all TRAFFIC_DIRECTION_UNKNOWN"),
        (flow_pb2.Flow(event_type={"type": 7}, sock_xlate_point=2), "post-xlate-fwd"),
        (flow_pb2.Flow(event_type={"type": 3}, debug_capture_point=4), "DBG_CAPTURE_DELIVERY"),
        (flow_pb2.Flow(l7={"type": 1, "http": {"method": "GET"}}), "http-request"),
        (flow_pb2.Flow(l7={"type": 2, "dns": {"observation_source": "proxy"}}), "dns-response proxy"),
        (flow_pb2.Flow(), "UNKNOWN"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_types(flow: flow_pb2.Flow, expected: str) -> None:
    assert flow_type(flow) == expected


def test_nodes_that_fail_are_told_on_stderr_and_others_only_when_debugging() -> None:
    failing = observer_pb2.GetFlowsResponse(
        node_name="relay",
        node_status=relay_pb2.NodeStatusEvent(state_change=relay_pb2.NODE_UNAVAILABLE, node_names=["a", "b" * 60]),
    )
    fine = observer_pb2.GetFlowsResponse(
        node_status=relay_pb2.NodeStatusEvent(state_change=relay_pb2.NODE_CONNECTED, node_names=["a"])
    )
    out, errors = io.StringIO(), io.StringIO()
    printer = Printer(PrintOptions(), out, errors)
    printer.response(failing)
    printer.response(fine)

    assert out.getvalue() == ""
    assert errors.getvalue() == "Jan  1 00:00:00.000 [relay]: 2 nodes are unavailable: a (and 1 more)\n"


class TestStatus:
    status = observer_pb2.ServerStatusResponse(
        num_flows=1500, max_flows=4095, seen_flows=1_234_567, uptime_ns=65_000_000_000, flows_rate=12.345, version="v1"
    )

    def test_compact(self) -> None:
        assert status_text(self.status, "compact") == "Current/Max Flows: 1,500/4,095 (36.63%)\nFlows/s: 12.35\n"

    def test_compact_with_nodes(self) -> None:
        status = observer_pb2.ServerStatusResponse(
            seen_flows=20,
            uptime_ns=10_000_000_000,
            num_connected_nodes={"value": 1},
            num_unavailable_nodes={"value": 3},
            unavailable_nodes=["b", "a"],
        )

        assert status_text(status, "compact") == (
            "Current/Max Flows: 0/0\nFlows/s: 2.00\nConnected Nodes: 1/4\nUnavailable Nodes: 3\n  - a\n  - b\n  - and 1 more...\n"
        )

    def test_dict(self) -> None:
        assert status_text(self.status, "dict") == (
            "          NUM FLOWS: 1,500\n"
            "          MAX FLOWS: 4,095\n"
            "         SEEN FLOWS: 1,234,567\n"
            "   FLOWS PER SECOND: 12.35\n"
            "             UPTIME: 1m5s\n"
            "NUM CONNECTED NODES: N/A\n"
            " NUM UNAVAIL. NODES: N/A\n"
            "            VERSION: v1\n"
        )


def test_tables_are_as_wide_as_their_content() -> None:
    assert table_text([("A", "B"), ("long", "x")]) == "A      B\nlong   x\n"

"""From a command line to what is asked of the server."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

from pycilium.cli import hubble_arguments as arguments
from pycilium.cli.hubble import SHOWN_FIELDS, flows_request
from pycilium.cli.hubble_arguments import WrongUseError

NOW = 1_700_000_000_000_000_000


def request(*words: str) -> dict[str, Any]:
    root = arguments.root_parser().parse_args(["observe", *words])
    options = arguments.parse(arguments.flows_parser(), root.arguments, root)
    made = flows_request(options, NOW)
    made.ClearField("field_mask")
    return MessageToDict(made, preserving_proto_field_name=True)


def whitelist(*words: str) -> list[dict[str, Any]]:
    return request(*words).get("whitelist", [])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], {"number": "20"}),
        (["--last", "5"], {"number": "5"}),
        (["--first", "5"], {"number": "5", "first": True}),
        (["--all"], {"number": str((1 << 64) - 1)}),
        (["-f"], {"follow": True}),
        (["--follow=true"], {"follow": True}),
        (["--follow=false"], {"number": "20"}),
        (["-f", "--last", "3"], {"follow": True, "number": "3"}),
        (["--since", "10s"], {"since": "2023-11-14T22:13:10Z"}),
        (["--since", "10s", "--last", "2"], {"since": "2023-11-14T22:13:10Z", "number": "2"}),
        (["--until", "2023-11-14T22:13Z"], {"until": "2023-11-14T22:13:00Z"}),
        (["-f", "--since", "1s", "--until", "0s"], {"follow": True, "since": "2023-11-14T22:13:19Z"}),
    ],
    ids=str,
)
def test_how_many_flows_and_from_when(words: list[str], expected: dict[str, Any]) -> None:
    assert request(*words) == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--pod", "shop/web"], [{"source_pod": ["shop/web"]}, {"destination_pod": ["shop/web"]}]),
        (["--from-pod", "a", "--from-pod", "b"], [{"source_pod": ["a", "b"]}]),
        (["-n", "shop"], [{"source_pod": ["shop/"]}, {"destination_pod": ["shop/"]}]),
        (["-n", "shop", "--pod", "web"], [{"source_pod": ["shop/web"]}, {"destination_pod": ["shop/web"]}]),
        (
            ["--from-namespace", "a", "--to-namespace", "b"],
            [{"source_pod": ["a/"], "destination_pod": ["b/"]}],
        ),
        (["-A"], [{"source_pod": ["/"]}, {"destination_pod": ["/"]}]),
        (["--service", "x", "-n", "a"], [{"source_service": ["a/x"]}, {"destination_service": ["a/x"]}]),
        (
            ["--ip", "10.0.0.1", "--port", "80"],
            [
                {"source_ip": ["10.0.0.1"], "source_port": ["80"]},
                {"destination_ip": ["10.0.0.1"], "destination_port": ["80"]},
            ],
        ),
        (["--to-identity", "host", "--to-identity", "0x10"], [{"destination_identity": [1, 16]}]),
        (["--verdict", "dropped", "--verdict=ERROR"], [{"verdict": ["DROPPED", "ERROR"]}]),
        (["-t", "drop"], [{"event_type": [{"type": 1}]}]),
        (["-t", "trace:to-endpoint"], [{"event_type": [{"type": 4, "match_sub_type": True}]}]),
        (["-t", "drop:133"], [{"event_type": [{"type": 1, "match_sub_type": True, "sub_type": 133}]}]),
        (["--tcp-flags", "syn,ack"], [{"tcp_flags": [{"SYN": True, "ACK": True}]}]),
        (["--traffic-direction", "Ingress"], [{"traffic_direction": ["INGRESS"]}]),
        (["--drop-reason-desc", "POLICY_DENIED"], [{"drop_reason_desc": ["POLICY_DENIED"]}]),
        (["-4", "-6"], [{"ip_version": ["IPv4", "IPv6"]}]),
        (["--reply"], [{"reply": [True]}]),
        (["--reply=false"], [{"reply": [False]}]),
        (["--unencrypted"], [{"encrypted": [False]}]),
        (
            ["--workload", "Deployment/a"],
            [
                {"source_workload": [{"name": "a", "kind": "Deployment"}]},
                {"destination_workload": [{"name": "a", "kind": "Deployment"}]},
            ],
        ),
        (["--node-name", "c/*"], [{"node_name": ["c/*"]}]),
        (["--interface", "eth0"], [{"interface": [{"name": "eth0"}]}]),
        (["--cel-expression", "true"], [{"experimental": {"cel_expression": ["true"]}}]),
        (["--allowlist", '{"verdict":["DROPPED"]} {"reply":[true]}'], [{"verdict": ["DROPPED"]}, {"reply": [True]}]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value[0], str) else "",
)
def test_filters(words: list[str], expected: list[dict[str, Any]]) -> None:
    assert whitelist(*words) == expected


def test_not_turns_only_the_next_filter_round() -> None:
    content = request("--not", "--from-pod", "a", "--verdict", "DROPPED", "--not", "--port", "80")

    assert content["whitelist"] == [{"verdict": ["DROPPED"]}]
    assert content["blacklist"] == [
        {"source_pod": ["a"], "source_port": ["80"]},
        {"source_pod": ["a"], "destination_port": ["80"]},
    ]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--first", "1", "--last", "2"], "--first and --last exclude each other"),
        (["--first", "1", "-f"], "--first and --follow exclude each other"),
        (["--last", "1", "--all"], "--last and --all exclude each other"),
        (["--last", "x"], "'x' is no number of flows"),
        (["-f", "-o", "table"], "a table cannot be followed"),
        (["-o", "xml"], "invalid choice: 'xml' (choose from 'compact'"),
        (["--verdict", "X"], "--verdict: 'X' is no verdict: one of FORWARDED, DROPPED"),
        (["--identity", "me"], "--identity: 'me' is no security identity: a number or one of host, world"),
        (["--identity", "-1"], "--identity"),
        (["-t", "x"], "-t: 'x' is no event type: one of drop"),
        (["-t", "trace:x"], "'x' is no sub-type of trace: one of to-endpoint"),
        (["-t", "drop:x"], "'x' is no sub-type of drop: a number is expected"),
        (["--tcp-flags", "syn,x"], "'x' is no TCP flag: SYN, FIN"),
        (["--traffic-direction", "up"], "ingress or egress is expected"),
        (["--drop-reason-desc", "X"], "'X' is no drop reason: one of DROP_REASON_UNKNOWN"),
        (["--ip-version", "5"], "none, v4 or v6 is expected"),
        (["--ip-trace-id", "0"], "a number above 0 is expected"),
        (["--http-header", "x"], "name:value is expected"),
        (["--not"], "--not at the end"),
        (["--not", "--not", "--pod", "x"], "two --not in a row"),
        (["--label", "a", "--from-label", "b"], "--from-label: cannot be combined with --label"),
        (["-n", "a", "--pod", "b/c"], "--pod: 'b/c' does not lie in the namespace a"),
        (["--since", "yesterday"], "--since: 'yesterday' is no time: a duration such as 90s"),
        (["--follow=maybe"], "argument --follow: 'maybe': true or false is expected"),
        (["--allowlist", "{"], "--allowlist: '{' is no flow filter as JSON"),
        (["--denylist", '{"x":1}'], "--denylist: "),
        (["--field-mask", "time"], "--field-mask: compact output shows fixed fields"),
        (["--field-mask", "tim", "-o", "json"], "--field-mask: a flow has no field 'tim'; it has time"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
        (["stray"], "unrecognized arguments: stray"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_use_says_what_would_be_right(words: list[str], complaint: str) -> None:
    with pytest.raises(WrongUseError) as caught:
        request(*words)

    assert complaint in str(caught.value)


class TestFieldMask:
    def mask(self, *words: str) -> list[str]:
        root = arguments.root_parser().parse_args(["observe", *words])
        options = arguments.parse(arguments.flows_parser(), root.arguments, root)
        return list(flows_request(options, NOW).field_mask.paths)

    def test_only_what_is_printed_is_asked_for(self) -> None:
        assert self.mask() == list(SHOWN_FIELDS)
        assert "egress_denied_by" in self.mask("--print-policy-names")

    def test_json_asks_for_everything_unless_told_otherwise(self) -> None:
        assert self.mask("-o", "json") == []
        assert self.mask("-o", "json", "--field-mask", "time,source.pod_name") == ["time", "source.pod_name"]

    def test_can_be_switched_off(self) -> None:
        assert self.mask("--use-default-field-masks=false") == []


def test_server_flags_may_stand_before_or_after_the_command() -> None:
    for words in (["--server", "a:1", "observe"], ["observe", "--server", "a:1"]):
        root = arguments.root_parser().parse_args(words)
        assert arguments.parse(arguments.flows_parser(), root.arguments, root).server == "a:1"

"""`cilium policy explain`: what its words mean, and how an answer reads."""

import pytest

from pycilium.cli.policy import _parsed_port, _print_reply
from pycilium.errors import ConfigError

PEER = {"name": "host", "identity": 1}


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("80", (80, "TCP")),
        ("53/udp", (53, "UDP")),
        ("ICMP", (8, "ICMP")),
        ("icmpv4", (8, "ICMP")),
        ("ICMPv6", (128, "ICMPV6")),
        ("0/ICMP", (0, "ICMP")),
        ("11/ICMP", (11, "ICMP")),
        ("135/ICMPv6", (135, "ICMPV6")),
    ],
)
def test_icmp_alone_means_an_echo_request(text, asked):
    assert _parsed_port(text) == asked


@pytest.mark.parametrize(("text", "asked"), [("http", ("http", "TCP")), ("DNS-1/udp", ("dns-1", "UDP"))])
def test_a_port_may_be_asked_about_by_its_name(text, asked):
    assert _parsed_port(text) == asked


@pytest.mark.parametrize("text", ["256/ICMP", "300/ICMPv6", "/ICMP", "TCP", "²/TCP", "80/"])
def test_impossible_types_and_ports_are_refused(text):
    with pytest.raises(ConfigError, match="write "):
        _parsed_port(text)


def test_what_no_resource_says_reads_without_a_gap(capsys):
    rule = {"kind": "", "name": "", "text": "the local host always reaches its pods"}
    decision = {"direction": "ingress", "verdict": "allowed", "reason": "a rule allows it", "rules": [rule]}
    reply = {"verdict": "allowed", "source": PEER, "destination": PEER, "decisions": [decision], "what": "80/TCP"}

    _print_reply(reply, "80")

    assert capsys.readouterr().out.splitlines() == [
        "host (identity 1) -> host (identity 1) port 80/TCP: ALLOWED",
        "",
        "  ingress of host: allowed: a rule allows it",
        "    allow by the local host always reaches its pods",
    ]

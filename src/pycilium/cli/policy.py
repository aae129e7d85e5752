"""`cilium policy explain`: what would happen to a connection, and which rule says so. No packet is sent."""

from __future__ import annotations

import ipaddress
import sys
from typing import Any

import click

from pycilium.cli.render import output_option, print_json
from pycilium.cli.target import Target, lab_option, node_option, pass_target
from pycilium.errors import ConfigError
from pycilium.model.resources.checks import is_port_name

_RESERVED = ("host", "world", "remote-node", "kube-apiserver", "health", "unmanaged", "init", "ingress")
_ECHO_REQUEST = {"ICMP": 8, "ICMPV6": 128}
_MAX_ICMP_TYPE = 255
_WITH_NAMES = ("TCP", "UDP", "SCTP")
_PROTOCOLS = (*_WITH_NAMES, "ICMP", "ICMPV6")


@click.group()
@lab_option
def policy() -> None:
    """Questions to the policy that is in force."""


@policy.command()
@click.option("--from", "source", required=True, metavar="[NS/]POD|IP|ENTITY", help="Who opens the connection.")
@click.option("--to", "destination", required=True, metavar="[NS/]POD|IP|ENTITY", help="Whom to.")
@click.option(
    "--port",
    "port",
    required=True,
    metavar="PORT/PROTOCOL",
    help="80/TCP, 53/UDP, 8/ICMP (the type); ICMP is a ping; http/TCP is what the destination's pod calls so.",
)
@click.option("--exit-code", "by_code", is_flag=True, help="Exit with 3 when it would be denied.")
@output_option("json")
@lab_option
@node_option
@pass_target
def explain(target: Target, source: str, destination: str, port: str, by_code: bool, output: str | None) -> None:
    """Say whether a connection would be allowed, the rule that decides at each end, and for a missing allow rule the
    nearest one that would have done.
    """
    number, protocol = _parsed_port(port)
    reply = target.agent().explain(_peer(source), _peer(destination), protocol, number)
    if output == "json":
        print_json(reply)
    else:
        _print_reply(reply, port)
    if by_code and reply["verdict"] != "allowed":
        sys.exit(3)


def _peer(word: str) -> str:
    """The peer as the agent wants it: a pod without a namespace is in `default`."""
    try:
        return str(ipaddress.ip_address(word))
    except ValueError:
        return word if "/" in word or word in _RESERVED else f"default/{word}"


def _parsed_port(text: str) -> tuple[int | str, str]:
    """Number, or what the destination's pod calls the port; and protocol."""
    word, slash, last = text.partition("/")
    protocol = last.upper() if slash else "TCP"
    if not slash and word.upper() in ("ICMPV4", *_PROTOCOLS):
        word, protocol = "", word.upper()
    protocol = "ICMP" if protocol == "ICMPV4" else protocol
    if not slash and protocol in _ECHO_REQUEST:
        return _ECHO_REQUEST[protocol], protocol
    if protocol in _WITH_NAMES and is_port_name(word):
        return word.lower(), protocol
    if protocol not in _PROTOCOLS or not (word.isascii() and word.isdecimal()) or int(word) > 65535:
        raise ConfigError(
            f"--port {text!r}: write a port and a protocol, such as 80/TCP, http/TCP or 8/ICMP (the type)"
        )
    if protocol in _ECHO_REQUEST and int(word) > _MAX_ICMP_TYPE:
        raise ConfigError(f"--port {text!r}: write an ICMP type of 0 to {_MAX_ICMP_TYPE}, such as 8/ICMP")
    if protocol not in _ECHO_REQUEST and int(word) == 0:
        raise ConfigError(f"--port {text!r}: port 0 is impossible; write 1 to 65535, such as 80/TCP")
    return int(word), protocol


def _print_reply(reply: dict[str, Any], port: str) -> None:
    source, destination = reply["source"], reply["destination"]
    what = reply.get("what") or port
    what = what if what.upper().startswith("ICMP") else f"port {what}"
    click.echo(f"{_described(source)} -> {_described(destination)} {what}: {reply['verdict'].upper()}")
    for decision in reply.get("decisions", []):
        end = source if decision["direction"] == "egress" else destination
        click.echo(f"\n  {decision['direction']} of {end['name']}: {decision['verdict']}: {decision['reason']}")
        for rule in decision.get("rules", []):
            click.echo(f"    {rule.get('action', 'allow')} by {_rule(rule)}")
        if nearest := decision.get("nearest"):
            missing = f" ({nearest['missing']})" if nearest.get("missing") else ""
            click.echo(f"    nearest rule: {_rule(nearest)}{missing}")


def _rule(rule: dict[str, Any]) -> str:
    """Kind and name; what no resource says (`the local host always`) has no kind."""
    return " ".join(filter(None, (rule.get("kind"), rule.get("text") or rule.get("name"))))


def _described(peer: dict[str, Any]) -> str:
    address = f" {peer['address']}" if peer.get("address") and peer["address"] != peer["name"] else ""
    return f"{peer['name']}{address} (identity {peer['identity']})"

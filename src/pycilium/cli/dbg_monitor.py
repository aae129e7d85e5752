"""`cilium-dbg monitor`: the node's events as they happen, one line each, by number rather than by name.

The events are those that Hubble keeps, followed over its socket; so several monitors cost the datapath nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import click

from pycilium.cli.render import output_option
from pycilium.cli.target import Target, lab_option, pass_target

_TYPES = {"drop": 1, "trace": 4, "policy-verdict": 5, "trace-sock": 7}
_TO_ENDPOINT = 0
_TCP_FLAGS = ("SYN", "ACK", "FIN", "RST", "PSH", "URG")


@click.command()
@click.option(
    "-t", "--type", "types", multiple=True, type=click.Choice(list(_TYPES)), help="Only these; may be repeated."
)
@click.option("--from", "sources", multiple=True, type=int, metavar="ENDPOINT", help="Only what these endpoints send.")
@click.option("--to", "destinations", multiple=True, type=int, metavar="ENDPOINT", help="Only what they receive.")
@click.option("--related-to", "related", multiple=True, type=int, metavar="ENDPOINT", help="Either.")
@output_option("json")
@lab_option
@pass_target
def monitor(
    target: Target,
    types: tuple[str, ...],
    sources: tuple[int, ...],
    destinations: tuple[int, ...],
    related: tuple[int, ...],
    output: str | None,
) -> None:
    """Follow drops, traces, policy verdicts and translations at sockets until interrupted."""
    import argparse

    from google.protobuf.json_format import MessageToDict

    from pycilium.cli.hubble_connection import connect
    from pycilium.hubble.proto import flow_pb2, observer_pb2

    wanted = [flow_pb2.EventTypeFilter(type=_TYPES[name]) for name in types or _TYPES]
    request = observer_pb2.GetFlowsRequest(follow=True, whitelist=[flow_pb2.FlowFilter(event_type=wanted)])
    chosen = _Endpoints(set(sources), set(destinations), set(related))
    server = argparse.Namespace(server=f"unix://{target.hubble_socket()}", lab=None, timeout=None, request_timeout=None)
    with connect(server) as hubble:
        click.echo("Listening for events; end with Ctrl-C", err=True)
        try:
            for response in hubble.observer.GetFlows(request):
                if response.HasField("lost_events"):
                    click.echo(f"!! {response.lost_events.num_events_lost} events lost")
                elif response.HasField("flow") and chosen.match(response.flow):
                    plain = MessageToDict(response.flow, preserving_proto_field_name=True) if output else None
                    click.echo(json.dumps(plain) if plain else line(response.flow))
        except KeyboardInterrupt:
            return


class _Endpoints:
    """Whose events are shown; with none named, everybody's."""

    def __init__(self, sources: set[int], destinations: set[int], related: set[int]) -> None:
        self._sources, self._destinations = sources | related, destinations | related

    def match(self, flow: Any) -> bool:
        if not self._sources and not self._destinations:
            return True
        return flow.source.ID in self._sources or flow.destination.ID in self._destinations


def line(flow: Any) -> str:
    """One event as `cilium-dbg monitor` writes it."""
    packet = f"{_end(flow, 'source')} -> {_end(flow, 'destination')} {_protocol(flow)}".rstrip()
    identities = f"identity {flow.source.identity}->{flow.destination.identity}"
    kind = flow.event_type.type
    if kind == _TYPES["drop"]:
        reason = _words(flow.drop_reason_desc, flow)
        return f"xx drop ({reason}) to endpoint {flow.destination.ID}, {identities}: {packet}"
    if kind == _TYPES["policy-verdict"]:
        ingress = flow.traffic_direction == 1
        local, remote = (flow.destination, flow.source) if ingress else (flow.source, flow.destination)
        action = "allow" if flow.verdict == 1 else "deny"
        by = ", ".join(_policies(flow))
        return (
            f"Policy verdict log: local EP ID {local.ID}, remote ID {remote.identity}, "
            f"{'ingress' if ingress else 'egress'}, action {action}{f', by {by}' if by else ''}, {packet}"
        )
    if kind == _TYPES["trace-sock"]:
        return f"-> {_translation_point(flow)} cgroup_id {flow.cgroup_id} sock_cookie {flow.socket_cookie}: {packet}"
    where = f"endpoint {flow.destination.ID}" if flow.event_type.sub_type == _TO_ENDPOINT else _trace_point(flow)
    state = "reply" if flow.HasField("is_reply") and flow.is_reply.value else "request"
    return f"-> {where}, {identities} {state}: {packet}"


def _translation_point(flow: Any) -> str:
    """PRE_DIRECTION_FWD becomes pre-xlate-fwd."""
    from pycilium.hubble.proto import flow_pb2

    name = str(flow_pb2.SocketTranslationPoint.Name(flow.sock_xlate_point))
    return name.removeprefix("SOCK_XLATE_POINT_").lower().replace("_direction_", "-xlate-")


def _trace_point(flow: Any) -> str:
    from pycilium.hubble.proto import flow_pb2

    name = flow_pb2.TraceObservationPoint.Name(flow.trace_observation_point)
    return str(name).lower().replace("_", "-").removeprefix("to-")


def _words(reason: int, flow: Any) -> str:
    from pycilium.model.drop_reason import drop_reason_text

    return drop_reason_text(reason or flow.event_type.sub_type)


def _policies(flow: Any) -> Iterable[str]:
    for field in ("ingress_allowed_by", "egress_allowed_by", "ingress_denied_by", "egress_denied_by"):
        for policy in getattr(flow, field):
            yield "/".join(part for part in (policy.namespace, policy.name) if part)


def _end(flow: Any, side: str) -> str:
    address = str(getattr(flow.IP, side))
    layer4 = flow.l4.WhichOneof("protocol")
    if layer4 not in ("TCP", "UDP", "SCTP"):
        return address or str(getattr(flow.ethernet, side))
    port = getattr(getattr(flow.l4, layer4), f"{side}_port")
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _protocol(flow: Any) -> str:
    layer4 = flow.l4.WhichOneof("protocol")
    if layer4 is None:
        return ""
    if layer4 == "TCP":
        flags = [name for name in _TCP_FLAGS if getattr(flow.l4.TCP.flags, name)]
        return f"tcp {', '.join(flags)}".rstrip()
    if layer4.startswith("ICMP"):
        return f"{layer4} type {int(getattr(flow.l4, layer4).type)}"
    return str(layer4).lower()

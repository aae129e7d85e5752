"""`hubble`: flows, status and peers of a Hubble server, with the flags and forms of the genuine command.

What is asked goes to the server as filters; nothing is judged here. Exit codes: 0 done (a followed stream that is
interrupted too), 1 the server cannot be reached or refused, 2 wrong use.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from pycilium import __version__
from pycilium.cli import hubble_arguments as arguments
from pycilium.cli.hubble_arguments import WrongUseError
from pycilium.cli.hubble_printer import Printer, PrintOptions, json_text, plain, status_text, table_text
from pycilium.cli.hubble_time import NANOSECONDS, format_duration, parse_time_ns
from pycilium.errors import CiliumError
from pycilium.hubble.proto import flow_pb2, observer_pb2, peer_pb2, relay_pb2

ALL = (1 << 64) - 1
HEALTH_SERVICE = "hubble.server.Observer"
SHOWN_FIELDS = (
    *("time", "verdict", "ethernet", "IP", "l4", "l7", "Type", "node_name", "event_type", "is_reply", "Summary"),
    *("source.identity", "source.namespace", "source.pod_name", "source_service", "source_names"),
    *("destination.identity", "destination.namespace", "destination.pod_name", "destination_service"),
    *("destination_names", "traffic_direction", "policy_match_type", "ip_trace_id", "auth_type"),
    *("debug_capture_point", "sock_xlate_point"),
)
"""What the forms other than JSON print of a flow."""
POLICY_FIELDS = ("egress_allowed_by", "ingress_allowed_by", "egress_denied_by", "ingress_denied_by")
_STATES = {
    relay_pb2.NODE_CONNECTED: "Connected",
    relay_pb2.NODE_UNAVAILABLE: "Unavailable",
    relay_pb2.NODE_GONE: "Gone",
    relay_pb2.NODE_ERROR: "Error",
}


def main() -> NoReturn:
    code = run(sys.argv[1:])
    sys.stderr.flush()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = 141
    # Not by the interpreter's own end: a call that an interruption left open would wait there for a thread of gRPC's
    # that is gone already, for ever.
    os._exit(code)


def run(argv: Sequence[str]) -> int:
    """Carries out a command line and gives the exit code."""
    try:
        return _dispatch(argv)
    except WrongUseError as error:
        return _fail(str(error), 2)
    except CiliumError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # stdout is flushed once more at the end
        return 141


def _fail(message: str, code: int) -> int:
    print(f"Error: {message}", file=sys.stderr)
    return code


def _dispatch(argv: Sequence[str]) -> int:
    root_parser = arguments.root_parser()
    root = root_parser.parse_args(argv)
    words = list(root.arguments)
    if root.version or root.command == "version":
        print(f"hubble {__version__} (pycilium)")
        return 0
    if root.command in ("", "help"):
        root_parser.print_help()
        return 0
    if root.command == "observe":
        return _observe(words, root)
    if root.command == "status":
        return _status(arguments.parse(arguments.status_parser(), words, root))
    if root.command == "list":
        return _list(words, root)
    if root.command == "watch":
        _subcommand("watch", words, ("peers", "peer"))
        return _watch(
            arguments.parse(arguments.plain_parser("watch peers", "Nodes that come and go."), words[1:], root)
        )
    raise WrongUseError(f"{root.command!r} is no command: observe, status, list, watch or version is expected")


def _subcommand(command: str, words: Sequence[str], known: Sequence[str]) -> str:
    if words and words[0] in ("-h", "--help"):
        print(f"usage: hubble {command} {known[0]} …\n\nhubble {command} takes one of: {', '.join(known)}")
        raise SystemExit(0)
    if not words or words[0] not in known:
        raise WrongUseError(f"hubble {command} needs one of: {', '.join(known)}")
    return words[0]


# observe


def _observe(words: list[str], root: argparse.Namespace) -> int:
    kind = words.pop(0) if words and words[0] in ("flows", "agent-events", "debug-events") else "flows"
    if kind != "flows":
        return _observe_events(kind, arguments.parse(arguments.events_parser(kind), words, root))
    options = arguments.parse(arguments.flows_parser(), words, root)
    request = flows_request(options, time.time_ns())
    if options.print_raw_filters:
        print(_raw_filters_text(request), end="")
        return 0
    printer = _printer(options)
    with _connect(options) as server:
        return _print_stream(server.observer.GetFlows(request), printer.response, printer)


def flows_request(options: argparse.Namespace, now_ns: int) -> observer_pb2.GetFlowsRequest:
    """What is asked of the server. Raises WrongUseError."""
    _check_selectors(options)
    request = observer_pb2.GetFlowsRequest(follow=options.follow, first=options.first > 0)
    has_time = _set_times(request, options, now_ns)
    request.number = options.first or options.last
    if not has_time and not options.first:
        if options.all:
            request.number = ALL
        elif not options.last and not options.follow:
            request.number = arguments.DEFAULT_NUMBER
    try:
        request.whitelist.extend([*options.flow_flags.whitelist(), *_raw_filters(options.allowlist, "--allowlist")])
    except ValueError as error:
        raise WrongUseError(str(error)) from error
    request.blacklist.extend([*options.flow_flags.blacklist(), *_raw_filters(options.denylist, "--denylist")])
    request.field_mask.paths.extend(_mask(options))
    return request


def _check_selectors(options: argparse.Namespace) -> None:
    clashes = (("first", "last"), ("first", "all"), ("first", "follow"), ("last", "all"))
    for one, other in clashes:
        if getattr(options, one) and getattr(options, other):
            raise WrongUseError(f"--{one} and --{other} exclude each other")
    if options.follow and options.output in ("table", "tab"):
        raise WrongUseError("a table cannot be followed: its widths are known only at the end; use -o compact")


def _set_times(request: Any, options: argparse.Namespace, now_ns: int) -> bool:
    """Sets since and until of a request, and says whether one was given."""
    for name in ("since", "until"):
        text = getattr(options, name)
        if not text or (name == "until" and options.follow):
            continue
        try:
            getattr(request, name).FromNanoseconds(parse_time_ns(text, now_ns))
        except ValueError as error:
            raise WrongUseError(f"--{name}: {error}") from error
    return bool(options.since or (options.until and not options.follow))


def _mask(options: argparse.Namespace) -> Iterable[str]:
    is_json = options.output.lower() in ("json", "jsonpb")
    if options.field_mask:
        if not is_json:
            raise WrongUseError(f"--field-mask: {options.output} output shows fixed fields; use it with -o json")
        return _checked_mask(options.field_mask.split(","))
    if is_json or not options.use_default_field_masks:
        return ()
    return (*SHOWN_FIELDS, *POLICY_FIELDS) if options.print_policy_names else SHOWN_FIELDS


def _checked_mask(paths: list[str]) -> list[str]:
    fields = flow_pb2.Flow.DESCRIPTOR.fields_by_name
    for path in paths:
        if path.split(".", maxsplit=1)[0] not in fields:
            raise WrongUseError(f"--field-mask: a flow has no field {path!r}; it has {', '.join(fields)}")
    return paths


def _raw_filters(texts: Iterable[str], flag: str) -> list[flow_pb2.FlowFilter]:
    from google.protobuf import json_format

    found = []
    decoder = json.JSONDecoder()
    for text in texts:
        rest = text.strip()
        try:
            while rest:
                content, end = decoder.raw_decode(rest)
                found.append(json_format.ParseDict(content, flow_pb2.FlowFilter()))
                rest = rest[end:].lstrip()
        except (ValueError, json_format.ParseError) as error:
            raise WrongUseError(f"{flag}: {text!r} is no flow filter as JSON: {error}") from error
    return found


def _raw_filters_text(request: observer_pb2.GetFlowsRequest) -> str:
    lines = []
    for name, filters in (("allowlist", request.whitelist), ("denylist", request.blacklist)):
        if filters:
            lines.append(f"{name}:\n")
            lines += ["    - '" + json_text(item).replace("'", "''") + "'\n" for item in filters]
    return "".join(lines) or "{}\n"


def _printer(options: argparse.Namespace) -> Printer:
    output = {"tab": "table", "JSON": "json"}.get(options.output, options.output)
    color = getattr(options, "color", "never")
    no_color = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
    return Printer(
        PrintOptions(
            output=output,
            time_format=options.time_format,
            translate_ips=getattr(options, "ip_translation", True) and not getattr(options, "numeric", False),
            node_name=options.print_node_name,
            policy_names=getattr(options, "print_policy_names", False),
            color=color == "always" or (color == "auto" and arguments.is_terminal() and not no_color),
            legacy_json="legacy-json-output" in os.environ.get("HUBBLE_COMPAT", ""),
            debug=bool(options.debug),
        ),
        sys.stdout,
        open(os.devnull, "w") if options.silent_errors else sys.stderr,
    )


def _observe_events(kind: str, options: argparse.Namespace) -> int:
    _check_selectors(options)
    request: Any = (
        observer_pb2.GetAgentEventsRequest() if kind == "agent-events" else observer_pb2.GetDebugEventsRequest()
    )
    request.follow, request.first = options.follow, options.first > 0
    has_time = _set_times(request, options, time.time_ns())
    default = 0 if has_time else arguments.DEFAULT_NUMBER
    request.number = ALL if options.all else (options.first or options.last or default)
    printer = _printer(options)
    with _connect(options) as server:
        if kind == "agent-events":
            return _print_stream(server.observer.GetAgentEvents(request), printer.agent_event, printer)
        return _print_stream(server.observer.GetDebugEvents(request), printer.debug_event, printer)


def _print_stream(stream: Iterable[Any], show: Callable[[Any], None], printer: Printer) -> int:
    for count, response in enumerate(stream):
        show(response)
        if count % 64 == 0 or arguments.is_terminal():
            sys.stdout.flush()
    printer.close()
    return 0


# status, list, watch


def _status(options: argparse.Namespace) -> int:
    from grpc_health.v1 import health_pb2

    with _connect(options) as server:
        request = health_pb2.HealthCheckRequest(service=HEALTH_SERVICE)
        health = server.health.Check(request, timeout=server.request_timeout_s).status
        serving = health == health_pb2.HealthCheckResponse.SERVING
        if options.output == "compact":
            state = "Ok" if serving else f"Unavailable: {health_pb2.HealthCheckResponse.ServingStatus.Name(health)}"
            print(f"Healthcheck (via {server.address}): {state}")
        if not serving:
            raise CiliumError("the server is not healthy")
        status = server.observer.ServerStatus(observer_pb2.ServerStatusRequest(), timeout=server.request_timeout_s)
        sys.stdout.write(status_text(status, options.output))
    return 0


def _list(words: list[str], root: argparse.Namespace) -> int:
    what = _subcommand("list", words, ("nodes", "node", "namespaces"))
    options = arguments.parse(arguments.list_parser(what), words[1:], root)
    with _connect(options) as server:
        if what == "namespaces":
            answer = server.observer.GetNamespaces(
                observer_pb2.GetNamespacesRequest(), timeout=server.request_timeout_s
            )
            rows = [("NAMESPACE", "CLUSTER"), *((plain(it.namespace), plain(it.cluster)) for it in answer.namespaces)]
            shown = rows if options.output == "wide" else [row[:1] for row in rows]
            _print_list(answer.namespaces, shown, options.output)
        else:
            nodes = server.observer.GetNodes(observer_pb2.GetNodesRequest(), timeout=server.request_timeout_s).nodes
            ordered = sorted(nodes, key=lambda node: node.name)
            _print_list(ordered, _node_rows(ordered, wide=options.output == "wide"), options.output)
    return 0


def _print_list(items: Iterable[Any], rows: Sequence[Sequence[str]], output: str) -> None:
    if output == "json":
        print(json.dumps([json.loads(json_text(item)) for item in items], indent=2))
    else:
        sys.stdout.write(table_text(rows))


def _node_rows(nodes: Sequence[observer_pb2.Node], *, wide: bool) -> list[tuple[str, ...]]:
    header: tuple[str, ...] = ("NAME", "STATUS", "AGE", "FLOWS/S", "CURRENT/MAX-FLOWS")
    rows = [(*header, "VERSION", "ADDRESS", "TLS") if wide else header]
    for node in nodes:
        seconds = round(node.uptime_ns / NANOSECONDS)
        row: tuple[str, ...] = (
            plain(node.name),
            _STATES.get(node.state, "Unknown"),
            format_duration(seconds * NANOSECONDS) if seconds else "N/A",
            f"{node.seen_flows / seconds:.2f}" if seconds else "N/A",
            f"{node.num_flows}/{node.max_flows} ({node.num_flows / node.max_flows * 100:6.2f}%)"
            if node.max_flows
            else "N/A",
        )
        if wide:
            tls = ("Enabled" if node.tls.enabled else "Disabled") if node.HasField("tls") else "N/A"
            row = (*row, plain(node.version) or "N/A", plain(node.address), tls)
        rows.append(row)
    return rows


def _watch(options: argparse.Namespace) -> int:
    with _connect(options) as server:
        for change in server.peer.Notify(peer_pb2.NotifyRequest()):
            tls = f" (TLS.ServerName: {plain(change.tls.server_name)})" if change.HasField("tls") else ""
            kind = peer_pb2.ChangeNotificationType.Name(change.type)
            print(f"{kind:<12} {plain(change.address)} {plain(change.name)}{tls}", flush=True)
    return 0


def _connect(options: argparse.Namespace) -> Any:
    from pycilium.cli.hubble_connection import connect  # gRPC takes a while to import: not for --help

    return connect(options)


if __name__ == "__main__":
    main()

"""From the filter flags of `hubble observe`, in their order, to the flow filters of a request.

A flag about either end of a flow (`--pod`) makes two filters, one per end, of which either may match; so every flag is
written into a left and a right half. `--not` sends the next flag to the filters that take flows out again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pycilium.hubble.proto import flow_pb2

EVENT_TYPES = {"drop": 1, "debug": 2, "capture": 3, "trace": 4, "policy-verdict": 5, "trace-sock": 7, "l7": 129}
TRACE_POINTS = (
    "to-endpoint",
    "to-proxy",
    "to-host",
    "to-stack",
    "to-overlay",
    "from-endpoint",
    "from-proxy",
    "from-host",
    "from-stack",
    "from-overlay",
    "from-network",
    "to-network",
    "from-crypto",
    "to-crypto",
)
RESERVED_IDENTITIES = {
    1: "host",
    2: "world",
    3: "unmanaged",
    4: "health",
    5: "init",
    6: "remote-node",
    7: "kube-apiserver",
    8: "ingress",
    9: "world-ipv4",
    10: "world-ipv6",
}
_TCP_FLAGS = ("SYN", "FIN", "RST", "PSH", "ACK", "URG", "ECE", "CWR", "NS")
_IP_VERSIONS = {
    **dict.fromkeys(("4", "v4", "ipv4", "ip4"), flow_pb2.IPv4),
    **dict.fromkeys(("6", "v6", "ipv6", "ip6"), flow_pb2.IPv6),
    "none": flow_pb2.IP_NOT_USED,
}
_EXCLUSIVE = (
    {"from-fqdn", "from-ip", "ip", "fqdn", "from-namespace", "namespace", "from-all-namespaces", "all-namespaces"},
    {"from-fqdn", "from-ip", "ip", "fqdn", "from-pod", "pod"},
    {"to-fqdn", "to-ip", "ip", "fqdn", "to-namespace", "namespace", "to-all-namespaces", "all-namespaces"},
    {"to-fqdn", "to-ip", "ip", "fqdn", "to-pod", "pod"},
    {"to-pod", "namespace", "all-namespaces"},
    {"from-pod", "namespace", "all-namespaces"},
    {"to-service", "namespace", "all-namespaces"},
    {"from-service", "namespace", "all-namespaces"},
    {"label", "from-label"},
    {"label", "to-label"},
    {"service", "from-service"},
    {"service", "to-service"},
    {"port", "to-port"},
    {"port", "from-port"},
    {"identity", "to-identity"},
    {"identity", "from-identity"},
    {"workload", "to-workload"},
    {"workload", "from-workload"},
    {"encrypted", "unencrypted"},
)
"""Flags of one set cannot stand together: they would ask for two different things of one end."""


def _names(values: Any, example: str) -> str:
    return f"one of {', '.join(values)}{example}"


def _verdict(text: str) -> int:
    return _enum(flow_pb2.Verdict, text.upper(), "verdict", skip="VERDICT_UNKNOWN")


def _drop_reason(text: str) -> int:
    return _enum(flow_pb2.DropReason, text.upper(), "drop reason")


def _enum(enum: Any, text: str, what: str, skip: str = "") -> int:
    if text not in enum.keys():  # noqa: SIM118  the wrapper is no mapping
        known = ", ".join(name for name in enum.keys() if name != skip)  # noqa: SIM118
        raise ValueError(f"{text!r} is no {what}: one of {known} is expected")
    number: int = enum.Value(text)
    return number


def parse_identity(text: str) -> int:
    for number, name in RESERVED_IDENTITIES.items():
        if text == name:
            return number
    try:
        number = int(text, 0)
    except ValueError:
        number = -1
    if not 0 <= number < 1 << 32:
        names = ", ".join(RESERVED_IDENTITIES.values())
        raise ValueError(f"{text!r} is no security identity: a number or one of {names} is expected")
    return number


def parse_event_type(text: str) -> flow_pb2.EventTypeFilter:
    name, separator, sub_name = text.partition(":")
    number = EVENT_TYPES.get(name, int(name) if name.isdigit() else -1)
    if number < 0:
        raise ValueError(f"{name!r} is no event type: one of {', '.join(EVENT_TYPES)} or a number is expected")
    if not separator:
        return flow_pb2.EventTypeFilter(type=number)
    if number == EVENT_TYPES["trace"] and sub_name in TRACE_POINTS:
        sub_type = TRACE_POINTS.index(sub_name)
    elif sub_name.isdigit():
        sub_type = int(sub_name)
    else:
        expected = f"one of {', '.join(TRACE_POINTS)} or a number" if name == "trace" else "a number"
        raise ValueError(f"{sub_name!r} is no sub-type of {name}: {expected} is expected")
    return flow_pb2.EventTypeFilter(type=number, match_sub_type=True, sub_type=sub_type)


def parse_tcp_flags(text: str) -> flow_pb2.TCPFlags:
    names = text.upper().split(",")
    unknown = [name for name in names if name not in _TCP_FLAGS]
    if unknown:
        raise ValueError(f"{unknown[0].lower()!r} is no TCP flag: {', '.join(_TCP_FLAGS)} are known")
    return flow_pb2.TCPFlags(**dict.fromkeys(names, True))


def _direction(text: str) -> int:
    directions: dict[str, int] = {"ingress": flow_pb2.INGRESS, "egress": flow_pb2.EGRESS}
    if text.lower() not in directions:
        raise ValueError(f"{text!r} is no traffic direction: ingress or egress is expected")
    return directions[text.lower()]


def _workload(text: str) -> flow_pb2.Workload:
    kind, separator, name = text.partition("/")
    return flow_pb2.Workload(kind=kind, name=name) if separator else flow_pb2.Workload(name=text)


def _header(text: str) -> flow_pb2.HTTPHeader:
    key, separator, value = text.partition(":")
    if not separator:
        raise ValueError(f"{text!r} is no HTTP header: name:value is expected")
    return flow_pb2.HTTPHeader(key=key, value=value)


def _ip_version(text: str) -> int:
    if text.lower() not in _IP_VERSIONS:
        raise ValueError(f"{text!r} is no IP version: none, v4 or v6 is expected")
    return _IP_VERSIONS[text.lower()]


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise ValueError(f"{text!r} is no trace id: a number above 0 is expected")
    return int(text)


@dataclass(frozen=True, slots=True)
class FilterFlag:
    """A flag, the fields that it fills in each half (left, right), and what makes its text a value."""

    name: str
    left: str
    right: str
    parse: Callable[[str], Any]
    help: str
    short: str = ""
    fixed: str | None = None
    """The value of a flag that takes none."""
    metavar: str = "VALUE"


def _both(name: str, target: str, text: str, parse: Callable[[str], Any] = str, **more: Any) -> FilterFlag:
    return FilterFlag(name, target, target, parse, text, **more)


def _sided(name: str, target: str, text: str, parse: Callable[[str], Any] = str, **more: Any) -> list[FilterFlag]:
    """`--x`, `--from-x` and `--to-x`."""
    short = more.pop("short", "")
    source, destination = f"source_{target}", f"destination_{target}"
    return [
        FilterFlag(name, source, destination, parse, f"{text} at either end", short, **more),
        FilterFlag(f"from-{name}", source, source, parse, f"{text} at the source", **more),
        FilterFlag(f"to-{name}", destination, destination, parse, f"{text} at the destination", **more),
    ]


FLAGS = (
    *_sided("pod", "pod", "a pod, as a name prefix in [namespace/]name (default: namespace default)", metavar="POD"),
    *_sided("ip", "ip", "an IP address or CIDR", metavar="IP"),
    *_sided(
        "label", "label", "labels, as a selector such as app=web or 'k8s:tier in (a,b)'", short="l", metavar="LABELS"
    ),
    *_sided("port", "port", "a port", metavar="PORT"),
    *_sided("identity", "identity", "a security identity: a number or a name such as host", parse_identity),
    *_sided("workload", "workload", "a workload as [kind/]name", _workload),
    *_sided("service", "service", "a service, as a name prefix in [namespace/]name"),
    *_sided("fqdn", "fqdn", "a domain name, * allowed", metavar="NAME"),
    *_sided("cluster", "cluster_name", "a cluster, * allowed", metavar="NAME"),
    _both("verdict", "verdict", "FORWARDED, DROPPED, AUDIT, REDIRECTED, ERROR, TRACED or TRANSLATED", _verdict),
    _both("drop-reason-desc", "drop_reason_desc", "a drop reason such as POLICY_DENIED", _drop_reason),
    _both(
        "type",
        "event_type",
        f"an event type, TYPE[:SUBTYPE]: {', '.join(EVENT_TYPES)}; trace has {', '.join(TRACE_POINTS)}",
        parse_event_type,
        short="t",
    ),
    _both("protocol", "protocol", "icmp, icmpv4, icmpv6, tcp, udp, sctp, vrrp, igmp, dns, http or kafka"),
    _both("tcp-flags", "tcp_flags", "TCP flags that must all be set, such as syn,ack", parse_tcp_flags),
    _both("traffic-direction", "traffic_direction", "ingress or egress", _direction),
    _both(
        "reply",
        "reply",
        "only replies (or with =false, only what is no reply)",
        lambda text: text != "false",
        fixed="true",
    ),
    _both("ipv4", "ip_version", "only IPv4", _ip_version, short="4", fixed="v4"),
    _both("ipv6", "ip_version", "only IPv6", _ip_version, short="6", fixed="v6"),
    _both("ip-version", "ip_version", "none, v4 or v6", _ip_version),
    _both("node-name", "node_name", "a node as [cluster/]name, * allowed", metavar="NODE"),
    _both("node-label", "node_labels", "labels of the node, as a selector", metavar="LABELS"),
    _both("interface", "interface", "a network interface by name", lambda text: flow_pb2.NetworkInterface(name=text)),
    _both("uuid", "uuid", "the one flow with this id"),
    _both("snat-ip", "source_ip_xlated", "an IP address or CIDR that the source was translated to", metavar="IP"),
    _both("trace-id", "trace_id", "a trace id"),
    _both("ip-trace-id", "ip_trace_id", "an IP trace id", _positive),
    _both("http-status", "http_status_code", "an HTTP status such as 404, or 5+"),
    _both("http-method", "http_method", "an HTTP method"),
    _both("http-path", "http_path", "an HTTP path, as a regular expression"),
    _both("http-url", "http_url", "an HTTP URL, as a regular expression"),
    _both("http-header", "http_header", "an HTTP header, name:value", _header),
    _both("cel-expression", "cel_expression", "a CEL expression"),
    _both("encrypted", "encrypted", "only encrypted flows", lambda text: text != "false", fixed="true"),
    _both("unencrypted", "encrypted", "only unencrypted flows", lambda text: text == "false", fixed="true"),
)
_FLAGS = {flag.name: flag for flag in FLAGS}


@dataclass(slots=True)
class _Halves:
    """What one list of filters is asked for so far."""

    left: flow_pb2.FlowFilter = field(default_factory=flow_pb2.FlowFilter)
    right: flow_pb2.FlowFilter = field(default_factory=flow_pb2.FlowFilter)
    namespaces: list[str] = field(default_factory=list)
    source_namespaces: list[str] = field(default_factory=list)
    destination_namespaces: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)

    def filters(self) -> list[flow_pb2.FlowFilter]:
        left, right = flow_pb2.FlowFilter(), flow_pb2.FlowFilter()
        left.CopyFrom(self.left)
        right.CopyFrom(self.right)
        for half in (left, right):
            _restrict(half, "destination", self.destination_namespaces)
            _restrict(half, "source", self.source_namespaces)
        _restrict(left, "source", self.namespaces)
        _restrict(right, "destination", self.namespaces)
        return [left] if left == right else [left, right]


class FlowFlags:
    """The filter flags of one command line, in order."""

    def __init__(self) -> None:
        self._allowed: _Halves | None = None
        self._denied: _Halves | None = None
        self._negated = False

    def negate(self) -> None:
        if self._negated:
            raise ValueError("two --not in a row: one filter is expected after each")
        self._negated = True

    def set(self, name: str, text: str) -> None:
        """Adds a flag. ValueError says what is wrong with it."""
        halves = self._halves()
        halves.used.add(name)
        for exclusive in _EXCLUSIVE:
            if name in exclusive and (others := sorted((exclusive & halves.used) - {name})):
                raise ValueError(f"cannot be combined with --{others[0]}")
        if name.endswith(("namespace", "all-namespaces")):
            _set_namespace(halves, name, text)
        else:
            _set_value(halves, _FLAGS[name], text)
        _check_namespaces(halves)

    def whitelist(self) -> list[flow_pb2.FlowFilter]:
        """ValueError if the command line ends with --not."""
        if self._negated:
            raise ValueError("--not at the end: a filter is expected after it")
        return self._allowed.filters() if self._allowed else []

    def blacklist(self) -> list[flow_pb2.FlowFilter]:
        return self._denied.filters() if self._denied else []

    def _halves(self) -> _Halves:
        if self._negated:
            self._negated = False
            self._denied = self._denied or _Halves()
            return self._denied
        self._allowed = self._allowed or _Halves()
        return self._allowed


def _set_namespace(halves: _Halves, name: str, text: str) -> None:
    namespace = "" if name.endswith("all-namespaces") else text
    if name.startswith("from-"):
        halves.source_namespaces.append(namespace)
    elif name.startswith("to-"):
        halves.destination_namespaces.append(namespace)
    else:
        halves.namespaces.append(namespace)


def _set_value(halves: _Halves, flag: FilterFlag, text: str) -> None:
    value = flag.parse(text)
    for half, target in ((halves.left, flag.left), (halves.right, flag.right)):
        values = half.experimental.cel_expression if target == "cel_expression" else getattr(half, target)
        values.append(value)


def _restrict(half: flow_pb2.FlowFilter, side: str, namespaces: list[str]) -> None:
    """Puts pod and service names without a namespace into these namespaces; no name at all means any pod there."""
    if not namespaces:
        return
    pods, services = getattr(half, f"{side}_pod"), getattr(half, f"{side}_service")
    if not pods and not services:
        pods.append("")
    for names in (pods, services):
        placed = [
            name if "/" in name else f"{namespace}/{name}"
            for name in names
            for namespace in (namespaces if "/" not in name else ("",))
        ]
        del names[:]
        names.extend(placed)


def _check_namespaces(halves: _Halves) -> None:
    for half in (halves.left, halves.right):
        for side, namespaces in (
            ("source", halves.namespaces + halves.source_namespaces),
            ("destination", halves.namespaces + halves.destination_namespaces),
        ):
            for name in (*getattr(half, f"{side}_pod"), *getattr(half, f"{side}_service")):
                namespace, separator, _ = name.partition("/")
                if separator and namespace and any(namespace != other for other in namespaces):
                    raise ValueError(f"{name!r} does not lie in the namespace {', '.join(namespaces)}")

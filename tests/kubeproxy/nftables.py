"""kube-proxy's nftables mode: input of `nft -f` for one family.

A service is found by one look-up (address, protocol, port) in a map of verdicts, a node port by one look-up (protocol,
port); the chain that it leads to picks an endpoint by one random number. A change rewrites the chains of what
changed and the elements that came or went, never the rest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from tests.kubeproxy.ports import Endpoint, Family, NodeFacts, ProxyPort

MARK = "0x4000"
_ADDRESS = {4: "ipv4_addr", 6: "ipv6_addr"}
_IP = {4: "ip", 6: "ip6"}


def table(family: Family) -> str:
    return f"{_IP[family]} kube-proxy"


@dataclass(frozen=True, slots=True)
class Content:
    """What the table has because of some ports: elements by map or set, chains with their rules, affinity sets."""

    elements: dict[str, dict[str, str]]
    """By map: key and verdict; of a set the verdict is empty."""
    chains: dict[str, tuple[str, ...]]
    affinity_sets: dict[str, int]
    """How long an entry lasts, in seconds."""


def base(node: NodeFacts, family: Family, service_cidr: str = "") -> str:
    """The table with everything that does not depend on Services; what was there before is gone."""
    ip, address = _IP[family], _ADDRESS[family]
    to_service = f"{ip} daddr . meta l4proto . th dport vmap"
    to_node = f"{ip} daddr @nodeport-ips meta l4proto . th dport vmap"
    maps = "".join(
        f"map {name} {{ type {address} . inet_proto . inet_service : verdict; }}\n"
        for name in ("service-ips", "no-endpoint-services", "firewall-ips")
    ) + "".join(
        f"map {name} {{ type inet_proto . inet_service : verdict; }}\n"
        for name in ("service-nodeports", "no-endpoint-nodeports")
    )
    primary = node.of_family(family)[:1]
    node_ips = f"elements = {{ {', '.join(primary)} }}" if primary else ""
    unallocated = f"ct state new {ip} daddr {service_cidr} drop" if service_cidr else ""
    chains = {
        "filter-prerouting-pre-dnat": (
            "type filter hook prerouting priority -110;",
            "ct state new jump firewall-check",
        ),
        "filter-output-pre-dnat": ("type filter hook output priority -110;", "ct state new jump firewall-check"),
        "filter-input": (
            "type filter hook input priority 0;",
            "ct state new jump nodeport-endpoints-check",
            "ct state new jump service-endpoints-check",
        ),
        "filter-forward": (
            "type filter hook forward priority 0;",
            "ct state new jump service-endpoints-check",
            "ct state new jump cluster-ips-check",
        ),
        "filter-output": (
            "type filter hook output priority 0;",
            "ct state new jump service-endpoints-check",
            "ct state new jump cluster-ips-check",
        ),
        "nat-prerouting": ("type nat hook prerouting priority dstnat;", "jump services"),
        "nat-output": ("type nat hook output priority -100;", "jump services"),
        "nat-postrouting": ("type nat hook postrouting priority srcnat;", "jump masquerading"),
        "firewall-check": (f"{to_service} @firewall-ips",),
        "service-endpoints-check": (f"{to_service} @no-endpoint-services",),
        "nodeport-endpoints-check": (f"{to_node} @no-endpoint-nodeports",),
        "cluster-ips-check": (f"{ip} daddr @cluster-ips reject", unallocated),
        "services": (f"{to_service} @service-ips", f"{to_node} @service-nodeports"),
        "masquerading": (
            f"mark and {MARK} == 0 return",
            f"mark set mark xor {MARK}",
            "masquerade fully-random",
        ),
        "mark-for-masquerade": (f"mark set mark or {MARK}",),
        "reject-chain": ("reject",),
    }
    names = "".join(f"add chain {table(family)} {name}\n" for name in chains if " hook " not in chains[name][0])
    body = "".join(f"chain {name} {{\n {_lines(rules)}\n}}\n" for name, rules in chains.items())
    return (
        f"add table {table(family)}\ndelete table {table(family)}\nadd table {table(family)}\n{names}"
        f"table {table(family)} {{\nset cluster-ips {{ type {address}; }}\n"
        f"set nodeport-ips {{ type {address}; {node_ips} }}\n{maps}{body}}}\n"
    )


def content(ports: Iterable[ProxyPort], node: NodeFacts, family: Family) -> Content:
    made = Content({}, {}, {})
    for port in ports:
        _add_port(made, port, node, family)
    return made


def change(family: Family, before: Content, after: Content) -> str:
    """What leads from one content to the other, in one transaction; from nothing, the whole of it."""
    name, address = table(family), _ADDRESS[family]
    lines: list[str] = []
    for set_name, timeout_s in after.affinity_sets.items():
        if set_name not in before.affinity_sets:
            kind = f"type {address}; flags dynamic,timeout; timeout {timeout_s}s;"
            lines.append(f"add set {name} {set_name} {{ {kind} }}")
    changed = {chain: rules for chain, rules in after.chains.items() if before.chains.get(chain) != rules}
    lines += [f"add chain {name} {chain}" for chain in changed]
    lines += [f"flush chain {name} {chain}" for chain in changed if chain in before.chains]
    lines += [f"add rule {name} {chain} {rule}" for chain, rules in changed.items() for rule in rules]
    lines += _element_changes(name, before, after)
    ended = before.chains.keys() - after.chains.keys()
    lines += [f"flush chain {name} {chain}" for chain in sorted(ended)]
    lines += [f"delete chain {name} {chain}" for chain in sorted(ended)]
    lines += [f"delete set {name} {each}" for each in sorted(before.affinity_sets.keys() - after.affinity_sets.keys())]
    return "\n".join([*lines, ""])


def _element_changes(name: str, before: Content, after: Content) -> Iterator[str]:
    for group in sorted(before.elements.keys() | after.elements.keys()):
        old, new = before.elements.get(group, {}), after.elements.get(group, {})
        gone = [key for key, verdict in old.items() if new.get(key) != verdict]
        come = [f"{key} : {verdict}" if verdict else key for key, verdict in new.items() if old.get(key) != verdict]
        if gone:
            yield f"delete element {name} {group} {{ {', '.join(gone)} }}"
        if come:
            yield f"add element {name} {group} {{ {', '.join(come)} }}"


def _add_port(made: Content, port: ProxyPort, node: NodeFacts, family: Family) -> None:
    def element(group: str, key: str, verdict: str = "") -> None:
        made.elements.setdefault(group, {})[key] = verdict

    def key(address: str) -> str:
        return f"{address} . {port.protocol} . {port.spec.port}"

    element("cluster-ips", port.cluster_ip)
    refused = "drop" if port.any_endpoint else "goto reject-chain"
    internal, external = ("local" if port.internal_local else "service"), _chain("external", port)
    if port.internal_endpoints:
        element("service-ips", key(port.cluster_ip), f"goto {_chain(internal, port)}")
    else:
        element("no-endpoint-services", key(port.cluster_ip), refused)
    node_key = f"{port.protocol} . {port.node_port}"
    for address in (*port.external_ips, *port.load_balancer_ips):
        if port.any_endpoint:
            element("service-ips", key(address), f"goto {external}")
        if not port.external_endpoints:
            element("no-endpoint-services", key(address), refused)
    if port.node_port and port.any_endpoint:
        element("service-nodeports", node_key, f"goto {external}")
    if port.node_port and not port.external_endpoints:
        element("no-endpoint-nodeports", node_key, refused)
    if port.source_ranges:
        firewall = _chain("firewall", port)
        allowed = ", ".join(port.source_ranges)
        made.chains[firewall] = (f"{_IP[family]} saddr != {{ {allowed} }} drop",)
        for address in port.load_balancer_ips:
            element("firewall-ips", key(address), f"goto {firewall}")
    if port.any_endpoint:
        _add_chains(made, port, node, family)


def _add_chains(made: Content, port: ProxyPort, node: NodeFacts, family: Family) -> None:
    ip, clients = _IP[family], node.cluster_cidrs[family]
    for endpoint in port.endpoints:
        _add_endpoint(made, port, endpoint, ip)
    mark = (
        f"{ip} daddr {port.cluster_ip} {port.protocol} dport {port.spec.port} {ip} saddr != {clients} "
        "jump mark-for-masquerade"
    )
    kinds: tuple[tuple[Literal["service", "local"], bool, Sequence[Endpoint]], ...] = (
        ("service", port.uses_cluster, port.cluster),
        ("local", port.uses_local, port.local),
    )
    for kind, used, endpoints in kinds:
        if used and endpoints:
            marked = (mark,) if (kind == "local") == port.internal_local else ()
            made.chains[_chain(kind, port)] = (*marked, *_choose(port, endpoints, ip))
    if port.external:
        rules = ["jump mark-for-masquerade"]
        if port.external_local:
            to_all = f"goto {_chain('service', port)}"
            rules = [
                f"{ip} saddr {clients} {to_all}",
                "fib saddr type local jump mark-for-masquerade",
                f"fib saddr type local {to_all}",
            ]
        if not port.cluster:
            rules = []
        if port.external_endpoints:
            rules.append(f"goto {_chain('local' if port.external_local else 'service', port)}")
        made.chains[_chain("external", port)] = tuple(rules)


def _choose(port: ProxyPort, endpoints: Sequence[Endpoint], ip: str) -> Iterator[str]:
    if port.affinity_s:
        for each in endpoints:
            yield f"{ip} saddr @{_affinity_set(port, each)} goto {_endpoint_chain(port, each)}"
    ways = ", ".join(f"{number} : goto {_endpoint_chain(port, each)}" for number, each in enumerate(endpoints))
    yield f"numgen random mod {len(endpoints)} vmap {{ {ways} }}"


def _add_endpoint(made: Content, port: ProxyPort, endpoint: Endpoint, ip: str) -> None:
    rules = [f"{ip} saddr {endpoint.address} jump mark-for-masquerade"]
    if port.affinity_s:
        affinity_set = _affinity_set(port, endpoint)
        made.affinity_sets[affinity_set] = port.affinity_s
        rules.append(f"update @{affinity_set} {{ {ip} saddr }}")
    rules.append(f"meta l4proto {port.protocol} dnat to {endpoint}")
    made.chains[_endpoint_chain(port, endpoint)] = tuple(rules)


def _chain(kind: str, port: ProxyPort) -> str:
    return f"{kind}-{_hash(port.name, port.protocol)}-{_readable(port)}"


def _endpoint_chain(port: ProxyPort, endpoint: Endpoint) -> str:
    return f"endpoint-{_of_endpoint(port, endpoint)}"


def _affinity_set(port: ProxyPort, endpoint: Endpoint) -> str:
    return f"affinity-{_of_endpoint(port, endpoint)}"


def _of_endpoint(port: ProxyPort, endpoint: Endpoint) -> str:
    """The address with its colons as dots: names take no colon."""
    readable = f"{endpoint.address.replace(':', '.')}/{endpoint.port}"
    return f"{_hash(port.name, port.protocol, str(endpoint))}-{_readable(port)}__{readable}"


def _readable(port: ProxyPort) -> str:
    """The end of a name that is for people, cut so that the whole is not too long for the kernel."""
    service = port.service.metadata
    return f"{service.namespace}/{service.name}/{port.protocol}/{port.spec.name}"[:64]


def _hash(*words: str) -> str:
    return hashlib.sha256("".join(words).encode()).hexdigest()[:8].upper()


def _lines(rules: Iterable[str]) -> str:
    return "\n ".join(rule for rule in rules if rule)

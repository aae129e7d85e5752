"""kube-proxy's iptables mode: the input of iptables-restore --noflush for one family.

nat   KUBE-SERVICES ─┬─ cluster IP ─────────────────────────> KUBE-SVC ─┬─> KUBE-SEP ── DNAT
                     ├─ external and load balancer's IP ──> KUBE-EXT ─┤   (hairpin: marked)
                     └─ this node's address: KUBE-NODEPORTS ─┘ marked  └─> KUBE-SVL, of this node alone
filter  refused or dropped where a port has no endpoint; KUBE-PROXY-FIREWALL for what the source ranges leave out.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from tests.kubeproxy.ports import Endpoint, Family, NodeFacts, ProxyPort

MARK = "0x4000"
FILTER_CHAINS = ("KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES", "KUBE-FORWARD", "KUBE-NODEPORTS", "KUBE-PROXY-FIREWALL")
NAT_CHAINS = ("KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-MARK-MASQ")
_NEW = "-m conntrack --ctstate NEW"
_JUMPS = {
    "filter": (
        f"INPUT {_NEW} -j KUBE-PROXY-FIREWALL",
        f"OUTPUT {_NEW} -j KUBE-PROXY-FIREWALL",
        f"FORWARD {_NEW} -j KUBE-PROXY-FIREWALL",
        "INPUT -j KUBE-NODEPORTS",
        f"INPUT {_NEW} -j KUBE-EXTERNAL-SERVICES",
        "FORWARD -j KUBE-FORWARD",
        f"FORWARD {_NEW} -j KUBE-SERVICES",
        f"FORWARD {_NEW} -j KUBE-EXTERNAL-SERVICES",
        f"OUTPUT {_NEW} -j KUBE-SERVICES",
    ),
    "nat": ("PREROUTING -j KUBE-SERVICES", "OUTPUT -j KUBE-SERVICES", "POSTROUTING -j KUBE-POSTROUTING"),
}


@dataclass(slots=True)
class _Table:
    chains: list[str]
    rules: list[str] = field(default_factory=list)

    def chain(self, name: str) -> None:
        self.chains.append(name)

    def add(self, chain: str, *words: str) -> None:
        self.rules.append(f"-A {chain} {' '.join(word for word in words if word)}")

    def lines(self, name: str, ended: Collection[str]) -> Iterator[str]:
        yield f"*{name}"
        yield from (f":{chain} - [0:0]" for chain in (*self.chains, *ended))
        yield from self.rules
        yield from (f"-X {chain}" for chain in ended)
        yield "COMMIT"


def jumps() -> str:
    """The rules in the chains of the kernel that lead into kube-proxy's: loaded once, before anything else."""
    chains = {"filter": FILTER_CHAINS, "nat": NAT_CHAINS}
    lines: list[str] = []
    for table, rules in _JUMPS.items():
        lines += [f"*{table}", *(f":{chain} - [0:0]" for chain in chains[table])]
        lines += [*(f"-A {rule}" for rule in rules), "COMMIT"]
    return "\n".join([*lines, ""])


def rules(
    ports: Sequence[ProxyPort],
    node: NodeFacts,
    family: Family,
    *,
    changed: Iterable[ProxyPort] | None = None,
    ended: Collection[str] = (),
) -> str:
    """Input of `iptables-restore --noflush`.

    `changed`: only the chains of these ports are written besides those that list all, as kube-proxy does when few
    things change. `ended`: names of chains that nothing leads to any more.
    """
    nat, filter_ = _Table(list(NAT_CHAINS)), _Table(list(FILTER_CHAINS))
    _masquerading(nat)
    _forwarding(filter_)
    for port in ports:
        _refuse(filter_, port)
        _dispatch(nat, filter_, port)
    for port in ports if changed is None else changed:
        _chains_of(nat, port, node, family)
    local_only = "! -d ::1/128" if family == 6 else ""
    nat.add("KUBE-SERVICES", "-m addrtype --dst-type LOCAL", local_only, "-j KUBE-NODEPORTS")
    return "\n".join([*filter_.lines("filter", ()), *nat.lines("nat", ended), ""])


def own_chains(text: str) -> set[str]:
    """The chains of single ports that rules declare: those of rules before that are not among them have ended."""
    own = (":KUBE-SVC-", ":KUBE-SVL-", ":KUBE-EXT-", ":KUBE-FW-", ":KUBE-SEP-")
    return {line[1:].split()[0] for line in text.splitlines() if line.startswith(own)}


def _masquerading(nat: _Table) -> None:
    nat.add("KUBE-MARK-MASQ", f"-j MARK --or-mark {MARK}")
    nat.add("KUBE-POSTROUTING", f"-m mark ! --mark {MARK}/{MARK} -j RETURN")
    nat.add("KUBE-POSTROUTING", f"-j MARK --xor-mark {MARK}")
    nat.add("KUBE-POSTROUTING", "-j MASQUERADE --random-fully")


def _forwarding(filter_: _Table) -> None:
    filter_.add("KUBE-FORWARD", "-m conntrack --ctstate INVALID -j DROP")
    filter_.add("KUBE-FORWARD", f"-m mark --mark {MARK}/{MARK} -j ACCEPT")
    filter_.add("KUBE-FORWARD", "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT")


def _refuse(filter_: _Table, port: ProxyPort) -> None:
    """Refused where nobody anywhere would answer; dropped where somebody on another node would."""
    target = "DROP" if port.any_endpoint else "REJECT"
    comment = _comment(port, "has no local endpoints" if port.any_endpoint else "has no endpoints")
    if not port.internal_endpoints:
        filter_.add("KUBE-SERVICES", comment, _to(port, port.cluster_ip), f"-j {target}")
    if not port.external_endpoints:
        for address in (*port.external_ips, *port.load_balancer_ips):
            filter_.add("KUBE-EXTERNAL-SERVICES", comment, _to(port, address), f"-j {target}")
        if port.node_port:
            to = f"-m addrtype --dst-type LOCAL {_match(port, port.node_port)}"
            filter_.add("KUBE-EXTERNAL-SERVICES", comment, to, f"-j {target}")
    if port.service.spec.health_check_node_port:
        filter_.add("KUBE-NODEPORTS", f"-p tcp -m tcp --dport {port.service.spec.health_check_node_port} -j ACCEPT")


def _dispatch(nat: _Table, filter_: _Table, port: ProxyPort) -> None:
    internal = _chain("SVL" if port.internal_local else "SVC", port)
    external = _chain("EXT", port)
    balanced = _chain("FW", port) if port.source_ranges else external
    if port.internal_endpoints:
        nat.add("KUBE-SERVICES", _comment(port, "cluster IP"), _to(port, port.cluster_ip), f"-j {internal}")
    if port.any_endpoint:
        for address in port.external_ips:
            nat.add("KUBE-SERVICES", _comment(port, "external IP"), _to(port, address), f"-j {external}")
        for address in port.load_balancer_ips:
            nat.add("KUBE-SERVICES", _comment(port, "loadbalancer IP"), _to(port, address), f"-j {balanced}")
        if port.node_port:
            nat.add("KUBE-NODEPORTS", _comment(port), _match(port, port.node_port), f"-j {external}")
    if port.source_ranges:
        for address in port.load_balancer_ips:
            why = _comment(port, "traffic not accepted by the source ranges")
            filter_.add("KUBE-PROXY-FIREWALL", why, _to(port, address), "-j DROP")


def _chains_of(nat: _Table, port: ProxyPort, node: NodeFacts, family: Family) -> None:
    if not port.any_endpoint:
        return
    clients = node.cluster_cidrs[family]
    not_pods = f"! -s {clients} {_to(port, port.cluster_ip)} -j KUBE-MARK-MASQ"
    for kind, used, endpoints in (("SVC", port.uses_cluster, port.cluster), ("SVL", port.uses_local, port.local)):
        if used and endpoints:
            name = _chain(kind, port)
            nat.chain(name)
            if (kind == "SVL") == port.internal_local:
                nat.add(name, _comment(port, "cluster IP"), not_pods)
            _choose(nat, name, port, endpoints)
    if port.external:
        _external_chain(nat, port, clients)
    for endpoint in port.endpoints:
        _endpoint(nat, port, endpoint)


def _external_chain(nat: _Table, port: ProxyPort, clients: str) -> None:
    name = _chain("EXT", port)
    nat.chain(name)
    if not port.external_local:
        nat.add(name, "-j KUBE-MARK-MASQ")
    elif port.cluster:
        nat.add(name, f"-s {clients} -j {_chain('SVC', port)}")
        nat.add(name, "-m addrtype --src-type LOCAL -j KUBE-MARK-MASQ")
        nat.add(name, f"-m addrtype --src-type LOCAL -j {_chain('SVC', port)}")
    if port.external_endpoints:
        nat.add(name, f"-j {_chain('SVL' if port.external_local else 'SVC', port)}")
    if port.source_ranges:
        guarded = _chain("FW", port)
        nat.chain(guarded)
        for allowed in port.source_ranges:
            nat.add(guarded, f"-s {allowed} -j {name}")
        for address in port.load_balancer_ips:  # a node whose interface has the address asks itself
            nat.add(guarded, f"-s {address} -j {name}")


def _choose(nat: _Table, chain: str, port: ProxyPort, endpoints: Sequence[Endpoint]) -> None:
    names = [_endpoint_chain(port, endpoint) for endpoint in endpoints]
    if port.affinity_s:
        for name in names:
            nat.add(chain, f"-m recent --name {name} --rcheck --seconds {port.affinity_s} --reap -j {name}")
    for number, name in enumerate(names):
        left = len(names) - number
        chance = f"-m statistic --mode random --probability {1 / left:.11f}" if left > 1 else ""
        nat.add(chain, _comment(port), chance, f"-j {name}")


def _endpoint(nat: _Table, port: ProxyPort, endpoint: Endpoint) -> None:
    name = _endpoint_chain(port, endpoint)
    nat.chain(name)
    nat.add(name, _comment(port), f"-s {endpoint.address} -j KUBE-MARK-MASQ")
    remember = f"-m recent --name {name} --set" if port.affinity_s else ""
    nat.add(
        name, _comment(port), remember, f"-p {port.protocol} -m {port.protocol} -j DNAT --to-destination {endpoint}"
    )


def _to(port: ProxyPort, address: str) -> str:
    return f"-d {address} {_match(port, port.spec.port)}"


def _match(port: ProxyPort, number: int) -> str:
    return f"-p {port.protocol} -m {port.protocol} --dport {number}"


def _comment(port: ProxyPort, what: str = "") -> str:
    return f'-m comment --comment "{port.name} {what}"' if what else f"-m comment --comment {port.name}"


def _chain(kind: Literal["SVC", "SVL", "EXT", "FW"], port: ProxyPort) -> str:
    return f"KUBE-{kind}-{_hash(port.name, port.protocol)}"


def _endpoint_chain(port: ProxyPort, endpoint: Endpoint) -> str:
    return f"KUBE-SEP-{_hash(port.name, port.protocol, str(endpoint))}"


def _hash(*words: str) -> str:
    digest = hashlib.sha256("".join(words).encode()).digest()
    return base64.b32encode(digest).decode()[:16]

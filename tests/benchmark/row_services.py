"""A client's way to a Service: new connections and first datagrams to the last of so many Services and to random ones, and
requests on a connection that is kept, from a pod to a pod of the same node.

Ours is beside kube-proxy's two sets of rules, and beside ourselves with a single Service, which is beside a bare veth pair
(the limit: no Service, no rules, no programs); all are there at the same time and are measured in turns. Rates are per second of the processor time of client and server, which is what a new
connection costs and, other than a rate by the clock, the same on a busy machine.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tests.benchmark import service_set
from tests.benchmark.figures import Aim, Figure, Options, Tell, in_turns
from tests.benchmark.ours import NODE, lab, wait_for_services
from tests.benchmark.peers import PORT, Pair, bare_veth, built_traffic
from tests.benchmark.peers_services import MODES, kube_proxy
from tests.benchmark.row_memory import use_default_sizes
from tests.kubeproxy.ports import Family

COUNTS: dict[Family, Sequence[int]] = {4: (1, 100, 1_000, 10_000, 30_000), 6: (1, 10_000)}
QUICK_COUNTS: dict[Family, Sequence[int]] = {4: (1, 50), 6: (1,)}
WARM_UP_S = 0.2


class Way(NamedTuple):
    """One thing that is measured, and which of traffic.c's numbers it is."""

    mode: str
    field: str
    random: bool
    name: str
    unit: str


CRR = Way("crr", "per_cpu_second", False, "TCP_CRR, last", "/CPU-s")
CONNECT = Way("crr", "p50_us", False, "connection made, p50, last", "us")
FIRST = Way("first", "p50_us", False, "first datagram answered, p50, last", "us")
RANDOM = Way("crr", "per_cpu_second", True, "TCP_CRR, a random one", "/CPU-s")
KEPT = Way("rr", "per_cpu_second", False, "TCP_RR, last", "/CPU-s")
WAYS = (CRR, CONNECT, FIRST, RANDOM, KEPT)
AIMS = {
    (1, "iptables"): Aim("ratio", "≥", 1.4),
    (1, "nftables"): Aim("ratio", "≥", 1.4),
    (10_000, "iptables"): Aim("ratio", "≥", 4.0),
    (10_000, "nftables"): Aim("ratio", "≥", 1.2),
    (10_000, "ourselves"): Aim("ratio", "≥", 0.97),
}
"""Of new connections, by the number of Services and whom beside."""


@dataclass(frozen=True, slots=True)
class Side:
    """Who is measured: `pair` reaches the last Service."""

    beside: str
    pair: Pair
    count: int
    family: Family

    def of(self, way: Way) -> tuple[Pair, int]:
        """Whom the client asks, and of how many in a row."""
        if not way.random:
            return self.pair, 1
        return self.pair.reaching(service_set.cluster_ip(0, self.family)), self.count


def measure(options: Options, tell: Tell) -> list[Figure]:
    counts = QUICK_COUNTS if options.quick else COUNTS
    with built_traffic() as traffic:
        return [figure for family in counts for figure in _measure_family(family, counts, traffic, options, tell)]


def _measure_family(
    family: Family, counts: Mapping[Family, Sequence[int]], traffic: Path, options: Options, tell: Tell
) -> list[Figure]:
    figures: list[Figure] = []
    with services_of_ours(tell, 1, "one", family) as single:
        for count in counts[family]:
            figures += _measure_count(count, Side("ourselves", single, 1, family), traffic, options, tell)
    return figures


def _measure_count(count: int, single: Side, traffic: Path, options: Options, tell: Tell) -> list[Figure]:
    family = single.family
    with ExitStack() as stack:
        tell(f"making {count} Services")
        mine = Side("", stack.enter_context(services_of_ours(tell, count, "many", family)), count, family)
        others = [single] if count > 1 else [Side("bare", stack.enter_context(bare_veth()), 0, family)]
        for mode in MODES:
            tell(f"making {count} Services for kube-proxy, {mode}")
            others.append(Side(mode, stack.enter_context(kube_proxy(mode, count, family)), count, family))
        sides = [mine, *others]
        servers = {side.beside: stack.enter_context(side.pair.serving(traffic)) for side in sides}
        for side in sides:
            side.pair.measure(traffic, "crr", WARM_UP_S, family=family)
        ways = [way for way in WAYS if count > 1 or not way.random]
        found = _in_turns(ways, sides, servers, traffic, options, tell)
    return [_figure(found, way, mine, other) for way in ways for other in others]


def _in_turns(
    measured: Sequence[Way],
    sides: Sequence[Side],
    servers: Mapping[str, int],
    traffic: Path,
    options: Options,
    tell: Tell,
) -> dict[tuple[Way, str], list[float]]:
    found: dict[tuple[Way, str], list[float]] = defaultdict(list)
    for turn in range(options.turns):
        for mode, random in dict.fromkeys((way.mode, way.random) for way in measured):
            ways = [way for way in measured if (way.mode, way.random) == (mode, random)]
            first = turn % len(sides)
            for side in [*sides[first:], *sides[:first]]:
                tell(f"turn {turn + 1} of {options.turns}: {ways[0].name} of {side.count}, {side.pair.name}")
                pair, addresses = side.of(ways[0])
                server = servers[side.beside]
                result = pair.result_per_cpu_second(
                    traffic, mode, options.seconds, server, family=side.family, addresses=addresses
                )
                for way in ways:
                    found[way, side.beside].append(float(result[way.field]))
    return found


def _figure(found: dict[tuple[Way, str], list[float]], way: Way, mine: Side, other: Side) -> Figure:
    aim = AIMS.get((mine.count, other.beside)) if way is CRR else None
    peer = "1 service" if other.beside == "ourselves" else other.pair.name
    name = f"{way.name} of {mine.count:,}{', IPv6' if mine.family == 6 else ''}"
    return in_turns("services", name, way.unit, found[way, ""], peer, found[way, other.beside], aim)


@contextmanager
def services_of_ours(tell: Tell, count: int, suffix: str, family: Family = 4) -> Iterator[Pair]:
    """Two pods of a lab and so many Services whose only endpoint is the server; the pair's address is the last one's."""
    with lab(tell, suffix) as made:
        use_default_sizes(made)
        client, server = (made.add_pod(name) for name in ("client", "server"))
        address = (server.ipv4 if family == 4 else server.ipv6) or ""
        made.apply(service_set.services(count, [address], PORT, NODE, family=family))
        tell(f"waiting until {count} Services are in the kernel")
        wait_for_services(made, count + 1, family)
        pair = Pair(
            *("pycilium", client.netns, server.netns, "", ""),
            port=service_set.PORT,
            cgroup=made.cgroup_of(client),
        )
        yield pair.reaching(service_set.cluster_ip(count - 1, family))

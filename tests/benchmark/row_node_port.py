"""A client outside who asks a node's port, to a backend on that node and to one on another: connections, transactions, datagrams.

The peers are kube-proxy's rules on nodes that have plain routes to each other's pods; ours routes natively too. Rates
are per second of the processor time of client and server, in which the kernel carries their packets across both nodes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.benchmark import service_set
from tests.benchmark.figures import Figure, Options, Tell, in_turns
from tests.benchmark.ours import NODE, lab, wait_for_services
from tests.benchmark.peers import PORT, Pair, built_traffic
from tests.benchmark.peers_services import MODES, kube_proxy_node_port
from tests.kubeproxy.ports import Family

NAMES = {"rr": "TCP_RR", "crr": "TCP_CRR", "udp-rr": "UDP_RR", "flood": "UDP one way"}
PLACES = {False: "backend on the node", True: "backend on another node"}
FAMILIES: tuple[Family, ...] = (4, 6)
WARM_UP_S = 0.2
IN_KERNEL = 6
"""Frontends: TCP and UDP, of the cluster IP, of the node's address and of all nodes'."""


def measure(options: Options, tell: Tell) -> list[Figure]:
    with built_traffic() as traffic:
        return [
            figure
            for family in FAMILIES
            for elsewhere in PLACES
            for figure in _measure_place(traffic, options, tell, family, elsewhere=elsewhere)
        ]


def _measure_place(traffic: Path, options: Options, tell: Tell, family: Family, *, elsewhere: bool) -> list[Figure]:
    with ExitStack() as stack:
        theirs = (kube_proxy_node_port(mode, family, elsewhere=elsewhere) for mode in MODES)
        pairs = [stack.enter_context(side) for side in (_ours(tell, family, elsewhere=elsewhere), *theirs)]
        servers = {pair.name: stack.enter_context(pair.serving(traffic)) for pair in pairs}
        for pair in pairs:
            pair.measure(traffic, "crr", WARM_UP_S, family=family)
        where = f"{PLACES[elsewhere]}{', IPv6' if family == 6 else ''}"
        found: dict[tuple[str, str], list[float]] = defaultdict(list)
        for turn in range(options.turns):
            for mode, name in NAMES.items():
                first = turn % len(pairs)
                for pair in [*pairs[first:], *pairs[:first]]:
                    tell(f"turn {turn + 1} of {options.turns}: {name}, {where}, {pair.name}")
                    server = servers[pair.name]
                    result = pair.result_per_cpu_second(traffic, mode, options.seconds, server, family=family)
                    found[mode, pair.name].append(float(result["per_cpu_second"]))
    mine, *others = pairs
    return [
        in_turns(
            *("nodeport", f"{NAMES[mode]}, {where}", "/CPU-s"),
            *(found[mode, mine.name], pair.name, found[mode, pair.name]),
        )
        for mode in NAMES
        for pair in others
    ]


@contextmanager
def _ours(tell: Tell, family: Family, *, elsewhere: bool) -> Iterator[Pair]:
    with lab(tell, f"np{elsewhere:d}{family}", node_count=2, routing_mode="native") as made:
        place, node = "node2" if elsewhere else NODE, made.record.node(NODE)
        server = made.add_pod("server", node=place)
        backend, address = (server.ipv4, node.ipv4) if family == 4 else (server.ipv6, node.ipv6)
        made.apply(service_set.services(1, [backend or ""], PORT, place, family=family, node_port=True))
        wait_for_services(made, IN_KERNEL, family)
        pair = Pair("pycilium", made.record.world, server.netns, "", "", port=service_set.NODE_PORT)
        yield pair.reaching(address or "")

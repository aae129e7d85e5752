"""A client outside who asks a node's port: new connections and datagrams, to a backend on that node and to one on another.

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
from tests.benchmark.peers_services import Mode, kube_proxy_node_port

NAMES = {"crr": "TCP_CRR", "udp-rr": "UDP_RR", "flood": "UDP one way"}
PLACES = {False: "backend on the node", True: "backend on another node"}
PEERS: tuple[Mode, ...] = ("iptables", "nftables")
WARM_UP_S = 0.2


def measure(options: Options, tell: Tell) -> list[Figure]:
    with built_traffic() as traffic:
        return [
            figure for elsewhere in PLACES for figure in _measure_place(traffic, options, tell, elsewhere=elsewhere)
        ]


def _measure_place(traffic: Path, options: Options, tell: Tell, *, elsewhere: bool) -> list[Figure]:
    with ExitStack() as stack:
        sides = (_ours(tell, elsewhere=elsewhere), *(kube_proxy_node_port(mode, elsewhere=elsewhere) for mode in PEERS))
        pairs = [stack.enter_context(side) for side in sides]
        servers = {pair.name: stack.enter_context(pair.serving(traffic)) for pair in pairs}
        for pair in pairs:
            pair.measure(traffic, "crr", WARM_UP_S)
        found: dict[tuple[str, str], list[float]] = defaultdict(list)
        for turn in range(options.turns):
            for mode, name in NAMES.items():
                first = turn % len(pairs)
                for pair in [*pairs[first:], *pairs[:first]]:
                    tell(f"turn {turn + 1} of {options.turns}: {name}, {PLACES[elsewhere]}, {pair.name}")
                    result = pair.result_per_cpu_second(traffic, mode, options.seconds, servers[pair.name])
                    found[mode, pair.name].append(float(result["per_cpu_second"]))
    mine, *theirs = pairs
    return [
        in_turns(
            *("nodeport", f"{NAMES[mode]}, {PLACES[elsewhere]}", "/CPU-s"),
            *(found[mode, mine.name], pair.name, found[mode, pair.name]),
        )
        for mode in NAMES
        for pair in theirs
    ]


@contextmanager
def _ours(tell: Tell, *, elsewhere: bool) -> Iterator[Pair]:
    with lab(tell, f"np{elsewhere:d}", node_count=2, routing_mode="native") as made:
        place = "node2" if elsewhere else NODE
        server = made.add_pod("server", node=place)
        made.apply(service_set.services(1, [server.ipv4 or ""], PORT, place, node_port=True))
        wait_for_services(made, 6)
        address = made.record.node(NODE).ipv4 or ""
        yield Pair("pycilium", made.record.world, server.netns, address, "", port=service_set.NODE_PORT)

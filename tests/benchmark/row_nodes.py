"""Pod to pod across two nodes: through the overlay and by native routing, with conntrack, a policy both ways, and flow
events at the default aggregation, against flannel's two ways and against the bare underlay. Rates are per second of the
processor time of client and server, what the kernel does for their packets included, on whichever node.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import ExitStack

from tests.benchmark.figures import Figure, Options, Tell, in_turns
from tests.benchmark.ours import pods_of_two_nodes
from tests.benchmark.peers import Pair, built_traffic
from tests.benchmark.peers_nodes import bare_underlay, flannel_host_gw, flannel_vxlan
from tests.benchmark.row_pod import MODES, NAMES, UNITS, WARM_UP_S


def measure(options: Options, tell: Tell) -> list[Figure]:
    with ExitStack() as stack:
        traffic = stack.enter_context(built_traffic())
        _, overlay = stack.enter_context(pods_of_two_nodes(tell, "tunnel"))
        _, native = stack.enter_context(pods_of_two_nodes(tell, "native"))
        underlay = stack.enter_context(bare_underlay())
        vxlan, host_gw = stack.enter_context(flannel_vxlan()), stack.enter_context(flannel_host_gw())
        pairs = [overlay, native, underlay, vxlan, host_gw]
        servers = {pair.name: stack.enter_context(pair.serving(traffic)) for pair in pairs}
        for pair in pairs:
            for mode, family in MODES:
                pair.measure(traffic, mode, WARM_UP_S, family=family)
        found: dict[tuple[str, int, str], list[float]] = defaultdict(list)
        for turn in range(options.turns):
            for mode, family in MODES:
                first = turn % len(pairs)
                for pair in pairs[first:] + pairs[:first]:
                    tell(f"turn {turn + 1} of {options.turns}: {NAMES[mode]} IPv{family}, {pair.name}")
                    result = pair.result_per_cpu_second(
                        traffic, mode, options.seconds, servers[pair.name], family=family
                    )
                    found[mode, family, pair.name].append(float(result["per_cpu_second"]))
    return [
        _figure(found, mode, family, ours, peer)
        for mode, family in MODES
        for ours, peers in ((overlay, (vxlan, underlay)), (native, (host_gw, underlay)))
        for peer in peers
    ]


def _figure(found: dict[tuple[str, int, str], list[float]], mode: str, family: int, ours: Pair, peer: Pair) -> Figure:
    way = ours.name.removeprefix("pycilium, ")
    mine, theirs = (found[mode, family, side.name] for side in (ours, peer))
    unit = UNITS[mode].replace("/s", "/CPU-s")
    return in_turns("nodes", f"{NAMES[mode]} IPv{family}, {way}", unit, mine, peer.name, theirs)

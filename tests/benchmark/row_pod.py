"""Pod to pod: request/response, connect/request/response and stream, with conntrack, a policy both ways, and flow
events at the default aggregation, against a bare veth pair and against a bridge with iptables.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import ExitStack

from tests.benchmark.figures import Aim, Figure, Options, Tell, in_turns
from tests.benchmark.ours import pod_pair
from tests.benchmark.peers import bare_veth, bridge_iptables, built_traffic

MODES = (("rr", 4), ("crr", 4), ("stream", 4), ("rr", 6), ("crr", 6))
NAMES = {"rr": "TCP_RR", "crr": "TCP_CRR", "stream": "TCP_STREAM"}
UNITS = {"rr": "/s", "crr": "/s", "stream": "bit/s"}
OF_VETH, OF_BRIDGE = Aim("ratio", "≥", 0.95), Aim("ratio", "≥", 1.25)
WARM_UP_S = 0.2


def measure(options: Options, tell: Tell) -> list[Figure]:
    with ExitStack() as stack:
        traffic = stack.enter_context(built_traffic())
        lab, ours = stack.enter_context(pod_pair(tell))
        veth, bridge = stack.enter_context(bare_veth()), stack.enter_context(bridge_iptables())
        pairs = [ours, veth, bridge]
        for pair in pairs:
            stack.enter_context(pair.serving(traffic))
            for mode, family in MODES:
                pair.measure(traffic, mode, WARM_UP_S, family=family)
        seen_before, lost_before = lab.events_seen_and_lost()
        found: dict[tuple[str, int, str], list[float]] = defaultdict(list)
        for turn in range(options.turns):
            for mode, family in MODES:
                for pair in pairs[turn % 3 :] + pairs[: turn % 3]:
                    tell(f"turn {turn + 1} of {options.turns}: {NAMES[mode]} IPv{family}, {pair.name}")
                    found[mode, family, pair.name].append(pair.measure(traffic, mode, options.seconds, family=family))
        seen, lost = lab.events_seen_and_lost()
    note = f"{seen - seen_before} flows were recorded meanwhile, {lost - lost_before} events lost"
    figures: list[Figure] = []
    for mode, family in MODES:
        for pair, aim in ((veth, OF_VETH), (bridge, None if mode == "stream" else OF_BRIDGE)):
            name = f"{NAMES[mode]} IPv{family}"
            mine, theirs = (found[mode, family, side.name] for side in (ours, pair))
            figures.append(in_turns("pod", name, UNITS[mode], mine, pair.name, theirs, aim, "" if figures else note))
    return figures

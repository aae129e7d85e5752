"""Datagrams to a node's port whose backend is on another node: before the stack (XDP), by tc, and by kube-proxy's rules.

Once with frames as a driver has them (`frames`), once from a sender at the other end of the veth pair that is the
node's device. Rates are per second of processor time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal, TypeVar

from pycilium.lab.layout import LoadBalancing
from tests.benchmark import service_set
from tests.benchmark.figures import Figure, Options, Tell, in_turns
from tests.benchmark.frames import handed_in, xdp_program
from tests.benchmark.ours import NODE, lab, wait_for_services
from tests.benchmark.peers import PORT, Pair, built_traffic
from tests.benchmark.peers_services import MODES, kube_proxy_node_port
from tests.benchmark.row_node_port import IN_KERNEL

T = TypeVar("T")
FROM_DRIVER, FROM_PAIR = "datagrams as a driver has them", "datagrams over a pair"
WARM_UP_S = 0.2


@dataclass(frozen=True, slots=True)
class Side:
    """A client outside, and the node whose port it asks."""

    name: str
    pair: Pair
    node: str
    underlay: str
    program: int | None = None
    """On the node's device."""


def measure(options: Options, tell: Tell) -> list[Figure]:
    with ExitStack() as stack:
        traffic = stack.enter_context(built_traffic())
        ours = [stack.enter_context(_ours(tell, name)) for name in ("native", "disabled")]
        sides = [*ours, *(stack.enter_context(_kube_proxy(mode)) for mode in MODES)]
        found: dict[tuple[str, str], list[float]] = defaultdict(list)
        servers = [stack.enter_context(side.pair.serving(traffic)) for side in sides]
        for side in sides:
            side.pair.measure(traffic, "udp-rr", WARM_UP_S)
        for turn in range(options.turns):
            for side, server in _from(turn, list(zip(sides, servers, strict=True))):
                tell(f"turn {turn + 1} of {options.turns}: {FROM_PAIR}, {side.name}")
                result = side.pair.result_per_cpu_second(traffic, "flood", options.seconds, server)
                found[FROM_PAIR, side.name].append(float(result["per_cpu_second"]))
        inlets = {
            side.name: stack.enter_context(handed_in(side.pair, side.node, side.underlay, program=side.program))
            for side in sides
        }
        for turn in range(options.turns):
            for side in _from(turn, sides):
                tell(f"turn {turn + 1} of {options.turns}: {FROM_DRIVER}, {side.name}")
                found[FROM_DRIVER, side.name].append(inlets[side.name].per_cpu_second(options.seconds))
    mine, *others = sides
    return [
        in_turns("xdp", what, "/CPU-s", found[what, mine.name], other.name, found[what, other.name])
        for what in (FROM_DRIVER, FROM_PAIR)
        for other in others
    ]


def _from(turn: int, sides: list[T]) -> list[T]:
    """All of them, beginning with another one each turn."""
    first = turn % len(sides)
    return [*sides[first:], *sides[:first]]


@contextmanager
def _ours(tell: Tell, acceleration: Literal["native", "disabled"]) -> Iterator[Side]:
    load_balancing = LoadBalancing(acceleration=acceleration)
    options = {"node_count": 2, "routing_mode": "native", "load_balancing": load_balancing}
    with lab(tell, acceleration[:1], **options) as made:
        server, node = made.add_pod("server", node="node2"), made.record.node(NODE)
        made.apply(service_set.services(1, [server.ipv4 or ""], PORT, "node2", node_port=True))
        wait_for_services(made, IN_KERNEL)
        pair = Pair("pycilium", made.record.world, server.netns, node.ipv4 or "", "", port=service_set.NODE_PORT)
        accelerated = acceleration == "native"
        program = xdp_program(node.namespace) if accelerated else None
        name = "XDP" if accelerated else "pycilium, tc"
        yield Side(name, pair, node.namespace, made.record.underlay, program)


@contextmanager
def _kube_proxy(mode: Literal["iptables", "nftables"]) -> Iterator[Side]:
    with kube_proxy_node_port(mode, 4, elsewhere=True) as pair:
        underlay = pair.client.removesuffix("-outside")
        yield Side(pair.name, pair, underlay.removesuffix("-u") + "-n1", underlay)

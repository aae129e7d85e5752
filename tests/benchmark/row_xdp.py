"""A node's port whose backend is on another node: before the stack (XDP), by tc, and by kube-proxy's rules.

Once with frames as a driver has them (`inlet`): of a flow of datagrams, of a TCP connection that stands, and what its
backend answers. Once from a client at the other end of the veth pair that is the node's device. Rates are per second of
processor time.

All that comes to a node has its checksums and is one frame, as from a wire: on every side the ports of the underlay
compute and segment in software, which an XDP program on a pair needs and the others could do without.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from pycilium.lab import namespaces
from pycilium.lab.layout import LoadBalancing
from pycilium.lab.wires import compute_checksums
from tests.benchmark import frames, service_set
from tests.benchmark.connection import End, connected
from tests.benchmark.figures import Figure, Options, Tell, in_turns
from tests.benchmark.inlet import Inlet, inlet_of, passing_driver, xdp_program
from tests.benchmark.ours import NODE, lab, wait_for_services
from tests.benchmark.peers import PORT, Pair, built_traffic, run
from tests.benchmark.peers_services import MODES, kube_proxy_node_port
from tests.benchmark.row_node_port import IN_KERNEL

T = TypeVar("T")
Mode = Literal["snat", "dsr"]
DATAGRAMS, SEGMENTS, ANSWERS = "datagrams", "TCP segments", "TCP answers"
FRAMES: dict[Mode, tuple[str, ...]] = {"snat": (DATAGRAMS, SEGMENTS, ANSWERS), "dsr": (SEGMENTS,)}
OVER_PAIR = {"flood": DATAGRAMS, "rr": "TCP_RR", "crr": "TCP_CRR"}
TRAFFIC: dict[Mode, tuple[str, ...]] = {"snat": ("flood", "rr", "crr"), "dsr": ("rr", "crr")}
"""With DSR every datagram says what was called, and goes by tc in any case; answers do not come by the node."""
WARM_UP_S = 0.2
SOURCE_PORT = 40_000
Found = dict[tuple[str, str], list[float]]


@dataclass(frozen=True, slots=True)
class Side:
    """A client outside, and the node whose port it asks."""

    name: str
    pair: Pair
    node: str
    underlay: str
    program: int | None = None
    """On the node's device."""
    mode: Mode = "snat"


def measure(options: Options, tell: Tell) -> list[Figure]:
    with ExitStack() as stack:
        traffic = stack.enter_context(built_traffic())
        ours = [
            (stack.enter_context(_ours(tell, "native", mode)), stack.enter_context(_ours(tell, "disabled", mode)))
            for mode in FRAMES
        ]
        peers = [stack.enter_context(_kube_proxy(mode)) for mode in MODES]
        sides = [*(side for both in ours for side in both), *peers]
        for side in sides:
            _be_like_wires(side.underlay)
        found: Found = defaultdict(list)
        _measure_pairs(found, sides, traffic, options, tell)
        _measure_frames(found, sides, options, tell)
    return [figure for xdp, tc in ours for figure in _figures(found, xdp, [tc, *peers])]


def _figures(found: Found, mine: Side, others: Sequence[Side]) -> list[Figure]:
    suffix = "" if mine.mode == "snat" else ", DSR"
    return [
        in_turns("xdp", what + suffix, "/CPU-s", samples, other.name, found[what, other.name])
        for (what, name), samples in found.items()
        if name == mine.name
        for other in others
    ]


def _measure_pairs(found: Found, sides: Sequence[Side], traffic: Path, options: Options, tell: Tell) -> None:
    with ExitStack() as stack:
        servers = {side.name: stack.enter_context(side.pair.serving(traffic)) for side in sides}
        for side in sides:
            side.pair.measure(traffic, "crr", WARM_UP_S)
        for turn in range(options.turns):
            for mode, name in OVER_PAIR.items():
                what = f"{name} over a pair"
                for side in _from(turn, [side for side in sides if mode in TRAFFIC[side.mode]]):
                    tell(f"turn {turn + 1} of {options.turns}: {what}, {side.name}")
                    server = servers[side.name]
                    result = side.pair.result_per_cpu_second(traffic, mode, options.seconds, server)
                    found[what, side.name].append(float(result["per_cpu_second"]))


def _measure_frames(found: Found, sides: Sequence[Side], options: Options, tell: Tell) -> None:
    with ExitStack() as stack:
        passing = stack.enter_context(passing_driver())
        inlets = {side.name: stack.enter_context(_frames(side, passing)) for side in sides}
        for turn in range(options.turns):
            for kind in FRAMES["snat"]:
                what = f"{kind} as a driver has them"
                for side in _from(turn, [side for side in sides if kind in FRAMES[side.mode]]):
                    tell(f"turn {turn + 1} of {options.turns}: {what}, {side.name}")
                    inlet, frame_of = inlets[side.name]
                    found[what, side.name].append(inlet.per_cpu_second(frame_of[kind], options.seconds))


def _from(turn: int, sides: Sequence[T]) -> list[T]:
    """All of them, beginning with another one each turn."""
    first = turn % len(sides)
    return [*sides[first:], *sides[:first]]


@contextmanager
def _frames(side: Side, passing: int) -> Iterator[tuple[Inlet, dict[str, bytes]]]:
    """Where they are handed in, and one of each kind."""
    with connected(side.pair) as connection:
        inlet = inlet_of(side.pair, side.node, side.underlay, side.program or passing)
        client, called = connection.client, connection.called
        frame_of = {
            DATAGRAMS: frames.datagram(inlet.cable, End(client.address, SOURCE_PORT), called),
            SEGMENTS: frames.segment(inlet.cable, client, called, connection.of_client),
            ANSWERS: frames.segment(inlet.cable, connection.server, connection.seen, connection.of_server),
        }
        yield inlet, frame_of


def _be_like_wires(underlay: str) -> None:
    ports = json.loads(run("ip", "-json", "link", "show", "type", "veth", netns=underlay))
    for port in ports:
        namespaces.run_in(underlay, lambda name=port["ifname"]: compute_checksums(name))


@contextmanager
def _ours(tell: Tell, acceleration: Literal["native", "disabled"], mode: Mode) -> Iterator[Side]:
    load_balancing = LoadBalancing(mode=mode, acceleration=acceleration)
    options = {"node_count": 2, "routing_mode": "native", "load_balancing": load_balancing}
    with lab(tell, acceleration[:1] + mode[:1], **options) as made:
        server, node = made.add_pod("server", node="node2"), made.record.node(NODE)
        made.apply(service_set.services(1, [server.ipv4 or ""], PORT, "node2", node_port=True))
        wait_for_services(made, IN_KERNEL)
        pair = Pair("pycilium", made.record.world, server.netns, node.ipv4 or "", "", port=service_set.NODE_PORT)
        accelerated = acceleration == "native"
        program = xdp_program(node.namespace) if accelerated else None
        name = f"{'XDP' if accelerated else 'pycilium, tc'}{', DSR' if mode == 'dsr' else ''}"
        yield Side(name, pair, node.namespace, made.record.underlay, program, mode)


@contextmanager
def _kube_proxy(mode: Literal["iptables", "nftables"]) -> Iterator[Side]:
    with kube_proxy_node_port(mode, 4, elsewhere=True) as pair:
        underlay = pair.client.removesuffix("-outside")
        yield Side(pair.name, pair, underlay.removesuffix("-u") + "-n1", underlay)

"""How long after a pod was created on one node it is reachable from all others, on ten nodes of a hundred pods.

Every other node has a pod that sends echo requests every millisecond. Its egress policy allows new pods by their
label alone, so that no answer can come before its node knows the new pod's identity. The time counts from the return
of the CNI ADD, which is when a runtime starts the pod's processes, to the first answer on the slowest node.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from pycilium.lab import namespaces
from pycilium.lab.layout import PodRecord
from tests.benchmark.figures import Figure, Options, Tell, alone, percentile
from tests.benchmark.ours import Lab, lab

INTERVAL_S = 0.001
PATIENCE_S = 30.0
_ECHO = struct.Struct("!BBHHH")


def measure(options: Options, tell: Tell) -> list[Figure]:
    nodes, pods = options.sized(10, 3), options.sized(100, 4)
    measured = options.sized(200, 10)
    with lab(tell, "reach", node_count=nodes) as made, ExitStack() as stack:
        made.apply([_policy()])
        names = [node.name for node in made.record.nodes]
        probers = {node: made.add_pod(f"prober-{node}", node=node, app="prober") for node in names}
        sockets = {node: stack.enter_context(_raw_socket(pod)) for node, pod in probers.items()}
        took: list[float] = []
        for number in range(nodes * pods - nodes):
            tell(f"pod {number + 1} of {nodes * pods - nodes}")
            node = names[number % nodes]
            pod = made.add_pod(f"new-{number}", node=node, app="new")
            added = time.monotonic()
            if number >= nodes * pods - nodes - measured:
                others = [opened for name, opened in sockets.items() if name != node]
                took.append((_all_answered(others, pod, number) - added) * 1e3)
        agents = _agents(made)
    what = f"{nodes} nodes, {pods} pods each"
    return [
        alone("reach", f"new pod reachable from all others, p50 ({what})", "ms", [percentile(took, 50)]),
        alone("reach", "the same, p99", "ms", [percentile(took, 99)], note=f"{len(took)} pods; {agents}"),
    ]


def _policy() -> dict[str, Any]:
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": "probers", "namespace": "default"},
        "spec": {
            "endpointSelector": {"matchLabels": {"app": "prober"}},
            "egress": [{"toEndpoints": [{"matchLabels": {"app": "new"}}]}],
        },
    }


def _raw_socket(pod: PodRecord) -> socket.socket:
    return namespaces.run_in(
        pod.netns, lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMP)
    )


def _all_answered(sockets: Sequence[socket.socket], pod: PodRecord, number: int) -> float:
    """When the last of them had its first answer; every one of them asks until then."""
    request, deadline = _echo_request(number), time.monotonic() + PATIENCE_S
    waiting = set(sockets)
    while waiting:
        for each in waiting:
            each.sendto(request, (pod.ipv4, 0))
        for each in select.select(list(waiting), [], [], INTERVAL_S)[0]:
            if _is_answer(each.recv(2048), pod, number):
                waiting.discard(each)
        if time.monotonic() > deadline:
            raise RuntimeError(f"{pod.name} ({pod.ipv4}) was not reachable from {len(waiting)} nodes")
    return time.monotonic()


def _echo_request(number: int) -> bytes:
    words = (8 << 8, number & 0xFFFF, 1)
    folded = sum(words)
    folded = (folded & 0xFFFF) + (folded >> 16)
    return _ECHO.pack(8, 0, ~folded & 0xFFFF, number & 0xFFFF, 1)


def _is_answer(packet: bytes, pod: PodRecord, number: int) -> bool:
    kind, _, _, identifier, _ = _ECHO.unpack_from(packet, (packet[0] & 0xF) * 4)
    return kind == 0 and identifier == number & 0xFFFF and socket.inet_ntoa(packet[12:16]) == pod.ipv4


def _agents(made: Lab) -> str:
    resident = [made.resident_kb(node.name)["VmRSS"] / 1024 for node in made.record.nodes]
    return f"agents' RSS {min(resident):.0f} to {max(resident):.0f} MB"

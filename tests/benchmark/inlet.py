"""Frames handed to an XDP program on a node's device, as its driver would.

    driver's side of eth0 ── program ─┬─ sent back by eth0 (XDP_TX)                       ┐
                                      └─ the stack (XDP_PASS), its hooks and rules ─ eth0 ┴─► far side of eth0: dropped

The kernel's BPF_F_TEST_XDP_LIVE_FRAMES makes the frames, so that no sender's cost is in a figure, but that of making them
is, which is the same for all. Sent over a pair, a packet is a socket buffer first, and an XDP program on the far side
costs its conversion: that is no NIC's way. What leaves is dropped as soon as it is across, and counted: frames that do not
leave are no figure.
"""

from __future__ import annotations

import json
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pycilium.datapath import bpf_syscall as bpf
from pycilium.lab import namespaces as lab_namespaces
from pycilium.lab.wires import be_like_a_wire
from tests.benchmark.frames import Cable
from tests.benchmark.peers import CPU, Pair, namespaces, processor_ns, run

MOST = 0.5
ALIKE = 0.95
"""Frames are as long as they were: refusals are shorter."""
CLOSED = ("0", "disabled")
"""A bridge's port in this state drops what comes in. Without a spanning tree `blocking` (4) is `forwarding` at once."""
DEVICE = "eth0"


@dataclass(frozen=True, slots=True)
class Inlet:
    """Where frames are handed in: a program on the node's device, and the far side that counts what leaves."""

    node: str
    program: int
    cable: Cable
    """Of frames from outside."""
    underlay: str
    port: str

    def per_cpu_second(self, frame: bytes, seconds: float) -> float:
        """Frames that left, per second of the processor time that it took to make them and to send them on.

        On a busy machine the far side may have no room for some: they are not counted, and what they took is.
        """
        return lab_namespaces.run_in(self.node, lambda: self._rate(frame, seconds))

    def _rate(self, frame: bytes, seconds: float) -> float:
        """By the calling thread, from now on on one processor alone."""
        os.sched_setaffinity(0, {int(CPU)})
        context = struct.pack("=6I", 0, len(frame), 0, _index(DEVICE), 0, 0)  # struct xdp_md
        softirqs, before, sent = _softirq_thread(), self._left(), 0
        began, until = time.thread_time_ns() + processor_ns(softirqs), time.thread_time() + seconds
        while time.thread_time() < until:
            bpf.program_send_frames(self.program, frame, context=context)
            sent += bpf.FRAMES_AT_ONCE
        spent_ns = time.thread_time_ns() + processor_ns(softirqs) - began
        left, left_bytes = (now - then for now, then in zip(self._left(), before, strict=True))
        if left < sent * MOST or left_bytes < left * len(frame) * ALIKE:
            raise RuntimeError(f"of {sent} frames of {len(frame)} bytes {left} of {left_bytes} in all left {self.node}")
        return left / spent_ns * 1e9

    def _left(self) -> tuple[int, int]:
        """Frames, and their bytes."""
        [link] = json.loads(run("ip", "-json", "-s", "link", "show", self.port, netns=self.underlay))
        counted = link["stats64"]["rx"]
        return int(counted["packets"]), int(counted["bytes"])


def inlet_of(pair: Pair, node: str, underlay: str, program: int) -> Inlet:
    """Where what comes to the node is handed to `program`. The pair must have talked before.

    From then on the node's way out is closed behind the far side of its device.
    """
    port = _far_side(node, underlay)
    _keep_neighbours(node)
    _close(underlay, port)
    return Inlet(node, program, _cable(pair, node), underlay, port)


@contextmanager
def passing_driver() -> Iterator[int]:
    """A program that passes all to the stack, for a driver that has as good as none.

    It is on a device, though no frame comes there: the kernel calls such a program directly, and would else patch itself
    for each run, which takes longer than 128 frames do.
    """
    netns = f"bench-driver{os.getpid()}"
    with namespaces(netns):
        run("ip", "link", "add", DEVICE, "type", "veth", "peer", "name", "far", netns=netns)
        lab_namespaces.run_in(netns, lambda: be_like_a_wire(DEVICE))
        program = xdp_program(netns)
        try:
            yield program
        finally:
            os.close(program)


def xdp_program(node: str) -> int:
    """A descriptor of the program on the node's device."""
    [link] = _links(node, DEVICE)
    return bpf.program_get(link["xdp"]["prog"]["id"])


def _softirq_thread() -> int:
    """The kernel's, on the processor of a measurement: part of what frames cost beyond the node's device is done there."""
    name = f"ksoftirqd/{CPU}\n"
    return next(int(path.parent.name) for path in Path("/proc").glob("[0-9]*/comm") if _read(path) == name)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""  # it has ended


def _close(underlay: str, port: str) -> None:
    number, name = CLOSED
    run("bridge", "link", "set", "dev", port, "state", number, netns=underlay)
    [shown] = json.loads(run("bridge", "-json", "link", "show", "dev", port, netns=underlay))
    if shown["state"] != name:
        raise RuntimeError(f"{port} of {underlay} is {shown['state']}, so that frames would go on to the backend")


def _cable(pair: Pair, node: str) -> Cable:
    [near], [far] = _links(node, DEVICE), _links(pair.client, DEVICE)
    return Cable(far["address"], near["address"])


def _keep_neighbours(node: str) -> None:
    """Nobody answers for them once the far side is closed."""
    for each in json.loads(run("ip", "-json", "neigh", "show", "dev", DEVICE, netns=node)):
        if "lladdr" in each:
            entry = (each["dst"], "lladdr", each["lladdr"], "dev", DEVICE, "nud", "permanent")
            run("ip", "neigh", "replace", *entry, netns=node)


def _far_side(node: str, underlay: str) -> str:
    [near] = _links(node, DEVICE)
    return str(next(each["ifname"] for each in _links(underlay) if each["ifindex"] == near["link_index"]))


def _links(netns: str, *device: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run("ip", "-json", "-d", "link", "show", *device, netns=netns))
    return found


def _index(device: str) -> int:
    """Within the namespace of the calling thread: sysfs shows that of the process."""
    [link] = json.loads(run("ip", "-json", "link", "show", device))
    return int(link["ifindex"])

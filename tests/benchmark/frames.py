"""Frames of one flow of datagrams to a node's port, handed to an XDP program on the node's device as its driver would.

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

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from pycilium.datapath import bpf_syscall as bpf
from pycilium.lab import namespaces
from tests.benchmark.peers import CPU, Pair, processor_ns, run

XDP_PASS = 2
MOST = 0.5
BLOCKING = "4"
"""A bridge's port in this state drops what comes in."""
PAYLOAD_BYTES = 18
SOURCE_PORT = 40_000
DEVICE = "eth0"


@dataclass(frozen=True, slots=True)
class Inlet:
    """Where frames are handed in: a program on the node's device, and the far side that counts what leaves."""

    node: str
    program: int
    frame: bytes
    underlay: str
    port: str

    def per_cpu_second(self, seconds: float) -> float:
        """Frames that left, per second of the processor time that it took to make them and to send them on.

        On a busy machine the far side may have no room for some: they are not counted, and what they took is.
        """
        return namespaces.run_in(self.node, lambda: self._rate(seconds))

    def _rate(self, seconds: float) -> float:
        """By the calling thread, from now on on one processor alone."""
        os.sched_setaffinity(0, {int(CPU)})
        context = struct.pack("=6I", 0, len(self.frame), 0, _index(DEVICE), 0, 0)  # struct xdp_md
        softirqs, left, sent = _softirq_thread(), self._left(), 0
        began, until = time.thread_time_ns() + processor_ns(softirqs), time.thread_time() + seconds
        while time.thread_time() < until:
            bpf.program_send_frames(self.program, self.frame, context=context)
            sent += bpf.FRAMES_AT_ONCE
        spent_ns = time.thread_time_ns() + processor_ns(softirqs) - began
        left = self._left() - left
        if left < sent * MOST:
            raise RuntimeError(f"of {sent} frames {left} left {self.node}")
        return left / spent_ns * 1e9

    def _left(self) -> int:
        [link] = json.loads(run("ip", "-json", "-s", "link", "show", self.port, netns=self.underlay))
        return int(link["stats64"]["rx"]["packets"])


@contextmanager
def handed_in(pair: Pair, node: str, underlay: str, *, program: int | None = None) -> Iterator[Inlet]:
    """What the pair's client sends to its port, handed to `program` or to none. The pair must have talked before.

    From then on the node's way out is closed behind the far side of its device.
    """
    port = _far_side(node, underlay)
    _keep_neighbours(node)
    frame = _frame(pair, node)
    run("bridge", "link", "set", "dev", port, "state", BLOCKING, netns=underlay)
    handed_to = _passing() if program is None else os.dup(program)
    try:
        yield Inlet(node, handed_to, frame, underlay, port)
    finally:
        os.close(handed_to)


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


def _passing() -> int:
    """A driver that has as good as no program."""
    instructions = struct.pack("=BBhIBBhI", 0xB7, 0, 0, XDP_PASS, 0x95, 0, 0, 0)  # r0 = XDP_PASS; exit
    return bpf.program_load(bpf.PROGRAM_TYPE_XDP, instructions, name="driver")


def _frame(pair: Pair, node: str) -> bytes:
    [near], [far] = _links(node, DEVICE), _links(pair.client, DEVICE)
    version, address = (4, pair.ipv4) if pair.ipv4 else (6, pair.ipv6)
    route = json.loads(run("ip", "-json", f"-{version}", "route", "get", address, netns=pair.client))
    source = route[0]["prefsrc"]
    ip = IP(src=source, dst=address) if version == 4 else IPv6(src=source, dst=address)
    return bytes(
        Ether(src=far["address"], dst=near["address"])
        / ip
        / UDP(sport=SOURCE_PORT, dport=pair.port)
        / bytes(PAYLOAD_BYTES)
    )


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

"""Flow events from the kernel's ring into the flow store, and filters over what is stored.

The ring and the program that fills it are the real ones, in a network namespace and on a BPF file system of their own
(see `flow_source`); the reader is the agent's own FlowIngestion, in an event loop, on one CPU. Every packet is one
event, so what is read and what the kernel counted as lost must add up to what was sent.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pycilium.agent.config import AgentConfig
from pycilium.agent.flows import WAKEUP_NS, FlowIngestion, clock_offset_ns
from pycilium.datapath import bpffs, layouts, loader
from pycilium.datapath.events import EventReader
from pycilium.hubble.directories import (
    Directories,
    EndpointName,
    EndpointTable,
    IdentityTable,
    KernelInterfaces,
    NoRules,
)
from pycilium.hubble.proto import flow_pb2, observer_pb2
from pycilium.hubble.server import HubbleServer
from pycilium.hubble.store import FlowStore
from tests.benchmark.figures import Aim, Figure, Options, Tell, alone
from tests.benchmark.peers import namespaces, run

DEFAULTS = AgentConfig(node_name="bench")
RATE = 300_000
STORED = 1_000_000
ENDPOINTS, IDENTITIES = 100, 2000
FILTERS: dict[str, dict[str, Any]] = {
    "pod": {"source_pod": ["default/pod-7"]},
    "verdict and port": {"verdict": [flow_pb2.DROPPED], "destination_port": ["443"], "protocol": ["tcp"]},
    "CIDR": {"source_ip": ["10.0.7.0/24"]},
    "labels": {"source_label": ["k8s:app=app-7"], "destination_label": ["k8s:app in (app-1, app-2)"]},
}
SHOWN = 20
LATE_S = 0.05
"""How often the late reader looks whether the ring has run over yet."""


@dataclass(frozen=True, slots=True)
class Ring:
    """A loaded datapath whose one device is no endpoint's."""

    datapath: loader.Datapath
    bpf_root: str
    netns: str
    ifindex: int

    def source(self, rate: int, count: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.benchmark.flow_source", self.bpf_root]
        words = [str(number) for number in (self.ifindex, rate, count)]
        cpu = str(min(os.sched_getaffinity(0)))
        inside = ["nsenter", f"--net=/run/netns/{self.netns}", "taskset", "-c", cpu]
        return subprocess.Popen([*inside, *command, *words], stdout=subprocess.PIPE)


def measure(options: Options, tell: Tell) -> list[Figure]:
    figures: list[Figure] = []
    with ring() as made, EventReader.of(made.datapath) as reader:
        tell("records per CPU-second, from the ring")
        figures.append(_per_cpu_second(made, reader, options))
        tell("records per CPU-second, a mix")
        figures.append(_mixed_per_cpu_second(options))
        seconds = options.sized(8, 2)
        tell(f"{RATE} events per second for {seconds} s")
        figures += _at_rate(made, reader, seconds)
        tell("more events than can be taken")
        figures.append(_past_it(made, reader, options.sized(20_000_000, 2_000_000)))
    tell("filters over 1,000,000 flows")
    return [*figures, *_filters(options)]


@contextmanager
def ring() -> Iterator[Ring]:
    netns = f"bench-flows{os.getpid()}"
    with ExitStack() as stack:
        stack.enter_context(namespaces(netns))
        run("ip", "link", "add", "pod0", "type", "veth", "peer", "name", "pod0p", netns=netns)
        ifindex = json.loads(run("ip", "-json", "link", "show", "pod0", netns=netns))[0]["ifindex"]
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pycilium-bench-"))) / "bpf"
        stack.callback(bpffs.unmount, root)
        constants = layouts.ProgramConfig(aggregation=layouts.Aggregation.NONE, event_wakeup_ns=WAKEUP_NS)
        config = loader.DatapathConfig(str(root), constants, {"events": DEFAULTS.event_ring_bytes})
        datapath = stack.enter_context(loader.load(config))
        yield Ring(datapath, str(root), netns, ifindex)


def _per_cpu_second(made: Ring, reader: EventReader, options: Options) -> Figure:
    store = FlowStore(DEFAULTS.flow_capacity, _endpoints())
    rates = []
    for _ in range(options.sized(20, 4)):
        with _running(made.source(0, reader.capacity - 1)) as source:
            _result(source)
        records, started = 0, time.thread_time()
        while len(events := reader.read()):
            store.ingest(events, clock_offset_ns())
            records += len(events)
        rates.append(records / (time.thread_time() - started))
    return alone(
        *("flows", "ingestion of drops, from the ring", "/CPU-s", rates, Aim("ours", "≥", 2e6)),
        note=f"{reader.capacity - 1} records at a time, read and stored",
    )


def _mixed_per_cpu_second(options: Options) -> Figure:
    store = FlowStore(DEFAULTS.flow_capacity, _endpoints())
    events, rates = _mix(131_072), []
    flows = 0
    for _ in range(options.sized(20, 4)):
        started = time.thread_time()
        flows = store.ingest(events, 0)
        rates.append(len(events) / (time.thread_time() - started))
    return alone(
        *("flows", "ingestion of a mix, from memory", "/CPU-s", rates, Aim("ours", "≥", 2e6)),
        note=f"an eighth carries policy decisions, so {len(events)} records make {flows} flows",
    )


def _at_rate(made: Ring, reader: EventReader, seconds: int) -> list[Figure]:
    sent, took, taken, lost, cpu_s = _follow(made, reader, RATE, RATE * seconds)
    note = f"{sent} events in {took:.1f} s, {taken} taken; the reader used {cpu_s / took:.0%} of a CPU"
    return [
        alone("flows", f"lost at {RATE // 1000} k/s", "", [lost], Aim("ours", "=", 0), note=note),
    ]


def _past_it(made: Ring, reader: EventReader, count: int) -> Figure:
    sent, took, taken, lost, _ = _follow(made, reader, 0, count, late_s=LATE_S)
    if not lost:
        raise RuntimeError("nothing was lost, so nothing says that losses are counted")
    note = f"{sent} sent at {sent / took / 1e6:.2f} M/s = {taken} taken + {lost} counted as lost"
    return alone("flows", "not accounted for past the limit", "", [sent - taken - lost], Aim("ours", "=", 0), note=note)


def _follow(
    made: Ring, reader: EventReader, rate: int, count: int, *, late_s: float = 0
) -> tuple[int, float, int, int, float]:
    """(sent, seconds, taken, lost, CPU seconds of the reader) with the agent's ingestion at work, or some time later."""
    store, lost_before = FlowStore(DEFAULTS.flow_capacity, _endpoints()), reader.lost()

    async def follow() -> tuple[dict[str, Any], float]:
        ingestion = FlowIngestion(reader, store, lambda: None)
        with _running(made.source(rate, count)) as source:
            result = asyncio.create_task(asyncio.to_thread(_result, source))
            while late_s and not reader.lost() - lost_before:  # noqa: ASYNC110 - nobody tells when the ring has run over
                await asyncio.sleep(late_s)
            used = time.thread_time()
            ingestion.start()
            answer = await result
        await asyncio.sleep(0.1)
        ingestion.stop()
        return answer, time.thread_time() - used

    os.sched_setaffinity(0, {max(everywhere := os.sched_getaffinity(0))})
    try:
        result, cpu_s = asyncio.run(follow())
    finally:
        os.sched_setaffinity(0, everywhere)
    return result["packets"], result["seconds"], store.next, reader.lost() - lost_before, cpu_s


@contextmanager
def _running(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()


def _result(source: subprocess.Popen[bytes]) -> dict[str, Any]:
    out, _ = source.communicate()
    if source.returncode:
        raise RuntimeError(f"the source of events ended with exit code {source.returncode}")
    result: dict[str, Any] = json.loads(out)
    return result


def _filters(options: Options) -> list[Figure]:
    names, identities = _endpoints(), IdentityTable()
    for number in range(IDENTITIES):
        identities.set_identity(
            1000 + number, (f"k8s:app=app-{number % 50}", "k8s:io.kubernetes.pod.namespace=default")
        )
    store = FlowStore(STORED, names)
    while store.next < STORED:
        store.ingest(_mix(min(100_000, STORED - store.next)), 0)
    hubble = HubbleServer(store, Directories(names, identities, NoRules(), KernelInterfaces()), "bench", "bench")

    async def answer(words: dict[str, Any]) -> int:
        request = observer_pb2.GetFlowsRequest(number=SHOWN, first=True, whitelist=[flow_pb2.FlowFilter(**words)])
        request.since.FromNanoseconds(0)
        return len([None async for _ in hubble.flows(request)])

    figures = []
    for name, words in FILTERS.items():
        never = {**words, "ip_version": [flow_pb2.IPv6]}  # so that it goes through everything
        took = []
        for _ in range(options.sized(10, 2)):
            started = time.perf_counter()
            found = asyncio.run(answer(never))
            took.append((time.perf_counter() - started) * 1e3)
        if found or not asyncio.run(answer(words)):
            raise RuntimeError(
                f"filter by {name}: {found} flows found where there are none, or none where there are some"
            )
        figures.append(alone("flows", f"1 M stored flows by {name}", "ms", took, Aim("ours", "<", 100)))
    return figures


def _endpoints() -> EndpointTable:
    table = EndpointTable()
    for number in range(1, ENDPOINTS + 1):
        table.set_endpoint(number, EndpointName("default", f"pod-{number}", "default"))
    return table


def _mix(count: int) -> np.ndarray[Any, Any]:
    """Events as traffic between pods makes them: an eighth new connections with both decisions, some drops, replies."""
    made = np.random.default_rng(1)
    events = np.zeros(count, dtype=layouts.FlowEvent.DTYPE)
    kinds = made.integers(0, 16, count)
    sources, destinations = made.integers(1, ENDPOINTS + 1, (2, count))
    events["time_ns"] = np.arange(count) + 1
    for side, numbers in (("source", sources), ("destination", destinations)):
        octets = np.zeros((count, 16), np.uint8)
        octets[:, 10:12], octets[:, 12], octets[:, 15] = 255, 10, 9
        octets[:, 14] = numbers
        events[side] = octets
        events[f"{side}_endpoint"] = numbers
        events[f"{side}_identity"] = 1000 + made.integers(0, IDENTITIES, count)
    events["source_port"] = made.integers(32768, 61000, count)
    events["destination_port"] = np.array([80, 443, 5432, 8080])[made.integers(0, 4, count)]
    events["type"] = np.where(kinds == 2, 1, 4)
    events["subtype"] = np.where(kinds == 2, 133, 0)
    events["reason"] = np.where(kinds < 2, 1, np.where(kinds < 8, 2, 3))
    events["verdict_flags"] = np.where(kinds < 2, 3, 0)
    events["is_reply"] = kinds >= 8
    events["family"], events["protocol"], events["tcp_flags"] = 4, 6, 16
    events["direction"] = np.where(kinds == 2, 1, 0)
    events["packet_bytes"] = 66
    return events

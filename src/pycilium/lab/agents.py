"""The agents of a lab's nodes: started, stopped, killed; each inside its node's namespace.

An agent that is stopped or killed leaves its pinned programs and maps at work; starting it again takes them over.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from pycilium.errors import AgentUnavailable, AlreadyExists, CiliumError
from pycilium.lab import cgroups, etcd, gate, processes
from pycilium.lab.layout import LabLayout, LabRecord
from pycilium.lab.plan import capacities

READY_TIMEOUT_S = 240.0
"""Long enough for an emulated processor; one that ends is noticed at once."""
STOP_GRACE_S = 15.0
L2_LEASE_S = 6
"""Labs are there to see what happens, and people wait."""
_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class _Starting:
    """An agent that was started and is not ready yet."""

    node: str
    pid: int
    log: Path
    log_size: int
    """Of the log before it was started."""
    deadline: float
    within_s: float


def start(layout: LabLayout, record: LabRecord, node: str, *, within_s: float = READY_TIMEOUT_S) -> int:
    """Starts the node's agent and returns once it is ready; gives its pid. If it dies, its last words are shown."""
    starting = _launch(layout, record, node, within_s)
    while not _is_ready(layout, starting):
        time.sleep(_POLL_S)
    return starting.pid


def start_all(layout: LabLayout, record: LabRecord, nodes: Sequence[str], tell: Callable[[str], None]) -> None:
    """The same for many nodes, as many at a time as this machine has use for.

    Raises what kept the first of them from starting; those that run go on running.
    """
    waiting, starting, ready = deque(nodes), list[_Starting](), 0
    at_once = 2 * (os.cpu_count() or 1)
    while waiting or starting:
        while waiting and len(starting) < at_once:
            starting.append(_launch(layout, record, waiting.popleft()))
        tell(f"starting agents: {ready} of {len(nodes)} ready")
        known = ready
        while ready == known:
            time.sleep(_POLL_S)
            left = [one for one in starting if not _is_ready(layout, one)]
            ready += len(starting) - len(left)
            starting = left


def stop(layout: LabLayout, node: str, number: signal.Signals = signal.SIGTERM) -> bool:
    """Ends the node's agent and waits for its end; False when it was not running."""
    return processes.end_by_pid_file(_pid_file(layout, node), STOP_GRACE_S, number)


def pid_of(layout: LabLayout, node: str) -> int | None:
    """The agent's pid while it runs."""
    return processes.read_pid_file(_pid_file(layout, node))


def log_of(layout: LabLayout, node: str) -> Path:
    return layout.node_folder(node) / "agent.log"


def command(script: str, module: str) -> list[str]:
    """How to start one of our commands: the script beside this interpreter, else the module itself."""
    beside = Path(sys.executable).with_name(script)
    return [str(beside)] if beside.exists() else [sys.executable, "-m", module]


def _pid_file(layout: LabLayout, node: str) -> Path:
    return layout.node_folder(node) / "agent.pid"


def write_config(layout: LabLayout, record: LabRecord, node: str) -> None:
    """Writes the agent's configuration; it is read when the agent starts."""
    place = record.node(node)
    folder = layout.node_folder(node)
    cgroup = cgroups.of_node(layout.name, node)
    values = {
        "node_name": node,
        "run_dir": str(folder),
        "bpf_root": str(folder / "bpf"),
        "store": _store_url(layout, record),
        "kube_apiserver": gate.addresses(record) if record.gate else [],
        "hubble_listen": ":4244",  # the node's namespace is closed: nobody outside the lab comes near
        "ipam": record.ipam,
        "ipv4_pod_cidr": place.ipv4_pod_cidr,
        "ipv6_pod_cidr": place.ipv6_pod_cidr,
        "devices": ["eth0"],
        "cgroup_root": str(cgroup) if cgroup and cgroup.is_dir() else None,
        "routing_mode": record.routing_mode,
        "l2_announcement_lease_s": L2_LEASE_S,
        "underlay_family": record.underlay_family,
        "load_balancer_mode": record.load_balancing.mode,
        "dsr_dispatch": record.load_balancing.dispatch,
        "load_balancer_acceleration": record.load_balancing.acceleration,
        "kube_proxy_replacement": record.load_balancing.kube_proxy_replacement,
        **capacities(record.planned_nodes),
    }
    config_of(layout, node).write_bytes(msgspec.json.format(msgspec.json.encode(values), indent=2))


def _store_url(layout: LabLayout, record: LabRecord) -> str:
    """As it is reached from a node's namespace."""
    if record.gate:
        return gate.agents_url(record)
    return etcd.agents_url(record) if record.etcd else layout.store_url


def config_of(layout: LabLayout, node: str) -> Path:
    return layout.node_folder(node) / "agent.json"


def _launch(layout: LabLayout, record: LabRecord, node: str, within_s: float = READY_TIMEOUT_S) -> _Starting:
    namespace = record.node(node).namespace
    if (pid := pid_of(layout, node)) is not None:
        raise AlreadyExists(f"the agent of {node} is running already (pid {pid})")
    if not config_of(layout, node).exists():
        write_config(layout, record, node)
    log = log_of(layout, node)
    argv = [*command("cilium-agent", "pycilium.agent.main"), "--config", str(config_of(layout, node))]
    before = processes.size_of(log)
    with cgroups.inside(cgroups.of_node(layout.name, node)):
        pid = processes.start_in(namespace, argv, log=log)
    processes.write_pid_file(_pid_file(layout, node), pid)
    return _Starting(node, pid, log, before, time.monotonic() + within_s, within_s)


def _is_ready(layout: LabLayout, starting: _Starting) -> bool:
    """Whether the agent is at work; CiliumError, with its last words, if it never will be."""
    from pycilium.api.client import AgentClient

    if not processes.is_running(starting.pid):
        raise _failed(starting, "ended while it started")
    try:
        state = AgentClient(str(layout.agent_socket(starting.node))).status().get("cilium", {}).get("state")
    except AgentUnavailable:
        state = None
    at_work = state in ("Ok", "Warning")  # a warning may be about what others wrote into the store
    if not at_work and time.monotonic() > starting.deadline:
        raise _failed(starting, f"was not ready after {starting.within_s:.0f} s")
    return at_work


def _failed(starting: _Starting, why: str) -> CiliumError:
    last = processes.last_lines(starting.log, since=starting.log_size)
    return CiliumError(f"the agent of {starting.node} {why}; the end of {starting.log}:\n{last}")

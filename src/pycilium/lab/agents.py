"""The agents of a lab's nodes: started, stopped, killed; each inside its node's namespace.

An agent that is stopped or killed leaves its pinned programs and maps at work; starting it again takes them over.
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import msgspec

from pycilium.errors import AgentUnavailable, AlreadyExists, CiliumError
from pycilium.lab import processes
from pycilium.lab.layout import LabLayout, LabRecord

READY_TIMEOUT_S = 60.0
STOP_GRACE_S = 15.0
_POLL_S = 0.02


def start(layout: LabLayout, record: LabRecord, node: str) -> int:
    """Starts the node's agent and returns once it is ready; gives its pid. If it dies, its last words are shown."""
    namespace = record.node(node).namespace
    if (pid := pid_of(layout, node)) is not None:
        raise AlreadyExists(f"the agent of {node} is running already (pid {pid})")
    config = layout.node_folder(node) / "agent.json"
    if not config.exists():
        config.write_bytes(_config(layout, record, node))
    log = log_of(layout, node)
    argv = [*command("cilium-agent", "pycilium.agent.main"), "--config", str(config)]
    before = processes.size_of(log)
    pid = processes.start_in(namespace, argv, log=log)
    processes.write_pid_file(_pid_file(layout, node), pid)
    try:
        _wait_until_ready(layout, node, pid)
    except CiliumError as error:
        raise CiliumError(f"{error}; the end of {log}:\n{processes.last_lines(log, since=before)}") from error
    return pid


def stop(layout: LabLayout, node: str, number: signal.Signals = signal.SIGTERM) -> bool:
    """Ends the node's agent and waits for its end; False when it was not running."""
    pid = pid_of(layout, node)
    if pid is None:
        return False
    processes.end([pid], STOP_GRACE_S, number)
    _pid_file(layout, node).unlink(missing_ok=True)
    return True


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


def _config(layout: LabLayout, record: LabRecord, node: str) -> bytes:
    place = record.node(node)
    folder = layout.node_folder(node)
    values = {
        "node_name": node,
        "run_dir": str(folder),
        "bpf_root": str(folder / "bpf"),
        "store": layout.store_url,
        "hubble_listen": ":4244",  # the node's namespace is closed: nobody outside the lab comes near
        "ipv4_pod_cidr": place.ipv4_pod_cidr,
        "ipv6_pod_cidr": place.ipv6_pod_cidr,
        "devices": ["eth0"],
        "conntrack_capacity": 262144,
        "ipcache_capacity": 65536,
        "identity_capacity": 65536,
        "policy_row_capacity": 65536,
        "endpoint_capacity": 1024,
    }
    return msgspec.json.format(msgspec.json.encode(values), indent=2)


def _wait_until_ready(layout: LabLayout, node: str, pid: int) -> None:
    from pycilium.api.client import AgentClient

    client = AgentClient(str(layout.agent_socket(node)))
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        if not processes.is_running(pid):
            raise CiliumError(f"the agent of {node} ended while it started")
        try:
            if client.status().get("cilium", {}).get("state") == "Ok":
                return
        except AgentUnavailable:
            pass
        time.sleep(_POLL_S)
    raise CiliumError(f"the agent of {node} was not ready after {READY_TIMEOUT_S:.0f} s")

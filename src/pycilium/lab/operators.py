"""The operators of a lab: started, stopped, killed; on none of the nodes, in the underlay's or the gate's namespace.

Every lab begins with one, as clusters do: Services get their load balancers' addresses from it, and of nodes and
identities nothing is left behind.
"""

from __future__ import annotations

import signal
from pathlib import Path

import msgspec

from pycilium.errors import AlreadyExists
from pycilium.lab import agents, gate, processes
from pycilium.lab.layout import LabLayout, LabRecord
from pycilium.store.leases import OPERATOR_LEASE

STOP_GRACE_S = 5.0
IPV4_POOL, IPV6_POOL = "10.64.0.0/12", "fd00:10:64::/104"
NODE_GRACE_S = 300
"""Labs are looked at for minutes, not for days."""


def start(layout: LabLayout, record: LabRecord, name: str = "operator1") -> int:
    """Starts an operator and gives its pid; several with different names stand for election."""
    if (pid := pid_of(layout, name)) is not None:
        raise AlreadyExists(f"{name} is running already (pid {pid})")
    config = _file(layout, name, "json")
    config.parent.mkdir(exist_ok=True)
    if not config.exists():
        config.write_bytes(_config(layout, record, name))
    argv = [*agents.command("cilium-operator", "pycilium.operator.main"), "--config", str(config)]
    pid = processes.start_in(record.gate or record.underlay, argv, log=log_of(layout, name))
    processes.write_pid_file(_file(layout, name, "pid"), pid)
    return pid


def stop(layout: LabLayout, name: str = "operator1", number: signal.Signals = signal.SIGTERM) -> bool:
    """Ends an operator and waits for its end; False when it was not running."""
    return processes.end_by_pid_file(_file(layout, name, "pid"), STOP_GRACE_S, number)


def pid_of(layout: LabLayout, name: str) -> int | None:
    """Its pid while it runs."""
    return processes.read_pid_file(_file(layout, name, "pid"))


def names(layout: LabLayout) -> list[str]:
    """Every operator that was ever started in the lab."""
    return sorted(path.stem for path in _folder(layout).glob("*.json"))


def log_of(layout: LabLayout, name: str) -> Path:
    return _file(layout, name, "log")


def _folder(layout: LabLayout) -> Path:
    return layout.folder / "operators"


def _file(layout: LabLayout, name: str, suffix: str) -> Path:
    return _folder(layout) / f"{name}.{suffix}"


def _config(layout: LabLayout, record: LabRecord, name: str) -> bytes:
    families = record.ip_families if record.ipam == "cluster-pool" else ()
    values = {
        "name": name,
        "store": gate.agents_url(record) if record.gate else layout.store_url,
        "cluster_pool_ipv4_cidrs": [IPV4_POOL] if "ipv4" in families else [],
        "cluster_pool_ipv6_cidrs": [IPV6_POOL] if "ipv6" in families else [],
        "lease_name": OPERATOR_LEASE,
        "node_grace_s": NODE_GRACE_S,
        "health_listen": None,  # several share the namespace; the lease in the store says who leads
    }
    return msgspec.json.format(msgspec.json.encode(values), indent=2)

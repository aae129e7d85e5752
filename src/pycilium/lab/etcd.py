"""The lab's own etcd: one member, in a namespace of its own on the underlay, its data in the lab's folder.

Agents reach it by TCP over the underlay; commands, which run outside of the lab's namespaces, by a unix socket.
It can be stopped, killed, cut off and started again: the data stay until the lab is taken down.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import time
from pathlib import Path

from pycilium.errors import AlreadyExists, CiliumError, ConfigError
from pycilium.lab import processes
from pycilium.lab.layout import ETCD_PORT, LabLayout, LabRecord
from pycilium.lab.plan import STORE_ETH0

NAME = "etcd"
"""Also of its cable's port on the underlay."""
READY_TIMEOUT_S = 30.0
STOP_GRACE_S = 10.0
_POLL_S = 0.02
_SOCKET = "client:0"
"""etcd takes only a host and a port for the name of a unix socket, in its working directory."""


def require() -> None:
    """ConfigError, naming the package, where etcd is not installed."""
    if shutil.which("etcd") is None:
        raise ConfigError("--store etcd needs the command etcd: on Debian and Ubuntu, apt-get install etcd-server")


def agents_url(record: LabRecord) -> str:
    """The store as agents reach it, from their namespaces."""
    family = record.underlay_families[0]
    return f"etcd://{_authority(family)}"


def start(layout: LabLayout, record: LabRecord) -> int:
    """Starts etcd and returns once it answers; gives its pid. If it dies, its last words are shown."""
    namespace = namespace_of(record)
    if (pid := pid_of(layout)) is not None:
        raise AlreadyExists(f"etcd of lab {layout.name} is running already (pid {pid})")
    layout.etcd_folder.mkdir(exist_ok=True)
    (layout.etcd_folder / _SOCKET).unlink(missing_ok=True)
    if not layout.etcd_socket.is_symlink():
        layout.etcd_socket.symlink_to(_SOCKET)
    log = log_of(layout)
    before = processes.size_of(log)
    pid = processes.start_in(namespace, _command(layout, record), log=log)
    processes.write_pid_file(_pid_file(layout), pid)
    try:
        _wait_until_ready(layout, pid)
    except CiliumError as error:
        raise CiliumError(f"{error}; the end of {log}:\n{processes.last_lines(log, since=before)}") from error
    return pid


def stop(layout: LabLayout, number: signal.Signals = signal.SIGTERM) -> bool:
    """Ends etcd and waits for its end; False when it was not running. The data stay."""
    return processes.end_by_pid_file(_pid_file(layout), STOP_GRACE_S, number)


def pid_of(layout: LabLayout) -> int | None:
    """Its pid while it runs."""
    return processes.read_pid_file(_pid_file(layout))


def log_of(layout: LabLayout) -> Path:
    return layout.etcd_folder / "etcd.log"


def _pid_file(layout: LabLayout) -> Path:
    return layout.etcd_folder / "etcd.pid"


def namespace_of(record: LabRecord) -> str:
    """Where it runs; ConfigError for a lab whose store is none that runs."""
    if record.etcd is None:
        raise ConfigError(
            f"the store of lab {record.name} is SQLite, a file that nobody serves: it cannot be stopped or cut off; "
            "make a lab with `cilium lab up --store etcd` for that"
        )
    return record.etcd


def _command(layout: LabLayout, record: LabRecord) -> list[str]:
    """The shell goes where the socket is to be made, and becomes etcd. A lone member need not wait for votes."""
    authorities = [f"http://{_authority(family)}" for family in record.underlay_families]
    options = {
        "name": "lab",
        "data-dir": str(layout.etcd_folder / "data"),
        "listen-client-urls": ",".join((f"unix://{_SOCKET}", *authorities)),
        "advertise-client-urls": ",".join(authorities),
        "listen-peer-urls": "http://127.0.0.1:2380",
        "initial-advertise-peer-urls": "http://127.0.0.1:2380",
        "initial-cluster": "lab=http://127.0.0.1:2380",
        "heartbeat-interval": "10",
        "election-timeout": "100",
        "logger": "zap",
        "log-level": "warn",
    }
    words = [f"--{name}={value}" for name, value in options.items()]
    return ["sh", "-c", 'cd "$1" && shift && exec "$@"', "etcd", str(layout.etcd_folder), "etcd", *words]


def _authority(family: str) -> str:
    address = STORE_ETH0[family]
    return f"[{address}]:{ETCD_PORT}" if family == "ipv6" else f"{address}:{ETCD_PORT}"


def _wait_until_ready(layout: LabLayout, pid: int) -> None:
    """Until etcd says itself that it is healthy: it listens before it has read its data."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        if not processes.is_running(pid):
            raise CiliumError(f"etcd of lab {layout.name} ended while it started")
        if b'"health":"true"' in _asked(layout.etcd_socket, "/health"):
            return
        time.sleep(_POLL_S)
    raise CiliumError(f"etcd of lab {layout.name} was not ready after {READY_TIMEOUT_S:.0f} s")


def _asked(path: Path, resource: str) -> bytes:
    """The answer to a plain GET over the unix socket; nothing where nobody answers."""
    answer = b""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1.0)
        client.connect(os.fspath(path))
        client.sendall(f"GET {resource} HTTP/1.0\r\nHost: etcd\r\n\r\n".encode())
        while part := client.recv(4096):
            answer += part
    return answer

"""The way of a lab's nodes to an API server outside of the lab: a process with an address on the underlay.

It passes bytes on, so that TLS and credentials are between an agent and the server. It listens in a namespace of its
own and connects from the one that the lab was made in: stopped, killed or cut off, it takes the store away from the
nodes and from nobody else.

Run as `python -m pycilium.lab.gate TARGET` with the namespace that it connects from as descriptor 3.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

from pycilium.errors import AlreadyExists, CiliumError, StoreUnavailable
from pycilium.lab import namespaces, processes
from pycilium.lab.layout import LabLayout, LabRecord
from pycilium.lab.plan import STORE_ETH0

PORT = 6443
NAME = "gate"
"""Also of its cable's port on the underlay."""
OUTSIDE_FD = 3
READY_TIMEOUT_S = 30.0
STOP_GRACE_S = 5.0
_POLL_S = 0.02
_CONNECT_S = 10.0
_CHUNK_BYTES = 1 << 16
_CLONE_NEWNET = 0x40000000
_DEFAULT_PORTS = {"https": 443, "http": 80}


def agents_url(record: LabRecord) -> str:
    """The store as agents and operators reach it, from their namespaces."""
    from pycilium.store.kubernetes.access import by_another_way

    assert record.store_url is not None
    address = addresses(record)[0]
    host = f"[{address}]" if ":" in address else address
    return by_another_way(record.store_url, os.environ, f"{host}:{PORT}")


def addresses(record: LabRecord) -> list[str]:
    """Where nodes and pods reach it: to them it is the API server."""
    return [STORE_ETH0[family] for family in record.underlay_families]


def require(url: str) -> None:
    """StoreUnavailable, at once, where nobody listens at the API server's address."""
    from pycilium.store.kubernetes import machine_access

    server = machine_access(url).server
    try:
        _connect(server).close()
    except OSError as error:
        raise StoreUnavailable(f"the API server at {server} cannot be reached: {error.strerror or error}") from error


def start(layout: LabLayout, record: LabRecord) -> int:
    """Starts the gate and returns once it takes connections; gives its pid."""
    from pycilium.store.kubernetes import machine_access

    assert record.gate is not None
    assert record.store_url is not None
    if (pid := pid_of(layout)) is not None:
        raise AlreadyExists(f"the gate of lab {layout.name} is running already (pid {pid})")
    layout.gate_folder.mkdir(exist_ok=True)
    argv = [sys.executable, "-m", "pycilium.lab.gate", machine_access(record.store_url).server]
    outside = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        pid = processes.start_in(record.gate, argv, log=log_of(layout), pass_fd=outside)
    finally:
        os.close(outside)
    processes.write_pid_file(_pid_file(layout), pid)
    deadline = time.monotonic() + READY_TIMEOUT_S
    while not namespaces.run_in(record.gate, _is_listening):
        if not processes.is_running(pid) or time.monotonic() > deadline:
            raise CiliumError(f"the gate of lab {layout.name} does not run: {processes.last_lines(log_of(layout))}")
        time.sleep(_POLL_S)
    return pid


def stop(layout: LabLayout, number: signal.Signals = signal.SIGTERM) -> bool:
    """Ends the gate and waits for its end; False when it was not running."""
    return processes.end_by_pid_file(_pid_file(layout), STOP_GRACE_S, number)


def pid_of(layout: LabLayout) -> int | None:
    """Its pid while it runs."""
    return processes.read_pid_file(_pid_file(layout))


def log_of(layout: LabLayout) -> Path:
    return layout.gate_folder / "gate.log"


def _pid_file(layout: LabLayout) -> Path:
    return layout.gate_folder / "gate.pid"


def _is_listening() -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", PORT), timeout=1.0):
        return True
    return False


# == the process ==


class Gate:
    """Passes connections on to `target`: an http or https URL, or unix:/PATH."""

    def __init__(self, target: str, outside_fd: int) -> None:
        self._target = target
        self._outside = ThreadPoolExecutor(max_workers=4, initializer=_enter, initargs=(outside_fd,))

    async def serve(self, listener: socket.socket) -> None:
        """Until cancelled."""
        server = await asyncio.start_server(self._connected, sock=listener)
        async with server:
            await server.serve_forever()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            connected = await asyncio.get_running_loop().run_in_executor(self._outside, _connect, self._target)
        except OSError as error:
            print(f"{self._target}: {error}", file=sys.stderr, flush=True)
            writer.transport.abort()
            return
        onward_reader, onward_writer = await asyncio.open_connection(sock=connected)
        ways = {
            asyncio.create_task(_pass(reader, onward_writer)),
            asyncio.create_task(_pass(onward_reader, writer)),
        }
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        for end in (writer, onward_writer):
            end.close()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while chunk := await reader.read(_CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()


def _enter(namespace_fd: int) -> None:
    """Moves the calling thread, which does nothing else, into the namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace_fd, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def _connect(target: str) -> socket.socket:
    if target.startswith("unix:"):
        connected = socket.socket(socket.AF_UNIX)
        connected.settimeout(_CONNECT_S)
        connected.connect(target.removeprefix("unix:"))
    else:
        parts = urlsplit(target)
        address = (parts.hostname or "", parts.port or _DEFAULT_PORTS[parts.scheme])
        connected = socket.create_connection(address, timeout=_CONNECT_S)
    connected.setblocking(False)
    return connected


def main() -> None:
    listener = socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True, backlog=128)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(Gate(sys.argv[1], OUTSIDE_FD).serve(listener))


if __name__ == "__main__":
    main()

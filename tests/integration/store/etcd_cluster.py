"""Real etcd members on loopback for tests: started, killed, paused and started again by whoever made them.

Their data lies in memory where there is /dev/shm, as this etcd cannot leave out its fsyncs.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Self

START_PATIENCE_S = 60.0
"""For a busy machine; a member is usually there after a third of a second."""


class Member:
    """One etcd process and what it needs to be started again."""

    def __init__(
        self, folder: Path, name: str, client_url: str, ports: tuple[int, int], options: tuple[str, ...]
    ) -> None:
        self.folder, self.name, self.client_url = folder, name, client_url
        self.peer_url, self._metrics_url = (f"http://127.0.0.1:{port}" for port in ports)
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, initial_cluster: str) -> None:
        log = (self.folder / f"{self.name}.log").open("ab")
        self._process = subprocess.Popen(
            [
                "etcd",
                *("--name", self.name, "--data-dir", str(self.folder / self.name)),
                *("--listen-client-urls", self.client_url, "--advertise-client-urls", self.client_url),
                *("--listen-peer-urls", self.peer_url, "--initial-advertise-peer-urls", self.peer_url),
                *("--listen-metrics-urls", self._metrics_url),
                *("--initial-cluster", initial_cluster, "--logger", "zap", "--log-level", "warn"),
                *("--heartbeat-interval", "50", "--election-timeout", "500", *self._options),
            ],
            cwd=self.folder,
            stdout=log,
            stderr=log,
        )
        log.close()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def healthy(self) -> bool:
        """Whether it answers, as part of a quorum."""
        try:
            with urllib.request.urlopen(f"{self._metrics_url}/health", timeout=5) as answer:
                return b'"true"' in answer.read()
        except OSError:
            return False

    def kill(self) -> None:
        """As a crash: SIGKILL, and its end awaited."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def pause(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        while not self._is_still():
            time.sleep(0.001)  # one of its threads may just be answering on another processor

    def _is_still(self) -> bool:
        assert self._process is not None
        states = Path(f"/proc/{self._process.pid}/task").glob("*/stat")
        return all(state.read_text().rpartition(")")[2].split()[0] == "T" for state in states)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


class Cluster:
    """Members that know one another, and a folder of their own. Use it as a context manager."""

    def __init__(
        self, size: int = 1, *, options: tuple[str, ...] = (), scheme: str = "http", unix: bool = False
    ) -> None:
        shared_memory = "/dev/shm"
        place = shared_memory if os.access(shared_memory, os.W_OK) else None
        self.folder = Path(tempfile.mkdtemp(prefix="pycilium-etcd-", dir=place))
        ports = free_ports(3 * size)
        self.ports = ports[:size]
        self.members = [
            Member(
                self.folder,
                f"m{index}",
                f"unix://etcd.sock:{index}" if unix else f"{scheme}://127.0.0.1:{port}",
                (ports[size + index], ports[2 * size + index]),
                options,
            )
            for index, port in enumerate(self.ports)
        ]

    @property
    def endpoints(self) -> str:
        """As in a URL of the store."""
        return ",".join(f"127.0.0.1:{port}" for port in self.ports)

    @property
    def url(self) -> str:
        return f"etcd://{self.endpoints}"

    def start(self, *indices: int) -> None:
        """Starts the members (all, if none is named) that do not run, and waits until they answer."""
        names = ",".join(f"{member.name}={member.peer_url}" for member in self.members)
        chosen = [self.members[index] for index in indices] or self.members
        for member in chosen:
            if not member.running:
                member.start(names)
        for member in chosen:
            self._await(member)

    def _await(self, member: Member) -> None:
        limit = time.monotonic() + START_PATIENCE_S
        while not member.healthy:
            assert member.running, (self.folder / f"{member.name}.log").read_text()[-2000:]
            assert time.monotonic() < limit, f"etcd {member.name} does not answer"
            time.sleep(0.02)

    def etcdctl(self, *arguments: str) -> str:
        done = subprocess.run(
            ["etcdctl", f"--endpoints={self.endpoints}", *arguments],
            env={**os.environ, "ETCDCTL_API": "3"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def stop(self) -> None:
        for member in self.members:
            member.kill()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody uses just now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports

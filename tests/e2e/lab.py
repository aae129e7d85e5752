"""What the e2e tests use to drive a lab: commands as processes, traffic as sockets opened inside namespaces."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pycilium.datapath import cgroup_links
from pycilium.lab import namespaces
from pycilium.model.resources import CiliumClusterwideNetworkPolicy, CiliumNetworkPolicy, NetworkPolicy
from pycilium.store import open_blocking

BIN = Path(sys.executable).parent
WORLD = {4: "1.1.1.1", 6: "2606:4700:4700::1111"}
OTHER_WORLD = {4: "8.8.8.8", 6: "2001:4860:4860::8888"}
NODE = {4: "172.18.0.11", 6: "fd00:172:18::11"}
SETTLE_S = 5.0
"""How long a change may take to be in force. It takes milliseconds; a loaded machine may be slow."""


@dataclass(frozen=True)
class Pod:
    """A running pod: where it is and what its addresses are."""

    name: str
    namespace: str
    netns: str
    address: dict[int, str] = field(hash=False)


class Lab:
    """One lab and the commands that mean it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.folder = Path("/run/cilium-lab", name)
        self.node_netns = f"cilium-{name}-node1"
        self.world_netns = f"cilium-{name}-world"

    def run(
        self, program: str, *words: str, text: str | None = None, check: bool = True, timeout_s: float = 600
    ) -> subprocess.CompletedProcess[str]:
        """One of our commands. With `check`, its failure is the test's, with what it said."""
        environment = {**os.environ, "CILIUM_LAB": self.name}
        done = subprocess.run(
            [str(BIN / program), *words],
            input=text,
            stdin=subprocess.DEVNULL if text is None else None,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        if check and done.returncode != 0:
            raise AssertionError(
                f"{program} {' '.join(words)}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done

    def cilium(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return self.run("cilium", *words, **options)

    def json(self, program: str, *words: str) -> Any:
        return json.loads(self.run(program, *words, "-o", "json").stdout)

    def add_pod(self, name: str, namespace: str = "default", node: str | None = None, **labels: str) -> Pod:
        words = [word for key, value in labels.items() for word in ("-l", f"{key}={value}")]
        words += ["--node", node] if node else []
        made = json.loads(self.cilium("lab", "pod", "add", name, "-n", namespace, *words, "-o", "json").stdout)
        addresses = {version: made[f"ipv{version}"] for version in (4, 6) if made[f"ipv{version}"]}
        return Pod(name, namespace, f"cilium-{self.name}-{namespace}.{name}", addresses)

    def remove_pod(self, pod: Pod) -> None:
        self.cilium("lab", "pod", "rm", pod.name, "-n", pod.namespace)

    def apply(self, *resources: dict[str, Any]) -> None:
        self.cilium("apply", "-f", "-", text=json.dumps(list(resources)))

    def delete_policies(self) -> None:
        """Straight in the store: tidying up is not what is tested."""
        with open_blocking(f"sqlite:///{self.folder}/store.db") as store:
            for kind in (NetworkPolicy, CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy):
                store.delete_all([resource.key for resource in store.list(kind).items])

    def agent_log(self) -> str:
        return (self.folder / "node1" / "agent.log").read_text()

    def down(self) -> None:
        self.run("cilium", "lab", "down")


def inside(netns: str, function: Callable[[], Any]) -> Any:
    """What `function` gives when called inside the namespace."""
    return namespaces.run_in(netns, function)


def run_inside(netns: str, *argv: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    return inside(netns, lambda: subprocess.run(argv, capture_output=True, text=True, timeout=timeout_s))


def connects(netns: str, address: str, port: int, timeout_s: float = 1.0) -> bool:
    """Whether a TCP connection comes about."""

    def attempt() -> bool:
        with suppress(OSError), socket.create_connection((address, port), timeout=timeout_s):
            return True
        return False

    return bool(inside(netns, attempt))


def answers_udp(netns: str, address: str, port: int, timeout_s: float = 0.5) -> bool:
    """Whether a datagram is echoed."""

    def attempt() -> bool:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as client:
            client.settimeout(timeout_s)
            with suppress(OSError):
                client.sendto(b"ping", (address, port))
                return client.recv(16) == b"ping"
        return False

    return bool(inside(netns, attempt))


def pings(netns: str, address: str) -> bool:
    return run_inside(netns, "ping", "-c1", "-W1", address).returncode == 0


def eventually(condition: Callable[[], bool], wanted: bool = True, timeout_s: float = SETTLE_S) -> bool:
    """Whether the condition becomes `wanted` in time, and is so once more when asked again."""
    deadline = time.monotonic() + timeout_s
    while condition() is not wanted:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return condition() is wanted


class Server:
    """TCP and UDP echo on one port of a namespace, in both families, as threads of this process."""

    def __init__(self, netns: str, port: int) -> None:
        self.port = port
        self._stopping = threading.Event()
        self._tcp, self._udp = inside(
            netns, lambda: (_listener(port, socket.SOCK_STREAM), _listener(port, socket.SOCK_DGRAM))
        )
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._serve_tcp, self._serve_udp)]
        self._connections: list[socket.socket] = []
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._stopping.set()
        for connection in (self._tcp, *self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        for thread in self._threads:
            thread.join()
        self._udp.close()

    def _serve_tcp(self) -> None:
        while not self._stopping.is_set():
            try:
                connection, _ = self._tcp.accept()
            except OSError:
                return
            self._connections.append(connection)
            threading.Thread(target=_echo, args=(connection,), daemon=True).start()

    def _serve_udp(self) -> None:
        self._udp.settimeout(0.1)
        while not self._stopping.is_set():
            with suppress(OSError):
                message, asked, _, sender = self._udp.recvmsg(2048, socket.CMSG_SPACE(_PKTINFO_BYTES))
                self._udp.sendmsg([message], [_answer_from(asked)], 0, sender)


@contextmanager
def serving(netns: str, *ports: int) -> Iterator[None]:
    """Echo servers on these ports of a namespace, while the block runs."""
    servers = [Server(netns, port) for port in ports]
    try:
        yield
    finally:
        for server in servers:
            server.close()


def _listener(port: int, kind: socket.SocketKind) -> socket.socket:
    listener = socket.socket(socket.AF_INET6, kind)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.bind(("::", port))
    if kind == socket.SOCK_STREAM:
        listener.listen(128)
    else:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    return listener


_PKTINFO_BYTES = 20


def _answer_from(asked: list[tuple[int, int, bytes]]) -> tuple[int, int, bytes]:
    """The address that was asked answers, not the one nearest to who asked: address translation knows no other."""
    ((level, kind, address_and_device),) = asked
    return level, kind, address_and_device[:16] + bytes(4)


def _echo(connection: socket.socket) -> None:
    with suppress(OSError):
        while message := connection.recv(65536):
            connection.sendall(message)
    connection.close()


def policy(name: str, namespace: str = "default", kind: str = "CiliumNetworkPolicy", **spec: Any) -> dict[str, Any]:
    """A policy resource of any kind, from its spec."""
    metadata = {"name": name} | ({} if kind == "CiliumClusterwideNetworkPolicy" else {"namespace": namespace})
    version = "networking.k8s.io/v1" if kind == "NetworkPolicy" else "cilium.io/v2"
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}


def app(name: str) -> dict[str, Any]:
    """A selector of pods by their label `app`."""
    return {"matchLabels": {"app": name}}


def ports(*words: str) -> list[dict[str, Any]]:
    """The value of toPorts from words such as `80/TCP` or `80-90/UDP`."""
    found = []
    for word in words:
        numbers, _, protocol = word.partition("/")
        first, _, last = numbers.partition("-")
        found.append({"port": first, "protocol": protocol} | ({"endPort": int(last)} if last else {}))
    return [{"ports": found}]


def host_state() -> dict[str, str]:
    """What of the machine itself a lab must leave as it is."""
    commands: dict[str, Sequence[str]] = {
        "links": ("ip", "-o", "link"),
        "addresses": ("ip", "-o", "addr"),
        "routes": ("ip", "route", "show", "table", "all"),
        "routes6": ("ip", "-6", "route", "show", "table", "all"),
        "rules": ("ip", "rule"),
    }
    state = {
        name: subprocess.run(argv, capture_output=True, text=True, check=True).stdout for name, argv in commands.items()
    }
    for sysctl in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "net/ipv4/conf/all/rp_filter"):
        state[sysctl] = Path("/proc/sys", sysctl).read_text()
    if shutil.which("nft"):
        state["filters"] = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True).stdout
    return {name: _without_counters(text) for name, text in state.items()}


def traces_of(lab: str) -> list[str]:
    """Everything on this machine that has the lab's name: namespaces, cgroups, mounts, folders, processes."""
    found = [str(path) for path in Path("/run/netns").glob(f"cilium-{lab}-*")] if Path("/run/netns").exists() else []
    found += [
        line
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if f"/{lab}/" in line or f"-{lab}-" in line
    ]
    own = (Path("/run/cilium-lab", lab), cgroup_links.cgroup_root() / f"cilium-lab-{lab}")
    found += [str(path) for path in own if path.exists()]
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = path.read_bytes().decode(errors="replace")
            if f"/run/cilium-lab/{lab}/" in words:
                found.append(words)
    return found


def _without_counters(text: str) -> str:
    """`expires 57sec` and the like change by themselves."""
    return "\n".join(line for line in text.splitlines() if "expires" not in line)

"""Pairs of namespaces to measure between: a bare veth pair, and a bridge with iptables forwarding and conntrack.

Everything is made in namespaces that this module names itself and removes again; the machine's own devices, routes and
sysctls are not touched.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
PORT = 9000
CPU = "1"


def run(*command: str, netns: str = "", check: bool = True) -> str:
    """Run a command, inside a namespace if one is named; its standard output."""
    prefix = ["nsenter", f"--net=/run/netns/{netns}"] if netns else []
    done = subprocess.run([*prefix, *command], capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def build_traffic(folder: Path) -> Path:
    """Compile traffic.c; the machine's own compiler or the one that builds the datapath."""
    binary = folder / "traffic"
    source = HERE / "traffic.c"
    for compiler in (["cc"], [os.sys.executable, "-m", "ziglang", "cc"]):  # type: ignore[attr-defined]
        try:
            subprocess.run([*compiler, "-O2", "-o", str(binary), str(source)], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        return binary
    raise RuntimeError("no C compiler for tests/benchmark/traffic.c")


@dataclass(frozen=True, slots=True)
class Pair:
    """Two namespaces and the addresses under which the client reaches the server."""

    name: str
    client: str
    server: str
    ipv4: str
    ipv6: str = ""

    @contextmanager
    def serving(self, traffic: Path) -> Iterator[None]:
        """The server side of traffic.c, pinned, for as long as the block lasts."""
        command = ["nsenter", f"--net=/run/netns/{self.server}", "taskset", "-c", CPU, str(traffic), "server", str(PORT)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            time.sleep(0.3)
            yield
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()

    def measure(self, traffic: Path, mode: str, seconds: float, address: str = "") -> float:
        """Transactions (rr, crr) or bytes (stream) per second, client and server on one CPU."""
        command = ["taskset", "-c", CPU, str(traffic), mode, address or self.ipv4, str(PORT), str(seconds)]
        result = json.loads(run(*command, netns=self.client))
        if result["errors"]:
            raise RuntimeError(f"{self.name} {mode}: {result['errors']} errors")
        return float(result["per_second"])


@contextmanager
def namespaces(*names: str) -> Iterator[None]:
    """Namespaces that exist for the block."""
    made: list[str] = []
    try:
        for name in names:
            run("ip", "netns", "add", name)
            made.append(name)
            run("ip", "link", "set", "lo", "up", netns=name)
        yield
    finally:
        for name in made:
            run("ip", "netns", "del", name, check=False)


@contextmanager
def bare_veth() -> Iterator[Pair]:
    """The limit: two namespaces and one veth pair, nothing between."""
    client, server = f"bench-veth-c{os.getpid()}", f"bench-veth-s{os.getpid()}"
    with namespaces(client, server):
        run("ip", "link", "add", "eth0", "netns", client, "type", "veth", "peer", "name", "eth0", "netns", server)
        for name, host in ((client, 1), (server, 2)):
            run("ip", "addr", "add", f"10.9.0.{host}/24", "dev", "eth0", netns=name)
            run("ip", "addr", "add", f"fd00:9::{host}/64", "dev", "eth0", "nodad", netns=name)
            run("ip", "link", "set", "eth0", "up", netns=name)
        yield Pair("bare veth", client, server, "10.9.0.2", "fd00:9::2")


@contextmanager
def bridge_iptables() -> Iterator[Pair]:
    """A bridge with iptables on bridged traffic where the kernel has it, else routed through iptables and conntrack."""
    client, server, router = (f"bench-br-{part}{os.getpid()}" for part in "csr")
    with namespaces(client, server, router):
        run("ip", "link", "add", "br0", "type", "bridge", netns=router)
        run("ip", "link", "set", "br0", "up", netns=router)
        run("ip", "addr", "add", "10.9.1.254/24", "dev", "br0", netns=router)
        for name, host in ((client, 1), (server, 2)):
            run("ip", "link", "add", "eth0", "netns", name, "type", "veth", "peer", "name", f"v{host}", "netns", router)
            run("ip", "link", "set", f"v{host}", "master", "br0", "up", netns=router)
            run("ip", "addr", "add", f"10.9.1.{host}/24", "dev", "eth0", netns=name)
            run("ip", "link", "set", "eth0", "up", netns=name)
        run("sysctl", "-qw", "net.ipv4.ip_forward=1", netns=router)
        run("sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=1", netns=router, check=False)
        for rule in (
            "-P FORWARD DROP",
            "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            "-A FORWARD -d 10.9.1.2/32 -p tcp --dport 9000 -m conntrack --ctstate NEW -j ACCEPT",
        ):
            run("iptables", *rule.split(), netns=router)
        yield Pair("bridge + iptables", client, server, "10.9.1.2")

"""Pairs of namespaces to measure between: a bare veth pair, and a bridge with iptables forwarding and conntrack.

Everything is made in namespaces that this module names itself and removes again; the machine's own devices, routes and
sysctls are not touched.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pycilium.lab import cgroups

HERE = Path(__file__).parent
PORT = 9000
CPU = str(max(os.sched_getaffinity(0)))
"""Client and server of a measurement share it: wake-ups between CPUs would hide the path."""
BRIDGE_NETFILTER = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")


def run(*command: str, netns: str = "", check: bool = True) -> str:
    """Run a command, inside a namespace if one is named; its standard output."""
    done = subprocess.run([*_inside(netns), *command], capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def _inside(netns: str) -> list[str]:
    return ["nsenter", f"--net=/run/netns/{netns}"] if netns else []


@contextmanager
def built_traffic() -> Iterator[Path]:
    """traffic.c, compiled by the machine's own compiler or the one that builds the datapath."""
    with tempfile.TemporaryDirectory(prefix="pycilium-bench-") as folder:
        binary = Path(folder, "traffic")
        for compiler in (["cc"], [sys.executable, "-m", "ziglang", "cc"]):
            try:
                subprocess.run([*compiler, "-O2", "-o", binary, HERE / "traffic.c"], check=True, capture_output=True)
            except (OSError, subprocess.CalledProcessError):
                continue
            break
        else:
            raise RuntimeError("no C compiler for tests/benchmark/traffic.c")
        yield binary


@dataclass(frozen=True, slots=True)
class Pair:
    """Two namespaces and the addresses under which the client reaches the server."""

    name: str
    client: str
    server: str
    ipv4: str
    ipv6: str
    port: int = PORT
    """That the client asks for; the server's is PORT."""
    cgroup: Path | None = None
    """Where the client runs, if its sockets are to be those of a pod."""

    def address(self, family: int) -> str:
        return self.ipv4 if family == 4 else self.ipv6

    def reaching(self, address: str) -> Pair:
        """The same two, where the client asks this address of a family."""
        return replace(self, ipv6=address) if ":" in address else replace(self, ipv4=address)

    @contextmanager
    def serving(self, traffic: Path) -> Iterator[int]:
        """The server side of traffic.c, pinned, for as long as the block lasts; gives its pid."""
        command = [*_inside(self.server), "taskset", "-c", CPU, str(traffic), "server", str(PORT)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            self._wait_until_listening(process)
            yield process.pid
        finally:
            process.kill()
            process.wait()

    def _wait_until_listening(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + 10
        while f":{PORT:04X} " not in run("cat", "/proc/net/tcp6", netns=self.server):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name}: the server side of the measurement does not listen")
            time.sleep(0.02)

    def measure(self, traffic: Path, mode: str, seconds: float, *, family: int = 4) -> float:
        """Transactions (rr, crr) or bits (stream) per second, client and server on one CPU."""
        result = self.result(traffic, mode, seconds, family=family)
        return float(result["per_second"]) * (8 if mode == "stream" else 1)

    def result(
        self, traffic: Path, mode: str, seconds: float, *, family: int = 4, addresses: int = 1
    ) -> dict[str, Any]:
        """All that traffic.c says of a measurement without errors; each connection to one of so many addresses in a row."""
        with self.load(traffic, mode, seconds, family=family, addresses=addresses) as load:
            result = load.result(stop=False)
        if result["errors"]:
            raise RuntimeError(f"{self.name} {mode}: {result['errors']} errors")
        return result

    def result_per_cpu_second(
        self, traffic: Path, mode: str, seconds: float, server: int, *, family: int = 4, addresses: int = 1
    ) -> dict[str, Any]:
        """As `result`, with `per_cpu_second`: how much was done in a second of the processor time of both sides.

        What the kernel does for their packets counts as theirs, so that it means the same on a busy machine.
        """
        before = processor_ns(server)
        result = self.result(traffic, mode, seconds, family=family, addresses=addresses)
        spent = result["cpu_s"] + (processor_ns(server) - before) / 1e9
        return result | {"per_cpu_second": result["count"] * (8 if mode == "stream" else 1) / spent}

    @contextmanager
    def load(self, traffic: Path, mode: str, seconds: float, *, family: int = 4, addresses: int = 1) -> Iterator[Load]:
        """Traffic that goes on beside what the block does; ended with it at the latest."""
        address = self.address(family)
        where = address if addresses == 1 else f"{address}+{addresses}"
        command = ["taskset", "-c", CPU, str(traffic), mode, where, str(self.port), str(seconds)]
        with cgroups.inside(self.cgroup):
            process = subprocess.Popen(
                [*_inside(self.client), *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        try:
            yield Load(f"{self.name} {mode}", process)
        finally:
            process.kill()
            process.wait()


def processor_ns(pid: int) -> int:
    """The processor time that a process's first thread has had."""
    return int(Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()[0])


@dataclass(frozen=True, slots=True)
class Load:
    """A running traffic.c client."""

    name: str
    process: subprocess.Popen[bytes]

    def result(self, *, stop: bool = True) -> dict[str, Any]:
        """What it counted: ended now, or waited for."""
        if stop:
            self.process.send_signal(signal.SIGTERM)
        out, err = self.process.communicate()
        if self.process.returncode:
            raise RuntimeError(f"{self.name}: exit {self.process.returncode}: {err.decode().strip()}")
        result: dict[str, Any] = json.loads(out)
        return result


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
            _give_addresses(name, host)
        yield Pair("bare veth", client, server, "10.9.0.2", "fd00:9::2")


@contextmanager
def bridge_iptables() -> Iterator[Pair]:
    """A bridge whose traffic iptables filters with conntrack: bridged where the kernel can filter that, else routed."""
    client, server, router = (f"bench-br-{part}{os.getpid()}" for part in "csr")
    with namespaces(client, server, router):
        for setting in ("ipv4.ip_forward=1", "ipv6.conf.all.forwarding=1", "ipv4.conf.default.send_redirects=0"):
            run("sysctl", "-qw", f"net.{setting}", netns=router)
        # So that the table does not fill with connections that are over: 120 s is the ordinary time.
        run("sysctl", "-qw", "net.netfilter.nf_conntrack_tcp_timeout_time_wait=10", netns=router)
        run("ip", "link", "add", "br0", "type", "bridge", netns=router)
        _give_addresses(router, 254, device="br0")
        for name, host in ((client, 1), (server, 2)):
            run("ip", "link", "add", "eth0", "netns", name, "type", "veth", "peer", "name", f"v{host}", "netns", router)
            run("ip", "link", "set", f"v{host}", "master", "br0", "up", netns=router)
            _give_addresses(name, host)
        if BRIDGE_NETFILTER.exists():
            for family in ("ip", "ip6"):
                run("sysctl", "-qw", f"net.bridge.bridge-nf-call-{family}tables=1", netns=router)
        else:
            for name, host in ((client, 2), (server, 1)):
                run("ip", "route", "add", f"10.9.0.{host}", "via", "10.9.0.254", netns=name)
                run("ip", "-6", "route", "add", f"fd00:9::{host}", "via", "fd00:9::254", netns=name)
        for program, address in (("iptables", "10.9.0.2/32"), ("ip6tables", "fd00:9::2/128")):
            for rule in _rules(address):
                run(program, *rule.split(), netns=router)
        pair = Pair("bridge + iptables", client, server, "10.9.0.2", "fd00:9::2")
        yield pair
        _check_filtered(router)


def _give_addresses(netns: str, host: int, device: str = "eth0") -> None:
    run("ip", "addr", "add", f"10.9.0.{host}/24", "dev", device, netns=netns)
    run("ip", "addr", "add", f"fd00:9::{host}/64", "dev", device, "nodad", netns=netns)
    run("ip", "link", "set", device, "up", netns=netns)


def _rules(server: str) -> tuple[str, ...]:
    """What a policy that allows one port comes to."""
    neighbours = ("-A FORWARD -p ipv6-icmp -j ACCEPT",) if ":" in server else ()
    return (
        "-P FORWARD DROP",
        "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        f"-A FORWARD -d {server} -p tcp --dport {PORT} -m conntrack --ctstate NEW -j ACCEPT",
        *neighbours,
    )


def _check_filtered(router: str) -> None:
    """The traffic must have gone through the rules, or the peer is none."""
    for program in ("iptables", "ip6tables"):
        first_rule = run(program, "-L", "FORWARD", "1", "-v", "-x", "-n", netns=router).split()
        if not int(first_rule[0]):
            raise RuntimeError(f"{program} saw nothing of the bridge's traffic")

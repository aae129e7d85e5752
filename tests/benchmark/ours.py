"""Our side: a lab of its own, with an agent, pods and policies, gone when the block ends."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pycilium.api.client import AgentClient
from pycilium.datapath import layouts
from pycilium.datapath.codec import MapSpec
from pycilium.datapath.maps import Map
from pycilium.lab import agents, cgroups, labs, namespaces, pods
from pycilium.lab.layout import LabLayout, LabRecord, PodRecord
from pycilium.lab.plan import UpOptions
from pycilium.model.resources import Resource, decode_object
from pycilium.store import open_blocking
from tests.benchmark.figures import Tell
from tests.benchmark.peers import PORT, Pair, run

NODE = "node1"
APPLY_AT_ONCE = 1000
REACHABLE_S = 30.0
IN_KERNEL_S = 300.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Lab:
    """One node with a running agent."""

    def __init__(self, layout: LabLayout, record: LabRecord) -> None:
        self.layout, self.record = layout, record
        self.node_netns = record.node(NODE).namespace
        self.agent = AgentClient(str(layout.agent_socket(NODE)))
        self.bpf_root = layout.node_folder(NODE) / "bpf"

    def add_pod(self, name: str, namespace: str = "default", node: str = NODE, **labels: str) -> PodRecord:
        return pods.add(self.layout, self.record, name=name, namespace=namespace, node=node, labels=labels)

    def cgroup_of(self, pod: PodRecord) -> Path | None:
        return cgroups.of_pod(self.layout.name, pod.node, pod.namespace, pod.name)

    def apply(self, resources: Sequence[Resource | Mapping[str, Any]]) -> None:
        decoded = [each if isinstance(each, Resource) else decode_object(dict(each)) for each in resources]
        with open_blocking(self.layout.store_url) as store:
            for start in range(0, len(decoded), APPLY_AT_ONCE):
                store.apply(decoded[start : start + APPLY_AT_ONCE])

    def agent_pid(self, node: str = NODE) -> int:
        pid = agents.pid_of(self.layout, node)
        if pid is None:
            raise RuntimeError(f"the agent of {node} has ended; the end of its log:\n{self._log(node)}")
        return pid

    def resident_kb(self, node: str = NODE) -> dict[str, int]:
        """Resident memory of a node's agent by kind, in kB, as the kernel counts it."""
        return memory_kb(self.agent_pid(node))

    def events_seen_and_lost(self) -> tuple[int, int]:
        monitor = self.agent.status()["nodeMonitor"]
        return int(monitor.get("seen") or 0), int(monitor.get("lost") or 0)

    def _log(self, node: str) -> str:
        return "\n".join(agents.log_of(self.layout, node).read_text(encoding="utf-8").splitlines()[-15:])


def memory_kb(pid: int) -> dict[str, int]:
    """Resident memory of a process by kind."""
    fields = {}
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        key, _, value = line.partition(":")
        if key in ("VmRSS", "VmHWM", "RssAnon", "RssFile", "RssShmem"):
            fields[key] = int(value.split()[0])
    return fields


def processor_s(pid: int) -> float:
    """Seconds of processor time that a process has taken so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


@contextmanager
def lab(tell: Tell, suffix: str = "", **options: Any) -> Iterator[Lab]:
    """A lab that exists for the block; nothing of it is left, whatever happens. `options` are those of `labs.up`."""
    name = f"bench{suffix}{os.getpid()}"
    record = labs.up(UpOptions(name=name, **options), tell)
    try:
        yield Lab(LabLayout(name), record)
    finally:
        labs.down(name)


@contextmanager
def pod_pair(tell: Tell) -> Iterator[tuple[Lab, Pair]]:
    """Two pods that one policy selects, both ways; it allows the port of the measurement and pings, nothing else."""
    with lab(tell) as made:
        tell("adding pods")
        made.apply([policy()])
        client, server = (made.add_pod(name, bench="traffic") for name in ("client", "server"))
        pair = Pair("pycilium", client.netns, server.netns, server.ipv4 or "", server.ipv6 or "")
        _check_denied(pair)
        yield made, pair


@contextmanager
def pods_of_two_nodes(tell: Tell, routing_mode: str) -> Iterator[tuple[Lab, Pair]]:
    """As `pod_pair`, with the client on the first node and the server on the second."""
    with lab(tell, routing_mode[0], node_count=2, routing_mode=routing_mode) as made:
        tell("adding pods")
        made.apply([policy()])
        client, server = (
            made.add_pod(name, node=node, bench="traffic") for name, node in (("client", NODE), ("server", "node2"))
        )
        pair = Pair(f"pycilium, {routing_mode}", client.netns, server.netns, server.ipv4 or "", server.ipv6 or "")
        _wait_until_reachable(pair)
        _check_denied(pair)
        yield made, pair


def wait_for_services(made: Lab, frontends: int, family: int = 4) -> None:
    """Until the kernel of the first node has at least so many frontends of a family."""
    deadline = time.monotonic() + IN_KERNEL_S
    spec: MapSpec[Any, Any] = layouts.SERVICES4 if family == 4 else layouts.SERVICES6
    with Map.open(made.bpf_root / "maps" / spec.name, spec) as opened:
        while sum(1 for _ in opened.items()) < frontends:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the kernel did not have {frontends} frontends after {IN_KERNEL_S:.0f} s")
            time.sleep(0.05)


def policy() -> dict[str, Any]:
    """Ingress and egress of both pods."""
    peers, port = [{"matchLabels": {"bench": "traffic"}}], [{"ports": [{"port": str(PORT), "protocol": "TCP"}]}]
    pings = [{"fields": [{"family": "IPv4", "type": 8}, {"family": "IPv6", "type": 128}]}]
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": "bench", "namespace": "default"},
        "spec": {
            "endpointSelector": {"matchLabels": {"bench": "traffic"}},
            "ingress": [{"fromEndpoints": peers, "toPorts": port}, {"fromEndpoints": peers, "icmps": pings}],
            "egress": [{"toEndpoints": peers, "toPorts": port}, {"toEndpoints": peers, "icmps": pings}],
        },
    }


def _check_denied(pair: Pair) -> None:
    """Another port must be dropped, or no policy is measured: without one, nobody listening there is said at once."""

    def refused() -> bool:
        try:
            socket.create_connection((pair.ipv4, PORT + 1), timeout=0.3).close()
        except ConnectionRefusedError:
            return True
        except TimeoutError:
            return False
        return True

    if namespaces.run_in(pair.client, refused):
        raise RuntimeError("the policy of the measurement is not in force")


def _wait_until_reachable(pair: Pair) -> None:
    """Until the client's node knows of the server's pod: a ping is answered, and what the policy denies is not."""
    deadline = time.monotonic() + REACHABLE_S
    while run("ping", "-c1", "-W1", pair.ipv4, netns=pair.client, check=False).find(" 0% packet loss") < 0:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{pair.name}: the server's pod could not be reached after {REACHABLE_S:.0f} s")

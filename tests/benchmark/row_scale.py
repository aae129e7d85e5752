"""What a big cluster costs one agent: 1,000 nodes and 50,000 endpoints of theirs, written into the store by a generator.

The other nodes' resources are what their agents would publish. Measured: from the first write until the kernel has
the last address; memory then; processor time while endpoints come and go at a steady rate; a restart.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from pycilium.datapath import layouts
from pycilium.datapath.maps import Map
from pycilium.lab import agents, operators
from pycilium.model.identity import Identity
from pycilium.model.resources import CiliumEndpoint, CiliumIdentity, CiliumNode, ObjectMeta
from pycilium.model.resources.cilium_objects import (
    AddressPair,
    EndpointIdentity,
    EndpointNetworking,
    EndpointStatus,
    IpamSpec,
    NodeAddress,
    NodeSpec,
)
from pycilium.store import open_blocking
from tests.benchmark import scenario
from tests.benchmark.figures import Aim, Figure, Options, Tell, alone
from tests.benchmark.ours import NODE, Lab, lab, processor_s
from tests.benchmark.row_memory import memory_parts, use_default_sizes

PATIENCE_S = 300.0
CHURN_PER_S = 50
SETTLE_S = 3.0
MB = 1024


def measure(options: Options, tell: Tell) -> list[Figure]:
    nodes, pods = options.sized(1000, 50), 50
    with lab(tell, "scale") as made:
        use_default_sizes(made)
        operators.stop(made.layout)  # nobody renews the made-up nodes' leases, so it would remove them
        known = list(scenario.identities())[: options.sized(10_000, 500)]
        tell(f"writing {len(known)} identities, {nodes} nodes and {nodes * pods} endpoints")
        made.apply([_identity(each) for each in known])
        started, spent = time.monotonic(), processor_s(made.agent_pid())
        made.apply([_node(number) for number in range(nodes)])
        made.apply([_endpoint(number, known) for number in range(nodes * pods)])
        written_s = time.monotonic() - started
        _wait_for(made, nodes * pods)
        took_s, spent = time.monotonic() - started, processor_s(made.agent_pid()) - spent
        time.sleep(SETTLE_S)
        full = made.resident_kb(NODE)
        tell("endpoints come and go")
        churn = _churn(made, known, nodes * pods, options.sized(20, 2))
        tell("a restart")
        ready_from = time.monotonic()
        agents.stop(made.layout, NODE)
        agents.start(made.layout, made.record, NODE, within_s=PATIENCE_S)
        ready_s, ready_spent = time.monotonic() - ready_from, processor_s(made.agent_pid())
        time.sleep(SETTLE_S)
        again = made.resident_kb(NODE)
    what = f"{nodes:,} nodes, {nodes * pods:,} endpoints"
    note = f"the writing took {written_s:.1f} s of it; the agent spent {spent:.1f} s of processor time"
    return [
        alone("scale", f"{what}: all in the kernel after", "s", [took_s], note=note),
        alone("scale", "agent's RSS then", "MB", [full["VmRSS"] / MB], Aim("ours", "≤", 250), memory_parts(full)),
        alone("scale", f"agent's CPU at {CHURN_PER_S} endpoint changes a second", "%", [churn * 100]),
        alone(
            *("scale", "restart: ready again after", "s", [ready_s], Aim("ours", "<", 5)),
            f"{ready_spent:.1f} s of processor time",
        ),
        alone("scale", "agent's RSS after it", "MB", [again["VmRSS"] / MB], Aim("ours", "≤", 250), memory_parts(again)),
    ]


def _churn(made: Lab, known: list[Identity], first: int, seconds: int) -> float:
    """The share of a CPU that the agent takes while one endpoint after the other appears and another changes."""
    spent, started = processor_s(made.agent_pid()), time.monotonic()
    with open_blocking(made.layout.store_url) as store:
        for number in range(seconds * CHURN_PER_S):
            store.apply([_endpoint(number % first, known, moved=1 + number)])
            ahead_s = number / CHURN_PER_S - (time.monotonic() - started)
            if ahead_s > 0:
                time.sleep(ahead_s)
    return (processor_s(made.agent_pid()) - spent) / (time.monotonic() - started)


def _wait_for(made: Lab, endpoints: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    with Map.open(made.bpf_root / "maps" / layouts.IPCACHE4.name, layouts.IPCACHE4) as ipcache:
        while sum(key.prefix_len == 32 for key, _ in ipcache.items()) < endpoints:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the kernel did not have {endpoints} addresses after {PATIENCE_S:.0f} s")
            time.sleep(0.5)


def _identity(identity: Identity) -> CiliumIdentity:
    return CiliumIdentity(metadata=ObjectMeta(name=str(identity.number)), security_labels=identity.labels.to_map())


def _node_address(number: int) -> str:
    return f"172.20.{number // 250}.{number % 250 + 1}"


def _node(number: int) -> CiliumNode:
    cidrs = (f"10.{64 + number // 250}.{number % 250}.0/24", f"fd00:20:0:{number:x}::/112")
    return CiliumNode(
        metadata=ObjectMeta(name=f"made-up-{number}"),
        spec=NodeSpec(
            addresses=(NodeAddress(type="InternalIP", ip=_node_address(number)),), ipam=IpamSpec(pod_cidrs=cidrs)
        ),
    )


def _endpoint(number: int, known: list[Identity], moved: int = 0) -> CiliumEndpoint:
    node, host = number // 50, number % 50 + 2
    identity = known[(number + moved) % len(known)]
    pair = AddressPair(ipv4=f"10.{64 + node // 250}.{node % 250}.{host}", ipv6=f"fd00:20:0:{node:x}::{host:x}")
    status = EndpointStatus(
        id=number % 65535 + 1,
        identity=EndpointIdentity(id=identity.number, labels=tuple(sorted(_labels(identity)))),
        networking=EndpointNetworking(addressing=(pair,), node=_node_address(node)),
        state="ready",
    )
    return CiliumEndpoint(metadata=ObjectMeta(name=f"pod-{number}", namespace="made-up"), status=status)


def _labels(identity: Identity) -> Iterator[str]:
    return (str(label) for label in identity.labels)

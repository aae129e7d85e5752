"""What a busy node's agent takes (see `scenario`): resident memory with 10,000 identities, 1,000 rules, 200 pods and a
full flow store; and with all of that, how long a new identity takes from the store into the kernel, and how long a
restart until the agent is ready again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pycilium.agent.config import AgentConfig
from pycilium.datapath import layouts
from pycilium.datapath.maps import Map
from pycilium.lab import agents
from pycilium.model.identity import Identity
from pycilium.model.resources import CiliumIdentity, Namespace, ObjectMeta
from pycilium.store import open_blocking
from tests.benchmark import scenario
from tests.benchmark.figures import Aim, Figure, Options, Tell, alone
from tests.benchmark.ours import NODE, Lab, pod_pair
from tests.benchmark.peers import Pair, built_traffic

SETTLE_S, PATIENCE_S = 2.0, 120.0
MB = 1024


def measure(options: Options, tell: Tell) -> list[Figure]:
    local = scenario.local_workloads()[: options.sized(200, 20)]
    with built_traffic() as traffic, pod_pair(tell) as (made, pair), pair.serving(traffic):
        use_default_sizes(made)
        empty = made.resident_kb()
        tell("writing 10,000 identities and 1,000 rules")
        known = list(scenario.identities())
        made.apply([Namespace(metadata=ObjectMeta(name=f"ns-{number}")) for number in range(scenario.NAMESPACES)])
        made.apply([_resource(identity) for identity in known])
        made.apply([rule.document() for rule in scenario.rules()])
        for number, workload in enumerate(local):
            tell(f"adding pod {number + 1} of {len(local)}")
            made.add_pod(f"app-{workload.app}", workload.namespace_name, **workload.labels)
        tell("waiting until the kernel has everything")
        with _identity_bits(made) as bits:
            _wait_for(bits, known[-1].number)
            tell("filling the flow store")
            _fill_flow_store(made, pair, traffic)
            time.sleep(SETTLE_S)
            full = made.resident_kb()
            tell("new identities")
            took = _new_identities(made, bits, options.sized(20, 3))
        tell("restarts")
        ready_s = []
        for _ in range(options.sized(5, 1)):
            started = time.monotonic()
            agents.stop(made.layout, NODE)
            agents.start(made.layout, made.record, NODE)
            ready_s.append(time.monotonic() - started)
        _fill_flow_store(made, pair, traffic)
        time.sleep(SETTLE_S)
        again = made.resident_kb()
    return [
        alone("memory", "agent's RSS, nothing in the store", "MB", [empty["VmRSS"] / MB], note=memory_parts(empty)),
        alone(
            *("memory", "agent's RSS, 10,000 identities, 1,000 rules", "MB", [full["VmRSS"] / MB]),
            Aim("ours", "≤", 150),
            memory_parts(full),
        ),
        alone(
            "memory",
            "the same, after a restart",
            "MB",
            [again["VmRSS"] / MB],
            Aim("ours", "≤", 150),
            memory_parts(again),
        ),
        alone("identity", "from the store into the kernel, agent running", "ms", took),
        alone("restart", "with all of that: ready again after", "s", ready_s, Aim("ours", "<", 2)),
    ]


def use_default_sizes(made: Lab) -> None:
    """A lab's maps are smaller than those of an ordinary node."""
    path = made.layout.node_folder(NODE) / "agent.json"
    config = {name: value for name, value in json.loads(path.read_bytes()).items() if not name.endswith("_capacity")}
    agents.stop(made.layout, NODE)
    path.write_text(json.dumps(config), encoding="utf-8")
    agents.start(made.layout, made.record, NODE)


def _fill_flow_store(made: Lab, pair: Pair, traffic: Path) -> None:
    """New connections until every row of it has been written."""
    while made.events_seen_and_lost()[0] < AgentConfig(node_name=NODE).flow_capacity:
        pair.measure(traffic, "crr", 0.5)


def memory_parts(found: dict[str, int]) -> str:
    return (
        f"{found['RssAnon'] / MB:.0f} MB of its own, {found['RssFile'] / MB:.0f} MB mapped from files and the kernel's "
        f"ring, at most {found['VmHWM'] / MB:.0f} MB in all"
    )


def _resource(identity: Identity) -> CiliumIdentity:
    return CiliumIdentity(metadata=ObjectMeta(name=str(identity.number)), security_labels=identity.labels.to_map())


@contextmanager
def _identity_bits(made: Lab) -> Iterator[Map[Any, Any]]:
    with Map.open(made.bpf_root / "maps" / layouts.IDENTITY_BITS.name, layouts.IDENTITY_BITS) as opened:
        yield opened


def _wait_for(bits: Map[Any, Any], number: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not any(key.sec_identity == number for key, _ in bits.items()):
        if time.monotonic() > deadline:
            raise RuntimeError(f"identity {number} was not in the kernel after {PATIENCE_S:.0f} s")
        time.sleep(0.2)


def _new_identities(made: Lab, bits: Map[Any, Any], count: int) -> list[float]:
    """Milliseconds from the call that writes one into the store until the kernel has its entry."""
    took = []
    banks = {key.bank for key, _ in bits.items()}
    first = scenario.FIRST_IDENTITY + scenario.NAMESPACES * scenario.APPS * scenario.RELEASES
    with open_blocking(made.layout.store_url) as store:
        for number, workload in enumerate(scenario.new_workloads(count), start=first):
            resource = _resource(Identity(number, workload.security_labels))
            keys = [layouts.IdentityBitsKey(sec_identity=number, bank=bank) for bank in banks]
            started = time.perf_counter()
            store.create(resource)
            while not any(bits.lookup(key) for key in keys):
                if time.perf_counter() - started > PATIENCE_S:
                    raise RuntimeError(f"new identity {number} did not reach the kernel")
            took.append((time.perf_counter() - started) * 1e3)
    return took

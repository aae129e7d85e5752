"""One new identity on a busy node (see `scenario`): how many map entries it takes and when the last is in the kernel.

Ours is the agent's own control round on real maps, everything from the commit in the intent table to the return of the
system call. The peer is the layout that Cilium uses, an entry per endpoint, identity and port in a hash map per
endpoint; only its writes are timed, with keys and values made before, one batch per map.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

from pycilium.agent.controller import Controller
from pycilium.agent.earlier_agent import numbers_in_use
from pycilium.agent.endpoints.identities import insert_reserved
from pycilium.agent.intent import Intent
from pycilium.agent.link_operations import LinkTarget
from pycilium.agent.targets import Targets, make_targets
from pycilium.datapath import bpf_syscall, bpffs, layouts, loader
from pycilium.datapath.codec import MapType
from pycilium.datapath.maps import Map, RawMap
from pycilium.model.endpoint import Endpoint, EndpointState
from pycilium.model.identity import Identity
from pycilium.model.resources import CiliumClusterwideNetworkPolicy, CiliumNetworkPolicy, decode_object
from pycilium.policy import PolicyEngine, parse_policy
from tests.benchmark import scenario
from tests.benchmark.figures import Aim, Figure, Options, Tell, alone

PEER = "entry per endpoint, identity, port"
SIZES = {"identity_bits": 65536, "policy_rows": 65536, "policies": 4096, "events": 1 << 16, "ct4": 1024, "ct6": 1024}
PEER_KEY_BYTES, PEER_VALUE_BYTES = 12, 24
"""Those of Cilium's policy map."""
PEER_MAP_NAME, PEER_MAP_ENTRIES = "bench_policy", 16384


def measure(options: Options, tell: Tell) -> list[Figure]:
    count = options.sized(200, 10)
    tell("loading 10,000 identities and 1,000 rules")
    with busy_node() as node:
        took, writes = node.add_identities(count, tell)
    tell("the same, every rule with a peer set of its own")
    with busy_node(own_peer_sets=True) as node:
        took_apart, writes_apart = node.add_identities(count, tell)
    tell(PEER)
    their_took, their_writes = _entries_per_identity(count)
    return [
        alone("identity", "new identity, map writes", "", writes, Aim("ours", "=", 1)).beside(PEER, their_writes),
        alone("identity", "new identity, into the kernel", "ms", took, Aim("ours", "<", 5)).beside(PEER, their_took),
        alone("identity", "1,000 different peer sets: map writes", "", writes_apart),
        alone("identity", "1,000 different peer sets: into the kernel", "ms", took_apart, Aim("ours", "<", 5)),
    ]


class BusyNode:
    """The agent's controller on maps of its own, with everything of the scenario in the kernel."""

    def __init__(self, intent: Intent, controller: Controller, bits: Map[Any, Any]) -> None:
        self._intent, self._controller, self._bits = intent, controller, bits

    def add_identities(self, count: int, tell: Tell) -> tuple[list[float], list[float]]:
        """Milliseconds and map writes of each of so many new identities."""
        took, writes = [], []
        next_number = scenario.FIRST_IDENTITY + scenario.NAMESPACES * scenario.APPS * scenario.RELEASES
        for number, workload in enumerate(scenario.new_workloads(count), start=next_number):
            tell(f"new identity {number - next_number + 1} of {count}")
            identity = Identity(number, workload.security_labels)
            before = self._bits.count() if number == next_number else 0
            started = time.perf_counter()
            with self._intent.db.write() as txn:
                txn.insert(self._intent.identities, identity)
            result = self._controller.run(time.monotonic())
            took.append((time.perf_counter() - started) * 1e3)
            writes.append(float(result.updated + result.deleted))
            if result.failed or (before and self._bits.count() - before != writes[0]):
                raise RuntimeError("the kernel does not hold what the round says that it wrote")
        return took, writes


@contextmanager
def busy_node(*, own_peer_sets: bool = False) -> Iterator[BusyNode]:
    """Real maps on a BPF file system of our own; nothing is attached to any device."""
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pycilium-bench-"))) / "bpf"
        stack.callback(bpffs.unmount, root)
        datapath = stack.enter_context(loader.load(loader.DatapathConfig(str(root), map_entries=SIZES)))
        targets = make_targets(datapath, _NoLinks(), _NoLinks())
        targets.stages.resync()
        intent = Intent.new()
        insert_reserved(intent)
        controller = Controller(intent, PolicyEngine(numbers_in_use(targets)), targets)
        _fill(intent, own_peer_sets=own_peer_sets)
        result = controller.run(time.monotonic())
        while result.updated or result.deleted:
            result = controller.run(time.monotonic())
        _check_settled(targets)
        yield BusyNode(intent, controller, stack.enter_context(datapath.map(layouts.IDENTITY_BITS)))


def _fill(intent: Intent, *, own_peer_sets: bool) -> None:
    numbers = {}
    with intent.db.write() as txn:
        for identity in scenario.identities():
            numbers[identity.labels] = identity.number
            txn.insert(intent.identities, identity)
        for rule in scenario.rules():
            resource = decode_object(rule.document(own_peer_set=own_peer_sets))
            assert isinstance(resource, CiliumNetworkPolicy | CiliumClusterwideNetworkPolicy)
            txn.insert(intent.policies, parse_policy(resource, cluster="default"))
        for index, workload in enumerate(scenario.local_workloads(), start=1):
            labels = workload.security_labels
            txn.insert(
                intent.endpoints,
                Endpoint(
                    endpoint_id=index,
                    container_id=f"bench{index}",
                    ifname="eth0",
                    netns="",
                    host_ifname=f"lxc{index}",
                    ifindex=index,
                    mac=index.to_bytes(6, "big"),
                    host_mac=index.to_bytes(6, "big"),
                    ipv4=IPv4Address("10.0.0.0") + index,
                    ipv6=IPv6Address("fd00::") + index,
                    mtu_bytes=1500,
                    pod_name=f"pod-{index}",
                    namespace=workload.namespace_name,
                    labels=labels,
                    sec_identity=numbers[labels],
                    state=EndpointState.READY,
                ),
            )


def _check_settled(targets: Targets) -> None:
    if not targets.stages.in_sync:
        name, key, status = next(targets.stages.failing())
        raise RuntimeError(f"the scenario cannot be realized: {name}: {key}: {status.error}")


class _NoLinks:
    """Operations on links of a node without devices."""

    def update(self, entries: Mapping[str, LinkTarget]) -> dict[str, Exception]:
        del entries
        return {}

    def delete(self, keys: Iterable[str]) -> dict[str, Exception]:
        del keys
        return {}

    def dump(self) -> Iterator[tuple[str, LinkTarget]]:
        return iter(())


def _entries_per_identity(count: int) -> tuple[list[float], list[float]]:
    """Milliseconds and map writes of the peer for the same identities."""
    selected = {
        workload: [rule for rule in scenario.rules() if rule.selects(workload)]
        for workload in scenario.local_workloads()
    }
    took, writes = [], []
    with ExitStack() as stack:
        maps = [stack.enter_context(_policy_map()) for _ in selected]
        for number, workload in enumerate(scenario.new_workloads(count)):
            batches: dict[int, list[tuple[bytes, bytes]]] = defaultdict(list)
            for endpoint, port in scenario.entries_per_identity(workload, selected):
                key = number.to_bytes(4, "little") + port.to_bytes(2, "big") + bytes(PEER_KEY_BYTES - 6)
                batches[endpoint].append((key, bytes(PEER_VALUE_BYTES)))
            started = time.perf_counter()
            for endpoint, entries in batches.items():
                if maps[endpoint].update_batch(entries):
                    raise RuntimeError("the peer's map takes no more entries")
            took.append((time.perf_counter() - started) * 1e3)
            writes.append(float(sum(map(len, batches.values()))))
    return took, writes


@contextmanager
def _policy_map() -> Iterator[RawMap]:
    fd = bpf_syscall.map_create(
        MapType.HASH, PEER_KEY_BYTES, PEER_VALUE_BYTES, PEER_MAP_ENTRIES, flags=_NO_PREALLOC, name=PEER_MAP_NAME
    )
    made = RawMap(fd, PEER_MAP_NAME)
    try:
        yield made
    finally:
        made.close()


_NO_PREALLOC = 1

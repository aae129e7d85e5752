"""The reconcilers of one node, and their order.

    stage 1  identity bits
          2  policy rows
          3  policies         a policy waits until its rows and the identity bits of its banks are there
          4  nodes            where the other nodes are reached
          5  ipcache          a prefix waits until its node and the bits of its identity are there
          6  routes           to pod CIDRs of other nodes: the stack hands packets to programs that know where that is
          7  endpoint entries an endpoint waits until its policy is there; processes too, then their depths
          8  masquerade       exceptions, then the node's addresses (agent/masquerade.py)
          9  services         stages of their own (agent/services/targets.py)
         10  links

Waiting is what makes a full map fail closed for what is new and leave alone what already works.

Routes, services and links are stages of their own: no entry in a map hangs on them, so a device that refuses its
program keeps no number of policy or node from being given out again.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from pycilium.agent import entries
from pycilium.agent.entries import BitsKey, EndpointTarget, ProcessTarget, Words
from pycilium.agent.ipcache import IpcacheTarget, Key
from pycilium.agent.link_operations import AnyTarget
from pycilium.agent.masquerade import MasqueradeTargets
from pycilium.agent.nodes.cluster import NodeTarget, RouteTarget
from pycilium.agent.services.targets import ServiceTargets
from pycilium.datapath import layouts
from pycilium.datapath.codec import MapSpec
from pycilium.datapath.mapped_array import MappedArray
from pycilium.datapath.maps import AnyMap, MapOperations, Translation
from pycilium.model.peer import Address, Network
from pycilium.policy import PolicyEntry, Row, RowKey
from pycilium.reconcile import Operations, Reconciler, Stages

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class MapSource(Protocol):
    """Where the maps come from: a loaded Datapath, or fakes."""

    def map(self, spec: MapSpec[Any, Any]) -> AnyMap[Any, Any]: ...
    def mapped(self, spec: MapSpec[int, Any]) -> MappedArray[Any]: ...


class ByFamily(Generic[K, V]):
    """Two reconcilers, one per address family, addressed as one."""

    def __init__(self, ipv4: Reconciler[K, V], ipv6: Reconciler[K, V]) -> None:
        self._families = {4: ipv4, 6: ipv6}

    def of(self, key: Any) -> Reconciler[K, V]:
        """The reconciler of an address's or prefix's family."""
        return self._families[key.version]

    def __iter__(self) -> Iterator[Reconciler[K, V]]:
        return iter(self._families.values())

    def desired_set(self, key: K, value: V) -> None:
        self.of(key).desired_set(key, value)

    def desired_delete(self, key: K) -> None:
        self.of(key).desired_delete(key)


@dataclass(frozen=True, slots=True)
class Targets:
    """Every reconciler, and their order."""

    bits: Reconciler[BitsKey, Words]
    rows: Reconciler[RowKey, Row]
    policies: Reconciler[int, PolicyEntry]
    nodes: Reconciler[int, NodeTarget]
    ipcache: ByFamily[Key, IpcacheTarget]
    endpoints: ByFamily[Address, EndpointTarget]
    processes: Reconciler[int, ProcessTarget]
    """By cgroup id."""
    process_levels: Reconciler[int, tuple[int, ...]]
    """One entry."""
    masquerade: MasqueradeTargets
    services: ServiceTargets | None
    """None where Services are somebody else's to translate."""
    links: Reconciler[str, AnyTarget]
    routes: Reconciler[Network, RouteTarget]
    stages: Stages


def make_targets(
    datapath: MapSource,
    links: Operations[str, AnyTarget],
    routes: Operations[Network, RouteTarget],
    *,
    with_services: bool = False,
) -> Targets:
    """Reconcilers on the maps of a loaded datapath; `resync` them before the first round."""
    bits: Reconciler[BitsKey, Words] = Reconciler("identity bits", _operations(datapath, "identity_bits", entries.BITS))
    rows: Reconciler[RowKey, Row] = Reconciler("policy rows", _operations(datapath, "policy_rows", entries.ROWS))
    policies: Reconciler[int, PolicyEntry] = Reconciler(
        "policies",
        _operations(datapath, "policies", entries.POLICIES),
        ready=lambda policy_id, entry: _policy_ready(rows, bits, policy_id, entry),
    )
    nodes: Reconciler[int, NodeTarget] = Reconciler("nodes", _operations(datapath, "nodes", entries.NODES))
    ipcache = ByFamily[Key, IpcacheTarget](
        *(
            Reconciler(
                f"ipcache{version}",
                _operations(datapath, f"ipcache{version}", translation),
                ready=lambda _, entry: (
                    (not entry.node_id or nodes.is_done(entry.node_id))
                    and _bits_ready(bits, entry.sec_identity, entry.cidr_identity)
                ),
            )
            for version, translation in ((4, entries.IPCACHE4), (6, entries.IPCACHE6))
        )
    )

    def is_placed(_: object, entry: EndpointTarget | ProcessTarget) -> bool:
        cidr_identity = entry.cidr_identity if isinstance(entry, EndpointTarget) else 0
        return (
            entry.policy_id in policies.tracker.realized
            and entry.policy_id not in policies.tracker.pending_updates
            and _bits_ready(bits, entry.sec_identity, cidr_identity)
        )

    endpoints = ByFamily[Address, EndpointTarget](
        *(
            Reconciler(
                f"endpoints{version}", _operations(datapath, f"endpoints{version}", translation), ready=is_placed
            )
            for version, translation in ((4, entries.ENDPOINTS4), (6, entries.ENDPOINTS6))
        )
    )
    processes: Reconciler[int, ProcessTarget] = Reconciler(
        "processes", _operations(datapath, "processes", entries.PROCESSES), ready=is_placed
    )
    process_levels: Reconciler[int, tuple[int, ...]] = Reconciler(
        "process levels", _operations(datapath, "process_levels", entries.PROCESS_LEVELS)
    )
    masquerade = MasqueradeTargets.make(datapath.map)
    services = ServiceTargets.make(datapath.map, datapath.mapped) if with_services else None
    attached: Reconciler[str, AnyTarget] = Reconciler("links", links)
    routed: Reconciler[Network, RouteTarget] = Reconciler("routes", routes)
    return Targets(
        bits=bits,
        rows=rows,
        policies=policies,
        nodes=nodes,
        ipcache=ipcache,
        endpoints=endpoints,
        processes=processes,
        process_levels=process_levels,
        masquerade=masquerade,
        services=services,
        links=attached,
        routes=routed,
        stages=Stages(
            [
                *(bits, rows, policies, nodes, *ipcache),
                Stages([routed]),
                *(*endpoints, processes, process_levels),
                *masquerade.reconcilers,
                *((services.stages,) if services is not None else ()),
                Stages([attached]),
            ]
        ),
    )


def _policy_ready(
    rows: Reconciler[RowKey, Row], bits: Reconciler[BitsKey, Words], policy_id: int, entry: PolicyEntry
) -> bool:
    return not any(key.policy_id == policy_id for key in rows.tracker.pending_updates) and not any(
        key[1] in entry.banks for key in bits.tracker.pending_updates
    )


def _bits_ready(bits: Reconciler[BitsKey, Words], *identities: int) -> bool:
    pending = bits.tracker.pending_updates
    return not pending or not any(key[0] in identities for key in pending)


def _operations(
    datapath: MapSource, name: str, translation: Translation[Any, Any, Any, Any]
) -> MapOperations[Any, Any]:
    return MapOperations(datapath.map(layouts.MAPS[name]), translation)


def in_words(reconciler: Reconciler[Any, Any], key: Hashable, what: str) -> str:
    """What keeps the kernel from holding an entry; "" if it does."""
    status = reconciler.status(key)
    if status is None:
        return f"{what} is not known to the kernel"
    if status.kind == "done":
        return ""
    return f"{what}: {status.error or 'waits for what it needs'}"

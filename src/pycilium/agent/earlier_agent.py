"""What an agent that ran before left in the kernel: which numbers its entries use, and what they say of its pods.

Read right after the resync, before anything is desired. A restarted agent gives out other numbers: see
docs/architecture.md.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address
from typing import TypeVar

from pycilium.agent.entries import ProcessTarget
from pycilium.agent.ipcache import IpcacheTarget, network_of
from pycilium.agent.targets import Targets
from pycilium.datapath import conntrack, layouts
from pycilium.datapath.loader import Datapath
from pycilium.model.host_port import HostPort
from pycilium.model.identity import ReservedIdentity, is_local, is_node_local
from pycilium.model.peer import Address, Network
from pycilium.policy import NumbersInUse
from pycilium.reconcile import Reconciler, Uncertain

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


def numbers_in_use(targets: Targets, newest_admitted: int = 0) -> NumbersInUse:
    """The numbers that the maps of an earlier agent use.

    Conntrack remembers revisions of policies that are gone, `newest_admitted` being the latest: they mean nothing else.
    """
    policies, rows, bits = _known(targets.policies), _known(targets.rows), _known(targets.bits)
    entries = set[IpcacheTarget]()
    of_rules: dict[Network, IpcacheTarget] = {}
    for reconciler in targets.ipcache:
        for key, entry in reconciler.tracker.realized.items():
            if not isinstance(entry, Uncertain):
                entries.add(entry)
                if _may_be_of_rule(entry):  # a few among all the addresses of pods
                    of_rules[network_of(key)] = entry
    identities = {identity for identity, _ in bits}
    identities |= {number for entry in entries for number in (entry.sec_identity, entry.cidr_identity)}
    banks = {bank for _, bank in bits} | {key.bank for key in rows}
    banks.update(bank for entry in policies.values() for bank in entry.banks)
    return NumbersInUse(
        policy_ids=frozenset(policies) | {key.policy_id for key in rows},
        banks=frozenset(banks),
        local_identities=frozenset(filter(is_local, identities)),
        cidrs=_cidrs_of_rules(of_rules),
        bits=bits,
        max_revision=max((newest_admitted, *(entry.revision for entry in policies.values()))),
        max_row_id=max((row.row_id for row in rows.values()), default=0),
    )


def newest_admitted(datapath: Datapath) -> int:
    """The latest policy revision that a connection was admitted by, whether its policy is still there or not."""
    with datapath.map(layouts.CT4) as ipv4, datapath.map(layouts.CT6) as ipv6:
        return max(conntrack.newest_revision(ipv4.raw), conntrack.newest_revision(ipv6.raw))


def node_local_in_use(targets: Targets) -> frozenset[int]:
    """The identities of this node's own that the maps of an earlier agent use."""
    return frozenset(identity for identity, _ in _known(targets.bits) if is_node_local(identity)) | {
        entry.sec_identity
        for reconciler in (*targets.endpoints, targets.processes)
        for entry in _known(reconciler).values()
        if is_node_local(entry.sec_identity)
    }


def nodes_in_use(targets: Targets) -> dict[int, Address]:
    """The node ids that the map of an earlier agent uses, with the addresses."""
    return {number: target.address for number, target in _known(targets.nodes).items()}


def discard_unreferenced(targets: Targets, now: float) -> None:
    """Remove policies that no endpoint has, their rows and their banks, before numbers are given out.

    An agent that ended before it had flipped its endpoints left them; a start after the next would find no room.
    """
    policy_ids = {
        entry.policy_id for each in (*targets.endpoints, targets.processes) for entry in _known(each).values()
    }
    policies = {number: entry for number, entry in _known(targets.policies).items() if number in policy_ids}
    banks = {bank for entry in policies.values() for bank in entry.banks}
    _keep_only(targets.policies, policies, now)
    _keep_only(targets.rows, {key: row for key, row in _known(targets.rows).items() if key.policy_id in policies}, now)
    _keep_only(targets.bits, {key: words for key, words in _known(targets.bits).items() if key[1] in banks}, now)


@dataclass(frozen=True, slots=True)
class KernelMemory:
    """What the kernel's entries say of one endpoint."""

    endpoint_id: int
    sec_identity: int
    mac: bytes
    host_mac: bytes
    ipv4: IPv4Address | None = None
    ipv6: IPv6Address | None = None
    host_ports: tuple[HostPort, ...] = ()


def kernel_memory(targets: Targets) -> dict[int, KernelMemory]:
    """What the kernel remembers of the endpoints of an earlier agent, by interface index."""
    found: dict[int, KernelMemory] = {}
    host_ports = targets.services.host_ports() if targets.services is not None else {}
    for reconciler in targets.endpoints:
        for address, entry in _known(reconciler).items():
            memory = found.get(entry.ifindex) or KernelMemory(
                entry.endpoint_id, entry.sec_identity, entry.mac, entry.host_mac
            )
            own = {"ipv4": address} if address.version == 4 else {"ipv6": address}
            ports = dict.fromkeys((*memory.host_ports, *host_ports.get(address, ())))
            found[entry.ifindex] = replace(memory, **own, host_ports=tuple(ports))
    return found


def processes_in_kernel(targets: Targets) -> dict[int, ProcessTarget]:
    """What the kernel remembers of endpoints that are processes, by cgroup id."""
    return _known(targets.processes)


def _cidrs_of_rules(prefixes: Mapping[Network, IpcacheTarget]) -> dict[Network, int]:
    """The prefixes that rules named, with their identities for what lies outside.

    Within the pod CIDR of another node only the identity for what lies inside is written, which is the next number.
    """
    cidrs = {prefix: entry.sec_identity for prefix, entry in prefixes.items() if _is_outside(entry.sec_identity)}
    known = set(cidrs.values())
    for prefix, entry in prefixes.items():
        if (
            not _is_outside(entry.sec_identity)
            and is_local(entry.cidr_identity)
            and entry.cidr_identity - 1 not in known
        ):
            cidrs[prefix] = entry.cidr_identity - 1
    return cidrs


def _may_be_of_rule(entry: IpcacheTarget) -> bool:
    unmanaged = entry.sec_identity == ReservedIdentity.UNMANAGED and entry.node_id != 0
    return unmanaged or _is_outside(entry.sec_identity)


def _is_outside(identity: int) -> bool:
    return is_local(identity) or identity in (ReservedIdentity.WORLD_IPV4, ReservedIdentity.WORLD_IPV6)


def _keep_only(reconciler: Reconciler[K, V], kept: Mapping[K, V], now: float) -> None:
    reconciler.desired_replace(kept)
    reconciler.run_deletes(now)
    reconciler.desired_replace({})


def _known(reconciler: Reconciler[K, V]) -> dict[K, V]:
    """What the target is known to hold; right after a resync that is all of it."""
    return {key: value for key, value in reconciler.tracker.realized.items() if not isinstance(value, Uncertain)}

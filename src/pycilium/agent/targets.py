"""The reconcilers of one node, and how desired objects translate to the entries of the kernel's maps.

    stage 1  routes           to pod CIDRs of other nodes: what they lead to is the datapath's alone to decide
          2  identity bits
          3  policy rows
          4  policies         a policy waits until its rows and the identity bits of its banks are there
          5  nodes            where the other nodes are reached
          6  ipcache          a prefix waits until its node and the bits of its identity are there
          7  endpoint entries an endpoint waits until its policy is there
          8  masquerade       exceptions, then the node's addresses (agent/masquerade.py)
          9  links

Waiting is what makes a full map fail closed for what is new and leave alone what already works.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, Generic, Protocol, TypeVar

from pycilium.agent.cluster import NodeTarget, RouteTarget
from pycilium.agent.ipcache import IpcacheTarget, Key, key_of, network_of
from pycilium.agent.link_operations import AnyTarget
from pycilium.agent.masquerade import MasqueradeTargets
from pycilium.datapath import layouts
from pycilium.datapath.codec import MapSpec
from pycilium.datapath.maps import AnyMap, MapOperations, Translation
from pycilium.model.identity import ReservedIdentity, is_local, is_node_local
from pycilium.model.peer import Address, Network
from pycilium.model.policy import Direction
from pycilium.policy import NumbersInUse, PolicyEntry, Row, RowKey
from pycilium.reconcile import Operations, Reconciler, Stages, Uncertain

BitsKey = tuple[int, int]
"""identity, bank"""
Words = tuple[int, int, int, int, int, int, int, int]
K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class EndpointTarget:
    """What the kernel knows of an address of a local endpoint."""

    ifindex: int
    sec_identity: int
    cidr_identity: int
    policy_id: int
    endpoint_id: int
    mac: bytes
    host_mac: bytes


class MapSource(Protocol):
    """Where the maps come from: a loaded Datapath, or fakes."""

    def map(self, spec: MapSpec[Any, Any]) -> AnyMap[Any, Any]: ...


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
    masquerade: MasqueradeTargets
    links: Reconciler[str, AnyTarget]
    routes: Reconciler[Network, RouteTarget]
    stages: Stages


def make_targets(
    datapath: MapSource, links: Operations[str, AnyTarget], routes: Operations[Network, RouteTarget]
) -> Targets:
    """Reconcilers on the maps of a loaded datapath; `resync` them before the first round."""
    bits: Reconciler[BitsKey, Words] = Reconciler("identity bits", _operations(datapath, "identity_bits", _BITS))
    rows: Reconciler[RowKey, Row] = Reconciler("policy rows", _operations(datapath, "policy_rows", _ROWS))
    policies: Reconciler[int, PolicyEntry] = Reconciler(
        "policies",
        _operations(datapath, "policies", _POLICIES),
        ready=lambda policy_id, entry: _policy_ready(rows, bits, policy_id, entry),
    )
    nodes: Reconciler[int, NodeTarget] = Reconciler("nodes", _operations(datapath, "nodes", _NODES))
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
            for version, translation in ((4, _IPCACHE4), (6, _IPCACHE6))
        )
    )
    endpoints = ByFamily[Address, EndpointTarget](
        *(
            Reconciler(
                f"endpoints{version}",
                _operations(datapath, f"endpoints{version}", translation),
                ready=lambda _, entry: (
                    entry.policy_id in policies.tracker.realized
                    and entry.policy_id not in policies.tracker.pending_updates
                    and _bits_ready(bits, entry.sec_identity, entry.cidr_identity)
                ),
            )
            for version, translation in ((4, _ENDPOINTS4), (6, _ENDPOINTS6))
        )
    )
    masquerade = MasqueradeTargets.make(datapath.map)
    attached: Reconciler[str, AnyTarget] = Reconciler("links", links)
    routed: Reconciler[Network, RouteTarget] = Reconciler("routes", routes)
    return Targets(
        bits=bits,
        rows=rows,
        policies=policies,
        nodes=nodes,
        ipcache=ipcache,
        endpoints=endpoints,
        masquerade=masquerade,
        links=attached,
        routes=routed,
        stages=Stages([routed, bits, rows, policies, nodes, *ipcache, *endpoints, *masquerade.reconcilers, attached]),
    )


def numbers_in_use(targets: Targets) -> NumbersInUse:
    """The numbers that the maps of an earlier agent use; call after the resync."""
    policies, rows, bits = _known(targets.policies), _known(targets.rows), _known(targets.bits)
    prefixes = {network_of(key): entry for reconciler in targets.ipcache for key, entry in _known(reconciler).items()}
    identities = {identity for identity, _ in bits}
    identities |= {number for entry in prefixes.values() for number in (entry.sec_identity, entry.cidr_identity)}
    banks = {bank for _, bank in bits} | {key.bank for key in rows}
    banks.update(bank for entry in policies.values() for bank in entry.banks)
    return NumbersInUse(
        policy_ids=frozenset(policies) | {key.policy_id for key in rows},
        banks=frozenset(banks),
        local_identities=frozenset(filter(is_local, identities)),
        cidrs=_cidrs_of_rules(prefixes),
        bits=bits,
        max_revision=max((entry.revision for entry in policies.values()), default=0),
        max_row_id=max((row.row_id for row in rows.values()), default=0),
    )


def node_local_in_use(targets: Targets) -> frozenset[int]:
    """The identities of this node's own that the maps of an earlier agent use; call after the resync."""
    return frozenset(identity for identity, _ in _known(targets.bits) if is_node_local(identity)) | {
        entry.sec_identity
        for reconciler in targets.endpoints
        for entry in _known(reconciler).values()
        if is_node_local(entry.sec_identity)
    }


def nodes_in_use(targets: Targets) -> dict[int, Address]:
    """The node ids that the map of an earlier agent uses, with the addresses; call after the resync."""
    return {number: target.address for number, target in _known(targets.nodes).items()}


def _cidrs_of_rules(prefixes: Mapping[Network, IpcacheTarget]) -> dict[Network, int]:
    """The prefixes that rules named, with their identities for what lies outside.

    Within the pod CIDR of another node only the identity for what lies inside is written, which is the next number.
    """
    cidrs = {prefix: entry.sec_identity for prefix, entry in prefixes.items() if _is_outside(entry.sec_identity)}
    known = set(cidrs.values())
    for prefix, entry in prefixes.items():
        unmanaged = entry.sec_identity == ReservedIdentity.UNMANAGED and entry.node_id
        if unmanaged and is_local(entry.cidr_identity) and entry.cidr_identity - 1 not in known:
            cidrs[prefix] = entry.cidr_identity - 1
    return cidrs


def discard_unreferenced(targets: Targets, now: float) -> None:
    """Remove policies that no endpoint has, their rows and their banks, before numbers are given out.

    An agent that ended before it had flipped its endpoints left them; a start after the next would find no room.
    """
    policy_ids = {entry.policy_id for each in targets.endpoints for entry in _known(each).values()}
    policies = {number: entry for number, entry in _known(targets.policies).items() if number in policy_ids}
    banks = {bank for entry in policies.values() for bank in entry.banks}
    _keep_only(targets.policies, policies, now)
    _keep_only(targets.rows, {key: row for key, row in _known(targets.rows).items() if key.policy_id in policies}, now)
    _keep_only(targets.bits, {key: words for key, words in _known(targets.bits).items() if key[1] in banks}, now)


def _keep_only(reconciler: Reconciler[K, V], kept: Mapping[K, V], now: float) -> None:
    reconciler.desired_replace(kept)
    reconciler.run_deletes(now)
    reconciler.desired_replace({})


@dataclass(frozen=True, slots=True)
class KernelMemory:
    """What the kernel's entries say of one endpoint."""

    endpoint_id: int
    sec_identity: int
    mac: bytes
    host_mac: bytes
    ipv4: IPv4Address | None = None
    ipv6: IPv6Address | None = None


def kernel_memory(targets: Targets) -> dict[int, KernelMemory]:
    """What the kernel remembers of the endpoints of an earlier agent, by interface index; call after the resync."""
    found: dict[int, KernelMemory] = {}
    for reconciler in targets.endpoints:
        for address, entry in _known(reconciler).items():
            memory = found.get(entry.ifindex) or KernelMemory(
                entry.endpoint_id, entry.sec_identity, entry.mac, entry.host_mac
            )
            own = {"ipv4": address} if address.version == 4 else {"ipv6": address}
            found[entry.ifindex] = replace(memory, **own)
    return found


def _known(reconciler: Reconciler[K, V]) -> dict[K, V]:
    """What the target is known to hold; right after a resync that is all of it."""
    return {key: value for key, value in reconciler.tracker.realized.items() if not isinstance(value, Uncertain)}


def _is_outside(identity: int) -> bool:
    return is_local(identity) or identity in (ReservedIdentity.WORLD_IPV4, ReservedIdentity.WORLD_IPV6)


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


def _prefix_len(key: Key) -> int:
    return key.max_prefixlen if isinstance(key, (IPv4Address, IPv6Address)) else key.prefixlen


def _first_address(key: Key) -> Address:
    return key if isinstance(key, (IPv4Address, IPv6Address)) else key.network_address


_IPV4_IN_IPV6 = bytes(10) + b"\xff\xff"
_ANY_PROTOCOL_BITS = int(layouts.PolicyLimits.ROW_PREFIX_ANY)
_PROTOCOL_BITS = int(layouts.PolicyLimits.ROW_PREFIX_PROTO)


def _row_key(key: RowKey) -> layouts.PolicyRowKey:
    return layouts.PolicyRowKey(
        prefix_len=key.prefix_len,
        policy_id=key.policy_id,
        bank=key.bank,
        direction=key.direction,
        protocol=key.protocol or 0,
        port=key.port,
    )


def _row_key_back(raw: layouts.PolicyRowKey) -> RowKey:
    protocol = raw.protocol if raw.prefix_len > _ANY_PROTOCOL_BITS else None
    port_prefix = max(0, raw.prefix_len - _PROTOCOL_BITS)
    return RowKey(raw.policy_id, raw.bank, Direction(raw.direction), protocol, raw.port, port_prefix)


def _endpoint_entry(value: EndpointTarget) -> layouts.EndpointEntry:
    return layouts.EndpointEntry(
        ifindex=value.ifindex,
        sec_identity=value.sec_identity,
        cidr_identity=value.cidr_identity,
        policy_id=value.policy_id,
        endpoint_id=value.endpoint_id,
        mac=value.mac,
        host_mac=value.host_mac,
    )


def _endpoint_entry_back(raw: layouts.EndpointEntry) -> EndpointTarget:
    return EndpointTarget(
        raw.ifindex, raw.sec_identity, raw.cidr_identity, raw.policy_id, raw.endpoint_id, raw.mac, raw.host_mac
    )


def _ipcache_entry(value: IpcacheTarget) -> layouts.IpcacheEntry:
    return layouts.IpcacheEntry(
        sec_identity=value.sec_identity, cidr_identity=value.cidr_identity, node_id=value.node_id
    )


def _ipcache_entry_back(raw: layouts.IpcacheEntry) -> IpcacheTarget:
    return IpcacheTarget(raw.sec_identity, raw.cidr_identity, raw.node_id)


def _node_entry(value: NodeTarget) -> layouts.NodeEntry:
    address = value.address
    packed = address.packed if isinstance(address, IPv6Address) else _IPV4_IN_IPV6 + address.packed
    return layouts.NodeEntry(
        address=packed,
        ifindex=value.ifindex,
        mtu_bytes=value.mtu_bytes,
        family=address.version,
        flags=int(layouts.NodeFlags.TUNNEL) if value.tunnel else 0,
    )


def _node_entry_back(raw: layouts.NodeEntry) -> NodeTarget:
    address = IPv6Address(raw.address)
    return NodeTarget(
        address=address.ipv4_mapped or address,
        ifindex=raw.ifindex,
        mtu_bytes=raw.mtu_bytes,
        tunnel=bool(raw.flags & layouts.NodeFlags.TUNNEL),
    )


def _banks_padded(value: PolicyEntry) -> layouts.PolicyEntry:
    padding = (0,) * (layouts.PolicyLimits.MAX_BANKS - len(value.banks))
    return layouts.PolicyEntry(revision=value.revision, bank_count=len(value.banks), banks=(*value.banks, *padding))


@lru_cache(maxsize=4096)
def _shared(words: Words) -> Words:
    """Equal words as one object: thousands of entries of a dump hold the same few."""
    return words


_same: Callable[[Any], Any] = lambda value: value  # noqa: E731

_BITS: Translation[Any, Any, Any, Any] = Translation(
    to_key=lambda key: layouts.IdentityBitsKey(sec_identity=key[0], bank=key[1]),
    to_value=lambda words: layouts.SelectorBits(words=tuple(words)),
    from_key=lambda raw: (raw.sec_identity, raw.bank),
    from_value=lambda raw: _shared(tuple(raw.words)),
)
_ROWS: Translation[Any, Any, Any, Any] = Translation(
    to_key=_row_key,
    to_value=lambda row: layouts.PolicyRow(
        allow=layouts.SelectorBits(words=tuple(row.allow)),
        deny=layouts.SelectorBits(words=tuple(row.deny)),
        row_id=row.row_id,
        flags=row.flags,
    ),
    from_key=_row_key_back,
    from_value=lambda raw: Row(_shared(tuple(raw.allow.words)), _shared(tuple(raw.deny.words)), raw.row_id, raw.flags),
)
_POLICIES: Translation[Any, Any, Any, Any] = Translation(
    to_key=_same,
    to_value=_banks_padded,
    from_key=_same,
    from_value=lambda raw: PolicyEntry(raw.revision, tuple(raw.banks[: raw.bank_count])),
)
_NODES: Translation[Any, Any, Any, Any] = Translation(
    to_key=_same, to_value=_node_entry, from_key=_same, from_value=_node_entry_back
)
_IPCACHE4: Translation[Any, Any, Any, Any] = Translation(
    to_key=lambda key: layouts.Ipcache4Key(prefix_len=_prefix_len(key), address=int(_first_address(key))),
    to_value=_ipcache_entry,
    from_key=lambda raw: key_of(IPv4Network((raw.address, raw.prefix_len))),
    from_value=_ipcache_entry_back,
)
_IPCACHE6: Translation[Any, Any, Any, Any] = Translation(
    to_key=lambda key: layouts.Ipcache6Key(prefix_len=_prefix_len(key), address=_first_address(key).packed),
    to_value=_ipcache_entry,
    from_key=lambda raw: key_of(IPv6Network((raw.address, raw.prefix_len))),
    from_value=_ipcache_entry_back,
)
_ENDPOINTS4: Translation[Any, Any, Any, Any] = Translation(
    to_key=lambda address: layouts.Endpoint4Key(address=int(address)),
    to_value=_endpoint_entry,
    from_key=lambda raw: IPv4Address(raw.address),
    from_value=_endpoint_entry_back,
)
_ENDPOINTS6: Translation[Any, Any, Any, Any] = Translation(
    to_key=lambda address: layouts.Endpoint6Key(address=address.packed),
    to_value=_endpoint_entry,
    from_key=lambda raw: IPv6Address(raw.address),
    from_value=_endpoint_entry_back,
)

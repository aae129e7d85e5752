"""How desired objects translate to the entries of the kernel's maps, and back; exact inverses."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPV4LENGTH, IPV6LENGTH, IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

from pycilium.agent.ipcache import IpcacheTarget, Key, shared_target
from pycilium.agent.nodes.cluster import NodeTarget
from pycilium.datapath import layouts
from pycilium.datapath.maps import Translation
from pycilium.model.peer import Address
from pycilium.model.policy import Direction
from pycilium.policy import PolicyEntry, Row, RowKey

BitsKey = tuple[int, int]
"""identity, bank"""
Words = tuple[int, int, int, int, int, int, int, int]


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


@dataclass(frozen=True, slots=True)
class ProcessTarget:
    """What the kernel knows of an endpoint that is processes of the node, by their cgroup's id."""

    sec_identity: int
    policy_id: int
    endpoint_id: int


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
    return shared_target(raw.sec_identity, raw.cidr_identity, raw.node_id)


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


def _levels_padded(levels: tuple[int, ...]) -> layouts.ProcessLevels:
    return layouts.ProcessLevels(count=len(levels), levels=bytes(levels).ljust(layouts.ProcessLimits.LEVELS_MAX, b"\0"))


def _same(value: Any) -> Any:
    return value


BITS: Translation[Any, Any, Any, Any] = Translation(
    to_key=lambda key: layouts.IdentityBitsKey(sec_identity=key[0], bank=key[1]),
    to_value=lambda words: layouts.SelectorBits(words=tuple(words)),
    from_key=lambda raw: (raw.sec_identity, raw.bank),
    from_value=lambda raw: _shared(tuple(raw.words)),
)
ROWS: Translation[Any, Any, Any, Any] = Translation(
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
POLICIES: Translation[Any, Any, Any, Any] = Translation(
    to_key=_same,
    to_value=_banks_padded,
    from_key=_same,
    from_value=lambda raw: PolicyEntry(raw.revision, tuple(raw.banks[: raw.bank_count])),
)
NODES: Translation[Any, Any, Any, Any] = Translation(
    to_key=_same, to_value=_node_entry, from_key=_same, from_value=_node_entry_back
)
IPCACHE4: Translation[Any, Any, Any, Any] = Translation(
    to_key=lambda key: layouts.Ipcache4Key(prefix_len=_prefix_len(key), address=int(_first_address(key))),
    to_value=_ipcache_entry,
    from_key=lambda raw: (
        IPv4Address(raw.address) if raw.prefix_len == IPV4LENGTH else IPv4Network((raw.address, raw.prefix_len))
    ),
    from_value=_ipcache_entry_back,
)
IPCACHE6: Translation[Any, Any, Any, Any] = Translation(
    to_key=lambda key: layouts.Ipcache6Key(prefix_len=_prefix_len(key), address=_first_address(key).packed),
    to_value=_ipcache_entry,
    from_key=lambda raw: (
        IPv6Address(raw.address) if raw.prefix_len == IPV6LENGTH else IPv6Network((raw.address, raw.prefix_len))
    ),
    from_value=_ipcache_entry_back,
)
ENDPOINTS4: Translation[Any, Any, Any, Any] = Translation(
    to_key=lambda address: layouts.Endpoint4Key(address=int(address)),
    to_value=_endpoint_entry,
    from_key=lambda raw: IPv4Address(raw.address),
    from_value=_endpoint_entry_back,
)
ENDPOINTS6: Translation[Any, Any, Any, Any] = Translation(
    to_key=lambda address: layouts.Endpoint6Key(address=address.packed),
    to_value=_endpoint_entry,
    from_key=lambda raw: IPv6Address(raw.address),
    from_value=_endpoint_entry_back,
)
PROCESSES: Translation[Any, Any, Any, Any] = Translation(
    to_key=lambda cgroup_id: layouts.ProcessKey(cgroup_id=cgroup_id),
    to_value=lambda value: layouts.ProcessEntry(
        sec_identity=value.sec_identity, policy_id=value.policy_id, endpoint_id=value.endpoint_id
    ),
    from_key=lambda raw: raw.cgroup_id,
    from_value=lambda raw: ProcessTarget(raw.sec_identity, raw.policy_id, raw.endpoint_id),
)
PROCESS_LEVELS: Translation[Any, Any, Any, Any] = Translation(
    to_key=_same,
    to_value=_levels_padded,
    from_key=_same,
    from_value=lambda raw: tuple(raw.levels[: raw.count]),
)

"""The plan of a lab: which nodes it has and which addresses they get. Pure.

```
   underlay   172.18.0.0/24  fd00:172:18::/64     .1 the world   .2 the store   .11 node 1   .12 node 2 …
              172.18.1.0/24  fd00:172:18:1::/112  load balancers: on the same link, announced by the nodes
   node N     pods 10.0.N.0/24  fd00:10:0:N::/112
   services   10.96.0.0/16  fd00:96::/112
```

Decimal digits stand for themselves in IPv6 addresses, so that both families show the same number.
Invariant: no two nodes of a lab share an address, and a node's number decides them all until it is readdressed.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

import msgspec

from pycilium.errors import AlreadyExists, ConfigError
from pycilium.lab.layout import (
    DEFAULT_LAB,
    DEFAULT_MTU_BYTES,
    EXTERNAL_STORE,
    STORES,
    IpamMode,
    LabRecord,
    LoadBalancing,
    NodeRecord,
    RoutingMode,
    UnderlayFamily,
    check_node_name,
)
from pycilium.store.urls import hide_password

FAMILIES = ("ipv4", "ipv6")
MAX_NODES = 200
MAX_MTU_BYTES = 9216
IPV6_MIN_MTU_BYTES = 1280
IPV4_MIN_MTU_BYTES = 576
TUNNEL_OVERHEAD_BYTES = {"ipv4": 50, "ipv6": 70}
"""Outer Ethernet, IP, UDP and VXLAN headers, by the family of the outer one."""

WORLD_ETH0 = {"ipv4": "172.18.0.1", "ipv6": "fd00:172:18::1"}
STORE_ETH0 = {"ipv4": "172.18.0.2", "ipv6": "fd00:172:18::2"}
UNDERLAY = {"ipv4": ipaddress.ip_network("172.18.0.0/24"), "ipv6": ipaddress.ip_network("fd00:172:18::/64")}
LOAD_BALANCERS = {"ipv4": "172.18.1.0/24", "ipv6": "fd00:172:18:1::/112"}
SERVICES = {"ipv4": "10.96.0.0/16", "ipv6": "fd00:96::/112"}
_FIRST_NODE = 10


@dataclass(frozen=True, slots=True)
class UpOptions:
    """What `cilium lab up` can be asked for."""

    name: str = DEFAULT_LAB
    node_count: int = 1
    ip_families: tuple[str, ...] = FAMILIES
    store: str = "sqlite"
    routing_mode: RoutingMode = "tunnel"
    underlay_family: UnderlayFamily = "auto"
    mtu_bytes: int = DEFAULT_MTU_BYTES
    load_balancing: LoadBalancing = field(default_factory=LoadBalancing)
    ipam: IpamMode = "host-scope"
    with_agents: bool = True


def plan(options: UpOptions) -> LabRecord:
    """The lab that `up` will make. ConfigError when it asks for what does not exist."""
    families = options.ip_families
    if not families or any(family not in FAMILIES for family in families):
        raise ConfigError(f"--ip-families {','.join(families)!r}: use ipv4, ipv6 or ipv4,ipv6")
    if not 1 <= options.node_count <= MAX_NODES:
        raise ConfigError(f"--nodes {options.node_count}: use 1 to {MAX_NODES}")
    external = options.store.startswith(EXTERNAL_STORE)
    if options.store not in STORES and not external:
        raise ConfigError(
            f"--store {hide_password(options.store)}: use {' or '.join(STORES)}, or the URL of an API server: "
            f"{EXTERNAL_STORE}, {EXTERNAL_STORE}///PATH-OF-A-KUBECONFIG?context=NAME, "
            f"{EXTERNAL_STORE}?server=http://127.0.0.1:8001"
        )
    record = LabRecord(
        name=options.name,
        ip_families=tuple(family for family in FAMILIES if family in families),
        underlay=f"cilium-{options.name}-underlay",
        world=f"cilium-{options.name}-world",
        nodes=(),
        routing_mode=options.routing_mode,
        underlay_family=options.underlay_family,
        mtu_bytes=options.mtu_bytes,
        load_balancing=options.load_balancing,
        etcd=f"cilium-{options.name}-etcd" if options.store == "etcd" else None,
        store_url=options.store if external else None,
        gate=f"cilium-{options.name}-gate" if external else None,
        planned_nodes=options.node_count,
        ipam=options.ipam,
    )
    check_routing(record, options.routing_mode)
    for _ in range(options.node_count):
        record = record.with_node(next_node(record))
    return record


def check_routing(record: LabRecord, mode: RoutingMode) -> None:
    """ConfigError when the lab's underlay cannot carry its pods' packets in that mode."""
    foreign = [family for family in record.ip_families if family not in record.underlay_families]
    if mode == "native" and foreign:
        raise ConfigError(
            f"routing mode native: pods have {foreign[0]} and the underlay speaks {record.underlay_families[0]} only; "
            f"use tunnel, or an underlay that speaks {foreign[0]}"
        )
    least = IPV6_MIN_MTU_BYTES if "ipv6" in record.ip_families else IPV4_MIN_MTU_BYTES
    overhead = record.mtu_bytes - pod_mtu_bytes(record, mode)
    if not least + overhead <= record.mtu_bytes <= MAX_MTU_BYTES:
        raise ConfigError(
            f"--mtu {record.mtu_bytes}: use {least + overhead} to {MAX_MTU_BYTES}, "
            f"so that pods have at least {least} after {overhead} of outer headers"
        )


def pod_mtu_bytes(record: LabRecord, mode: RoutingMode) -> int:
    """What is left to pods of the underlay's MTU."""
    return record.mtu_bytes - (TUNNEL_OVERHEAD_BYTES[outer_family(record)] if mode == "tunnel" else 0)


def outer_family(record: LabRecord) -> str:
    """The family in which nodes reach each other."""
    return record.underlay_families[0]


def next_node(record: LabRecord, name: str | None = None) -> NodeRecord:
    """A further node: the lowest number that is free, called `node<number>` unless a name is given."""
    numbers = {node.number for node in record.nodes}
    names = {node.name for node in record.nodes}
    free = (number for number in range(1, MAX_NODES + 1) if number not in numbers)
    number = next((number for number in free if name or f"node{number}" not in names), None)
    if number is None:
        raise ConfigError(f"lab {record.name} has {len(numbers)} nodes, and {MAX_NODES} are the most")
    name = name or f"node{number}"
    check_node_name(name)
    if name in names:
        raise AlreadyExists(f"lab {record.name} has a node {name} already; choose another name")
    underlay, pods = record.underlay_families, record.ip_families
    return NodeRecord(
        name=name,
        number=number,
        namespace=f"cilium-{record.name}-{name}",
        ipv4=_free_address(record, "ipv4", number) if "ipv4" in underlay else None,
        ipv6=_free_address(record, "ipv6", number) if "ipv6" in underlay else None,
        ipv4_pod_cidr=f"10.0.{number}.0/24" if "ipv4" in pods else None,
        ipv6_pod_cidr=f"fd00:10:0:{number}::/112" if "ipv6" in pods else None,
    )


def readdressed(record: LabRecord, name: str, ipv4: str | None, ipv6: str | None) -> NodeRecord:
    """The node with other addresses on the underlay. ConfigError for addresses that it cannot have."""
    node = record.node(name)
    for family, wanted, has in (("ipv4", ipv4, node.ipv4), ("ipv6", ipv6, node.ipv6)):
        if wanted is not None:
            _check_address(record, node, family, wanted, has)
    if ipv4 is None and ipv6 is None:
        ipv4 = _next_address(record, "ipv4") if node.ipv4 else None
        ipv6 = _next_address(record, "ipv6") if node.ipv6 else None
    return msgspec.structs.replace(node, ipv4=_canonical(ipv4) or node.ipv4, ipv6=_canonical(ipv6) or node.ipv6)


def capacities(node_count: int) -> dict[str, int]:
    """Sizes of a node's maps and of its flow store: what one node may use, shared by all of the lab."""
    share = max(1, node_count)
    return {
        "conntrack_capacity": max(16384, _power_of_two(262144 // share)),
        "event_ring_bytes": max(1 << 20, _power_of_two((8 << 20) // share)),
        "flow_capacity": max(8192, _power_of_two(65536 // share)),
        "ipcache_capacity": 65536,
        "identity_capacity": 65536,
        "policy_row_capacity": 65536,
        "endpoint_capacity": 1024,
        "service_flow_capacity": max(16384, _power_of_two(262144 // share)),
        "socket_capacity": max(16384, _power_of_two(131072 // share)),
        "affinity_capacity": max(8192, _power_of_two(65536 // share)),
    }


def _power_of_two(number: int) -> int:
    """The highest that is not above `number`."""
    return 1 << (number.bit_length() - 1)


def _free_address(record: LabRecord, family: str, number: int) -> str:
    """The one that belongs to the number; the next that nobody has if another node was given it."""
    wanted = _numbered(family, _FIRST_NODE + number)
    return wanted if wanted not in _taken(record) else _next_address(record, family)


def _next_address(record: LabRecord, family: str) -> str:
    """One that neither a node has nor the number of a node that may come."""
    taken = _taken(record)
    hosts = range(_FIRST_NODE + MAX_NODES + 1, 255)
    found = next((address for host in hosts if (address := _numbered(family, host)) not in taken), None)
    if found is None:
        raise ConfigError(f"no address of {UNDERLAY[family]} is free; name one with --{family}")
    return found


def _numbered(family: str, host: int) -> str:
    return f"172.18.0.{host}" if family == "ipv4" else f"fd00:172:18::{host}"


def _taken(record: LabRecord) -> set[str]:
    return {*WORLD_ETH0.values(), *STORE_ETH0.values(), *(a for node in record.nodes for a in node.addresses)}


def _check_address(record: LabRecord, node: NodeRecord, family: str, wanted: str, has: str | None) -> None:
    network = UNDERLAY[family]
    try:
        address = ipaddress.ip_address(wanted)
    except ValueError as error:
        raise ConfigError(f"--{family} {wanted}: {error}") from error
    if has is None:
        raise ConfigError(f"--{family} {wanted}: the underlay of lab {record.name} speaks no {family}")
    if address not in network or address in (network.network_address, network.broadcast_address):
        raise ConfigError(f"--{family} {wanted}: use an address of the underlay, {network}")
    if str(address) in _taken(record) - set(node.addresses):
        raise ConfigError(f"--{family} {wanted}: somebody else on the underlay has that address")


def _canonical(address: str | None) -> str | None:
    return str(ipaddress.ip_address(address)) if address else None

"""The node's BPF maps as the agent's API shows them: how full they are, and what is in one.

Reads only. What the agent itself wrote is told from its reconcilers where the map cannot be walked (ipcache), and read
from the kernel where programs write too (conntrack, NAT, metrics).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from itertools import islice

from pycilium.agent import views
from pycilium.agent.parts import Parts
from pycilium.agent.services import map_views as service_map_views
from pycilium.api import messages
from pycilium.datapath import conntrack, layouts, nat
from pycilium.datapath.codec import MapType
from pycilium.datapath.loader import Datapath
from pycilium.model.drop_reason import drop_reason_text

SHOWN_ENTRIES = 100_000
CONNTRACK_MAPS = ("ct4", "ct6")
IPCACHE_MAPS = ("ipcache4", "ipcache6")
NAT_MAPS = ("nat4", "nat6")


def maps(parts: Parts) -> list[messages.BpfMap]:
    folder = f"{parts.config.bpf_root}/maps"
    entries = {**parts.controller.entry_counts(), **parts.fill.entries}
    return [
        messages.BpfMap(
            path=f"{folder}/{name}",
            name=name,
            size=parts.sizes[name],
            entries=entries.get(name),
        )
        for name in sorted(layouts.MAPS)
    ]


def entries(parts: Parts, name: str) -> list[messages.MapEntry]:
    if name == "metrics":
        return list(_metrics_entries(parts.datapath))
    if name in CONNTRACK_MAPS:
        return list(_connections(parts.datapath, name))
    if name in IPCACHE_MAPS:
        return _ipcache(parts, 4 if name == "ipcache4" else 6)
    if name in NAT_MAPS:
        return list(_mappings(parts.datapath, name))
    services = service_map_views.entries(parts.datapath, name)
    if services is not None:
        return services
    spec = layouts.MAPS[name]
    if spec.type is MapType.RINGBUF or spec.type.is_percpu:
        return []  # events are read once and by one; what a program notes for itself while it runs means nothing after
    with parts.datapath.map(spec) as opened:
        return [
            messages.MapEntry(key=views.entry_text(key), value=views.entry_text(value))
            for _, (key, value) in zip(range(SHOWN_ENTRIES), opened.items(), strict=False)
        ]


def _ipcache(parts: Parts, version: int) -> list[messages.MapEntry]:
    """As the kernel has it, so far as the agent knows."""
    nodes = parts.controller.cluster.nodes
    prefixes = ((prefix, entry) for prefix, entry in parts.controller.realized_prefixes() if prefix.version == version)
    return [
        messages.MapEntry(key=str(prefix), value=views.ipcache_text(entry, nodes.get(entry.node_id)))
        for prefix, entry in islice(prefixes, SHOWN_ENTRIES)
    ]


def _metrics_entries(datapath: Datapath) -> Iterable[messages.MapEntry]:
    directions = {1: "ingress", 2: "egress"}
    with contextlib.closing(datapath.percpu(layouts.METRICS)) as metrics:
        for index, (packets, octets) in sorted(metrics.sums().items()):
            if packets:
                reason, direction = index & 0xFF, directions.get(index >> 8, "unknown")
                text = drop_reason_text(reason) if reason else "Success"
                yield messages.MapEntry(
                    key=f"reason={reason} ({text}) direction={direction}", value=f"packets={packets} bytes={octets}"
                )


def _connections(datapath: Datapath, name: str) -> Iterable[messages.MapEntry]:
    with datapath.map(layouts.MAPS[name]) as opened:
        for _, connection in zip(range(SHOWN_ENTRIES), conntrack.connections(opened), strict=False):
            key = (
                f"{_protocol_name(connection.protocol)} {connection.source} {connection.source_port} -> "
                f"{connection.destination} {connection.destination_port}"
            )
            value = (
                f"state={connection.state.name.lower()} expires={connection.expires_s - int(time.monotonic())}s "
                f"identities={connection.source_identity}->{connection.destination_identity} "
                f"revisions={connection.egress_revision}/{connection.ingress_revision}"
            )
            yield messages.MapEntry(key=key, value=value)


def _mappings(datapath: Datapath, name: str) -> Iterable[messages.MapEntry]:
    with datapath.map(layouts.MAPS[name]) as opened:
        for _, mapping in zip(range(SHOWN_ENTRIES), nat.mappings(opened), strict=False):
            key = (
                f"{_protocol_name(mapping.protocol)} {mapping.inside} {mapping.inside_port} -> "
                f"{mapping.remote} {mapping.remote_port}"
            )
            value = (
                f"source={mapping.outside} {mapping.outside_port} used={int(time.monotonic()) - mapping.used_s}s ago"
            )
            yield messages.MapEntry(key=key, value=value)


def _protocol_name(number: int) -> str:
    return {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6", 132: "SCTP"}.get(number, str(number))

"""Whether the kernel's ipcache says of every prefix what its agent believes that it says.

The agent answers from what it wrote; so an entry that something else took away or changed shows only here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

from pycilium.datapath import layouts
from pycilium.datapath.maps import Map

Said = tuple[int, str]
"""The identity behind a prefix, and the address of the node that it is on; "" for none."""


def read(maps: Path) -> dict[str, Said]:
    """What the maps that are pinned in a folder say."""
    with (
        Map.open(maps / "ipcache4", layouts.IPCACHE4) as ipcache4,
        Map.open(maps / "ipcache6", layouts.IPCACHE6) as ipcache6,
        Map.open(maps / "nodes", layouts.NODES) as nodes,
    ):
        return said(ipcache4.items(), ipcache6.items(), dict(nodes.items()))


def said(
    ipcache4: Iterable[tuple[layouts.Ipcache4Key, layouts.IpcacheEntry]],
    ipcache6: Iterable[tuple[layouts.Ipcache6Key, layouts.IpcacheEntry]],
    nodes: Mapping[int, layouts.NodeEntry],
) -> dict[str, Said]:
    """The same of entries, by prefix."""
    found = {str(IPv4Network((key.address, key.prefix_len))): entry for key, entry in ipcache4}
    found |= {str(IPv6Network((key.address, key.prefix_len))): entry for key, entry in ipcache6}
    return {prefix: (entry.sec_identity, _address(entry.node_id, nodes)) for prefix, entry in found.items()}


def believed(entries: Iterable[Mapping[str, Any]]) -> dict[str, Said]:
    """What an agent answers at /ip."""
    return {entry["cidr"]: (entry["identity"], entry.get("hostIP", "")) for entry in entries}


def differences(kernel: Mapping[str, Said], agent: Mapping[str, Said]) -> Iterator[str]:
    """In words."""
    for prefix in sorted(kernel.keys() | agent.keys()):
        if kernel.get(prefix) != agent.get(prefix):
            yield (
                f"ipcache: the kernel says {kernel.get(prefix)} of {prefix}, and its agent believes {agent.get(prefix)}"
            )


def _address(node_id: int, nodes: Mapping[int, layouts.NodeEntry]) -> str:
    if not node_id:
        return ""
    if node_id not in nodes:
        return f"node id {node_id}, which is nobody's"
    address = IPv6Address(nodes[node_id].address)
    return str(address.ipv4_mapped or address)

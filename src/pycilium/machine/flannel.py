"""What an ended flannel leaves on a node: its bridge, which the bridge plugin makes, and its overlay's device.

Flannel within k3s' own process is not seen here: who has its devices removed must know that it has ended.
Invariant: nothing is removed while flanneld runs or a pod is plugged into the bridge.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Sequence

from pycilium.datapath.netlink import Netlink
from pycilium.datapath.rtnetlink import Link, delete_link

BRIDGE = "cni0"
_KINDS = {BRIDGE: "bridge", "flannel.1": "vxlan"}
_DAEMON = "flanneld"


def devices(links: Sequence[Link]) -> list[str]:
    """Those that are there."""
    return [link.name for link in links if _KINDS.get(link.name) == link.kind]


def in_use(links: Sequence[Link], processes: Collection[str]) -> str:
    """Who uses them, in words, and how that ends; "" if nobody does, as far as this node tells."""
    if _DAEMON in processes:
        return f"{_DAEMON} runs: end it first"
    bridges = {link.ifindex for link in links if link.name == BRIDGE}
    ports = sum(link.master_ifindex in bridges for link in links)
    remedy = "reboot the node, or with k3s run `k3s-killall.sh` there and start it again"
    return f"pods of before use it ({ports}): {remedy}" if ports else ""


def remove(names: Sequence[str]) -> None:
    """Their addresses and routes go with them. One that is gone is no fault."""
    with Netlink.open() as channel:
        for name in names:
            channel.must([delete_link(name)], unless=(errno.ENODEV,))

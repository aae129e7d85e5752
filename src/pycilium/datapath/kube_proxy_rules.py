"""Whether a kube-proxy's rules are in the calling thread's network namespace.

In nftables, where iptables-nft has its too; what iptables-legacy has is not seen. Nothing is changed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from pycilium.datapath.netlink import Netlink, open_socket
from pycilium.datapath.rtnetlink import Query, attributes_in
from pycilium.errors import DatapathError

_NETLINK_NETFILTER = 12
_NFTABLES = 10 << 8
_NEW_CHAIN, _GET_CHAIN = _NFTABLES | 3, _NFTABLES | 4
_TABLE, _NAME = 1, 3
_FAMILY = struct.Struct("=BBH")
_ALL_CHAINS = Query(_GET_CHAIN, _FAMILY.pack(0, 0, 0), _NEW_CHAIN)

OWN_TABLE, OWN_CHAIN = "kube-proxy", "KUBE-SERVICES"
"""Its table in mode nftables; its first chain in modes iptables and ipvs. Other KUBE- chains are kubelet's."""


def is_there() -> bool:
    """Whether any is; no, where the kernel has no nftables."""
    try:
        with Netlink(open_socket(_NETLINK_NETFILTER)) as channel:
            return any_of_kube_proxy(map(_chain_in, channel.dump(_ALL_CHAINS)))
    except (OSError, DatapathError):
        return False


def any_of_kube_proxy(chains: Iterable[tuple[str, str]]) -> bool:
    """Of chains as table and name."""
    return any(table == OWN_TABLE or name == OWN_CHAIN for table, name in chains)


def _chain_in(payload: bytes) -> tuple[str, str]:
    found = attributes_in(payload, _FAMILY.size)
    table, name = (found.get(number, b"").rstrip(b"\0").decode(errors="replace") for number in (_TABLE, _NAME))
    return table, name

"""Forgets UDP flows to endpoints that serve no more, as kube-proxy does: else a client that goes on sending keeps them.

A Service that has nobody left is left alone. To be called inside the node's network namespace.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from pathlib import Path

from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple, NFCTSocket

from tests.kubeproxy.ports import Endpoint, Family, ProxyPort

TABLE = Path("/proc/thread-self/net/nf_conntrack")
"""Read as text: by netlink each of thousands of entries would be taken apart in Python."""
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


def forget_stale_flows(ports: Iterable[ProxyPort], family: Family) -> int:
    """Gives how many there were."""
    by_address: dict[tuple[str, int], set[Endpoint]] = {}
    by_node_port: dict[int, set[Endpoint]] = {}
    for port in ports:
        if port.spec.protocol == "UDP" and port.serving:
            for address in (port.cluster_ip, *port.external_ips, *port.load_balancer_ips):
                by_address[address, port.spec.port] = set(port.serving)
            if port.node_port:
                by_node_port[port.node_port] = set(port.serving)
    stale = []
    for asked, answering in _udp_flows(family):
        serving = by_address.get((asked.daddr, asked.dport)) or by_node_port.get(asked.dport)
        if serving and answering not in serving:
            stale.append(asked)
    if stale:
        with NFCTSocket(nfgen_family=_FAMILIES[family]) as table:
            for asked in stale:
                try:
                    table.entry("del", tuple_orig=asked)
                except NetlinkError as error:
                    if error.code != errno.ENOENT:  # it may have ended by itself
                        raise
    return len(stale)


def _udp_flows(family: Family) -> Iterator[tuple[NFCTAttrTuple, Endpoint]]:
    """What was asked, and who answers."""
    for line in TABLE.read_text(encoding="ascii").splitlines():
        words = line.split()
        if words[0] == f"ipv{family}" and words[2] == "udp":
            fields = [word.partition("=")[2] for word in words if word.startswith(("src=", "dst=", "sport=", "dport="))]
            source, destination, source_port, port, answering, _, answering_port, _ = fields
            asked = NFCTAttrTuple(
                family=_FAMILIES[family],
                saddr=str(ip_address(source)),
                daddr=str(ip_address(destination)),
                proto=socket.IPPROTO_UDP,
                sport=int(source_port),
                dport=int(port),
            )
            yield asked, Endpoint(str(ip_address(answering)), int(answering_port))

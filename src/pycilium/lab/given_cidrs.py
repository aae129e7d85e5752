"""The pod CIDRs that an operator gave a lab's nodes: taken into the lab's record in the place of the planned ones.

Agents are ready only once they have theirs, so whoever waited for an agent finds what it was given in the store.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

import msgspec

from pycilium.errors import NotFound
from pycilium.lab import labs, network
from pycilium.lab.layout import LabLayout, LabRecord, NodeRecord
from pycilium.model.resources import CiliumNode
from pycilium.store import BlockingStore


def taken_in(layout: LabLayout, record: LabRecord, names: Iterable[str]) -> LabRecord:
    """The lab as it is once the given pod CIDRs are known; saved, and the world has routes to them. Repeatable."""
    if record.ipam != "cluster-pool":
        return record
    with labs.open_store(layout) as store:
        for name in names:
            planned = record.node(name)
            given = _given(store, planned)
            if given != planned:
                network.unroute_world_from(record, planned)
                record = record.with_node(given)
                labs.save(layout, record)
                network.route_world_to(record, given)
    return record


def _given(store: BlockingStore, node: NodeRecord) -> NodeRecord:
    try:
        ipam = store.get(CiliumNode, node.name).spec.ipam
    except NotFound:
        return node
    by_version = {ipaddress.ip_network(cidr).version: cidr for cidr in reversed(ipam.pod_cidrs if ipam else ())}
    return msgspec.structs.replace(
        node,
        ipv4_pod_cidr=by_version.get(4, node.ipv4_pod_cidr),
        ipv6_pod_cidr=by_version.get(6, node.ipv6_pod_cidr),
    )

"""Routes to other nodes' pods as a reconciler's target: those of the main table that carry our protocol number.

Whatever else is in the table is not ours: it is never changed, and a destination that somebody else routes is left to
him, with an error that says so.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping

from pycilium.agent.nodes.cluster import RouteTarget
from pycilium.datapath.netlink import Netlink
from pycilium.datapath.rtnetlink import ROUTE_PROTOCOL, Request, delete_route, set_route
from pycilium.errors import DatapathError
from pycilium.model.peer import Network

BATCH = 100
"""Requests sent at once: the kernel queues an answer to each before we read the first."""


class RouteOperations:
    """reconcile.Operations over the routing table of the caller's network namespace."""

    def update(self, entries: Mapping[Network, RouteTarget]) -> dict[Network, Exception]:
        """Set each route, over one of ours that is there."""
        with Netlink.open() as node:
            foreign = {route.destination for route in node.routes() if route.protocol != ROUTE_PROTOCOL}
            failures: dict[Network, Exception] = {
                cidr: DatapathError(f"there is a route to {cidr} already that is not ours: remove it")
                for cidr in entries.keys() & foreign
            }
            requests = {
                cidr: set_route(
                    cidr,
                    target.ifindex,
                    gateway=target.gateway,
                    source=target.source,
                    mtu_bytes=target.mtu_bytes,
                    protocol=ROUTE_PROTOCOL,
                )
                for cidr, target in entries.items()
                if cidr not in failures
            }
            return failures | _run(node, requests)

    def delete(self, keys: Iterable[Network]) -> dict[Network, Exception]:
        """Remove ours; absent is success."""
        with Netlink.open() as node:
            return _run(node, {cidr: delete_route(cidr, protocol=ROUTE_PROTOCOL) for cidr in keys}, unless=errno.ESRCH)

    def dump(self) -> list[tuple[Network, RouteTarget]]:
        """All of ours."""
        with Netlink.open() as node:
            return [
                (route.destination, RouteTarget(route.ifindex, route.gateway, route.source, route.mtu_bytes))
                for route in node.routes()
                if route.protocol == ROUTE_PROTOCOL
            ]


def _run(node: Netlink, requests: Mapping[Network, Request], unless: int = 0) -> dict[Network, Exception]:
    failures: dict[Network, Exception] = {}
    cidrs = list(requests)
    outcomes = [
        outcome
        for start in range(0, len(cidrs), BATCH)
        for outcome in node.run([requests[cidr] for cidr in cidrs[start : start + BATCH]])
    ]
    for cidr, outcome in zip(cidrs, outcomes, strict=True):
        if outcome.error != unless:
            try:
                outcome.raise_if_failed()
            except DatapathError as error:
                failures[cidr] = error
    return failures

"""Whether the node's default gateways answer: by ICMP echo, or by their neighbour entry where they leave echo alone.

Looks at the node from inside: the very stack that the node lives by sends and receives.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Container
from dataclasses import dataclass
from typing import Self

from pycilium.datapath import rtnetlink
from pycilium.datapath.echo import Echo
from pycilium.datapath.netlink import Netlink
from pycilium.datapath.rtnetlink import Address

_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class DefaultGateway:
    """Of the main table."""

    address: Address
    ifindex: int


def default_gateways(ifindexes: Container[int]) -> list[DefaultGateway]:
    """The gateways of the default routes through these devices, in the caller's namespace. Blocks."""
    with Netlink.open() as node:
        found = [
            DefaultGateway(route.gateway, route.ifindex)
            for route in node.routes()
            if route.gateway is not None and not route.destination.prefixlen and route.ifindex in ifindexes
        ]
    return list(dict.fromkeys(found))


class GatewayCheck:
    """Whether one gateway answers. The way of asking is the first that ever got an answer."""

    def __init__(self, gateway: DefaultGateway, echo: Echo, timeout_s: float) -> None:
        self._gateway, self._echo, self._timeout_s = gateway, echo, timeout_s
        self._by_echo: bool | None = None

    async def __call__(self) -> bool:
        if self._by_echo is None:
            by_echo, by_neighbour = await asyncio.gather(self._echoes(), self._is_neighbour())
            if by_echo or by_neighbour:
                self._by_echo = by_echo
            return by_echo or by_neighbour
        return await (self._echoes() if self._by_echo else self._is_neighbour())

    async def _echoes(self) -> bool:
        try:
            await self._echo.ping(self._gateway.address, self._timeout_s)
        except (TimeoutError, OSError):
            return False
        return True

    async def _is_neighbour(self) -> bool:
        """Have the kernel ask for its neighbour entry anew, and see whether it is confirmed."""
        with _Neighbours.open(self._gateway) as neighbours:
            if not neighbours.probe():
                return False
            deadline = time.monotonic() + self._timeout_s
            while not neighbours.is_reachable():
                if time.monotonic() >= deadline:
                    return False
                await asyncio.sleep(_POLL_S)
            return True


class _Neighbours:
    """One gateway's entry in the neighbour table."""

    def __init__(self, node: Netlink, gateway: DefaultGateway) -> None:
        self._node, self._gateway = node, gateway

    @classmethod
    def open(cls, gateway: DefaultGateway) -> Self:
        return cls(Netlink.open(), gateway)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._node.__exit__(None, None, None)

    def probe(self) -> bool:
        """Ask; False if there is nobody to ask: no entry, or one that somebody set by hand and that stays as it is."""
        entry = self._entry()
        if entry is None or entry.permanent:
            return False
        asked = self._node.run([rtnetlink.probe_neighbour(self._gateway.ifindex, self._gateway.address)])
        return not asked[0].error

    def is_reachable(self) -> bool:
        entry = self._entry()
        return entry is not None and entry.reachable

    def _entry(self) -> rtnetlink.Neighbour | None:
        own = (self._gateway.ifindex, self._gateway.address)
        return next((entry for entry in self._node.neighbours() if (entry.ifindex, entry.address) == own), None)

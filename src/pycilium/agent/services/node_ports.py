"""Node ports and the node's own sockets: a socket on a Service's port is named.

Packets to such a port go to the Service, whoever has bound it; so the process behind that socket waits in vain.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet

import structlog

from pycilium.datapath.bound_ports import bound_ports
from pycilium.model.l4 import Protocol
from pycilium.model.resources import Service

log = structlog.get_logger()

LOOK_INTERVAL_S = 30.0
PortKey = tuple[int, Protocol]


def node_ports_of(services: Iterable[Service]) -> dict[PortKey, str]:
    """Which Service has which node port; of two that have one, the first by name."""
    found: dict[PortKey, str] = {}
    for service in sorted(services, key=lambda each: each.key):
        if service.spec.node_ports_wanted:
            for port in service.spec.ports:
                if port.node_port:
                    name = f"{service.metadata.namespace}/{service.metadata.name}"
                    found.setdefault((port.node_port, Protocol[port.protocol]), name)
    return found


class NodePorts:
    """Call `changed` whenever `services` may give something else."""

    def __init__(
        self, services: Callable[[], Iterable[Service]], bound: Callable[[], AbstractSet[PortKey]] = bound_ports
    ) -> None:
        self._services, self._bound = services, bound
        self._changed = asyncio.Event()
        self._taken: dict[PortKey, str] = {}
        self.found: Callable[[str], None] = lambda _: None
        """Told of each port that is bound, once."""

    @property
    def problems(self) -> list[str]:
        """The ports that are bound, in words."""
        return [_words(key, name) for key, name in sorted(self._taken.items())]

    def changed(self) -> None:
        self._changed.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._changed.clear()
            await self.look()
            try:
                async with asyncio.timeout(LOOK_INTERVAL_S):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def look(self) -> None:
        """See which sockets there are now."""
        wanted = node_ports_of(self._services())
        bound = await asyncio.to_thread(self._bound) if wanted else set()
        taken = {key: name for key, name in wanted.items() if key in bound}
        for key, name in sorted(taken.items() - self._taken.items()):
            log.warning("node port is bound by a process", port=key[0], protocol=key[1].name, service=name)
            self.found(_words(key, name))
        self._taken = taken


def _words(key: PortKey, service: str) -> str:
    port, protocol = key
    return (
        f"node port {port}/{protocol.name} of service {service} is bound by a process on this node too, which gets "
        f"nothing there: give one of them another port"
    )

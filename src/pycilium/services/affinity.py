"""Which frontends share what is remembered of clients with session affinity: all ways to one port of a Service do.

A client has one backend by whatever address it comes, as with kube-proxy. But cluster IPs have a memory of their own
where internalTrafficPolicy Local leaves them other backends than the rest.

An id that a frontend has had before is kept, for what is remembered hangs on it. New ones come from the same row as the
ids of frontends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pycilium.model.l4 import Protocol
from pycilium.model.service import Frontend, L4Address


@dataclass(frozen=True, slots=True)
class _Port:
    """What frontends that share a memory have in common: a Service's port, and which backends it has inside."""

    service: str
    port_name: str
    protocol: Protocol
    family: int
    internal_local: bool


@dataclass(slots=True)
class _Memory:
    affinity_id: int
    port: _Port
    frontends: set[L4Address] = field(default_factory=set)


class Affinities:
    """Owns the ids of memories; see the module."""

    def __init__(self) -> None:
        self._by_port: dict[_Port, _Memory] = {}
        self._by_id: dict[int, _Memory] = {}
        self._of: dict[L4Address, _Memory] = {}

    def join(self, frontend: Frontend, earlier_id: int, fresh: Callable[[], int]) -> int:
        """The id that a frontend has from now on, 0 if it has no affinity. `earlier_id`: which it had; 0: none."""
        port = _port_of(frontend)
        known = self._of.get(frontend.at)
        if known is not None and (not frontend.affinity_s or known.port != port):
            self.leave(frontend.at)
        if not frontend.affinity_s:
            return 0
        memory = self._by_port.get(port)
        if memory is None:
            is_free = earlier_id and earlier_id not in self._by_id
            memory = _Memory(earlier_id if is_free else fresh(), port)
            self._by_port[port] = self._by_id[memory.affinity_id] = memory
        memory.frontends.add(frontend.at)
        self._of[frontend.at] = memory
        return memory.affinity_id

    def leave(self, at: L4Address) -> None:
        """The frontend is gone; the last one takes the id along."""
        memory = self._of.pop(at, None)
        if memory is None:
            return
        memory.frontends.discard(at)
        if not memory.frontends:
            del self._by_port[memory.port], self._by_id[memory.affinity_id]

    def sharing(self, affinity_id: int) -> frozenset[L4Address]:
        """The frontends that have this id."""
        memory = self._by_id.get(affinity_id)
        return frozenset(memory.frontends) if memory is not None else frozenset()


def _port_of(frontend: Frontend) -> _Port:
    at = frontend.at
    return _Port(frontend.name, frontend.port_name, at.protocol, at.address.version, frontend.internal_local)

"""Which Service is behind an address and port, or behind a number that an event carries.

A frontend that is gone keeps its name until another Service has it, or until `history` newer ones are gone: flows name
their Services when they are read, not when they were seen.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple, Protocol, Self


class ServiceName(NamedTuple):
    namespace: str
    name: str


class FrontendKey(NamedTuple):
    """Where a Service is reached; the address in two words, IPv4 in mapped form."""

    high: int
    low: int
    port: int
    protocol: int

    @classmethod
    def of(cls, address: bytes, port: int, protocol: int) -> Self:
        """`address`: 16 bytes, IPv4 in mapped form."""
        return cls(int.from_bytes(address[:8]), int.from_bytes(address[8:]), port, protocol)


class ServiceDirectory(Protocol):
    """Services by frontend and by service id."""

    @property
    def revision(self) -> int:
        """Differs after every change."""

    def at(self, frontend: FrontendKey) -> ServiceName | None: ...
    def of(self, service_id: int) -> ServiceName | None: ...
    def frontends(self) -> Iterator[tuple[FrontendKey, int, ServiceName]]:
        """Every frontend, those that are gone too, with its service id and its name."""


class ServiceTable:
    """A ServiceDirectory that its owner keeps up to date."""

    def __init__(self, history: int = 16384) -> None:
        self.revision = 0
        self._by_frontend: dict[FrontendKey, tuple[int, ServiceName]] = {}
        self._by_id: dict[int, ServiceName] = {}
        self._gone: OrderedDict[FrontendKey, None] = OrderedDict()
        self._history = history

    def at(self, frontend: FrontendKey) -> ServiceName | None:
        found = self._by_frontend.get(frontend)
        return found[1] if found is not None else None

    def of(self, service_id: int) -> ServiceName | None:
        return self._by_id.get(service_id)

    def frontends(self) -> Iterator[tuple[FrontendKey, int, ServiceName]]:
        return ((key, service_id, name) for key, (service_id, name) in self._by_frontend.items())

    def set_frontend(self, frontend: FrontendKey, service_id: int, name: ServiceName) -> None:
        """The frontend is that Service's now."""
        self._gone.pop(frontend, None)
        if self._by_frontend.get(frontend) != (service_id, name):
            self._by_frontend[frontend] = service_id, name
            self._by_id[service_id] = name
            self.revision += 1

    def remove_frontend(self, frontend: FrontendKey) -> None:
        """Nobody has it any more; what was seen of it is named on."""
        if frontend not in self._by_frontend:
            return
        self._gone[frontend] = None
        while len(self._gone) > self._history:
            oldest, _ = self._gone.popitem(last=False)
            service_id, name = self._by_frontend.pop(oldest)
            if self._by_id.get(service_id) == name:
                del self._by_id[service_id]
            self.revision += 1

"""Tells Hubble of Services: their names for flows, and their comings and goings as events of the agent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from pycilium.agent.services.controller import FrontendChange
from pycilium.hubble.agent_events import AgentEventLog
from pycilium.hubble.service_names import FrontendKey, ServiceName, ServiceTable
from pycilium.model.peer import Address
from pycilium.model.service import L4Address

MOST_EVENTS = 256
"""Of one round: thousands of Services at once say no more than the last of them."""
_MAPPED = bytes(10) + b"\xff\xff"


class ServiceNames:
    """Follows the frontends of this node."""

    def __init__(self, events: AgentEventLog) -> None:
        self.table = ServiceTable()
        self._events = events
        self.before_change: Callable[[], None] = lambda: None
        """Called before a name changes or goes: flows that are under way belong to the old one."""

    def changed(self, changes: list[FrontendChange]) -> None:
        """Take in what became of some frontends."""
        if any(change.old is not None for change in changes):
            self.before_change()
        for change in changes:
            if change.new is not None:
                name = ServiceName(change.new.namespace, change.new.service)
                self.table.set_frontend(_key(change.new.at), change.new_id, name)
            elif change.old is not None:
                self.table.remove_frontend(_key(change.old.at))
        self._tell(changes[-MOST_EVENTS:])

    def _tell(self, changes: Iterable[FrontendChange]) -> None:
        now_ns = time.time_ns()
        for change in changes:
            if change.new is not None:
                self._events.service_upserted(now_ns, change.new, change.new_id)
            else:
                self._events.service_deleted(now_ns, change.old_id)


def _key(at: L4Address) -> FrontendKey:
    return FrontendKey.of(_sixteen_bytes(at.address), at.port, int(at.protocol))


def _sixteen_bytes(address: Address) -> bytes:
    """As events have addresses: IPv4 in mapped form."""
    return address.packed if address.version == 6 else _MAPPED + address.packed

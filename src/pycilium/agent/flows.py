"""Events from the kernel's ring into the flow store, and the names that flows are given.

The kernel wakes us at most once per CPU and `event_wakeup_ns`, however many events there are. So after a wake-up the
ring is read again a little later, until a read finds it empty: an event that came without a wake-up of its own waits
that long at most. Everything that arrived meanwhile is one batch.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address

from pycilium.agent.intent import Intent
from pycilium.agent.nodes.remote_endpoints import RemoteEndpoints
from pycilium.agent.services.socket_flows import SocketOwner, unfolded
from pycilium.datapath.events import EventReader
from pycilium.hubble.directories import EndpointName, EndpointTable, IdentityTable
from pycilium.hubble.store import FlowStore
from pycilium.model.endpoint import Endpoint
from pycilium.model.peer import Address

WAKEUP_NS = 10_000_000
REREAD_S = 0.012
_MAPPED = bytes(10) + b"\xff\xff"
_REMOTE_TABLES = frozenset({"remote-endpoints", "nodes", "host-addresses"})
"""Of the intent: what decides which pod of another node has an address."""


class FlowIngestion:
    """Follows the ring buffer in the agent's loop and tells `ingested` after each batch."""

    def __init__(
        self,
        reader: EventReader,
        store: FlowStore,
        ingested: Callable[[], None],
        owners: Callable[[Collection[int]], Mapping[int, SocketOwner]] = lambda _: {},
    ) -> None:
        """`owners` says whose sockets those of a network namespace are, by its cookie."""
        self._reader, self._store, self._ingested, self._owners = reader, store, ingested, owners
        self._lost = reader.lost()
        self._again: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Watch the ring; what an earlier agent did not read comes first."""
        self._read()

    def stop(self) -> None:
        """Read what is there and stop watching."""
        asyncio.get_running_loop().remove_reader(self._reader.fileno())
        if self._again is not None:
            self._again.cancel()
            self._again = None
        self._take()

    @property
    def lost(self) -> int:
        """Events that the kernel had no room for, since the maps were made."""
        return self._lost

    def _readable(self) -> None:
        asyncio.get_running_loop().remove_reader(self._reader.fileno())
        self._read()

    def _read(self) -> None:
        """Take what is there; come again soon if there was anything, else wait to be woken."""
        loop = asyncio.get_running_loop()
        if self._take():
            self._again = loop.call_later(REREAD_S, self._read)
        else:
            self._again = None
            loop.add_reader(self._reader.fileno(), self._readable)

    def drain(self) -> None:
        """Take what the ring holds now, so that it is named by who the endpoints are now."""
        self._take()

    def _take(self) -> int:
        events = self._reader.read()
        newly_lost = self._reader.lost() - self._lost
        if newly_lost:
            self._lost += newly_lost
            self._store.lose(newly_lost, time.time_ns())
        if len(events):
            self._store.ingest(unfolded(events, self._owners), clock_offset_ns())
        if len(events) or newly_lost:
            self._ingested()
        return len(events)


def clock_offset_ns() -> int:
    """What takes CLOCK_MONOTONIC, which the kernel stamps events with, to the wall clock."""
    return time.time_ns() - time.monotonic_ns()


class Names:
    """Keeps the directories of the flow store true to the intent tables."""

    def __init__(self, intent: Intent, cluster_name: str, remote: RemoteEndpoints | None = None) -> None:
        self._remote = remote if remote is not None else RemoteEndpoints()
        self.endpoints = EndpointTable(RemoteNames(self._remote, cluster_name))
        self.identities = IdentityTable()
        self._cluster_name = cluster_name
        self._remote_touched = False
        self.before_change: Callable[[], None] = lambda: None
        """Called before a name changes or goes: flows that are under way belong to the old one."""
        self._endpoint_changes = intent.endpoints.changes()
        self._identity_changes = intent.identities.changes()

    def refresh(self) -> None:
        """Take in what changed; call after each commit."""
        for identity in self._identity_changes.drain():
            if identity.new is not None:
                self.identities.set_identity(identity.new.number, identity.new.labels)
            elif identity.old is not None:
                self.identities.remove_identity(identity.old.number)
        endpoints = self._endpoint_changes.drain()
        if any(endpoint.old is not None for endpoint in endpoints):
            self.before_change()
        for endpoint in endpoints:
            if endpoint.new is not None:
                self.endpoints.set_endpoint(endpoint.new.endpoint_id, self._name_of(endpoint.new))
            elif endpoint.old is not None:
                self.endpoints.set_endpoint(endpoint.old.endpoint_id, None)

    def committed(self, tables: frozenset[str]) -> None:
        """Take in what a commit changed, but for what the next control round decides."""
        self.refresh()
        self._remote_touched |= not tables.isdisjoint(_REMOTE_TABLES)

    def before_round(self) -> None:
        """Call before each control round: it may change which pods of other nodes have which addresses."""
        if self._remote_touched:
            self._remote_touched = False
            self.before_change()

    def refresh_remote(self) -> None:
        """Take in which pods of other nodes have which addresses now; call after each control round."""
        for address in self._remote.take_changed():
            self.endpoints.address_changed(_sixteen_bytes(address))

    def _name_of(self, endpoint: Endpoint) -> EndpointName:
        return EndpointName(endpoint.namespace, endpoint.pod_name, self._cluster_name)


class RemoteNames(Mapping[bytes, EndpointName]):
    """The names of pods of other nodes by their addresses, made when somebody asks: there are tens of thousands."""

    def __init__(self, remote: RemoteEndpoints, cluster_name: str) -> None:
        self._remote, self._cluster_name = remote, cluster_name

    def __getitem__(self, address: bytes) -> EndpointName:
        holder = self._remote.holder(_address_of(address))
        if holder is None:
            raise KeyError(address)
        return EndpointName(holder.namespace, holder.name, self._cluster_name)

    def __iter__(self) -> Iterator[bytes]:
        return map(_sixteen_bytes, self._remote.placed())

    def __len__(self) -> int:
        return len(self._remote)


def _address_of(raw: bytes) -> Address:
    return IPv4Address(raw[len(_MAPPED) :]) if raw.startswith(_MAPPED) else IPv6Address(raw)


def _sixteen_bytes(address: Address) -> bytes:
    """As events have addresses: IPv4 in mapped form."""
    return address.packed if address.version == 6 else _MAPPED + address.packed

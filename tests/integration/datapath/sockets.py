"""A node and a pod as far as sockets see them: a cgroup with the programs on it, and two network namespaces in which
every address is on the loopback device, so that packets need no datapath.

A socket belongs to the cgroup that its process was in when it was made. So this process goes in for that moment only.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address
from pathlib import Path

import numpy as np

from pycilium.datapath import cgroup_links, layouts, link_pins, netns
from pycilium.datapath.events import EventReader
from pycilium.datapath.layouts import BackendState, ServiceEntry, ServiceSet
from pycilium.datapath.loader import Datapath
from pycilium.lab import cgroups
from pycilium.model.identity import ReservedIdentity

TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP
BACKEND_PORT = 8080


@dataclass(frozen=True)
class Place:
    """The addresses of one way to name them: IPv4, IPv6, or IPv4 from an IPv6 socket."""

    family: socket.AddressFamily
    service: str
    node: str
    """Of the host."""
    other_node: str
    """Nobody has it here."""
    world: str
    backends: tuple[str, str, str]
    mapped: bool = False

    def named(self, address: str) -> str:
        """As a process names it."""
        return f"::ffff:{address}" if self.mapped else address

    @property
    def loopback(self) -> str:
        return "::1" if ":" in self.service else "127.0.0.1"

    @property
    def any(self) -> str:
        return "::" if ":" in self.service else "0.0.0.0"


IPV4 = Place(
    socket.AF_INET, "10.96.0.10", "192.0.2.1", "192.0.2.2", "198.51.100.1", ("10.0.1.1", "10.0.1.2", "10.0.1.3")
)
IPV6 = Place(
    socket.AF_INET6, "fd00:96::10", "fd01::1", "fd01::2", "2001:db8::1", ("fd00:1::1", "fd00:1::2", "fd00:1::3")
)
MAPPED = Place(socket.AF_INET6, IPV4.service, IPV4.node, IPV4.other_node, IPV4.world, IPV4.backends, mapped=True)
PLACES = (IPV4, IPV6, MAPPED)


def sixteen(address: str) -> bytes:
    parsed = ip_address(address)
    return parsed.packed if isinstance(parsed, IPv6Address) else bytes(10) + b"\xff\xff" + parsed.packed


def make_namespace() -> int:
    """A descriptor of one with all addresses of this module on its loopback device, but that of the other node."""
    fd = netns.nameless()
    addresses = [f"{a}/32" for a in (IPV4.node, *IPV4.backends)] + [f"{a}/128" for a in (IPV6.node, *IPV6.backends)]
    commands = "link set lo up\n" + "\n".join(f"address add {address} dev lo" for address in addresses)
    netns.run_in(fd, lambda: subprocess.run(["ip", "-batch", "-"], input=commands, text=True, check=True))
    return fd


@dataclass
class Sockets:
    """The programs on a cgroup, and what is in their maps."""

    datapath: Datapath
    cgroup: Path
    host: int
    pod: int
    pins: Path
    open: list[socket.socket] = field(default_factory=list)
    _next_slot: Iterator[int] = field(default_factory=lambda: itertools.count(0, 1024))

    def attach(self) -> None:
        for name in cgroup_links.PROGRAMS:
            cgroup_links.attach(self.cgroup, self.datapath.programs[name], self.pins / name)

    def detach(self) -> None:
        for name in cgroup_links.PROGRAMS:
            link_pins.unpin(self.pins / name)

    # What is in the maps.

    def backend(self, number: int, address: str, *, state: BackendState = BackendState.ACTIVE) -> None:
        entry = layouts.BackendEntry(address=sixteen(address), port=BACKEND_PORT, protocol=0, state=state)
        self.datapath.mapped(layouts.BACKENDS).write(number, entry)

    def backends(self, place: Place) -> list[int]:
        """Three of them, numbered from 1."""
        for number, address in enumerate(place.backends, 1):
            self.backend(number, address)
        return [1, 2, 3]

    def service(
        self,
        address: str,
        port: int,
        protocol: int,
        slots: Sequence[int],
        *,
        flags: int = 0,
        affinity_s: int = 0,
        service_id: int = 7,
    ) -> None:
        """A frontend, in place of what has been there."""
        first = next(self._next_slot)
        self.datapath.mapped(layouts.SERVICE_SLOTS).values[first : first + len(slots)] = np.array(slots, np.uint32)
        inside = ServiceSet(first_slot=first, slots=len(slots))
        entry = ServiceEntry(
            inside=inside, service_id=service_id, affinity_s=affinity_s, flags=flags, affinity_id=service_id
        )
        if ":" in address:
            key6 = layouts.Service6Key(address=sixteen(address), port=port, protocol=protocol)
            with self.datapath.map(layouts.SERVICES6) as opened6:
                opened6.update(key6, entry)
        else:
            key4 = layouts.Service4Key(address=int(ip_address(address)), port=port, protocol=protocol)
            with self.datapath.map(layouts.SERVICES4) as opened4:
                opened4.update(key4, entry)

    def identity(self, address: str, identity: ReservedIdentity, node_id: int = 0) -> None:
        entry = layouts.IpcacheEntry(sec_identity=identity, node_id=node_id)
        if ":" in address:
            with self.datapath.map(layouts.IPCACHE6) as opened6:
                opened6.update(layouts.Ipcache6Key(prefix_len=128, address=sixteen(address)), entry)
        else:
            with self.datapath.map(layouts.IPCACHE4) as opened4:
                opened4.update(layouts.Ipcache4Key(prefix_len=32, address=int(ip_address(address))), entry)

    def socket_flows(self) -> dict[layouts.SocketFlowKey, layouts.SocketFlowEntry]:
        with self.datapath.map(layouts.SOCKET_FLOWS) as opened:
            return dict(opened.items())

    def socket_events(self) -> list[layouts.SocketEvent]:
        """All so far, none of them before."""
        with EventReader.of(self.datapath) as reader:
            return [layouts.SocketEvent.from_bytes(event.tobytes()) for event in reader.read()]

    # Processes.

    def client(
        self, place: Place, kind: socket.SocketKind, where: int | None = None, protocol: int = 0
    ) -> socket.socket:
        """A socket of a process in the cgroup; in the pod's namespace unless `where` says another."""
        with cgroups.inside(self.cgroup):
            made = netns.run_in(
                self.pod if where is None else where, lambda: socket.socket(place.family, kind, protocol)
            )
        made.settimeout(10)
        self.open.append(made)
        return made

    def server(self, address: str, port: int, kind: socket.SocketKind, where: int | None = None) -> socket.socket:
        """A socket that is bound, and if it is for TCP listens, and that the programs have nothing to do with."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        made = netns.run_in(self.pod if where is None else where, lambda: socket.socket(family, kind))
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((address, port))
        if kind == socket.SOCK_STREAM:
            made.listen()
        made.settimeout(10)
        self.open.append(made)
        return made

    def servers(self, place: Place, kind: socket.SocketKind, where: int | None = None) -> dict[str, socket.socket]:
        """One per backend, by address."""
        return {address: self.server(address, BACKEND_PORT, kind, where) for address in place.backends}

    def forget(self) -> None:
        """Closes what tests opened and empties the maps that they filled."""
        for each in self.open:
            each.close()
        self.open.clear()
        specs = (layouts.SERVICES4, layouts.SERVICES6, layouts.IPCACHE4, layouts.IPCACHE6, layouts.SOCKET_FLOWS)
        for spec in (*specs, layouts.AFFINITY):
            with self.datapath.map(spec) as opened:
                opened.delete_batch([key for key, _ in opened.items()])
        for array in (layouts.BACKENDS, layouts.SERVICE_SLOTS):
            mapped = self.datapath.mapped(array)
            mapped.values[mapped.present()] = np.zeros((), mapped.values.dtype)
        self.socket_events()


def received_at(servers: dict[str, socket.socket]) -> tuple[str, tuple[str, int]]:
    """Which server has a datagram, and from where; there is exactly one."""
    found = []
    for address, server in servers.items():
        server.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            found.append((address, server.recvfrom(64)[1][:2]))
    (one,) = found
    return one

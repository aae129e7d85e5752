"""A node's programs and maps to run single packets through (BPF_PROG_TEST_RUN): nothing is attached, nothing is sent.

The same small world in every test: two pods (web, db), the node itself, and what lies outside. `Node` fills the maps as
the agent would, in words of the domain; it owns nothing but what `conftest` made for it.
"""

from __future__ import annotations

import ctypes
import ipaddress
import struct
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, TypeVar

from pycilium.datapath import layouts
from pycilium.datapath.bpf_syscall import TestRunResult
from pycilium.datapath.codec import MapSpec
from pycilium.datapath.events import EventReader, Events
from pycilium.datapath.layouts import Direction, PolicyLimits, PolicyRowFlags
from pycilium.datapath.loader import Datapath
from pycilium.datapath.maps import Map

T = TypeVar("T")
EGRESS, INGRESS = Direction.EGRESS, Direction.INGRESS

IDENTITY_HOST, IDENTITY_WORLD4, IDENTITY_WORLD6 = 1, 9, 10
GATEWAY4, GATEWAY6 = "10.0.0.1", "fd00:10::1"
WORLD4, WORLD6 = "8.8.8.8", "2606:4700:4700::1111"
HOST_MAC = "0a:00:00:00:00:01"
UPLINK_MAC, ROUTER_MAC = "0a:00:00:00:0e:01", "0a:00:00:00:0e:02"
OVERLAY_MAC = "0a:00:00:00:0f:01"
BANK_BITS = 64 * PolicyLimits.BANK_WORDS


class Verdict(IntEnum):
    """What a program answers the kernel."""

    PASS = 0
    DROP = 2
    REDIRECT = 7


class XdpVerdict(IntEnum):
    """The same of a program before the stack."""

    DROP = 1
    PASS = 2
    TX = 3
    REDIRECT = 4


@dataclass(frozen=True, slots=True)
class Pod:
    """A local endpoint; its device is the host side of its interface."""

    name: str
    endpoint_id: int
    identity: int
    policy_id: int
    ipv4: str
    ipv6: str
    mac: str
    host_mac: str


WEB = Pod("web", 10, 1000, 1, "10.0.0.10", "fd00:10::a", "0a:00:00:00:00:0a", "0a:00:00:00:01:0a")
DB = Pod("db", 20, 2000, 2, "10.0.0.20", "fd00:10::14", "0a:00:00:00:00:14", "0a:00:00:00:01:14")
DEVICES = {
    "web": WEB.host_mac,
    "db": DB.host_mac,
    "cilium_host": HOST_MAC,
    "uplink": UPLINK_MAC,
    "cilium_vxlan": OVERLAY_MAC,
}
DEVICE_OF_PROGRAM = {
    "from_host": "cilium_host",
    "from_netdev": "uplink",
    "to_netdev": "uplink",
    "from_overlay": "cilium_vxlan",
}
TUNNEL_PORT = 8472


@dataclass(frozen=True, slots=True)
class Ran:
    """What became of one packet."""

    verdict: Verdict
    packet: bytes
    events: list[layouts.FlowEvent]


@dataclass(frozen=True, slots=True)
class RanXdp:
    """The same before the stack."""

    verdict: XdpVerdict
    packet: bytes
    events: list[layouts.FlowEvent]


class Node:
    """`devices`: ifindex by name, in the namespace `netns_fd`."""

    def __init__(self, datapath: Datapath, netns_fd: int, devices: dict[str, int]) -> None:
        self._datapath, self.devices = datapath, devices
        self._inside = ThreadPoolExecutor(1, initializer=lambda: enter(netns_fd))
        self._maps: dict[str, Map] = {}
        self.reader = EventReader.of(datapath)

    def close(self) -> None:
        self._inside.shutdown()
        self.reader.close()
        for opened in self._maps.values():
            opened.close()

    def map(self, spec: MapSpec) -> Map:
        if spec.name not in self._maps:
            self._maps[spec.name] = self._datapath.map(spec)
        return self._maps[spec.name]

    # -- what the agent would write ------------------------------------------------------------------------------

    def clear(self) -> None:
        """Empty maps."""
        for spec in (
            *(layouts.CT4, layouts.CT6, layouts.FRAGMENTS, layouts.ENDPOINTS4, layouts.ENDPOINTS6, layouts.IPCACHE4),
            *(layouts.IPCACHE6, layouts.POLICIES, layouts.IDENTITY_BITS, layouts.POLICY_ROWS, layouts.NAT4),
            *(layouts.NAT6, layouts.MASQUERADE, layouts.NO_MASQUERADE4, layouts.NO_MASQUERADE6),
            layouts.L2_ANNOUNCED,
        ):
            assert not self.map(spec).delete_batch([key for key, _ in self.map(spec).items()])
        arrays: tuple[tuple[Any, Any], ...] = (
            (layouts.NODES, layouts.NodeEntry()),
            (layouts.PATH_MTUS, layouts.PathMtuEntry()),
            (layouts.CT_TRANSIENTS, layouts.CtTransient()),
        )
        for spec, nothing in arrays:
            for number, entry in self.map(spec).items():
                if entry != nothing:
                    self.map(spec).update(number, nothing)
        self.reader.read()

    def reset(self) -> None:
        """Empty maps, and the world of the module's words."""
        self.clear()
        for gateway in (GATEWAY4, GATEWAY6):
            self.identity(gateway, IDENTITY_HOST)
        for pod in (WEB, DB):
            self.endpoint(pod)
            self.identity(pod.ipv4, pod.identity)
            self.identity(pod.ipv6, pod.identity)
            self.bits(pod.identity, {pod.identity // 100})
            self.allow_all(pod)

    def endpoint(self, pod: Pod, *, identity: int | None = None, cidr: int = 0, policy_id: int | None = None) -> None:
        entry = layouts.EndpointEntry(
            ifindex=self.devices[pod.name],
            sec_identity=pod.identity if identity is None else identity,
            cidr_identity=cidr,
            policy_id=pod.policy_id if policy_id is None else policy_id,
            endpoint_id=pod.endpoint_id,
            mac=mac(pod.mac),
            host_mac=mac(pod.host_mac),
        )
        self.map(layouts.ENDPOINTS4).update(layouts.Endpoint4Key(int(ipaddress.ip_address(pod.ipv4))), entry)
        self.map(layouts.ENDPOINTS6).update(layouts.Endpoint6Key(packed(pod.ipv6)), entry)

    def identity(self, prefix: str, identity: int, *, cidr: int = 0, node_id: int = 0) -> None:
        network = ipaddress.ip_network(prefix)
        entry = layouts.IpcacheEntry(identity, cidr, node_id)
        if network.version == 4:
            key = layouts.Ipcache4Key(network.prefixlen, int(network.network_address))
            self.map(layouts.IPCACHE4).update(key, entry)
        else:
            key6 = layouts.Ipcache6Key(network.prefixlen, network.network_address.packed)
            self.map(layouts.IPCACHE6).update(key6, entry)

    def other_node(
        self, node_id: int, address: str, *, mtu_bytes: int = 1450, tunnel: bool = True, device: str | None = None
    ) -> None:
        """Another node of the cluster; `device` if it is a neighbour there."""
        entry = layouts.NodeEntry(
            address=packed(address),
            ifindex=self.devices[device] if device else 0,
            mtu_bytes=mtu_bytes,
            family=ipaddress.ip_address(address).version,
            flags=layouts.NodeFlags.TUNNEL if tunnel else layouts.NodeFlags(0),
        )
        self.map(layouts.NODES).update(node_id, entry)

    def expire_path_mtu(self, node_id: int) -> None:
        """As time would."""
        self.map(layouts.PATH_MTUS).update(node_id, replace(self.path_mtu(node_id), expires_s=1))

    def path_mtu(self, node_id: int) -> layouts.PathMtuEntry:
        return dict(self.map(layouts.PATH_MTUS).items()).get(node_id, layouts.PathMtuEntry())

    def bits(self, identity: int, selectors: Iterable[int]) -> None:
        """The identity belongs to these selectors (numbers over all banks)."""
        for bank in {selector // BANK_BITS for selector in selectors}:
            here = {selector % BANK_BITS for selector in selectors if selector // BANK_BITS == bank}
            self.map(layouts.IDENTITY_BITS).update(layouts.IdentityBitsKey(identity, bank), selector_bits(here | {0}))

    def allow_all(self, pod: Pod, *, revision: int | None = None) -> None:
        """No policy selects the pod: any peer, both directions, no verdict to be reported."""
        self.policy(pod, revision=pod.policy_id * 10 if revision is None else revision)
        self.row(pod, EGRESS, pod.policy_id * 100 + 1, allow={0}, enforced=False)
        self.row(pod, INGRESS, pod.policy_id * 100 + 2, allow={0}, enforced=False)

    def policy(self, pod: Pod, *, revision: int, banks: tuple[int, ...] = (0,)) -> None:
        room = (0,) * (PolicyLimits.MAX_BANKS - len(banks))
        entry = layouts.PolicyEntry(revision, len(banks), (*banks, *room))
        self.map(layouts.POLICIES).update(pod.policy_id, entry)

    def row(
        self,
        pod: Pod,
        direction: Direction,
        row_id: int,
        *,
        allow: Iterable[int] = (),
        deny: Iterable[int] = (),
        protocol: int | None = None,
        port: int | None = None,
        port_bits: int = 16,
        bank: int = 0,
        enforced: bool = True,
    ) -> None:
        """A row of the pod's policy; selectors are numbers within the bank."""
        prefix = PolicyLimits.ROW_PREFIX_ANY
        if protocol is not None:
            prefix = PolicyLimits.ROW_PREFIX_PROTO + (port_bits if port is not None else 0)
        key = layouts.PolicyRowKey(prefix, pod.policy_id, bank, direction, protocol or 0, port or 0)
        flags = PolicyRowFlags(0) if enforced else PolicyRowFlags.UNENFORCED
        self.map(layouts.POLICY_ROWS).update(
            key, layouts.PolicyRow(selector_bits(allow), selector_bits(deny), row_id, flags)
        )

    def processes(self, by_cgroup: Mapping[int, Pod], levels: Iterable[int]) -> None:
        """These are the endpoints that are processes, by the id of their cgroup, and so deep they lie."""
        opened = self.map(layouts.PROCESSES)
        opened.delete_batch([key for key, _ in opened.items()])
        for cgroup_id, pod in by_cgroup.items():
            opened.update(
                layouts.ProcessKey(cgroup_id), layouts.ProcessEntry(pod.identity, pod.policy_id, pod.endpoint_id)
            )
        deepest_first = sorted(levels, reverse=True)
        self.map(layouts.PROCESS_LEVELS).update(
            0, layouts.ProcessLevels(len(deepest_first), bytes(deepest_first).ljust(15, b"\0"))
        )

    def masquerade(self, device: str, *, ipv4: str | None = None, ipv6: str | None = None) -> None:
        """Pods' packets leave by the device with these addresses."""
        entry = layouts.MasqueradeEntry(packed(ipv4) if ipv4 else bytes(16), packed(ipv6) if ipv6 else bytes(16))
        self.map(layouts.MASQUERADE).update(self.devices[device], entry)

    def no_masquerade(self, prefix: str) -> None:
        """Pods' packets to there leave as they are."""
        network = ipaddress.ip_network(prefix)
        if network.version == 4:
            key = layouts.NoMasquerade4Key(network.prefixlen, int(network.network_address))
            self.map(layouts.NO_MASQUERADE4).update(key, 1)
        else:
            key6 = layouts.NoMasquerade6Key(network.prefixlen, network.network_address.packed)
            self.map(layouts.NO_MASQUERADE6).update(key6, 1)

    def announce(self, address: str, device: str = "uplink", *, lasts_s: float = 3600) -> None:
        """The node answers on the device's link for this address of a service."""
        key = layouts.L2AnnouncementKey(self.devices[device], packed(address))
        until_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + int(lasts_s * 1e9)
        self.map(layouts.L2_ANNOUNCED).update(key, layouts.L2Announcement(until_ns, mac(DEVICES[device])))

    # -- packets -------------------------------------------------------------------------------------------------

    def run(self, program: str, device: str, packet: bytes) -> Ran:
        """The packet as if it had arrived on `device`, and all events that it caused."""
        result = self._test_run(program, device, packet, 1)
        events = [layouts.FlowEvent.from_bytes(row.tobytes()) for row in self.reader.read()]
        return Ran(Verdict(result.retval), result.data, events)

    def run_process(self, device: str, packet: bytes) -> tuple[bool, list[layouts.FlowEvent]]:
        """Whether a socket of this process's cgroup gets the packet, which came by `device`; and what was told."""
        result = self._test_run("process_in", device, packet, 1)
        events = [layouts.FlowEvent.from_bytes(row.tobytes()) for row in self.reader.read()]
        return bool(result.retval), events

    def run_xdp(self, device: str, packet: bytes) -> RanXdp:
        """The same before the stack."""
        result = self._xdp_run(device, packet, 1)
        events = [layouts.FlowEvent.from_bytes(row.tobytes()) for row in self.reader.read()]
        return RanXdp(XdpVerdict(result.retval), result.data, events)

    def xdp_nanoseconds(self, device: str, packet: bytes, *, repeat: int) -> int:
        """As `nanoseconds`."""
        return self._xdp_run(device, packet, repeat).duration_ns

    def _xdp_run(self, device: str, packet: bytes, repeat: int) -> TestRunResult:
        context = struct.pack("=6I", 0, len(packet), 0, self.devices[device], 0, 0)  # struct xdp_md
        loaded = self._datapath.programs["xdp_netdev"]
        return self._inside.submit(loaded.test_run, packet, context=context, repeat=repeat).result()

    def run_all(self, program: str, device: str, packets: Iterable[bytes]) -> list[tuple[Verdict, bytes]]:
        """Many packets, one after the other, quicker than one by one; their events are left in the ring."""
        loaded, context = self._datapath.programs[program], self._context(device)
        run = lambda: [loaded.test_run(packet, context=context) for packet in packets]  # noqa: E731
        return [(Verdict(result.retval), result.data) for result in self._inside.submit(run).result()]

    def nanoseconds(self, program: str, device: str, packet: bytes, *, repeat: int) -> int:
        """Mean run time on one packet, which each run finds as the one before left it."""
        return self._test_run(program, device, packet, repeat).duration_ns

    def _test_run(self, program: str, device: str, packet: bytes, repeat: int) -> TestRunResult:
        loaded, context = self._datapath.programs[program], self._context(device)
        return self._inside.submit(loaded.test_run, packet, context=context, repeat=repeat).result()

    def _context(self, device: str) -> bytes:
        context = bytearray(192)
        struct.pack_into("=I", context, 40, self.devices[device])  # __sk_buff.ifindex
        return bytes(context)

    def inside(self, act: Callable[[], T]) -> T:
        """Called in the node's network namespace."""
        return self._inside.submit(act).result()

    def wait_for_events(self) -> Events:
        """What real packets caused, as soon as there is anything; nothing after some seconds."""
        deadline = time.monotonic() + 5
        while not len(found := self.reader.read()) and time.monotonic() < deadline:
            time.sleep(0.001)
        return found

    # -- what the programs wrote ---------------------------------------------------------------------------------

    def connections(self) -> list[layouts.CtEntry]:
        return [entry for spec in (layouts.CT4, layouts.CT6) for _, entry in self.map(spec).items()]

    def only_connection(self) -> layouts.CtEntry:
        (entry,) = self.connections()
        return entry

    def change_connection(self, **fields: int) -> None:
        """Alter the one connection, as time would."""
        for spec in (layouts.CT4, layouts.CT6):
            for key, entry in self.map(spec).items():
                self.map(spec).update(key, replace(entry, **fields))

    def metrics(self) -> dict[tuple[int, int], int]:
        """(direction, reason) → packets."""
        with_bytes = self._datapath.percpu(layouts.METRICS)
        try:
            return {(index >> 8, index & 255): total[0] for index, total in with_bytes.sums().items()}
        finally:
            with_bytes.close()


def enter(netns_fd: int) -> None:
    """For this thread, which must not do anything else afterwards."""
    assert ctypes.CDLL(None, use_errno=True).setns(netns_fd, 0x40000000) == 0


def selector_bits(selectors: Iterable[int]) -> layouts.SelectorBits:
    words = [0] * PolicyLimits.BANK_WORDS
    for selector in selectors:
        words[selector // 64] |= 1 << selector % 64
    return layouts.SelectorBits(tuple(words))


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def packed(address: str) -> bytes:
    """16 bytes, IPv4 in its mapped form."""
    parsed = ipaddress.ip_address(address)
    return parsed.packed if parsed.version == 6 else bytes(10) + b"\xff\xff" + parsed.packed

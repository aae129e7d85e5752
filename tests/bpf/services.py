"""Services of the small world: their maps filled as the agent would, packets to them and what those are to become."""

from __future__ import annotations

import ipaddress
import itertools
import struct
from dataclasses import dataclass, field

from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6PacketTooBig, IPv6
from scapy.layers.l2 import Ether
from scapy.layers.sctp import SCTP
from scapy.packet import Packet

from pycilium.datapath import layouts
from pycilium.datapath.layouts import BackendState, DropReason, EventType, ServiceAddressFlags, ServiceFlags
from tests.bpf.masquerade import NODE
from tests.bpf.node import IDENTITY_HOST, Node, Pod, Ran, Verdict, packed
from tests.bpf.packets import address

CLUSTER_IP = {4: "10.96.0.10", 6: "fd00:96::a"}
LOAD_BALANCER_IP = {4: "203.0.113.80", 6: "2001:db8:80::1"}
CLIENT = {4: "198.51.100.7", 6: "2001:db8:99::7"}
"""Outside of the cluster."""
NODE2 = {4: "192.0.2.2", 6: "2001:db8::2"}
NODE2_GATEWAY = {4: "10.0.1.1", 6: "fd00:10:0:1::1"}
API = Pod("api", 30, 3000, 3, "10.0.1.10", "fd00:10:0:1::a", "0a:00:00:00:00:1e", "0a:00:00:00:01:1e")
"""A pod of the other node."""
OF_NODES = {*NODE.values(), *NODE2.values(), *NODE2_GATEWAY.values(), "0.0.0.0", "::"}
"""Whose frontends are found without their addresses being told."""
PORT, TARGET_PORT, NODE_PORT = 80, 8080, 30080
REMOTE_NODE, NODE_ID = 6, 2
PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
NO_FLAGS = ServiceFlags(0)
MAPS = (
    *(layouts.SERVICES4, layouts.SERVICES6, layouts.SERVICE_IPS4, layouts.SERVICE_IPS6),
    *(layouts.SOURCE_RANGES4, layouts.SOURCE_RANGES6, layouts.AFFINITY),
    *(layouts.SERVICE_FLOWS4, layouts.SERVICE_FLOWS6),
)


@dataclass
class Services:
    """What is in the maps; ids and slots are given out here."""

    node: Node
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    _slots: int = 0

    def __post_init__(self) -> None:
        """No service is left of an earlier test."""
        node = self.node
        for spec in MAPS:
            assert not node.map(spec).delete_batch([key for key, _ in node.map(spec).items()])
        for number, entry in node.map(layouts.BACKENDS).items():
            if entry != layouts.BackendEntry():
                node.map(layouts.BACKENDS).update(number, layouts.BackendEntry())

    def reached_by(self, mode: str) -> None:
        """How the other node is reached."""
        tunnel = mode == "tunnel"
        self.node.other_node(
            NODE_ID, NODE2[4], tunnel=tunnel, device=None if tunnel else "uplink", mtu_bytes=1450 if tunnel else 1500
        )

    def backend(self, at: str, port: int = TARGET_PORT, *, kind: str = "tcp") -> int:
        """Its id."""
        number = next(self._numbers)
        self.set_backend(number, at, port, kind=kind)
        return number

    def set_backend(
        self, number: int, at: str, port: int, *, kind: str = "tcp", state: BackendState = BackendState.ACTIVE
    ) -> None:
        self.node.map(layouts.BACKENDS).update(number, layouts.BackendEntry(packed(at), port, PROTOCOLS[kind], state))

    def forget_backend(self, number: int) -> None:
        self.node.map(layouts.BACKENDS).update(number, layouts.BackendEntry())

    def forget_flows(self) -> None:
        """As a full map does."""
        for spec in (layouts.SERVICE_FLOWS4, layouts.SERVICE_FLOWS6):
            self.node.map(spec).delete_batch([key for key, _ in self.node.map(spec).items()])

    def run(self, backends: tuple[int, ...]) -> layouts.ServiceSet:
        """A run of slots."""
        first = self._slots
        for number in backends:
            self.node.map(layouts.SERVICE_SLOTS).update(self._slots, number)
            self._slots += 1
        return layouts.ServiceSet(first, len(backends))

    def frontend(
        self,
        at: str,
        port: int,
        inside: tuple[int, ...] = (),
        outside: tuple[int, ...] = (),
        *,
        kind: str = "tcp",
        flags: ServiceFlags = NO_FLAGS,
        affinity_s: int = 0,
    ) -> int:
        """Its service id."""
        number = next(self._numbers)
        entry = layouts.ServiceEntry(self.run(inside), self.run(outside), number, affinity_s, flags, number)
        parsed = ipaddress.ip_address(at)
        if parsed.version == 4:
            key = layouts.Service4Key(int(parsed), port, PROTOCOLS[kind])
            self.node.map(layouts.SERVICES4).update(key, entry)
        else:
            key6 = layouts.Service6Key(parsed.packed, port, PROTOCOLS[kind])
            self.node.map(layouts.SERVICES6).update(key6, entry)
        if at not in OF_NODES:
            self.address(at, alone=False)
        return number

    def forget_frontends(self) -> None:
        for spec in (layouts.SERVICES4, layouts.SERVICES6):
            self.node.map(spec).delete_batch([key for key, _ in self.node.map(spec).items()])

    def address(self, at: str, *, alone: bool = True) -> None:
        """It has frontends; `alone`: and no machine has it."""
        parsed = ipaddress.ip_address(at)
        flags = ServiceAddressFlags.ALONE if alone else ServiceAddressFlags(0)
        if parsed.version == 4:
            self.node.map(layouts.SERVICE_IPS4).update(layouts.ServiceAddress4Key(int(parsed)), flags)
        else:
            self.node.map(layouts.SERVICE_IPS6).update(layouts.ServiceAddress6Key(parsed.packed), flags)

    def cluster_ip(self, family: int, *backends: int, kind: str = "tcp", **options: object) -> int:
        return self.frontend(CLUSTER_IP[family], PORT, backends, kind=kind, **options)  # type: ignore[arg-type]

    def node_port(self, family: int, *backends: int, kind: str = "tcp", **options: object) -> int:
        """On this node, as clients outside and inside see it."""
        flags = ServiceFlags.EXTERNAL | options.pop("flags", ServiceFlags(0))  # type: ignore[operator]
        return self.frontend(
            NODE[family],
            NODE_PORT,
            backends,
            backends,
            kind=kind,
            flags=flags,
            **options,  # type: ignore[arg-type]
        )

    def source_range(self, service_id: int, prefix: str) -> None:
        network = ipaddress.ip_network(prefix)
        if network.version == 4:
            key = layouts.SourceRange4Key(32 + network.prefixlen, service_id, int(network.network_address))
            self.node.map(layouts.SOURCE_RANGES4).update(key, 1)
        else:
            key6 = layouts.SourceRange6Key(32 + network.prefixlen, service_id, network.network_address.packed)
            self.node.map(layouts.SOURCE_RANGES6).update(key6, 1)

    def flows(self, family: int) -> dict[object, layouts.ServiceFlowEntry]:
        spec = layouts.SERVICE_FLOWS4 if family == 4 else layouts.SERVICE_FLOWS6
        return dict(self.node.map(spec).items())


def small_world(node: Node) -> Services:
    """No services, but a node with addresses on its uplink and another one behind the overlay."""
    node.masquerade("uplink", ipv4=NODE[4], ipv6=NODE[6])
    for family in (4, 6):
        node.identity(NODE[family], IDENTITY_HOST)
        for other in (NODE2, NODE2_GATEWAY):
            node.identity(other[family], REMOTE_NODE, node_id=NODE_ID)
        node.identity(address(API, family), API.identity, node_id=NODE_ID)
    services = Services(node)
    services.reached_by("tunnel")
    return services


def turned(packet: Packet, **fields: object) -> bytes:
    """The packet with other ends (src, dst, sport, dport), frame (esrc, edst) or hops, every checksum made anew."""
    out = Ether(bytes(packet))
    for name, layer in (("esrc", "src"), ("edst", "dst")):
        if name in fields:
            setattr(out, layer, fields[name])
    for name in ("src", "dst"):
        if name in fields:
            setattr(out[1], name, fields[name])
    for name in ("sport", "dport"):
        if name in fields:
            setattr(out[2], name, fields[name])
    if hops := fields.get("hops", 0):
        name = "ttl" if out.haslayer(IP) else "hlim"
        setattr(out[1], name, getattr(out[1], name) - hops)
    return whole(out)


def told(packet: Packet | bytes, frontend: str, port: int) -> bytes:
    """The packet with what a client has called in it."""
    out = Ether(bytes(packet))
    where, payload = packed(frontend), out[1].payload
    out[1].remove_payload()
    if out.haslayer(IP):
        option = struct.pack("!BBH4s", 0x9A, 8, port, where[12:])
        out[IP].options, out[IP].ihl, out[IP].len = [IPOption(option)], None, None
        return whole(out / payload)
    option = struct.pack("!BBBB16sHBB", out[IPv6].nh, 2, 0x1B, 18, where, port, 1, 0)
    out[IPv6].nh, out[IPv6].plen = 60, out[IPv6].plen + len(option)
    return bytes(out) + option + bytes(payload)


def whole(packet: Packet) -> bytes:
    """The packet's bytes with every checksum made anew, that of a packet which an error quotes excepted."""
    again = packet.copy()
    for layer in (IP, TCP, UDP, SCTP, ICMP):
        if again.haslayer(layer):
            del again[layer].chksum
    for layer in (ICMPv6DestUnreach, ICMPv6PacketTooBig):
        if again.haslayer(layer):
            del again[layer].cksum
    return bytes(again)


def assert_refused(ran: Ran, packet: Packet, family: int, service_id: int = 0) -> None:
    """Dropped with the reason, and the packet became the answer that tells its sender that nobody is there."""
    assert ran.verdict == Verdict.REDIRECT
    (event,) = ran.events
    assert (event.type, event.subtype, event.service_id) == (EventType.DROP, DropReason.SERVICE_NO_BACKEND, service_id)
    answer = Ether(ran.packet)
    ends = (packet.dst, packet.src, packet[1].dst, packet[1].src)
    assert (answer.src, answer.dst, answer[1].src, answer[1].dst) == ends
    assert bytes(whole(answer)) == ran.packet
    if packet.haslayer(TCP):
        sent, said = packet[TCP], answer[TCP]
        assert (said.sport, said.dport) == (sent.dport, sent.sport)
        opens = sent.flags == "S"
        assert (str(said.flags), said.seq, said.ack) == (("RA", 0, sent.seq + 1) if opens else ("R", sent.ack, 0))
        return
    error = answer[ICMP] if family == 4 else answer[ICMPv6DestUnreach]
    assert (error.type, error.code) == ((3, 3) if family == 4 else (1, 4))
    quoted = 28 if family == 4 else 48
    assert ran.packet[-quoted:] == bytes(packet[1])[:quoted]


def layer(family: int) -> type[Packet]:
    return IP if family == 4 else IPv6

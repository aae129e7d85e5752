"""Two nodes with everything attached, in namespaces of their own: what really travels between them.

    pod web ── node1 ─┬─ uplink ── router ── uplink ─┬─ node2 ── pod api
                      └─ wire ─────────────── wire ──┘

Between the uplinks lies a router; on the wire the nodes are neighbours. Maps are filled as an agent would.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import TypeVar

from pycilium.datapath import bpffs, gateway_device, links, netns, overlay_device
from pycilium.datapath.gateway_device import GatewayWanted
from pycilium.datapath.loader import Datapath, DatapathConfig, load
from tests.bpf.conftest import SMALL_MAPS, constants
from tests.bpf.live import POD, ip
from tests.bpf.node import INGRESS, TUNNEL_PORT, WEB, Node, Pod, packed

T = TypeVar("T")
API = Pod("api", 30, 3000, 3, "10.0.1.10", "fd00:10:0:1::a", "0a:00:00:00:00:1e", "0a:00:00:00:01:1e")
UNMANAGED, REMOTE_NODE = 3, 6


@dataclass(frozen=True, slots=True)
class Place:
    """One of the two nodes; `ipv4` and `ipv6` are on the uplink, `wire4` and `wire6` on the wire."""

    name: str
    pod: Pod
    gateway4: str
    gateway6: str
    cidr4: str
    cidr6: str
    ipv4: str
    ipv6: str
    router4: str
    router6: str
    wire4: str
    wire6: str


NODE1 = Place(
    *("node1", WEB, "10.0.0.1", "fd00:10::1", "10.0.0.0/24", "fd00:10::/112"),
    *("192.0.2.1", "2001:db8:1::1", "192.0.2.254", "2001:db8:1::fe", "203.0.113.1", "2001:db8:3::1"),
)
NODE2 = Place(
    *("node2", API, "10.0.1.1", "fd00:10:0:1::1", "10.0.1.0/24", "fd00:10:0:1::/112"),
    *("198.51.100.1", "2001:db8:2::1", "198.51.100.254", "2001:db8:2::fe", "203.0.113.2", "2001:db8:3::2"),
)
MTU_BYTES = {("tunnel", 4): 1450, ("tunnel", 6): 1430, ("native", 4): 1480, ("native", 6): 1480}
OTHER = {NODE1.name: NODE2, NODE2.name: NODE1}

UPLINK = """
link set uplink addrgenmode none up
address add {here.ipv4}/24 dev uplink
address add {here.ipv6}/64 dev uplink nodad
address add fe80::{number}/64 dev uplink nodad
route add default via {here.router4}
route add default via {here.router6}
link set wire addrgenmode none up
address add {here.wire4}/24 dev wire
address add {here.wire6}/64 dev wire nodad
address add fe80::{number}/64 dev wire nodad
link set lo up
"""
ROUTED = """
route replace {there.cidr4} dev cilium_host src {here.gateway4} mtu {mtu}
route replace {there.cidr6} dev cilium_host src {here.gateway6} mtu {mtu}
"""


class LiveNodes:
    """`namespaces`: descriptors by name (node1, node2, router, web, api)."""

    def __init__(self, namespaces: dict[str, int], stack: ExitStack, folder: Path, **config: object) -> None:
        self.namespaces = namespaces
        self.nodes: dict[str, Node] = {}
        self._config = config
        self.roots: dict[str, Path] = {}
        self.datapaths: dict[str, Datapath] = {}
        self._cable()
        for here in (NODE1, NODE2):
            self._forward(here.name)
            self._plug_in(here)
            self.nodes[here.name] = self._start(here, stack, folder)
        self._forward("router")

    def within(self, where: str, act: Callable[[], T]) -> T:
        return netns.run_in(self.namespaces[where], act)

    def run(self, where: str, *command: str) -> subprocess.CompletedProcess[str]:
        return self.within(where, lambda: subprocess.run(command, capture_output=True, text=True, check=False))

    # -- what the agents would write -----------------------------------------------------------------------------

    def route(self, mode: str, outer: int, *, mtu_bytes: int | None = None) -> None:
        """Everybody knows everybody, and the nodes reach each other like that; counters and maps are fresh."""
        mtu_bytes = mtu_bytes or MTU_BYTES[mode, outer]
        for here in (NODE1, NODE2):
            there, node = OTHER[here.name], self.nodes[here.name]
            node.clear()
            for address in (here.gateway4, here.gateway6, here.ipv4, here.ipv6, here.wire4, here.wire6):
                node.identity(address, 1)
            for address in (there.gateway4, there.gateway6, there.ipv4, there.ipv6, there.wire4, there.wire6):
                node.identity(address, REMOTE_NODE, node_id=2)
            node.masquerade("wire", ipv4=here.wire4, ipv6=here.wire6)
            for prefix in (there.cidr4, there.cidr6):
                node.identity(prefix, UNMANAGED, node_id=2)
            for prefix in (there.pod.ipv4, there.pod.ipv6):
                node.identity(prefix, there.pod.identity, node_id=2)
            node.endpoint(here.pod)
            node.allow_all(here.pod)
            for identity in (WEB.identity, API.identity, REMOTE_NODE):
                node.bits(identity, {identity // 100 or identity})
            if mode == "tunnel":
                node.other_node(2, there.ipv4 if outer == 4 else there.ipv6, mtu_bytes=mtu_bytes)
            else:
                address = there.wire4 if outer == 4 else there.wire6
                node.other_node(2, address, mtu_bytes=mtu_bytes, tunnel=False, device="wire")
            self.within(here.name, lambda here=here, there=there: ip(ROUTED.format(here=here, there=there, mtu=1500)))
            self.pod_mtu(here.pod, mtu_bytes)
        self.forget_path_mtus()

    def pod_mtu(self, pod: Pod, mtu_bytes: int) -> None:
        self.within(pod.name, lambda: ip(f"link set eth0 mtu {mtu_bytes}"))

    def forget_path_mtus(self) -> None:
        """What the kernels of pods and nodes have learned."""
        for place in ("web", "api", "node1", "node2"):
            self.within(place, lambda: subprocess.run(["ip", "-4", "route", "flush", "cache"], check=True))
            self.within(place, lambda: subprocess.run(["ip", "-6", "route", "flush", "cache"], check=True))

    def fragments(self) -> int:
        """IP packets that either node or the router made fragments of, ever."""
        total = 0
        for where in ("node1", "node2", "router"):
            fields = self.run(where, "cat", "/proc/net/snmp").stdout.splitlines()[:2]
            ipv4 = dict(zip(fields[0].split(), fields[1].split(), strict=True))
            snmp6 = self.run(where, "cat", "/proc/net/snmp6").stdout
            ipv6 = dict(line.split() for line in snmp6.splitlines())
            total += int(ipv4["FragCreates"]) + int(ipv6["Ip6FragCreates"])
        return total

    # -- how it is made ------------------------------------------------------------------------------------------

    def _cable(self) -> None:
        pairs = [("node1", "uplink", "router", "to1"), ("node2", "uplink", "router", "to2")]
        pairs += [("node1", "wire", "node2", "wire")]
        pairs += [(here.name, f"lxc_{here.pod.name}", here.pod.name, "eth0") for here in (NODE1, NODE2)]
        for near, device, far, peer in pairs:
            path = f"/proc/{os.getpid()}/fd/{self.namespaces[far]}"
            pair = f"link add {device} type veth peer name {peer} netns {path}"
            self.within(near, lambda pair=pair: ip(pair))
        self.within(
            "router",
            lambda: ip(
                "link set lo up\n"
                + "\n".join(
                    f"link set to{number} addrgenmode none up\naddress add {here.router4}/24 dev to{number}\n"
                    f"address add {here.router6}/64 dev to{number} nodad\naddress add fe80::fe/64 dev to{number} nodad"
                    for number, here in ((1, NODE1), (2, NODE2))
                )
            ),
        )

    def _plug_in(self, here: Place) -> None:
        pod = here.pod
        self.within(here.name, lambda: ip(UPLINK.format(here=here, number=here.name[-1])))
        host_side = f"link set lxc_{pod.name} address {pod.host_mac} addrgenmode none up"
        self.within(here.name, lambda: ip(host_side))
        batch = POD.format(pod=pod, gateway4=here.gateway4, gateway6=here.gateway6)
        self.within(pod.name, lambda: ip(f"link set eth0 address {pod.mac}\n{batch.strip()}"))

    def _start(self, here: Place, stack: ExitStack, folder: Path) -> Node:
        wanted = GatewayWanted(
            mtu_bytes=1500,
            gateway_ipv4=IPv4Address(here.gateway4),
            ipv4_pod_cidr=IPv4Network(here.cidr4),
            gateway_ipv6=IPv6Address(here.gateway6),
            ipv6_pod_cidr=IPv6Network(here.cidr6),
        )
        gateway = self.within(here.name, lambda: gateway_device.ensure(wanted, ["uplink", "wire"]))
        overlay = self.within(here.name, lambda: overlay_device.ensure(TUNNEL_PORT, 1450))
        root = folder / here.name
        root.mkdir()
        self.roots[here.name] = root
        bpffs.ensure(root)
        stack.callback(bpffs.unmount, root)
        devices = self._devices(here)
        changes = {
            "gateway_ipv4": int(IPv4Address(here.gateway4)),
            "gateway_ipv6": packed(here.gateway6),
            "host_mac": gateway.mac,
            "overlay_ifindex": overlay,
        }
        loaded = stack.enter_context(
            load(DatapathConfig(str(root), constants(devices, **{**changes, **self._config}), SMALL_MAPS))
        )
        self.datapaths[here.name] = loaded
        (root / "links").mkdir()
        hooks = [(here.pod.name, "from_container", "INGRESS"), ("cilium_host", "from_host", "EGRESS")]
        hooks += [("cilium_vxlan", "from_overlay", "INGRESS")]
        hooks += [("uplink", "from_netdev", "INGRESS"), ("wire", "from_netdev", "INGRESS")]
        for device, program, hook in hooks:
            self.within(
                here.name,
                lambda device=device, program=program, hook=hook: links.attach(
                    devices[device], loaded.programs[program].fd, root / "links" / device, hook=links.Hook[hook]
                ),
            )
        node = Node(loaded, self.namespaces[here.name], devices)
        stack.callback(node.close)
        return node

    def _devices(self, here: Place) -> dict[str, int]:
        listed = self.run(here.name, "ip", "-o", "link").stdout.splitlines()
        by_name = {line.split(": ")[1].split("@")[0]: int(line.split(": ")[0]) for line in listed}
        return {here.pod.name: by_name[f"lxc_{here.pod.name}"], **by_name}

    def _forward(self, where: str) -> None:
        def act() -> None:
            for path in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
                Path("/proc/sys", path).write_text("1")

        self.within(where, act)


def deny_all_ingress(node: Node, pod: Pod) -> None:
    node.row(pod, INGRESS, pod.policy_id * 100 + 12)
    node.policy(pod, revision=pod.policy_id * 10 + 1)

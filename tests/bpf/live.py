"""A node in namespaces of its own with the programs attached: what BPF_PROG_TEST_RUN cannot show, real packets going
through redirects, the stack and other namespaces. Pods keep their neighbour caches empty, so ARP and ND are asked.

    pod web ── lxc_web ┐                      ┌ uplink ── world
    pod db  ── lxc_db  ┴ node, cilium_host ───┘
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pycilium.datapath import links, netns
from pycilium.datapath.loader import Datapath
from tests.bpf.node import DB, GATEWAY4, GATEWAY6, HOST_MAC, ROUTER_MAC, UPLINK_MAC, WEB, WORLD4, WORLD6

T = TypeVar("T")
UPLINK4, UPLINK6 = ("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")

NODE = f"""
link add cilium_host address {HOST_MAC} type veth peer name cilium_net
link set cilium_host arp off up
link set cilium_net arp off up
address add {GATEWAY4}/32 dev cilium_host
address add {GATEWAY6}/128 dev cilium_host nodad
route add 10.0.0.0/24 dev cilium_host
route add fd00:10::/112 dev cilium_host
link add uplink address {UPLINK_MAC} type veth peer name world0 address {ROUTER_MAC}
link set uplink addrgenmode none up
address add {UPLINK4[0]}/24 dev uplink
address add {UPLINK6[0]}/64 dev uplink nodad
address add fe80::1/64 dev uplink nodad
link set lo up
"""
WORLD = f"""
link set world0 addrgenmode none up
link set lo up
address add {UPLINK4[1]}/24 dev world0
address add {UPLINK6[1]}/64 dev world0 nodad
address add fe80::2/64 dev world0 nodad
address add {WORLD4}/32 dev lo
address add {WORLD6}/128 dev lo nodad
route add 10.0.0.0/24 via {UPLINK4[0]}
route add fd00:10::/112 via {UPLINK6[0]}
"""
POD = """
link set lo up
link set eth0 up
address add {pod.ipv4}/32 dev eth0
address add {pod.ipv6}/128 dev eth0 nodad
route add {gateway4} dev eth0
route add default via {gateway4}
route add {gateway6} dev eth0
route add default via {gateway6}
"""


def ip(batch: str) -> None:
    subprocess.run(["ip", "-batch", "-"], input=batch.strip(), text=True, check=True)


class LiveNode:
    """`namespaces`: descriptors by name (node, world, web, db)."""

    def __init__(self, namespaces: dict[str, int]) -> None:
        self.namespaces = namespaces
        self.devices: dict[str, int] = {}

    def within(self, where: str, act: Callable[[], T]) -> T:
        return netns.run_in(self.namespaces[where], act)

    def run(self, where: str, *command: str) -> subprocess.CompletedProcess[str]:
        return self.within(where, lambda: subprocess.run(command, capture_output=True, text=True, check=False))

    def build(self) -> None:
        self.within("node", lambda: ip(NODE))
        for pod in (WEB, DB):
            pair = (
                f"link add lxc_{pod.name} address {pod.host_mac} type veth peer name eth0_{pod.name} address {pod.mac}"
            )
            self.within("node", lambda pair=pair, pod=pod: ip(f"{pair}\nlink set lxc_{pod.name} addrgenmode none up"))
            self._move(f"eth0_{pod.name}", pod.name, "eth0")
            self.within(pod.name, lambda pod=pod: ip(POD.format(pod=pod, gateway4=GATEWAY4, gateway6=GATEWAY6)))
        self._move("world0", "world", "world0")
        self.within("world", lambda: ip(WORLD))
        self.within("node", lambda: ip(f"route add default via {UPLINK4[1]}\nroute add default via {UPLINK6[1]}"))
        self.within("node", _forward)
        listed = self.run("node", "ip", "-o", "link").stdout.splitlines()
        by_name = {line.split(": ")[1].split("@")[0]: int(line.split(": ")[0]) for line in listed}
        self.devices = {"web": by_name["lxc_web"], "db": by_name["lxc_db"], **by_name}

    def _move(self, device: str, to: str, name: str) -> None:
        fd = self.namespaces[to]
        path = f"/proc/{os.getpid()}/fd/{fd}"
        self.within("node", lambda: ip(f"link set {device} netns {path} name {name}"))

    def attach(self, datapath: Datapath, pins: Path) -> None:
        pins.mkdir()
        hooks = [("web", "from_container", "INGRESS"), ("db", "from_container", "INGRESS")]
        hooks += [("cilium_host", "from_host", "EGRESS"), ("uplink", "from_netdev", "INGRESS")]
        hooks += [("uplink", "to_netdev", "EGRESS")]
        for device, program, hook in hooks:
            self.attach_one(datapath, pins / program / device, device, program, links.Hook[hook])

    def attach_one(self, datapath: Datapath, pin: Path, device: str, program: str, hook: links.Hook) -> None:
        pin.parent.mkdir(exist_ok=True)
        self.within(
            "node",
            lambda: links.attach(self.devices[device], datapath.programs[program].fd, pin, hook=hook),
        )


def _forward() -> None:
    for path in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
        Path("/proc/sys", path).write_text("1")

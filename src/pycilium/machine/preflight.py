"""Looking at a machine before anything is changed on it: what is missing, what is in the way, what can be found out."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pycilium.agent.config import AgentConfig
from pycilium.api.transport import somebody_listens
from pycilium.datapath import cgroup_links, features, rtnetlink
from pycilium.datapath.bound_ports import bound_ports
from pycilium.datapath.bpffs import is_bpffs
from pycilium.datapath.gateway_device import is_ours
from pycilium.datapath.netlink import Netlink
from pycilium.errors import AttachError
from pycilium.machine.plan import PLUGIN_FOLDERS
from pycilium.model.l4 import Protocol

_FOREIGN_DEVICES = {
    "flannel.1": "flannel",
    "cni0": "flannel or the bridge plugin",
    "weave": "Weave",
    "vxlan.calico": "Calico",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be. What stops the installation is `fatal`."""

    what: str
    remedy: str
    fatal: bool = False

    def __str__(self) -> str:
        return f"{self.what}: {self.remedy}"


def found_out() -> dict[str, Any]:
    """The configuration that this machine suggests: its name, its way out, its cgroups."""
    return {
        "node_name": node_name(socket.gethostname()),
        "devices": _devices_of_default_routes(),
        "cgroup_root": "auto" if _has_cgroup2() else None,
    }


def node_name(host: str) -> str:
    """The host's name as an object may have it."""
    name = re.sub("[^a-z0-9.-]", "-", host.lower()).strip("-.")
    return name or "machine"


def look(config: AgentConfig, *, is_installed: bool) -> Iterator[Finding]:
    """Everything about this machine that an installation with `config` would suffer from."""
    yield from lacking()
    if not is_bpffs("/sys/fs/bpf"):
        yield Finding("/sys/fs/bpf is no BPF file system", "the agent mounts one when it starts")
    if config.cgroup_root and not _has_cgroup2():
        yield Finding(
            "cgroup v2 is mounted nowhere", "mount it, or --set cgroup_root=null (Services per packet)", fatal=True
        )
    yield from _other_networks(config)
    if not is_installed and somebody_listens(str(Path(config.run_dir) / "cilium.sock")):
        yield Finding(
            f"an agent answers on {config.run_dir}/cilium.sock that this command did not install",
            "remove it first, the way it was installed",
            fatal=True,
        )
    if not any(Path("/", folder, "loopback").exists() for folder in PLUGIN_FOLDERS):
        yield Finding(
            "there is no CNI plugin loopback",
            "containerd needs it for pods of its CRI: apt-get install containernetworking-plugins",
        )


def lacking() -> Iterator[Finding]:
    """What the kernel, or who asks, lacks for any agent."""
    for check in features.report():
        if check.needed and not check.available:
            yield Finding(check.name, check.words, fatal=True)


def leftovers(links: Iterable[rtnetlink.Link]) -> Iterator[Finding]:
    """Devices of other networks."""
    for link in links:
        if link.name in _FOREIGN_DEVICES:
            yield Finding(
                f"device {link.name} is left of {_FOREIGN_DEVICES[link.name]}",
                f"remove that network first, then `ip link del {link.name}`",
            )


def holders(
    port: int, links: Iterable[rtnetlink.Link], bound: Collection[tuple[int, Protocol]], otherwise: str
) -> Iterator[Finding]:
    """Who has the overlay's UDP port, if not we; `otherwise` says how to choose another."""
    names = [link.name for link in links if link.kind == "vxlan" and rtnetlink.vxlan_in(link).port == port]
    for name in names:
        if not is_ours(name):
            yield Finding(f"device {name} has UDP port {port}", f"remove it, or {otherwise}", fatal=True)
    if not names and (port, Protocol.UDP) in bound:
        yield Finding(f"UDP port {port} is in use", f"end what has it (`ss -lunp` says), or {otherwise}", fatal=True)


def _other_networks(config: AgentConfig) -> Iterator[Finding]:
    with Netlink.open() as node:
        links = {link.ifindex: link for link in node.links()}
        routes, addresses = node.routes(), node.addresses()
    yield from leftovers(links.values())
    if config.routing_mode == "tunnel":
        otherwise = "--set tunnel_port=PORT, or --set routing_mode=native"
        yield from holders(config.tunnel_port, links.values(), bound_ports(), otherwise)
    for pods in map(ipaddress.ip_network, filter(None, (config.ipv4_pod_cidr, config.ipv6_pod_cidr))):
        field = f"ipv{pods.version}_pod_cidr"
        taken = [
            f"a route to {route.destination}"
            for route in routes
            if route.destination.prefixlen
            and _overlap(pods, route.destination)
            and not _is_of_ours(links, route.ifindex)
        ]
        taken += [
            f"the address {entry.address}"
            for entry in addresses
            if entry.address in pods and not _is_of_ours(links, entry.ifindex)
        ]
        if taken:
            yield Finding(
                f"the machine has {taken[0]}, which is among the pods' {pods}",
                f"choose another network: --set {field}=NETWORK",
                fatal=True,
            )


def _overlap(one: ipaddress.IPv4Network | ipaddress.IPv6Network, other: Any) -> bool:
    return bool(one.version == other.version and one.overlaps(other))


def _is_of_ours(links: Mapping[int, rtnetlink.Link], ifindex: int) -> bool:
    return ifindex in links and is_ours(links[ifindex].name)


def _devices_of_default_routes() -> list[str]:
    with Netlink.open() as node:
        names = {link.ifindex: link.name for link in node.links()}
        ways_out = [route.ifindex for route in node.routes() if route.destination.prefixlen == 0]
    return sorted({names[ifindex] for ifindex in ways_out if ifindex in names})


def _has_cgroup2() -> bool:
    try:
        cgroup_links.cgroup_root()
    except AttachError:
        return False
    return True


def has_systemd() -> bool:
    """Whether systemd runs this machine, as systemd says to find out."""
    return os.path.isdir("/run/systemd/system")

"""`cilium-dbg preflight`: whether this node of a cluster can take an agent, by the node itself.

`cilium preflight --nodes` runs it on every node. What an agent's pod mounts itself is not missing. Nothing is changed,
but by `--repair` what an ended flannel left.
Invariant: a report has a line at least, and is not longer than a kubelet passes on.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import click

from pycilium.datapath import kube_proxy_rules
from pycilium.datapath.bound_ports import bound_ports
from pycilium.datapath.netlink import Netlink
from pycilium.datapath.rtnetlink import Link
from pycilium.errors import ConfigError
from pycilium.install.findings import Finding
from pycilium.machine import flannel
from pycilium.machine import preflight as machine
from pycilium.model.l4 import Protocol

_REPORT_BYTES = 4000
"""A kubelet passes on the last 4096 of a termination message."""
_FILE_SYSTEMS = {"bpf": "for pinned maps (CONFIG_BPF_SYSCALL)", "cgroup2": "for Services at sockets (CONFIG_CGROUPS)"}
_IPVS = "kube-ipvs0"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an agent is going to need here."""

    tunnel_port: int
    """0: no overlay."""
    cgroup_root: str
    """"": the agent's pod mounts one."""
    replaces_kube_proxy: bool


@dataclass(frozen=True, slots=True)
class Node:
    """What was seen of it."""

    links: Sequence[Link]
    bound: Collection[tuple[int, Protocol]]
    file_systems: Collection[str]
    """That the kernel knows."""
    mounts: Mapping[str, str]
    """The kind of what is mounted, by place."""
    has_kube_proxy_rules: bool
    processes: Collection[str] = ()
    """The names of all that run."""

    @property
    def left_by_flannel(self) -> list[str]:
        """Devices that nobody uses."""
        return [] if flannel.in_use(self.links, self.processes) else flannel.devices(self.links)


@click.command()
@click.option("--tunnel-port", type=click.IntRange(0, 65535), default=8472, show_default=True, help="0: no overlay.")
@click.option("--cgroup-root", default="", metavar="FOLDER", help="Must be cgroup v2; without: agents mount one.")
@click.option("--kube-proxy-replacement", is_flag=True, help="No kube-proxy may have left rules.")
@click.option("--host-proc", default="/proc", show_default=True, metavar="FOLDER", help="The node's, as mounted here.")
@click.option("--repair", is_flag=True, help="Remove what flannel left. It must have ended; what is in use stays.")
@click.option("--report", default="", metavar="FILE", help="Write findings there, and exit with 0 once that is done.")
def preflight(
    *, tunnel_port: int, cgroup_root: str, kube_proxy_replacement: bool, host_proc: str, repair: bool, report: str
) -> None:
    """Look whether this node can take an agent, and say what to change. Exit code 1: it cannot."""
    wanted = Wanted(tunnel_port, cgroup_root, kube_proxy_replacement)
    removed = _repaired(seen(host_proc)) if repair else []
    lacking = [_of_cluster(each) for each in machine.lacking()]
    found = [*lacking, *judged(seen(host_proc), wanted)] or [
        Finding("ok", "kernel, mounts, devices and ports are as an agent needs them")
    ]
    found = [*removed, *found]
    click.echo("\n".join(map(str, found)))
    if report:
        _write(report, passed_on(list(map(str, found))))
    elif any(each.level == "error" for each in found):
        sys.exit(1)


def judged(node: Node, wanted: Wanted) -> Iterator[Finding]:
    """All that is not as it should be. Pure."""
    for kind, purpose in _FILE_SYSTEMS.items():
        if kind not in node.file_systems:
            yield Finding("error", f"the kernel has no file system {kind}, {purpose}: another kernel is needed")
    if wanted.cgroup_root and node.mounts.get(wanted.cgroup_root) != "cgroup2":
        remedy = "mount cgroup v2 there, or --set cgroup.autoMount.enabled=true"
        yield Finding("error", f"{wanted.cgroup_root} is no cgroup v2 file system: {remedy}")
    yield from _left(node)
    if wanted.tunnel_port:
        otherwise = "--set tunnelPort=PORT, or --set routingMode=native"
        for held in machine.holders(wanted.tunnel_port, node.links, node.bound, otherwise):
            yield _of_cluster(held)
    if wanted.replaces_kube_proxy and (node.has_kube_proxy_rules or any(link.name == _IPVS for link in node.links)):
        remedy = "once it has ended, `kube-proxy --cleanup` removes them"
        yield Finding("warning", f"rules of a kube-proxy drop pods' connections to the world: {remedy}")


def _left(node: Node) -> Iterator[Finding]:
    """Devices of other networks, and how they go: by --repair where that is safe."""
    of_flannel, used = flannel.devices(node.links), flannel.in_use(node.links, node.processes)
    for name in of_flannel:
        remedy = used or "once that network has ended, `cilium preflight --nodes --repair` removes it"
        yield Finding("warning", f"device {name} is left of flannel: {remedy}")
    for left in machine.leftovers(link for link in node.links if link.name not in of_flannel):
        yield _of_cluster(left)


def _repaired(node: Node) -> list[Finding]:
    """What was done about what may be removed."""
    flannel.remove(node.left_by_flannel)
    return [Finding("ok", f"device {name}, which flannel left, was removed") for name in node.left_by_flannel]


def seen(host_proc: str) -> Node:
    """As it is, from a process in its network namespace; mounts are those of the node's first process."""
    try:
        known = Path("/proc/filesystems").read_text(encoding="utf-8")
        mounted = Path(host_proc, "1", "mountinfo").read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--host-proc {host_proc}: {error.filename}: {error.strerror}") from error
    with Netlink.open() as channel:
        links = channel.links()
    kinds = {line.split()[-1] for line in known.splitlines() if line}
    return Node(
        links, bound_ports(), kinds, mounts_in(mounted), kube_proxy_rules.is_there(), _processes(Path(host_proc))
    )


def mounts_in(mountinfo: str) -> dict[str, str]:
    """Kinds of file systems by where they are mounted; what is mounted last is on top."""
    parts = (line.partition(" - ") for line in mountinfo.splitlines())
    return {place.split()[4].replace("\\040", " "): kind.split()[0] for place, _, kind in parts}


def _processes(proc: Path) -> set[str]:
    """Names of all; of those that end meanwhile, none."""
    found = set()
    for name in proc.glob("[0-9]*/comm"):
        with suppress(OSError):
            found.add(name.read_text(encoding="utf-8", errors="replace").strip())
    return found


def passed_on(lines: Sequence[str]) -> str:
    """As much as a kubelet passes on, in whole lines, and how many there are more."""
    kept: list[str] = []
    for line in lines:
        if len("\n".join([*kept, line]).encode()) > _REPORT_BYTES:
            return "\n".join([*kept, f"warning: {len(lines) - len(kept)} findings more: `cilium-dbg preflight` there"])
        kept.append(line)
    return "\n".join(kept)


def _of_cluster(finding: machine.Finding) -> Finding:
    return Finding("error" if finding.fatal else "warning", str(finding))


def _write(path: str, text: str) -> None:
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--report {path}: {error.strerror}") from error

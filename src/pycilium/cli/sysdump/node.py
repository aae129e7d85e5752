"""What one node says: its agent, its kernel, its log. The same for a machine, a lab's node, and an agent's pod."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from pycilium.cli.sysdump.archive import Archive
from pycilium.errors import CiliumError, NotFound

if TYPE_CHECKING:
    from pycilium.api.client import AgentClient, HealthClient

_ENTRIES_MOST = 5000
_FLOWS = 1000
_TIMEOUT_S = 30
_COMMANDS: Mapping[str, tuple[str, ...]] = {
    "ip-link.txt": ("ip", "-details", "-statistics", "link"),
    "ip-address.txt": ("ip", "address"),
    "ip-route-4.txt": ("ip", "-4", "route", "show", "table", "all"),
    "ip-route-6.txt": ("ip", "-6", "route", "show", "table", "all"),
    "ip-rule.txt": ("ip", "rule"),
    "ip-neighbour.txt": ("ip", "neighbour"),
    "nft.txt": ("nft", "list", "ruleset"),
    "iptables.txt": ("iptables-save",),
    "sockets.txt": ("ss", "-tunap"),
    "bpf-programs.txt": ("bpftool", "prog"),
    "bpf-links.txt": ("bpftool", "net"),
}
"""Of programs that a node may have; one that it has not is among the failures."""
_FILES = ("/proc/version", "/proc/cmdline", "/proc/meminfo", "/proc/loadavg", "/proc/mounts", "/etc/os-release")
_SYSCTLS = (
    "net/ipv4/ip_forward",
    "net/ipv4/conf/*/rp_filter",
    "net/ipv4/conf/*/forwarding",
    "net/core/bpf_jit_*",
    "net/ipv6/conf/*/forwarding",
    "net/ipv6/conf/*/disable_ipv6",
    "kernel/unprivileged_bpf_disabled",
)


@dataclass(frozen=True, slots=True)
class Node:
    """Where a node's parts are."""

    agent: Callable[[], AgentClient]
    health: Callable[[], HealthClient]
    hubble: str
    """The socket of its flows."""
    bpf_root: str
    files: Mapping[str, Path] = field(default_factory=dict)
    """Configuration and logs, by the names that they have in the archive."""
    unit: str = ""
    """Of systemd, whose journal is the log."""
    enter: Callable[[Callable[[], Any]], Any] = lambda look: look()
    """Calls something in the node's network namespace."""


def dump(node: Node, archive: Archive, folder: str, tell: Callable[[str], None]) -> None:
    """All of it, below `folder`."""
    under = f"{folder}/" if folder else ""
    for part, look in (
        ("agent", lambda: _agent(node, archive, f"{under}agent")),
        ("kernel", lambda: node.enter(lambda: _kernel(node, archive, f"{under}kernel"))),
        ("logs", lambda: _logs(node, archive, f"{under}logs")),
    ):
        tell(f"{under}{part}")
        look()


def _agent(node: Node, archive: Archive, folder: str) -> None:
    try:
        agent = node.agent()
        archive.add(f"{folder}/status.json", agent.status())
    except CiliumError as error:
        archive.failed(folder, error)
        return
    asked: Mapping[str, Callable[[], Any]] = {
        "endpoints": agent.endpoints,
        "identities": agent.identities,
        "services": agent.services,
        "ip": agent.ip_entries,
        "policy": agent.policy,
        "nodes": agent.nodes,
        "config": agent.config,
        "maps": agent.maps,
        "health": lambda: node.health().status(),
    }
    for name, ask in asked.items():
        archive.attempt(f"{folder}/{name}.json", ask)
    for name in _names_of_maps(agent):
        archive.attempt(f"{folder}/maps/{name}.json", partial(_map, agent, name))
    archive.attempt(f"{folder}/flows.jsonl", lambda: _flows(node.hubble))


def _names_of_maps(agent: AgentClient) -> list[str]:
    try:
        return [each["name"] for each in agent.maps()]
    except CiliumError:
        return []  # said already


def _map(agent: AgentClient, name: str) -> dict[str, Any]:
    """With no more entries than a reader can use."""
    found = agent.map(name)
    entries = found.get("cache") or []
    left_out = {"left-out": len(entries) - _ENTRIES_MOST} if len(entries) > _ENTRIES_MOST else {}
    return {**found, "cache": entries[:_ENTRIES_MOST], **left_out}


def _flows(socket: str) -> str:
    """The last flows, one as JSON on each line."""
    words = (sys.executable, "-m", "pycilium.cli.hubble", "observe", "--last", str(_FLOWS), "-o", "jsonpb")
    return _said(words, {**os.environ, "HUBBLE_SERVER": f"unix://{socket}"})


def _kernel(node: Node, archive: Archive, folder: str) -> None:
    from pycilium.datapath.netlink import Netlink

    archive.add(f"{folder}/uname.txt", " ".join(platform.uname()))
    for path in _FILES:
        archive.attempt(f"{folder}/{path.rpartition('/')[2]}.txt", Path(path).read_text)
    archive.add(f"{folder}/sysctl.txt", "\n".join(_sysctls()))
    archive.attempt(f"{folder}/links-of-programs.json", lambda: _pinned(node.bpf_root))
    with Netlink.open() as netlink:
        seen = (("links", netlink.links), ("addresses", netlink.addresses), ("routes", netlink.routes))
        for name, look in seen:
            archive.attempt(f"{folder}/{name}.txt", partial(_as_lines, look))
    for name, words in _COMMANDS.items():
        archive.attempt(f"{folder}/{name}", partial(_said, words))


def _as_lines(look: Callable[[], Iterable[object]]) -> str:
    return "\n".join(map(str, look()))


def _sysctls() -> Iterator[str]:
    for pattern in _SYSCTLS:
        for path in sorted(Path("/proc/sys").glob(pattern)):
            yield f"{path.relative_to('/proc/sys')} = {path.read_text(encoding='ascii').strip()}"


def _pinned(bpf_root: str) -> list[Any]:
    """Which programs hang where."""
    from pycilium.datapath import link_pins

    pins = link_pins.pinned(Path(bpf_root) / "links")
    return [{"pin": str(pin), "link": msgspec.to_builtins(info, str_keys=True)} for pin, info in pins]


def _logs(node: Node, archive: Archive, folder: str) -> None:
    for name, path in node.files.items():
        archive.attempt(f"{folder}/{name}", partial(_content, path))
    if node.unit:
        words = ("journalctl", "--unit", node.unit, "--no-pager", "--lines", "20000")
        archive.attempt(f"{folder}/agent.log", lambda: _said(words))


def _content(path: Path) -> Any:
    text = path.read_text(encoding="utf-8", errors="replace")
    return json.loads(text) if path.suffix == ".json" else text


def _said(words: tuple[str, ...], environment: Mapping[str, str] | None = None) -> str:
    if shutil.which(words[0]) is None:
        raise NotFound(f"there is no program {words[0]}")
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S, check=False, env=environment
        )
    except subprocess.TimeoutExpired as error:
        raise CiliumError(f"{words[0]} did not end within {_TIMEOUT_S} s") from error
    if done.returncode:
        raise CiliumError(f"{words[0]} ended with code {done.returncode}: {done.stderr.strip()[-300:]}")
    return done.stdout

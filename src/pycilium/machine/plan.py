"""What an installation consists of: files and their contents. Pure; doing it is `files`' and `command`'s."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CONFIG = "etc/cilium/agent.json"
UNIT = "etc/systemd/system/cilium-agent.service"
CNI_FOLDER = "etc/cni/net.d"
CONFLIST = f"{CNI_FOLDER}/05-cilium.conflist"
RECORD = "var/lib/cilium/install.json"
"""What was installed, so that it can be taken away. Written before the first file and removed after the last."""
PLUGIN_FOLDERS = ("opt/cni/bin", "usr/lib/cni", "usr/libexec/cni")
"""Where runtimes look for plugins: by default, on Debian, on Fedora. The first is made; the others only if there."""
PLUGIN = "cilium-cni"
ASIDE = ".cilium_bak"
"""Added to the name of another plugin's configuration that is set aside; as Cilium does it."""
_CONFIG_ENDINGS = (".conf", ".conflist", ".json")


@dataclass(frozen=True, slots=True)
class File:
    """A file below the root; `path` has no leading `/`."""

    path: str
    content: str
    mode: int = 0o644


def conflist() -> File:
    """The network `cilium`, for podman (`--network cilium`), containerd, nerdctl and CRI-O."""
    plugin = {"type": PLUGIN, "capabilities": {"portMappings": True}}
    network = {"cniVersion": "1.0.0", "name": "cilium", "plugins": [plugin]}
    return File(CONFLIST, json.dumps(network, indent=2) + "\n")


def config(existing: Mapping[str, Any], found: Mapping[str, Any], settings: Mapping[str, Any]) -> File:
    """The agent's configuration: what was set now, over what was there, over what was found out about the machine."""
    return File(CONFIG, json.dumps({**found, **existing, **settings}, indent=2) + "\n")


def unit(agent: str) -> File:
    """The agent as a service. It may be stopped and started at any time: the kernel goes on meanwhile."""
    lines = (
        "[Unit]",
        "Description=Cilium agent: network, policy and flows of this machine's containers and services",
        "After=network-online.target",
        "Wants=network-online.target",
        "Before=containerd.service crio.service podman-restart.service",
        "",
        "[Service]",
        f"ExecStart={agent} --config /{CONFIG}",
        "Restart=always",
        "RestartSec=2",
        "TimeoutStopSec=20",
        "LimitMEMLOCK=infinity",
        "LimitNOFILE=1048576",
        "OOMScoreAdjust=-900",
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    )
    return File(UNIT, "\n".join(lines) + "\n")


def set_aside(names: Sequence[str], *, exclusive: bool) -> list[str]:
    """Which of the CNI folder's files are to go out of the way.

    Runtimes of the CRI use the first file by name, so those before ours; podman's networks come later and are chosen by
    name, so they stay. `exclusive`: all.
    """
    ours = CONFLIST.rpartition("/")[2]
    others = [name for name in sorted(names) if name.endswith(_CONFIG_ENDINGS) and name != ours]
    return others if exclusive else [name for name in others if name < ours]

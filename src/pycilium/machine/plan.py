"""What an installation consists of: files and their contents. Pure; doing it is `files`' and `command`'s."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pycilium.agent.config import AgentConfig

CONFIG = "etc/cilium/agent.json"
UNIT = "etc/systemd/system/cilium-agent.service"
OPERATOR_CONFIG = "etc/cilium/operator.json"
OPERATOR_UNIT = "etc/systemd/system/cilium-operator.service"
CNI_FOLDER = "etc/cni/net.d"
CONFLIST = f"{CNI_FOLDER}/05-cilium.conflist"
RECORD = "var/lib/cilium/install.json"
"""What was installed, so that it can be taken away. Written before the first file and removed after the last."""
PLUGIN_FOLDERS = ("opt/cni/bin", "usr/lib/cni", "usr/libexec/cni")
"""Where runtimes look for plugins: by default, on Debian, on Fedora. The first is made; the others only if there."""
PLUGIN = "cilium-cni"
KEPT = (CONFIG, OPERATOR_CONFIG)
"""What `uninstall` leaves unless it is told otherwise."""
KNOWN = (CONFIG, *(f"{folder}/{PLUGIN}" for folder in PLUGIN_FOLDERS), UNIT, OPERATOR_CONFIG, OPERATOR_UNIT, CONFLIST)
"""Everything that an installation may consist of."""
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


def operator_config(existing: Mapping[str, Any], agent: AgentConfig) -> File:
    """The operator's, for the agent's store; where nodes bring their pod CIDRs themselves it gives none."""
    pools: dict[str, Any] = (
        {} if agent.ipam == "cluster-pool" else {f"cluster_pool_ipv{version}_cidrs": [] for version in (4, 6)}
    )
    made = {"name": agent.node_name, **pools, **existing, "store": agent.store}
    return File(OPERATOR_CONFIG, json.dumps(made, indent=2) + "\n")


def wants_operator(agent: AgentConfig, *, had_one: bool, is_new: bool, asked: bool | None) -> bool:
    """As asked; else as it was; a new installation has one where several machines share the store."""
    if asked is not None:
        return asked
    return agent.store.startswith("etcd") if is_new else had_one


def operator_unit(operator: str) -> File:
    """The operator as a service. Several may run; one leads."""
    lines = (
        "[Unit]",
        "Description=Cilium operator: what is decided once for all machines that share a store",
        "After=network-online.target",
        "Wants=network-online.target",
        "",
        "[Service]",
        f"ExecStart={operator} --config /{OPERATOR_CONFIG}",
        "Restart=always",
        "RestartSec=2",
        "TimeoutStopSec=20",
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    )
    return File(OPERATOR_UNIT, "\n".join(lines) + "\n")


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


def is_record(found: object) -> bool:
    """Whether a record is as installations write them."""
    return isinstance(found, dict) and all(
        isinstance(names := found.get(key), list) and all(isinstance(name, str) for name in names)
        for key in ("files", "aside")
    )


def set_aside(names: Sequence[str], *, exclusive: bool) -> list[str]:
    """Which of the CNI folder's files are to go out of the way.

    Runtimes of the CRI use the first file by name, so those before ours; podman's networks come later and are chosen by
    name, so they stay. `exclusive`: all.
    """
    ours = CONFLIST.rpartition("/")[2]
    others = [name for name in sorted(names) if name.endswith(_CONFIG_ENDINGS) and name != ours]
    return others if exclusive else [name for name in others if name < ours]

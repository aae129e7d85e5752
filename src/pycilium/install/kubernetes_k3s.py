"""k3s: what its servers were started with, which they write on their nodes, and what of it must be otherwise for us.

k3s puts its command line, after what its configuration file says, on each node as a list in JSON, and the environment
beside it. Agents take flannel, network policies and kube-proxy from their server, so that servers alone are judged.
Pure. Invariant: what cannot be read is no server here; nothing is concluded from it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pycilium.install.findings import Finding
from pycilium.install.templates import Plain

_ARGS, _ENVIRONMENT = "k3s.io/node-args", "k3s.io/node-env"
_CONFIG = "/etc/rancher/k3s/config.yaml"
_TRUE = ("1", "t", "true")
"""As k3s reads what is on or off, in small letters."""
_SEVERAL = ("cluster-cidr", "service-cidr")
_RESTARTED = "then `systemctl restart k3s`"
_AGENTS_TOO = " and, on agents, `systemctl restart k3s-agent`"
_DATA = "/var/lib/rancher/k3s"
_POD_NETWORK, _SERVICE_NETWORK = "10.42.0.0/16", "10.43.0.0/16"
_API_PORT = 6443


@dataclass(frozen=True, slots=True)
class Server:
    """One of them.

    Attributes:
        flags: without their dashes, each with what counts of it: the last.
        config: the file that it reads.
    """

    node: str
    address: str
    """By which nodes reach it."""
    flags: Mapping[str, str]
    config: str

    @property
    def flannel(self) -> str:
        """The backend of its flannel; "none": it runs none."""
        return "none" if self._is_on("no-flannel") else self.flags.get("flannel-backend", "vxlan")

    @property
    def enforces_policies(self) -> bool:
        return not self._is_on("disable-network-policy")

    @property
    def runs_kube_proxy(self) -> bool:
        return not self._is_on("disable-kube-proxy")

    @property
    def api_port(self) -> int:
        said = self.first("https-listen-port")
        return int(said) if said.isdecimal() else _API_PORT

    def first(self, *flags: str) -> str:
        """What the first of the flags says that is there; "" if none is."""
        return next((self.flags[flag] for flag in flags if flag in self.flags), "")

    def remedy(self, flag: str, value: str) -> str:
        """How to set a flag; one that is set wrongly may be set in another place, which wins."""
        elsewhere = f" (--{flag} on its command line wins: take it from there)" if flag in self.flags else ""
        return f"say `{flag}: {value}` in {self.config} there{elsewhere}, {_RESTARTED}"

    def _is_on(self, flag: str) -> bool:
        return self.flags.get(flag, "").lower() in _TRUE


def servers(nodes: Iterable[Mapping[str, Any]]) -> list[Server]:
    """Those of the nodes that say how they were started, by name."""
    found = [server for node in nodes if (server := _server(node)) is not None]
    return sorted(found, key=lambda each: each.node)


def values_of(found: Sequence[Server], host: str, port: int | None) -> Plain:
    """The values that follow from how servers were started, the first of them; k3s' own defaults if none says so.

    By `host` and `port` the API server was reached, which may be a way that this machine alone has.
    """
    one = found[0] if found else Server("", "", {}, _CONFIG)
    data, pods = one.first("data-dir", "d") or _DATA, (one.first("cluster-cidr") or _POD_NETWORK).split(",")
    pods = [each for each in pods if ":" not in each] or [_POD_NETWORK]
    values: Plain = {
        "cni": {"confPath": f"{data}/agent/etc/cni/net.d", "binPath": f"{data}/data/cni"},
        "ipam": {"operator": {"clusterPoolIPv4PodCIDRList": pods}},
        "k8s": {"serviceCIDRs": (one.first("service-cidr") or _SERVICE_NETWORK).split(",")},
    }
    if found and not any(each.runs_kube_proxy for each in found):
        if _is_own(host):
            host, port = one.address, one.api_port
        values |= {"kubeProxyReplacement": True, "k8sServiceHost": host, "k8sServicePort": port}
    return values


def judged(found: Sequence[Server], *, replaces_kube_proxy: bool) -> list[Finding]:
    """What servers should be started with and are not, a line for each flag and each way to set it."""
    lines: dict[Finding, list[str]] = {}
    for server in found:
        for finding in _wrong(server, replaces_kube_proxy=replaces_kube_proxy):
            lines.setdefault(finding, []).append(server.node)
    return [Finding(one.level, f"k3s on {', '.join(nodes)} {one.what}") for one, nodes in lines.items()] or [
        Finding("ok", f"k3s was started as it should be on {', '.join(each.node for each in found)}")
    ]


def _wrong(server: Server, *, replaces_kube_proxy: bool) -> Iterator[Finding]:
    if server.flannel != "none":
        what = f"runs flannel (--flannel-backend={server.flannel})"
        yield Finding("error", f"{what}: {server.remedy('flannel-backend', 'none')}{_AGENTS_TOO}")
    if server.enforces_policies:
        what = "enforces NetworkPolicies too, by rules of iptables"
        yield Finding("warning", f"{what}: {server.remedy('disable-network-policy', 'true')}")
    if replaces_kube_proxy and server.runs_kube_proxy:
        what = "runs kube-proxy although kubeProxyReplacement is on: its rules drop pods' connections to the world"
        yield Finding("warning", f"{what}; {server.remedy('disable-kube-proxy', 'true')}{_AGENTS_TOO}")
    if not replaces_kube_proxy and not server.runs_kube_proxy:
        what = "runs no kube-proxy (--disable-kube-proxy): --set kubeProxyReplacement=true"
        yield Finding("error", f"{what}, or nodes and clients outside reach no Service")


def _server(node: Mapping[str, Any]) -> Server | None:
    """None if the node does not say how it was started, or is an agent."""
    metadata = node["metadata"]
    annotations = metadata.get("annotations") or {}
    words, environment = _read(annotations.get(_ARGS), list), _read(annotations.get(_ENVIRONMENT), dict) or {}
    if not words or words[0] != "server":
        return None
    flags = _flags(list(map(str, words[1:])))
    config = flags.get("config") or flags.get("c") or str(environment.get("K3S_CONFIG_FILE") or _CONFIG)
    return Server(str(metadata["name"]), _internal_address(node), flags, config)


def _is_own(host: str) -> bool:
    """Whether each machine reaches itself by it, as k3s' own kubeconfig has it."""
    return host in ("localhost", "::1") or host.startswith("127.")


def _internal_address(node: Mapping[str, Any]) -> str:
    """By which other nodes reach it; "" if it does not say."""
    listed = (node.get("status") or {}).get("addresses") or ()
    return next((str(each["address"]) for each in listed if each.get("type") == "InternalIP"), "")


def _flags(words: Sequence[str]) -> dict[str, str]:
    """What follows a flag is its value if it is no flag itself; k3s writes `--a=b` as two words.

    The last one counts; networks are gathered.
    """
    flags: dict[str, str] = {}
    for word, after in zip(words, [*words[1:], "-"], strict=True):
        if word.startswith("-"):
            name, value = word.lstrip("-"), "true" if after.startswith("-") else after
            flags[name] = f"{flags[name]},{value}" if name in _SEVERAL and name in flags else value
    return flags


def _read(text: object, kind: type[Any]) -> Any:
    """The list or map that a text in JSON is; None if it is none."""
    try:
        value = json.loads(str(text))
    except ValueError:
        return None
    return value if isinstance(value, kind) else None

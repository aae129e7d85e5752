"""Names, paths and addresses of a lab: what lies where. Pure; makes nothing.

Labs are isolated from each other, so all of them use the same addresses; only names differ.
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from pycilium.errors import ConfigError

LABS_ROOT = Path("/run/cilium-lab")
DEFAULT_LAB = "lab"

WORLD_IPV4 = ("1.1.1.1", "8.8.8.8")
"""Addresses that the world answers on: it plays the internet."""
WORLD_IPV6 = ("2606:4700:4700::1111", "2001:4860:4860::8888")

_LAB_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
_POD_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_NAME_RULE = "lower-case letters, digits and dashes, with a letter or digit at both ends"
_FAMILIES = ("ipv4", "ipv6")


class NodeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One virtual node: its namespace, its own addresses, and the pod addresses it gives out."""

    name: str
    namespace: str
    ipv4: str | None
    ipv6: str | None
    ipv4_pod_cidr: str | None
    ipv6_pod_cidr: str | None


class LabRecord(msgspec.Struct, frozen=True, kw_only=True):
    """lab.json: everything that `up` was asked for and everything that `down` has to undo."""

    name: str
    ip_families: tuple[str, ...]
    underlay: str
    """Namespace of the bridge that joins the nodes and the world."""
    world: str
    nodes: tuple[NodeRecord, ...]

    def node(self, name: str) -> NodeRecord:
        for node in self.nodes:
            if node.name == name:
                return node
        known = ", ".join(node.name for node in self.nodes)
        raise ConfigError(f"lab {self.name} has no node {name}; it has {known}")


class PodRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One pod of a lab: written before the pod is made, `addresses` filled in once the plugin has answered."""

    name: str
    namespace: str
    node: str
    netns: str
    """Name of its network namespace."""
    container_id: str
    addresses: tuple[str, ...] = ()

    @property
    def ipv4(self) -> str | None:
        return next((address for address in self.addresses if ":" not in address), None)

    @property
    def ipv6(self) -> str | None:
        return next((address for address in self.addresses if ":" in address), None)


class LabLayout:
    """Where the parts of the lab called `name` lie. The name is checked: it becomes part of paths."""

    def __init__(self, name: str, root: Path = LABS_ROOT) -> None:
        if not _LAB_NAME.fullmatch(name):
            raise ConfigError(f"lab name {name!r}: use at most 32 {_NAME_RULE}")
        self.name = name
        self.folder = root / name
        self.record = self.folder / "lab.json"
        self.store_path = self.folder / "store.db"
        self.store_url = f"sqlite:///{self.store_path}"
        self.pods_folder = self.folder / "pods"
        self.world_folder = self.folder / "world"

    def __repr__(self) -> str:
        return f"<LabLayout {self.name} {self.folder}>"

    def node_folder(self, node: str) -> Path:
        return self.folder / node

    def agent_socket(self, node: str) -> Path:
        return self.node_folder(node) / "cilium.sock"

    def hubble_socket(self, node: str) -> Path:
        return self.node_folder(node) / "hubble.sock"

    def pod_record(self, namespace: str, name: str) -> Path:
        return self.pods_folder / f"{namespace}.{name}.json"

    def pod_log(self, namespace: str, name: str) -> Path:
        """What commands left running by `lab exec -d` print."""
        return self.pods_folder / f"{namespace}.{name}.log"

    def pod_netns(self, namespace: str, name: str) -> str:
        """The dot keeps it apart from the lab's own namespaces: a Kubernetes namespace's name has none."""
        return f"cilium-{self.name}-{namespace}.{name}"


def plan(name: str, ip_families: tuple[str, ...], node_count: int) -> LabRecord:
    """The lab that `up` will make. ConfigError when it asks for what does not exist."""
    unknown = [family for family in ip_families if family not in _FAMILIES]
    if unknown or not ip_families:
        raise ConfigError(f"--ip-families {','.join(ip_families)!r}: use ipv4, ipv6 or ipv4,ipv6")
    if node_count != 1:
        raise ConfigError(f"--nodes {node_count}: more than one node is not built yet; use 1")
    return LabRecord(
        name=name,
        ip_families=tuple(family for family in _FAMILIES if family in ip_families),
        underlay=f"cilium-{name}-underlay",
        world=f"cilium-{name}-world",
        nodes=tuple(_node(name, number, ip_families) for number in range(1, node_count + 1)),
    )


def check_pod_name(namespace: str, name: str) -> None:
    """ConfigError unless both can be names of Kubernetes objects; they become parts of paths."""
    for what, value in (("pod name", name), ("namespace", namespace)):
        if not _POD_NAME.fullmatch(value):
            raise ConfigError(f"{what} {value!r}: use at most 63 {_NAME_RULE}")


def _node(lab: str, number: int, ip_families: tuple[str, ...]) -> NodeRecord:
    ipv4, ipv6 = "ipv4" in ip_families, "ipv6" in ip_families
    return NodeRecord(
        name=f"node{number}",
        namespace=f"cilium-{lab}-node{number}",
        ipv4=f"172.18.0.{10 + number}" if ipv4 else None,
        ipv6=f"fd00:172:18::{10 + number}" if ipv6 else None,
        ipv4_pod_cidr=f"10.0.{number}.0/24" if ipv4 else None,
        ipv6_pod_cidr=f"fd00:10:0:{number}::/112" if ipv6 else None,
    )

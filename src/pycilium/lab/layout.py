"""Names, paths and records of a lab: what lies where, and what was asked for. Makes nothing.

Labs are isolated from each other, so all of them use the same addresses ([plan][pycilium.lab.plan]); only names differ.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import msgspec

from pycilium.errors import ConfigError

RoutingMode = Literal["tunnel", "native"]
IpamMode = Literal["host-scope", "cluster-pool"]
UnderlayFamily = Literal["auto", "ipv4", "ipv6"]

LABS_ROOT = Path("/run/cilium-lab")
DEFAULT_LAB = "lab"

WORLD_IPV4 = ("1.1.1.1", "8.8.8.8")
"""Addresses that the world answers on: it plays the internet."""
WORLD_IPV6 = ("2606:4700:4700::1111", "2001:4860:4860::8888")

DEFAULT_MTU_BYTES = 1500
ETCD_PORT = 2379
STORES = ("sqlite", "etcd")
"""Those that a lab has of its own."""
EXTERNAL_STORE = "kubernetes:"
"""With what the URL of a store outside of the lab begins."""

_LAB_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
_POD_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_NODE_NAME = re.compile(r"[a-z]([-a-z0-9]{0,13}[a-z0-9])?")
_NAME_RULE = "lower-case letters, digits and dashes, with a letter or digit at both ends"
_NOT_FOR_NODES = frozenset({"pods", "world", "etcd", "gate", "operators", "underlay", "br0", "lo"})
"""Folders, namespaces and devices that a lab has beside its nodes."""


class NodeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One virtual node: its namespace, its own addresses, and the pod addresses it gives out."""

    name: str
    number: int = 1
    """What its addresses are made of; no two nodes of a lab have the same."""
    namespace: str
    ipv4: str | None
    ipv6: str | None
    ipv4_pod_cidr: str | None
    ipv6_pod_cidr: str | None

    @property
    def addresses(self) -> tuple[str, ...]:
        """Its own, in the families that the underlay speaks."""
        return tuple(address for address in (self.ipv4, self.ipv6) if address)

    @property
    def mac(self) -> str:
        """Of its eth0. It is the same after a reboot, as a real machine's is: the neighbours remember it."""
        return f"02:ac:12:00:00:{self.number:02x}"

    @property
    def pod_cidrs(self) -> tuple[str, ...]:
        return tuple(cidr for cidr in (self.ipv4_pod_cidr, self.ipv6_pod_cidr) if cidr)


class LoadBalancing(msgspec.Struct, frozen=True):
    """How the agents serve clients outside, in the words of their configuration."""

    mode: Literal["snat", "dsr", "hybrid"] = "snat"
    dispatch: Literal["option", "ipip"] = "option"
    acceleration: Literal["disabled", "native", "best-effort"] = "disabled"
    kube_proxy_replacement: bool = True


class LabRecord(msgspec.Struct, frozen=True, kw_only=True):
    """lab.json: everything that `up` was asked for and everything that `down` has to undo."""

    name: str
    ip_families: tuple[str, ...]
    """What pods have addresses of."""
    underlay: str
    """Namespace of the bridge that joins the nodes and the world."""
    world: str
    nodes: tuple[NodeRecord, ...]
    routing_mode: RoutingMode = "tunnel"
    underlay_family: UnderlayFamily = "auto"
    """auto: the underlay speaks the pods' families; else that family alone."""
    mtu_bytes: int = DEFAULT_MTU_BYTES
    """Of the underlay."""
    load_balancing: LoadBalancing = LoadBalancing()
    etcd: str | None = None
    """Namespace of the etcd that is the lab's store; None: another store."""
    store_url: str | None = None
    """Of a store outside of the lab; None: it has its own."""
    gate: str | None = None
    """Namespace of the nodes' way to a store outside of the lab."""
    planned_nodes: int = 1
    """How many nodes share this machine's memory, as far as `up` knew."""

    ipam: IpamMode = "host-scope"
    """cluster-pool: the nodes' pod CIDRs are the operator's to give, not those planned here."""

    @property
    def underlay_families(self) -> tuple[str, ...]:
        return self.ip_families if self.underlay_family == "auto" else (self.underlay_family,)

    def node(self, name: str) -> NodeRecord:
        for node in self.nodes:
            if node.name == name:
                return node
        known = ", ".join(node.name for node in self.nodes)
        raise ConfigError(f"lab {self.name} has no node {name}; it has {known}")

    def with_node(self, node: NodeRecord) -> LabRecord:
        """The lab with this node in the place of the one of that name, or as its last."""
        names = [known.name for known in self.nodes]
        nodes = list(self.nodes)
        if node.name in names:
            nodes[names.index(node.name)] = node
        else:
            nodes.append(node)
        return msgspec.structs.replace(self, nodes=tuple(nodes))

    def without_node(self, name: str) -> LabRecord:
        return msgspec.structs.replace(self, nodes=tuple(node for node in self.nodes if node.name != name))


class PodRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One pod of a lab: written before the pod is made, `addresses` filled in once the plugin has answered."""

    name: str
    namespace: str
    node: str
    netns: str
    """Name of its network namespace."""
    container_id: str
    host_ports: tuple[str, ...] = ()
    """Ports of its node that lead to it, as `8080:80/TCP`."""
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
        self.etcd_folder = self.folder / "etcd"
        self.external_store = self.folder / "store.url"
        self.gate_folder = self.folder / "gate"
        self.etcd_socket = self.etcd_folder / "client.sock"
        self.pods_folder = self.folder / "pods"
        self.world_folder = self.folder / "world"

    def __repr__(self) -> str:
        return f"<LabLayout {self.name} {self.folder}>"

    @property
    def store_url(self) -> str:
        """The store as commands reach it, which run outside of the lab's namespaces."""
        if self.external_store.exists():
            return self.external_store.read_text(encoding="utf-8")
        return f"etcd+unix://{self.etcd_socket}" if self.has_etcd else f"sqlite:///{self.store_path}"

    @property
    def has_etcd(self) -> bool:
        """Whether the store is etcd: its folder is made with the lab."""
        return self.etcd_folder.is_dir()

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


def check_pod_name(namespace: str, name: str) -> None:
    """ConfigError unless both can be names of Kubernetes objects; they become parts of paths."""
    for what, value in (("pod name", name), ("namespace", namespace)):
        if not _POD_NAME.fullmatch(value):
            raise ConfigError(f"{what} {value!r}: use at most 63 {_NAME_RULE}")


def check_node_name(name: str) -> None:
    """ConfigError unless it can be a node's name: also that of a device on the underlay, hence 15 characters."""
    if not _NODE_NAME.fullmatch(name):
        raise ConfigError(f"node name {name!r}: use at most 15 {_NAME_RULE}, beginning with a letter")
    if name in _NOT_FOR_NODES:
        raise ConfigError(f"node name {name!r}: the lab itself uses that name; choose another")

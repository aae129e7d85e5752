"""`cilium-dbg build-config` and `install-cni-plugin`: what an agent's pod does before the agent starts."""

from __future__ import annotations

import asyncio
import os
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pycilium.errors import ConfigError

if TYPE_CHECKING:
    from pycilium.datapath.rtnetlink import Link, LinkAddress, Route

DESTINATION = "/tmp/cilium/config-map"  # noqa: S108  Cilium's path, on a volume of the agent's own pod


@click.command("build-config")
@click.option("--dest", default=DESTINATION, show_default=True, metavar="FOLDER")
def build_config(dest: str) -> None:
    """Write cilium-config into a folder, one file per key, with what is this node's own."""
    name = os.environ.get("K8S_NODE_NAME", "")
    if not name:
        raise ConfigError("the environment has no K8S_NODE_NAME: it must be the Node's name")
    settings, node = asyncio.run(_read(name))
    made = of_node(settings, node, _outward(node) if not settings.get("devices") else [])
    folder = Path(dest)
    folder.mkdir(parents=True, exist_ok=True)
    for key, text in made.items():
        (folder / key).write_text(text, encoding="utf-8")
    click.echo(f"{len(made)} keys in {folder}")


def of_node(settings: dict[str, str], node: dict[str, Any], devices: list[str]) -> dict[str, str]:
    """The keys with this node's pod CIDRs and, where users name none, its devices."""
    made = dict(settings)
    if made.get("ipam") == "kubernetes":
        spec = node.get("spec") or {}
        for cidr in spec.get("podCIDRs") or filter(None, [spec.get("podCIDR")]):
            made.setdefault(f"ipv{ip_network(cidr).version}-range", cidr)
    if devices:
        made["devices"] = " ".join(devices)
    return made


def outward(links: list[Link], addresses: list[LinkAddress], routes: list[Route], own: set[str]) -> list[str]:
    """Devices with a default route, and those that have one of the node's `own` addresses."""
    names = {link.ifindex: link.name for link in links}
    found = [route.ifindex for route in routes if route.destination.prefixlen == 0 and route.gateway is not None]
    found += [each.ifindex for each in addresses if str(each.address) in own]
    return [names[each] for each in dict.fromkeys(found) if each in names and names[each] != "lo"]


def _outward(node: dict[str, Any]) -> list[str]:
    from pycilium.datapath.netlink import Netlink

    told = (node.get("status") or {}).get("addresses") or []
    own = {each["address"] for each in told if each.get("type") in ("InternalIP", "ExternalIP")}
    with Netlink.open() as netlink:
        return outward(netlink.links(), netlink.addresses(), netlink.routes(), own)


async def _read(name: str) -> tuple[dict[str, str], dict[str, Any]]:
    from pycilium.install.kubernetes_cluster import CONFIG_MAP, NODE, Cluster
    from pycilium.install.kubernetes_names import CONFIG
    from pycilium.store.kubernetes import machine_access

    namespace = os.environ.get("CILIUM_K8S_NAMESPACE", "kube-system")
    async with Cluster(machine_access("kubernetes:")) as cluster:
        settings, node = await cluster.get(CONFIG_MAP, CONFIG, namespace), await cluster.get(NODE, name)
    if settings is None:
        raise ConfigError(f"ConfigMap {CONFIG} does not exist in namespace {namespace}: install Cilium first")
    if node is None:
        raise ConfigError(f"Node {name} does not exist: K8S_NODE_NAME must be the name by which kubelet registered")
    return settings.get("data") or {}, node


@click.command("install-cni-plugin")
@click.option("--to", "folder", required=True, metavar="FOLDER", help="The node's folder of plugins, as mounted here.")
@click.option("--seen-as", default="", metavar="FOLDER", help="The same folder, as the node knows it.")
def install_cni_plugin(folder: str, seen_as: str) -> None:
    """Put the CNI plugin where the node's runtime looks, with all that it needs to run there."""
    from pycilium.install import cni_plugin

    click.echo(f"{cni_plugin.install(folder, seen_as or folder)} is in place")

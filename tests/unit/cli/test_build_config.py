"""An agent's configuration is the cluster's, with what is its node's own."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from pycilium.cli.build_config import of_node, outward
from pycilium.datapath.rtnetlink import Link, LinkAddress, Route


def link(ifindex, name):
    return Link(ifindex, name, 0, b"", 1500, "", 0, "")


def test_pod_cidrs_are_the_nodes_only_where_kubernetes_gives_them():
    node = {"spec": {"podCIDRs": ["10.244.1.0/24", "fd00:1::/112"]}}

    assert of_node({"ipam": "kubernetes"}, node, []) == {
        "ipam": "kubernetes",
        "ipv4-range": "10.244.1.0/24",
        "ipv6-range": "fd00:1::/112",
    }
    assert of_node({"ipam": "cluster-pool"}, node, ["eth0"]) == {"ipam": "cluster-pool", "devices": "eth0"}


def test_devices_are_those_that_lead_outside():
    links = [link(1, "lo"), link(2, "eth0"), link(3, "eth1"), link(4, "cni0")]
    addresses = [
        LinkAddress(2, IPv4Address("192.0.2.1"), 24),
        LinkAddress(3, IPv4Address("198.51.100.1"), 24),
        LinkAddress(4, IPv4Address("10.0.0.1"), 24),
    ]
    routes = [Route(IPv4Network("0.0.0.0/0"), 2, IPv4Address("192.0.2.254"))]

    assert outward(links, addresses, routes, {"198.51.100.1"}) == ["eth0", "eth1"]

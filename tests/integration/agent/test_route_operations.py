"""Routes to other nodes' pods, in a real routing table."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_network
from typing import TypeVar

import pytest

from pycilium.agent.nodes.cluster import RouteTarget
from pycilium.agent.route_operations import RouteOperations
from pycilium.datapath import gateway_device
from pycilium.datapath.gateway_device import GatewayWanted
from pycilium.errors import DatapathError
from pycilium.lab import namespaces

pytestmark = pytest.mark.root

T = TypeVar("T")
WANTED = GatewayWanted(
    gateway_ipv4=ip_address("10.0.0.1"),
    ipv4_pod_cidr=ip_network("10.0.0.0/24"),
    gateway_ipv6=ip_address("fd00::1"),
    ipv6_pod_cidr=ip_network("fd00::/112"),
)
FAR4, FAR6, DIRECT = ip_network("10.0.1.0/24"), ip_network("fd01::/112"), ip_network("10.0.2.0/24")


class Node:
    """A namespace with a gateway device and an underlay."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.operations = RouteOperations()
        self.ip("link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
        self.ip("addr", "add", "192.168.0.1/24", "dev", "eth0")
        self.ip("link", "set", "eth0", "up")
        self.ip("link", "set", "eth1", "up")
        self.host = self.inside(lambda: gateway_device.ensure(WANTED)).ifindex
        self.eth0 = int(self.ip("-o", "link", "show", "eth0").split(":")[0])

    def ip(self, *words: str) -> str:
        command = ["ip", "-n", self.name, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def inside(self, function: Callable[[], T]) -> T:
        return namespaces.run_in(self.name, function)

    def wanted(self) -> dict[object, RouteTarget]:
        return {
            FAR4: RouteTarget(self.host, None, ip_address("10.0.0.1"), 1450),
            FAR6: RouteTarget(self.host, None, ip_address("fd00::1"), 1450),
            DIRECT: RouteTarget(self.eth0, ip_address("192.168.0.2"), None, 0),
        }


@pytest.fixture
def node() -> Iterator[Node]:
    name = f"cilium-test-routes-{os.getpid()}"
    namespaces.create(name)
    try:
        yield Node(name)
    finally:
        namespaces.delete(name)


def test_what_is_set_is_what_the_table_gives_back_and_setting_it_again_is_fine(node: Node) -> None:
    for _ in range(2):
        assert node.inside(lambda: node.operations.update(node.wanted())) == {}

    assert dict(node.inside(node.operations.dump)) == node.wanted()
    assert "src 10.0.0.1 mtu 1450" in node.ip("route", "show", str(FAR4))


def test_a_route_that_changes_its_way_is_exchanged(node: Node) -> None:
    node.inside(lambda: node.operations.update(node.wanted()))
    other = {FAR4: RouteTarget(node.eth0, ip_address("192.168.0.9"), None, 0)}

    node.inside(lambda: node.operations.update(other))

    assert dict(node.inside(node.operations.dump)) == node.wanted() | other


def test_what_is_removed_is_gone_and_absent_is_success(node: Node) -> None:
    node.inside(lambda: node.operations.update(node.wanted()))

    for _ in range(2):
        assert node.inside(lambda: node.operations.delete(list(node.wanted()))) == {}

    assert node.inside(node.operations.dump) == []


def test_a_route_of_somebody_else_is_neither_changed_nor_removed_nor_listed(node: Node) -> None:
    node.ip("route", "add", str(FAR4), "via", "192.168.0.7")

    failures = node.inside(lambda: node.operations.update(node.wanted()))
    node.inside(lambda: node.operations.delete([FAR4]))

    assert list(failures) == [FAR4]
    assert isinstance(failures[FAR4], DatapathError)
    assert "via 192.168.0.7" in node.ip("route", "show", str(FAR4))
    assert set(dict(node.inside(node.operations.dump))) == {FAR6, DIRECT}


def test_the_gateway_device_made_again_leaves_them_alone(node: Node) -> None:
    node.inside(lambda: node.operations.update(node.wanted()))

    node.inside(lambda: gateway_device.ensure(WANTED))

    assert dict(node.inside(node.operations.dump)) == node.wanted()


def test_hundreds_are_set_and_removed_at_once(node: Node) -> None:
    many = {ip_network((0x0A010000 + 256 * number, 24)): node.wanted()[FAR4] for number in range(700)}

    assert node.inside(lambda: node.operations.update(many)) == {}
    assert dict(node.inside(node.operations.dump)) == many
    assert node.inside(lambda: node.operations.delete(list(many))) == {}
    assert node.inside(node.operations.dump) == []

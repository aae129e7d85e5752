"""The node's gateway device, from every state in which it may be found."""

import json
import subprocess
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest

from pycilium.datapath import gateway_device
from pycilium.datapath.gateway_device import GatewayWanted
from pycilium.errors import DatapathError

pytestmark = pytest.mark.root

BOTH = GatewayWanted(
    mtu_bytes=1400,
    gateway_ipv4=IPv4Address("10.77.0.1"),
    ipv4_pod_cidr=IPv4Network("10.77.0.0/24"),
    gateway_ipv6=IPv6Address("fd77::1"),
    ipv6_pod_cidr=IPv6Network("fd77::/112"),
)
OTHER = GatewayWanted(gateway_ipv4=IPv4Address("10.78.0.1"), ipv4_pod_cidr=IPv4Network("10.78.0.0/24"))


def ip(node, *words: str):
    command = ["ip", "-n", node.name, "-json", *words]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout or "[]")


def state(node):
    """What users see of it: flags, MTU, addresses, routes."""
    (host,) = ip(node, "address", "show", "dev", "cilium_host")
    (peer,) = ip(node, "address", "show", "dev", "cilium_net")
    routes = [*ip(node, "route", "show", "dev", "cilium_host"), *ip(node, "-6", "route", "show", "dev", "cilium_host")]
    return {
        "up": [{"UP", "NOARP"} <= set(link["flags"]) for link in (host, peer)],
        "mtu": [host["mtu"], peer["mtu"]],
        "addresses": [{entry["local"] for entry in link["addr_info"]} for link in (host, peer)],
        "routes": {(route["dst"], route.get("prefsrc")) for route in routes},
    }


EXPECTED = {
    "up": [True, True],
    "mtu": [1400, 1400],
    "addresses": [{"10.77.0.1", "fd77::1"}, set()],
    "routes": {("10.77.0.0/24", "10.77.0.1"), ("fd77::/112", "fd77::1")},
}


def test_it_has_the_gateway_addresses_and_the_routes_to_the_pods(node):
    made = node.run(gateway_device.ensure, BOTH)

    assert state(node) == EXPECTED
    (host,) = ip(node, "link", "show", "dev", "cilium_host")
    assert (made.ifindex, made.mac.hex(":")) == (host["ifindex"], host["address"])


def test_again_changes_nothing(node):
    first = node.run(gateway_device.ensure, BOTH)
    second = node.run(gateway_device.ensure, BOTH)

    assert (second.ifindex, second.mac, second.changes) == (first.ifindex, first.mac, ())
    assert state(node) == EXPECTED


@pytest.mark.parametrize(
    "before",
    [
        ["link add cilium_host type veth peer name cilium_net"],
        ["link add cilium_host type veth peer name stranger"],
        ["link add cilium_net type veth peer name stranger"],
        ["link add cilium_host type veth peer name a", "link add cilium_net type veth peer name b"],
        ["link add cilium_net type veth peer name cilium_host", "link set cilium_host up mtu 9000"],
    ],
    ids=["pair bare", "wrong peer", "peer alone", "two halves", "half configured"],
)
def test_a_half_made_one_is_completed(node, before):
    for words in before:
        subprocess.run(["ip", "-n", node.name, *words.split()], check=True)

    node.run(gateway_device.ensure, BOTH)

    assert state(node) == EXPECTED


def test_what_another_configuration_left_is_removed(node):
    node.run(gateway_device.ensure, OTHER)
    first = node.run(gateway_device.ensure, BOTH)
    assert state(node) == EXPECTED

    assert node.run(gateway_device.ensure, OTHER).ifindex == first.ifindex
    assert state(node)["addresses"] == [{"10.78.0.1"}, set()]
    assert state(node)["routes"] == {("10.78.0.0/24", "10.78.0.1")}


def test_every_change_to_the_node_is_reported_and_made_once(node):
    subprocess.run(["ip", "-n", node.name, "link", "add", "out", "type", "veth", "peer", "name", "side"], check=True)
    default = node.run(_read, "/proc/sys/net/ipv4/conf/out/forwarding")

    first = node.run(gateway_device.ensure, BOTH, ["out"])

    ipv4 = ["net.ipv4.conf.out.forwarding 0 → 1"] if default == "0" else []
    assert list(first.changes) == [
        *ipv4,
        "net.ipv6.conf.out.accept_ra 1 → 2",
        "net.ipv6.conf.side.accept_ra 1 → 2",
        "net.ipv6.conf.all.forwarding 0 → 1",
    ]
    assert node.run(gateway_device.ensure, BOTH, ["out"]).changes == ()
    assert node.run(_read, "/proc/sys/net/ipv6/conf/cilium_host/forwarding") == "1"


def test_without_ipv6_its_forwarding_is_left_alone(node):
    assert node.run(gateway_device.ensure, OTHER).changes == ()
    assert node.run(_read, "/proc/sys/net/ipv6/conf/all/forwarding") == "0"


def test_a_device_of_others_with_our_name_is_refused(node):
    subprocess.run(["ip", "-n", node.name, "link", "add", "cilium_host", "type", "bridge"], check=True)

    with pytest.raises(DatapathError, match=r"cilium_host exists that is not ours \(bridge\): remove or rename it"):
        node.run(gateway_device.ensure, BOTH)


def test_removed_is_gone_and_removing_again_is_no_error(node):
    node.run(gateway_device.ensure, BOTH)
    node.run(gateway_device.remove)
    node.run(gateway_device.remove)

    assert [link["ifname"] for link in ip(node, "link")] == ["lo"]


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read().strip()

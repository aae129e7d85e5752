"""What the agent makes of the node that it finds: the MTU of its pods, the family of its overlay, the overlay itself."""

import subprocess

import pytest

from pycilium.agent.config import AgentConfig
from pycilium.agent.plumbing import Plumbing
from pycilium.errors import ConfigError

pytestmark = pytest.mark.root


def plumbing(**fields):
    return Plumbing(AgentConfig(node_name="node1", devices=["eth0"], **fields), None, None)


@pytest.fixture
def device(node):
    """Makes the node's device, with addresses."""

    def make(*addresses: str, mtu: int = 1500) -> None:
        words = [
            f"link add eth0 mtu {mtu} type veth peer name side",
            *(f"address add {each} dev eth0" for each in addresses),
        ]
        for each in words:
            subprocess.run(["ip", "-n", node.name, *each.split()], check=True)

    return make


@pytest.mark.parametrize(
    ("addresses", "fields", "family", "mtu"),
    [
        (["192.0.2.1/24", "2001:db8::1/64"], {}, 4, 1450),
        (["2001:db8::1/64"], {}, 6, 1430),
        (["192.0.2.1/24", "2001:db8::1/64"], {"underlay_family": "ipv6"}, 6, 1430),
        (["192.0.2.1/24"], {"routing_mode": "native"}, 4, 1500),
        (["192.0.2.1/24"], {"pod_mtu_bytes": 1300}, 4, 1300),
        ([], {}, 4, 1450),
    ],
    ids=["IPv4 first", "IPv6 alone", "IPv6 asked for", "native", "overruled", "no address yet"],
)
def test_family_and_mtu_follow_from_the_devices(node, device, addresses, fields, family, mtu):
    device(*addresses)
    made = plumbing(**fields)

    assert node.run(lambda: (made.underlay_family, made.pod_mtu_bytes)) == (family, mtu)


def test_device_that_leaves_ipv6_too_little_is_named(node, device):
    device(mtu=1300)

    with pytest.raises(ConfigError, match="devices: eth0 has an MTU of 1300"):
        node.run(lambda: plumbing().pod_mtu_bytes)


def test_native_routing_has_no_overlay_device(node, device):
    device()
    assert node.run(plumbing().make_overlay)

    assert node.run(plumbing(routing_mode="native").make_overlay) == 0
    names = subprocess.run(["ip", "-n", node.name, "-o", "link"], capture_output=True, text=True, check=True).stdout
    assert "cilium_vxlan" not in names

"""The node's overlay device, from every state in which it may be found."""

import json
import socket
import subprocess

import pytest

from pycilium.datapath import overlay_device
from pycilium.errors import DatapathError

pytestmark = pytest.mark.root


def ip(node, words: str):
    command = ["ip", "-n", node.name, "-json", *words.split()]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout or "[]")


def state(node):
    (link,) = ip(node, "-details link show dev cilium_vxlan")
    data = link["linkinfo"]["info_data"]
    return {
        "up": "UP" in link["flags"],
        "mtu": link["mtu"],
        "port": data["port"],
        "external": data.get("external", False),
        "learning": data["learning"],
        "csum6": (data["udp_zero_csum6_tx"], data["udp_zero_csum6_rx"]),
        "addresses": ip(node, "address show dev cilium_vxlan")[0]["addr_info"],
    }


def expected(port=8472, mtu=1450):
    return {
        "up": True,
        "mtu": mtu,
        "port": port,
        "external": True,
        "learning": False,
        "csum6": (True, True),
        "addresses": [],
    }


def test_it_is_external_on_the_port_and_up(node):
    ifindex = node.run(overlay_device.ensure, 8472, 1450)

    assert state(node) == expected()
    assert ip(node, "link show dev cilium_vxlan")[0]["ifindex"] == ifindex


def test_again_changes_nothing_but_the_mtu_if_it_is_another(node):
    first = node.run(overlay_device.ensure, 8472, 1450)

    assert node.run(overlay_device.ensure, 8472, 1450) == first
    assert node.run(overlay_device.ensure, 8472, 8950) == first
    assert state(node) == expected(mtu=8950)


@pytest.mark.parametrize(
    "before",
    [
        "link add cilium_vxlan type vxlan external dstport 8472",
        "link add cilium_vxlan type vxlan external dstport 4789 nolearning udp6zerocsumrx udp6zerocsumtx",
        "link add cilium_vxlan type vxlan id 1 dstport 8472 nolearning",
    ],
    ids=["learns", "another port", "one VNI"],
)
def test_a_wrong_one_is_made_anew(node, before):
    subprocess.run(["ip", "-n", node.name, *before.split()], check=True)

    node.run(overlay_device.ensure, 8472, 1450)

    assert state(node) == expected()


def test_a_device_of_others_with_the_name_is_refused_and_stays(node):
    subprocess.run(["ip", "-n", node.name, "link", "add", "cilium_vxlan", "type", "bridge"], check=True)

    with pytest.raises(DatapathError, match=r"cilium_vxlan exists that is not ours \(bridge\): remove or rename it"):
        node.run(overlay_device.ensure, 8472, 1450)
    node.run(overlay_device.remove)

    assert ip(node, "link show dev cilium_vxlan")


def test_another_overlay_on_the_port_is_named(node):
    other = "link add flannel.1 type vxlan id 1 dstport 8472 nolearning"
    subprocess.run(["ip", "-n", node.name, *other.split()], check=True)

    with pytest.raises(DatapathError) as refused:
        node.run(overlay_device.ensure, 8472, 1450)

    assert str(refused.value) == (
        "device flannel.1 has UDP port 8472, which cilium_vxlan needs: "
        "remove it, or set tunnel_port to another port on all nodes"
    )
    node.run(overlay_device.ensure, 8473, 1450)
    assert state(node) == expected(port=8473)


def test_a_program_that_has_the_port_is_spoken_of(node):
    def bound():
        taken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        taken.bind(("0.0.0.0", 8472))
        return taken

    with node.run(bound), pytest.raises(DatapathError, match="UDP port 8472 is in use: end what has it"):
        node.run(overlay_device.ensure, 8472, 1450)


def test_removed_is_gone_and_removing_again_is_no_error(node):
    node.run(overlay_device.ensure, 8472, 1450)
    node.run(overlay_device.remove)
    node.run(overlay_device.remove)

    assert [link["ifname"] for link in ip(node, "link")] == ["lo"]

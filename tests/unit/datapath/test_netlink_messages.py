"""Our rtnetlink messages, read by pyroute2: an implementation that is not ours."""

import socket
from ipaddress import ip_address, ip_network

import pytest
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from pycilium.datapath import netlink, rtnetlink

MAC, PEER_MAC = bytes.fromhex("02aabbccddee"), bytes.fromhex("02aabbccddef")


def decoded(request, kind):
    message = kind(netlink._message(request, 1))
    message.decode()
    assert message["header"]["length"] <= len(netlink._message(request, 1)) < message["header"]["length"] + 4
    assert message["header"]["flags"] & 0x5 == 0x5
    return message


def test_a_pair_is_born_complete_on_both_sides():
    message = decoded(rtnetlink.create_veth("lxc1", MAC, "eth0", PEER_MAC, 1400, peer_netns_fd=9), ifinfmsg)

    info = message.get_attr("IFLA_LINKINFO")
    peer = info.get_attr("IFLA_INFO_DATA").get_attr("VETH_INFO_PEER")
    assert message["header"]["type"] == rtnetlink.RTM_NEWLINK
    assert message["header"]["flags"] & 0x600 == 0x600
    assert info.get_attr("IFLA_INFO_KIND") == "veth"
    for side, name, mac in ((message, "lxc1", "02:aa:bb:cc:dd:ee"), (peer, "eth0", "02:aa:bb:cc:dd:ef")):
        assert side.get_attr("IFLA_IFNAME") == name
        assert side.get_attr("IFLA_ADDRESS") == mac
        assert side.get_attr("IFLA_MTU") == 1400
        assert side.get_attr("IFLA_NUM_TX_QUEUES") == side.get_attr("IFLA_NUM_RX_QUEUES") == 1
    assert peer.get_attr("IFLA_NET_NS_FD") == 9


def test_an_overlay_device_leaves_vni_and_other_end_to_each_packet():
    wanted = rtnetlink.Vxlan.of_overlay(8472)
    message = decoded(rtnetlink.create_vxlan("cilium_vxlan", wanted), ifinfmsg)

    info = message.get_attr("IFLA_LINKINFO")
    data = info.get_attr("IFLA_INFO_DATA")
    assert (message.get_attr("IFLA_IFNAME"), info.get_attr("IFLA_INFO_KIND")) == ("cilium_vxlan", "vxlan")
    assert message["header"]["flags"] & 0x600 == 0x600
    assert dict(data["attrs"]) == {
        "IFLA_VXLAN_PORT": 8472,
        "IFLA_VXLAN_COLLECT_METADATA": 1,
        "IFLA_VXLAN_LEARNING": 0,
        "IFLA_VXLAN_UDP_ZERO_CSUM6_TX": 1,
        "IFLA_VXLAN_UDP_ZERO_CSUM6_RX": 1,
    }


def test_settings_of_an_overlay_device_are_read_back():
    wanted = rtnetlink.Vxlan.of_overlay(8472)
    request = rtnetlink.create_vxlan("cilium_vxlan", wanted)

    assert rtnetlink.vxlan_in(rtnetlink.link_in(request.payload)) == wanted


def test_flags_are_switched_on_without_touching_others():
    message = decoded(rtnetlink.set_link("lxc1", flags=rtnetlink.IFF_UP, alias="cilium:abc"), ifinfmsg)

    assert (message["flags"], message["change"]) == (1, 1)
    assert message.get_attr("IFLA_IFALIAS") == "cilium:abc"


def test_no_link_local_address():
    message = decoded(rtnetlink.no_ipv6_address("lxc1"), ifinfmsg)

    assert message.get_attr("IFLA_AF_SPEC").get_attr("AF_INET6").get_attr("IFLA_INET6_ADDR_GEN_MODE") == 1


@pytest.mark.parametrize("address", ["10.0.0.5", "fd00::5"])
def test_an_address_is_host_wide(address):
    message = decoded(rtnetlink.add_address(7, ip_address(address)), ifaddrmsg)

    assert message["index"] == 7
    assert message["prefixlen"] == ip_address(address).max_prefixlen
    assert message.get_attr("IFA_ADDRESS") == address
    assert bool(message.get_attr("IFA_FLAGS") & 0x02) == (":" in address)  # IFA_F_NODAD


@pytest.mark.parametrize("address", ["10.0.0.1", "fd00::1"])
def test_a_neighbour_is_permanent(address):
    message = decoded(rtnetlink.set_neighbour(7, ip_address(address), MAC), ndmsg)

    assert (message["ifindex"], message["state"]) == (7, 0x80)
    assert message.get_attr("NDA_DST") == address
    assert message.get_attr("NDA_LLADDR") == "02:aa:bb:cc:dd:ee"


@pytest.mark.parametrize(("everything", "gateway"), [("0.0.0.0/0", "10.0.0.1"), ("::/0", "fd00::1")])
def test_the_default_route_needs_no_route_to_its_gateway(everything, gateway):
    request = rtnetlink.set_route(ip_network(everything), 7, gateway=ip_address(gateway))
    message = decoded(request, rtmsg)

    assert (message["dst_len"], message["flags"] & 4) == (0, 4)  # RTNH_F_ONLINK
    assert message.get_attr("RTA_GATEWAY") == gateway
    assert message.get_attr("RTA_OIF") == 7


def test_a_route_on_the_link_has_a_source():
    request = rtnetlink.set_route(ip_network("10.0.0.0/24"), 7, source=ip_address("10.0.0.1"))
    message = decoded(request, rtmsg)

    assert (message["dst_len"], message["scope"]) == (24, 253)
    assert message.get_attr("RTA_DST") == "10.0.0.0"
    assert message.get_attr("RTA_PREFSRC") == "10.0.0.1"


def test_a_socket_of_this_namespace_lists_the_loopback_interface():
    with netlink.Netlink.open() as channel:
        (loopback,) = [link for link in channel.links() if link.name == "lo"]

        assert loopback == channel.link("lo")
        assert loopback.ifindex == channel.ifindex("lo") == socket.if_nametoindex("lo")
        assert channel.link("never-was") is None
        assert channel.ifindex("never-was") == 0
        assert any(entry.ifindex == loopback.ifindex for entry in channel.addresses())

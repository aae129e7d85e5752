"""Pod interfaces in real namespaces."""

import json
import os
import subprocess
from ipaddress import IPv4Address

import pytest

from pycilium.datapath import pod_interface, rtnetlink
from pycilium.datapath.netlink import Netlink
from pycilium.errors import DatapathError, EndpointConflict, NotFound
from pycilium.lab import namespaces
from tests.integration.cni.conftest import wanted

pytestmark = pytest.mark.root


def ip(namespace: str, *words: str):
    command = ["ip", "-n", namespace, "-json", *words]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout or "[]")


def in_pod(pod: str, *requests: rtnetlink.Request) -> None:
    def change():
        with Netlink.open() as channel:
            channel.must(requests)

    namespaces.run_in(pod, change)


def names_in(namespace: str) -> set[str]:
    return {link["ifname"] for link in ip(namespace, "link")}


class TestCreate:
    def test_the_pod_has_its_addresses_routes_and_neighbours_at_once(self, node, pod):
        made = node.run(pod_interface.create, wanted(pod))

        (eth0,) = ip(pod, "address", "show", "dev", "eth0")
        addresses = {(entry["local"], entry["prefixlen"]) for entry in eth0["addr_info"]}
        assert addresses == {("10.77.0.5", 32), ("fd77::5", 128)}  # so no link-local address either
        assert not any(entry.get("tentative") for entry in eth0["addr_info"])
        assert (eth0["mtu"], eth0["address"], eth0["operstate"]) == (1400, made.mac.hex(":"), "UP")
        (route4,) = ip(pod, "route")
        assert (route4["dst"], route4["gateway"], route4["flags"]) == ("default", "10.77.0.1", ["onlink"])
        assert "fd77::1" in {route.get("gateway") for route in ip(pod, "-6", "route")}
        neighbours = {
            (entry["dst"], entry["lladdr"], *entry["state"]) for entry in ip(pod, "neigh", "show", "nud", "permanent")
        }
        assert neighbours == {(gateway, made.host_mac.hex(":"), "PERMANENT") for gateway in ("10.77.0.1", "fd77::1")}
        (loopback,) = ip(pod, "link", "show", "dev", "lo")
        assert "UP" in loopback["flags"]

    def test_the_nodes_side_is_up_has_no_address_and_says_whose_it_is(self, node, pod):
        made = node.run(pod_interface.create, wanted(pod))

        (link,) = ip(node.name, "address", "show", "dev", made.host_ifname)
        assert made.host_ifname == pod_interface.host_ifname("abc", "eth0")
        assert (link["ifindex"], link["address"], link["mtu"]) == (made.ifindex, made.host_mac.hex(":"), 1400)
        assert (link["addr_info"], link["operstate"]) == ([], "UP")
        assert node.run(pod_interface.interfaces)[0].alias == "cilium:abc:eth0"
        assert _sysctl(node, f"ipv4/conf/{made.host_ifname}/forwarding") == "1"
        assert _sysctl(node, f"ipv4/conf/{made.host_ifname}/rp_filter") == "0"

    @pytest.mark.parametrize("off", ["ipv4", "ipv6"])
    def test_a_family_that_is_off_leaves_nothing(self, node, pod, off):
        only = wanted(pod, **{off: None})
        node.run(pod_interface.create, only)

        (eth0,) = ip(pod, "address", "show", "dev", "eth0")
        assert [entry["family"] for entry in eth0["addr_info"]] == ["inet6" if off == "ipv4" else "inet"]
        assert node.run(pod_interface.check, only) == ()

    def test_ipv6_works_where_the_namespace_has_it_switched_off(self, node, pod):
        namespaces.run_in(pod, lambda: _write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1"))

        node.run(pod_interface.create, wanted(pod))

        assert node.run(pod_interface.check, wanted(pod)) == ()

    def test_macs_are_locally_administered_and_differ(self, node, pod):
        made = node.run(pod_interface.create, wanted(pod))

        assert made.mac != made.host_mac
        assert {made.mac[0] & 3, made.host_mac[0] & 3} == {2}

    def test_again_is_the_same_interface(self, node, pod):
        first = node.run(pod_interface.create, wanted(pod))

        assert node.run(pod_interface.create, wanted(pod)) == first

    def test_one_that_is_not_right_is_made_anew(self, node, pod):
        first = node.run(pod_interface.create, wanted(pod))

        second = node.run(pod_interface.create, wanted(pod, ipv4=IPv4Address("10.77.0.6")))

        assert second.ifindex != first.ifindex
        (eth0,) = ip(pod, "address", "show", "dev", "eth0")
        assert {entry["local"] for entry in eth0["addr_info"]} == {"10.77.0.6", "fd77::5"}

    def test_two_interfaces_of_one_pod_stand_side_by_side(self, node, pod):
        node.run(pod_interface.create, wanted(pod))
        node.run(pod_interface.create, wanted(pod, ifname="net1", ipv4=IPv4Address("10.77.0.6"), ipv6=None))

        assert {"eth0", "net1"} <= names_in(pod)
        assert len(node.run(pod_interface.interfaces)) == 2


class TestFailure:
    def test_a_namespace_that_is_gone_is_not_found(self, node, pod):
        namespaces.delete(pod)

        with pytest.raises(NotFound, match="does not exist"):
            node.run(pod_interface.create, wanted(pod))

    def test_what_is_no_namespace_is_said(self, node, pod, tmp_path):
        (tmp_path / "file").touch()

        for path in (tmp_path / "file", "/proc/self/ns/uts"):
            with pytest.raises(DatapathError, match="is no network namespace"):
                node.run(pod_interface.create, wanted(pod, netns=str(path)))

    def test_the_nodes_own_namespace_is_refused(self, node):
        with pytest.raises(DatapathError, match="the node's own network namespace"):
            node.run(pod_interface.create, wanted(node.name))

    def test_an_interface_of_others_is_left_alone(self, node, pod):
        in_pod(pod, rtnetlink.create_veth("eth0", b"\2\0\0\0\0\1", "other", b"\2\0\0\0\0\2", 1500))

        with pytest.raises(EndpointConflict, match="has an interface eth0 already, which is not ours"):
            node.run(pod_interface.create, wanted(pod))

        assert names_in(node.name) == {"lo"}
        assert "eth0" in names_in(pod)

    @pytest.mark.parametrize("step", ["set_neighbour", "set_route", "add_address"])
    def test_what_is_half_made_is_unmade(self, node, pod, monkeypatch, step):
        broken = rtnetlink.delete_link("never-was")
        monkeypatch.setattr(rtnetlink, step, lambda *_, **__: broken)

        with pytest.raises(DatapathError, match="cannot delete never-was"):
            node.run(pod_interface.create, wanted(pod))

        assert names_in(node.name) == names_in(pod) == {"lo"}

    def test_a_name_that_the_kernel_refuses_leaves_nothing(self, node, pod):
        with pytest.raises(DatapathError, match="cannot create lxc"):
            node.run(pod_interface.create, wanted(pod, ifname="a b"))

        assert names_in(node.name) == {"lo"}


class TestDelete:
    def test_both_sides_go(self, node, pod):
        made = node.run(pod_interface.create, wanted(pod))

        node.run(pod_interface.delete, made.host_ifname)

        assert names_in(node.name) == names_in(pod) == {"lo"}

    def test_absent_is_success(self, node):
        node.run(pod_interface.delete, "lxc000000000000")

    def test_a_pod_that_is_gone_took_its_interface_along(self, node, pod):
        made = node.run(pod_interface.create, wanted(pod))
        namespaces.delete(pod)

        node.run(pod_interface.delete, made.host_ifname)

        assert not node.run(pod_interface.exists, made.host_ifname, made.ifindex)


class TestCheck:
    def test_nothing_differs_from_what_was_made(self, node, pod):
        made = node.run(pod_interface.create, wanted(pod))

        assert node.run(pod_interface.check, wanted(pod)) == ()
        assert node.run(pod_interface.exists, made.host_ifname, made.ifindex)

    @pytest.mark.parametrize(
        ("words", "difference"),
        [
            ("address del 10.77.0.5/32 dev eth0", "eth0 lacks address 10.77.0.5"),
            ("address del fd77::5/128 dev eth0", "eth0 lacks address fd77::5"),
            ("route del default", "eth0 lacks the default route via 10.77.0.1"),
            ("-6 route del default", "eth0 lacks the default route via fd77::1"),
            ("neigh del fd77::1 dev eth0", "eth0 lacks the permanent neighbour fd77::1"),
            ("link set eth0 mtu 1300", "eth0 has MTU 1300, not 1400"),
            ("link set eth0 down", "eth0 is down"),
            ("link del eth0", "is missing"),
        ],
    )
    def test_what_differs_is_named(self, node, pod, words, difference):
        node.run(pod_interface.create, wanted(pod))

        subprocess.run(["ip", "-n", pod, *words.split()], check=True)

        assert any(difference in found for found in node.run(pod_interface.check, wanted(pod)))

    def test_nothing_at_all_is_both_sides_missing(self, node, pod):
        assert len(node.run(pod_interface.check, wanted(pod))) == 2


class TestList:
    def test_ours_are_told_from_others(self, node, pod):
        made = node.run(pod_interface.create, wanted(pod))
        in_pod(node.name, rtnetlink.create_veth("lxcother", b"\2\0\0\0\0\1", "vethother", b"\2\0\0\0\0\2", 1500))

        (found,) = node.run(pod_interface.interfaces)

        assert (found.name, found.ifindex, found.alias) == (made.host_ifname, made.ifindex, "cilium:abc:eth0")


def test_the_caller_stays_where_he_was(node, pod):
    before = os.stat("/proc/thread-self/ns/net").st_ino

    node.run(pod_interface.create, wanted(pod))

    assert os.stat("/proc/thread-self/ns/net").st_ino == before


def _sysctl(node, name: str) -> str:
    return node.run(_read, f"/proc/sys/net/{name}")


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read().strip()


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)

"""Which nodes a lab has and which addresses they get."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycilium.errors import AlreadyExists, ConfigError
from pycilium.lab import etcd
from pycilium.lab.plan import (
    MAX_NODES,
    STORE_ETH0,
    UNDERLAY,
    WORLD_ETH0,
    UpOptions,
    capacities,
    next_node,
    plan,
    pod_mtu_bytes,
    readdressed,
)


class TestNodes:
    def test_addresses_are_those_of_the_documentation(self):
        node = plan(UpOptions(node_count=3)).node("node3")

        assert (node.ipv4, node.ipv6) == ("172.18.0.13", "fd00:172:18::13")
        assert (node.ipv4_pod_cidr, node.ipv6_pod_cidr) == ("10.0.3.0/24", "fd00:10:0:3::/112")

    def test_a_family_that_is_off_leaves_no_address(self):
        node = plan(UpOptions(ip_families=("ipv6",))).node("node1")

        assert (node.ipv4, node.ipv4_pod_cidr) == (None, None)

    def test_an_underlay_of_one_family_carries_pods_of_the_other(self):
        node = plan(UpOptions(ip_families=("ipv6",), underlay_family="ipv4")).node("node1")

        assert (node.addresses, node.pod_cidrs) == (("172.18.0.11",), ("fd00:10:0:1::/112",))

    @pytest.mark.parametrize("families", [(), ("ipv5",), ("ipv4", "x")])
    def test_unknown_families_are_refused(self, families):
        with pytest.raises(ConfigError, match="--ip-families"):
            plan(UpOptions(ip_families=families))

    @pytest.mark.parametrize("count", [0, MAX_NODES + 1])
    def test_more_nodes_than_addresses_are_refused(self, count):
        with pytest.raises(ConfigError, match=f"--nodes {count}: use 1 to {MAX_NODES}"):
            plan(UpOptions(node_count=count))

    def test_an_unknown_store_is_refused(self):
        with pytest.raises(ConfigError, match="--store consul: use sqlite or etcd"):
            plan(UpOptions(store="consul"))

    def test_an_api_server_outside_of_the_lab_is_reached_by_a_gate(self):
        record = plan(UpOptions(name="shop", store="kubernetes:?server=https://10.0.0.1:6443"))

        assert (record.store_url, record.gate, record.etcd) == (
            "kubernetes:?server=https://10.0.0.1:6443",
            "cilium-shop-gate",
            None,
        )

    def test_an_unknown_node_is_named_beside_those_that_exist(self):
        with pytest.raises(ConfigError, match="has no node node7; it has node1, node2"):
            plan(UpOptions(node_count=2)).node("node7")

    def test_of_the_largest_lab_no_two_share_an_address_or_a_pod_cidr(self):
        record = plan(UpOptions(node_count=MAX_NODES))

        addresses = [*WORLD_ETH0.values(), *STORE_ETH0.values(), *(a for node in record.nodes for a in node.addresses)]
        cidrs = {ip_network(cidr) for node in record.nodes for cidr in node.pod_cidrs}
        assert len({ip_address(address) for address in addresses}) == 2 * (MAX_NODES + 2)
        assert len(cidrs) == 2 * MAX_NODES
        assert all(any(ip_address(address) in network for network in UNDERLAY.values()) for address in addresses)


class TestChanges:
    def test_a_further_node_gets_the_lowest_number_that_is_free(self):
        record = plan(UpOptions(node_count=3)).without_node("node2")

        assert [next_node(record).name, next_node(record, "edge").number] == ["node2", 2]

    def test_a_name_that_a_named_node_took_is_passed_over(self):
        record = plan(UpOptions(node_count=1))
        record = record.with_node(next_node(record, "node3"))  # its number is 2

        assert next_node(record).number == 4

    def test_a_name_that_is_taken_is_refused(self):
        with pytest.raises(AlreadyExists, match="lab lab has a node node1 already"):
            next_node(plan(UpOptions()), "node1")

    def test_a_full_lab_takes_no_more(self):
        with pytest.raises(ConfigError, match=f"has {MAX_NODES} nodes"):
            next_node(plan(UpOptions(node_count=MAX_NODES)))

    def test_a_node_gets_the_addresses_that_are_wanted_and_keeps_the_others(self):
        new = readdressed(plan(UpOptions(node_count=2)), "node2", "172.18.0.77", None)

        assert (new.addresses, new.number) == (("172.18.0.77", "fd00:172:18::12"), 2)

    @pytest.mark.parametrize(
        ("ipv4", "said"),
        [
            ("172.18.0.11", "somebody else"),
            ("172.18.0.1", "somebody else"),
            ("172.18.0.255", "use an address of the underlay"),
            ("10.0.0.1", "use an address of the underlay, 172.18.0.0/24"),
            ("fd00:172:18::9", "use an address of the underlay, 172.18.0.0/24"),
            ("x", "does not appear to be"),
        ],
    )
    def test_addresses_that_a_node_cannot_have_are_refused(self, ipv4, said):
        with pytest.raises(ConfigError, match=said):
            readdressed(plan(UpOptions(node_count=2)), "node2", ipv4, None)

    def test_a_family_that_the_underlay_does_not_speak_is_refused(self):
        with pytest.raises(ConfigError, match="speaks no ipv6"):
            readdressed(plan(UpOptions(ip_families=("ipv4",))), "node1", None, "fd00:172:18::9")

    @given(st.lists(st.tuples(st.sampled_from(["add", "remove", "readdress"]), st.integers(0, 5)), max_size=30))
    def test_whatever_happens_no_two_nodes_share_an_address(self, steps):
        record = plan(UpOptions(node_count=3))
        for what, choice in steps:
            names = [node.name for node in record.nodes]
            name = names[choice % len(names)]
            if what == "add":
                record = record.with_node(next_node(record))
            elif what == "readdress":
                record = record.with_node(readdressed(record, name, None, None))
            elif len(names) > 1:
                record = record.without_node(name)

            owned = [thing for node in record.nodes for thing in (*node.addresses, *node.pod_cidrs, node.namespace)]
            assert len(set(owned)) == len(owned)


class TestRouting:
    @pytest.mark.parametrize(
        ("family", "mode", "mtu"), [("ipv4", "tunnel", 1450), ("ipv6", "tunnel", 1430), ("ipv4", "native", 1500)]
    )
    def test_pods_have_what_the_outer_headers_leave(self, family, mode, mtu):
        record = plan(UpOptions(ip_families=("ipv4",), underlay_family=family))

        assert pod_mtu_bytes(record, mode) == mtu

    def test_native_routing_needs_an_underlay_that_speaks_the_pods_family(self):
        with pytest.raises(ConfigError, match="pods have ipv6 and the underlay speaks ipv4 only"):
            plan(UpOptions(underlay_family="ipv4", routing_mode="native"))

    @pytest.mark.parametrize(
        ("options", "least"),
        [
            (UpOptions(), 1330),
            (UpOptions(underlay_family="ipv6"), 1350),
            (UpOptions(routing_mode="native"), 1280),
            (UpOptions(ip_families=("ipv4",)), 626),
        ],
    )
    def test_an_underlay_with_too_small_packets_is_refused(self, options, least):
        def of(mtu):
            return UpOptions(
                ip_families=options.ip_families,
                underlay_family=options.underlay_family,
                routing_mode=options.routing_mode,
                mtu_bytes=mtu,
            )

        assert plan(of(least)).mtu_bytes == least
        with pytest.raises(ConfigError, match=f"--mtu {least - 1}: use {least} to 9216"):
            plan(of(least - 1))


class TestEtcd:
    @pytest.mark.parametrize(
        ("family", "url"), [("auto", "etcd://172.18.0.2:2379"), ("ipv6", "etcd://[fd00:172:18::2]:2379")]
    )
    def test_agents_reach_it_over_the_underlay(self, family, url):
        assert etcd.agents_url(plan(UpOptions(store="etcd", underlay_family=family))) == url

    def test_where_it_is_missing_the_package_is_named(self, monkeypatch):
        monkeypatch.setenv("PATH", "/nowhere")

        with pytest.raises(ConfigError, match="apt-get install etcd-server"):
            etcd.require()

    def test_a_file_cannot_be_stopped(self):
        with pytest.raises(ConfigError, match="lab up --store etcd"):
            etcd.namespace_of(plan(UpOptions()))


@pytest.mark.parametrize("nodes", [1, 2, 3, 10, 100, MAX_NODES])
def test_the_nodes_of_a_lab_share_the_memory_of_one(nodes):
    sizes = capacities(nodes)

    assert sizes["conntrack_capacity"] * nodes <= max(262144, 16384 * nodes)
    assert sizes["event_ring_bytes"].bit_count() == 1

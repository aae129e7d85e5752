"""Cluster IPs and node ports: what a Service gets, keeps, and is refused."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycilium.errors import InvalidResource, IpamExhausted
from pycilium.ipam.service_allocation import (
    ServiceRanges,
    Taken,
    allocated,
    carried_over,
    needs_allocation,
    node_port_range,
    ranges_of,
)
from pycilium.model.resources import ObjectMeta, Service, ServiceCIDR, validate
from pycilium.model.resources.service import ServicePort, ServiceSpec
from pycilium.model.resources.service_cidr import NODE_PORT_RANGE, ServiceCIDRSpec

RANGES = ServiceRanges()
IPV6_FIRST = ServiceRanges((ip_network("fd00:96::/112"), ip_network("10.96.0.0/16")))
HTTP = (ServicePort(port=80),)


def service(name: str = "web", ports: tuple[ServicePort, ...] = HTTP, **spec) -> Service:
    spec.setdefault("selector", {"app": name})
    return Service(metadata=ObjectMeta(name=name, namespace="default"), spec=ServiceSpec(ports=ports, **spec))


def given_to(asked: Service, *others: Service, ranges: ServiceRanges = RANGES) -> ServiceSpec:
    return allocated(asked, None, Taken(others), ranges).spec


def applied(stored: Service | None, asked: Service, *others: Service, ranges: ServiceRanges = RANGES) -> Service:
    carried = carried_over(stored, asked)
    return allocated(carried, stored, Taken(others), ranges) if needs_allocation(stored, carried) else carried


class TestClusterIPs:
    def test_a_service_that_asks_for_nothing_gets_one_of_the_first_family(self):
        for ranges, family in ((RANGES, "IPv4"), (IPV6_FIRST, "IPv6")):
            spec = given_to(service(), ranges=ranges)

            assert spec.ip_families == (family,)
            assert spec.ip_family_policy == "SingleStack"
            assert spec.cluster_ips == (spec.cluster_ip,)
            assert ip_address(spec.cluster_ip) in ranges.cidrs[0]

    def test_what_prefers_or_requires_both_families_gets_both(self):
        for policy in ("PreferDualStack", "RequireDualStack"):
            spec = given_to(service(ip_family_policy=policy))

            assert spec.ip_families == ("IPv4", "IPv6")
            assert [ip_address(each).version for each in spec.cluster_ips] == [4, 6]

    def test_the_order_of_families_is_the_services_own(self):
        spec = given_to(service(ip_family_policy="RequireDualStack", ip_families=("IPv6",)))

        assert spec.ip_families == ("IPv6", "IPv4")
        assert spec.cluster_ip == spec.cluster_ips[0]
        assert ip_address(spec.cluster_ip).version == 6

    def test_of_one_family_alone_prefer_means_one_and_require_is_refused(self):
        single = ServiceRanges((ip_network("10.96.0.0/16"),))

        assert given_to(service(ip_family_policy="PreferDualStack"), ranges=single).ip_families == ("IPv4",)
        with pytest.raises(InvalidResource, match="RequireDualStack needs ranges of both families"):
            given_to(service(ip_family_policy="RequireDualStack"), ranges=single)
        with pytest.raises(InvalidResource, match="this cluster has no IPv6"):
            given_to(service(ip_families=("IPv6",)), ranges=single)

    def test_a_headless_service_gets_families_and_no_address(self):
        spec = given_to(service(cluster_ip="None"))
        without_selector = given_to(service(cluster_ip="None", selector=None))

        assert spec.all_cluster_ips == ("None",)
        assert (spec.ip_family_policy, spec.ip_families) == ("SingleStack", ("IPv4",))
        assert (without_selector.ip_family_policy, without_selector.ip_families) == (
            "RequireDualStack",
            ("IPv4", "IPv6"),
        )

    def test_an_external_name_gets_nothing(self):
        asked = service(type="ExternalName", external_name="example.com", ports=())

        assert applied(None, asked) is asked

    def test_a_written_address_is_kept_and_decides_the_family(self):
        spec = given_to(service(cluster_ip="fd00:96::5"))

        assert (spec.cluster_ips, spec.ip_families) == (("fd00:96::5",), ("IPv6",))

    @pytest.mark.parametrize(
        ("address", "reason"),
        [
            ("10.96.0.5", "10.96.0.5 is taken: Service default/other has it"),
            ("10.97.0.5", r"lies outside of the cluster's ranges, 10\.96\.0\.0/16 and fd00:96::/112"),
            ("10.96.0.0", "first or last address"),
            ("10.96.255.255", "first or last address"),
        ],
    )
    def test_an_address_that_cannot_be_had_is_refused_with_the_reason(self, address, reason):
        with pytest.raises(InvalidResource, match=reason):
            given_to(service(cluster_ip=address), service("other", cluster_ip="10.96.0.5"))

    def test_a_used_up_range_is_said_and_a_second_one_helps(self):
        tiny = ServiceRanges((ip_network("10.96.0.0/30"),))
        others = [service("a", cluster_ip="10.96.0.1"), service("b", cluster_ip="10.96.0.2")]

        with pytest.raises(IpamExhausted, match=r"no IPv4 cluster IP is left in 10\.96\.0\.0/30"):
            given_to(service(), *others, ranges=tiny)
        wider = ServiceRanges((*tiny.cidrs, ip_network("10.98.0.0/24")))
        assert ip_address(given_to(service(), *others, ranges=wider).cluster_ip) in wider.cidrs[1]


class TestNodePorts:
    def test_the_types_that_have_node_ports_get_one_for_each_port(self):
        ports = (ServicePort(name="http", port=80), ServicePort(name="https", port=443))

        assert not any(port.node_port for port in given_to(service(ports=ports)).ports)
        for kind in ("NodePort", "LoadBalancer"):
            numbers = [port.node_port for port in given_to(service(ports=ports, type=kind)).ports]
            assert len(set(numbers)) == 2
            assert all(30086 <= number <= 32767 for number in numbers)

    def test_a_load_balancer_may_do_without(self):
        spec = given_to(service(type="LoadBalancer", allocate_load_balancer_node_ports=False))

        assert not spec.ports[0].node_port

    def test_two_protocols_of_one_port_share_a_number(self):
        ports = (
            ServicePort(name="dns", port=53, protocol="UDP"),
            ServicePort(name="dns-tcp", port=53),
            ServicePort(name="metrics", port=9153),
        )

        dns, dns_tcp, metrics = given_to(service(ports=ports, type="NodePort")).ports

        assert dns.node_port == dns_tcp.node_port != metrics.node_port

    def test_local_load_balancers_get_a_health_check_port_of_their_own(self):
        spec = given_to(service(type="LoadBalancer", external_traffic_policy="Local"))

        assert spec.health_check_node_port
        assert spec.health_check_node_port != spec.ports[0].node_port
        assert not given_to(service(type="NodePort", external_traffic_policy="Local")).health_check_node_port

    def test_ports_that_cannot_be_had_are_refused_with_the_reason(self):
        other = service("other", (ServicePort(port=80, node_port=30080),), type="NodePort")
        health = service("health", type="LoadBalancer", external_traffic_policy="Local", health_check_node_port=30090)

        for number, reason in (
            (30080, "node port 30080 is taken: Service default/other has it"),
            (30090, "node port 30090 is taken: Service default/health has it"),
            (80, "80 lies outside of the node ports, 30000-32767"),
        ):
            with pytest.raises(InvalidResource, match=reason) as refused:
                given_to(service(ports=(ServicePort(port=80, node_port=number),), type="NodePort"), other, health)
            assert refused.value.path == "spec.ports[0].nodePort"

    def test_used_up_node_ports_are_said(self):
        few = ServiceRanges(node_ports=node_port_range("30000-30000"))
        other = service("other", (ServicePort(port=80, node_port=30000),), type="NodePort")

        with pytest.raises(IpamExhausted, match="no node port is left of 30000-30000"):
            given_to(service(type="NodePort"), other, ranges=few)


class TestReplacing:
    def test_applying_the_same_again_changes_nothing_and_needs_to_know_nobody(self):
        for asked in (
            service(),
            service(ip_family_policy="PreferDualStack"),
            service(type="NodePort"),
            service(type="LoadBalancer", external_traffic_policy="Local"),
            service(cluster_ip="None"),
            service(cluster_ip="10.96.0.9"),
        ):
            stored = applied(None, asked)
            carried = carried_over(stored, asked)

            assert carried == stored
            assert not needs_allocation(stored, carried)

    def test_another_port_gets_another_number_and_those_before_keep_theirs(self):
        stored = applied(None, service(ports=(ServicePort(name="http", port=80),), type="NodePort"))
        asked = service(ports=(ServicePort(name="tls", port=443), ServicePort(name="http", port=80)), type="NodePort")

        tls, http = applied(stored, asked).spec.ports

        assert http.node_port == stored.spec.ports[0].node_port
        assert tls.node_port not in (0, http.node_port)

    def test_a_port_that_gets_another_number_or_another_name_keeps_its_node_port(self):
        stored = applied(
            None, service(ports=(ServicePort(name="a", port=80), ServicePort(name="b", port=81)), type="NodePort")
        )
        asked = service(ports=(ServicePort(name="a", port=8080), ServicePort(name="c", port=81)), type="NodePort")

        changed = applied(stored, asked)

        assert [port.node_port for port in changed.spec.ports] == [port.node_port for port in stored.spec.ports]

    def test_a_node_port_that_is_written_at_another_port_is_not_kept_by_the_one_that_had_it(self):
        ports = (ServicePort(name="a", port=80, node_port=30100), ServicePort(name="b", port=81, node_port=30101))
        stored = applied(None, service(ports=ports, type="NodePort"))
        asked = service(
            ports=(ServicePort(name="a", port=80), ServicePort(name="b", port=81, node_port=30100)), type="NodePort"
        )

        first, second = applied(stored, asked).spec.ports

        assert second.node_port == 30100
        assert first.node_port not in (0, 30100)

    def test_a_change_of_type_gives_back_what_the_new_one_has_not(self):
        stored = applied(None, service(type="LoadBalancer", external_traffic_policy="Local"))

        changed = applied(stored, service())

        assert changed.spec.cluster_ip == stored.spec.cluster_ip
        assert not changed.spec.ports[0].node_port
        assert not changed.spec.health_check_node_port

    def test_a_second_family_comes_and_goes_with_the_policy(self):
        stored = applied(None, service())
        dual = applied(stored, service(ip_family_policy="PreferDualStack"))
        single = applied(dual, service(ip_family_policy="SingleStack"))

        assert dual.spec.cluster_ips[0] == stored.spec.cluster_ip
        assert len(dual.spec.cluster_ips) == 2
        assert single.spec.cluster_ips == stored.spec.cluster_ips
        assert single.spec.ip_families == ("IPv4",)

    def test_the_address_cannot_change(self):
        stored = applied(None, service(cluster_ip="10.96.0.5"))

        with pytest.raises(InvalidResource, match=r"cannot change from 10\.96\.0\.5 to 10\.96\.0\.6"):
            applied(stored, service(cluster_ip="10.96.0.6"))

    def test_the_first_family_cannot_change(self):
        stored = applied(None, service(ip_family_policy="SingleStack", ip_families=("IPv4",)))

        with pytest.raises(InvalidResource, match="cannot change from IPv4 to IPv6") as refused:
            applied(stored, service(ip_family_policy="SingleStack", ip_families=("IPv6",)))
        assert refused.value.path == "spec.ipFamilies[0]"

    def test_what_was_given_is_kept_when_the_ranges_change(self):
        stored = applied(None, service(type="NodePort"))
        elsewhere = ServiceRanges((ip_network("10.200.0.0/16"),), node_port_range("20000-20100"))
        asked = service(ports=(ServicePort(name="a", port=80), ServicePort(name="b", port=81)), type="NodePort")

        kept, added = applied(stored, asked, ranges=elsewhere).spec.ports

        assert kept.node_port == stored.spec.ports[0].node_port
        assert 20000 <= added.node_port <= 20100


def test_ranges_come_from_the_service_cidrs_kubernetes_first():
    def cidr(name: str, *cidrs: str, **annotations: str) -> ServiceCIDR:
        return ServiceCIDR(metadata=ObjectMeta(name=name, annotations=annotations), spec=ServiceCIDRSpec(cidrs=cidrs))

    ranges = ranges_of(
        [cidr("extra", "10.9.0.0/24"), cidr("kubernetes", "fd00:7::/112", **{NODE_PORT_RANGE: "20000-20010"})]
    )

    assert [str(each) for each in ranges.cidrs] == ["fd00:7::/112", "10.9.0.0/24"]
    assert ranges.families == ("IPv6", "IPv4")
    assert (ranges.node_ports.first, ranges.node_ports.last) == (20000, 20010)
    assert ranges_of([]) == ServiceRanges()


SPECS = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["ClusterIP", "NodePort", "LoadBalancer"]),
        "ip_family_policy": st.sampled_from([None, "SingleStack", "PreferDualStack"]),
        "ports": st.sets(st.tuples(st.integers(1, 4), st.sampled_from(["TCP", "UDP"])), min_size=1, max_size=3).map(
            lambda pairs: tuple(
                ServicePort(name=f"p{port}{protocol.lower()}", port=port, protocol=protocol)
                for port, protocol in sorted(pairs)
            )
        ),
    }
)


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.none() | SPECS), max_size=14), st.booleans())
def test_whatever_is_applied_and_deleted_no_two_services_have_the_same(steps, small):
    ranges = ServiceRanges(
        (ip_network("10.96.0.0/29"), ip_network("fd00:96::/125")), node_port_range("30000-30007" if small else "1-99")
    )
    kept: dict[str, Service] = {}
    for name, spec in steps:
        if spec is None:
            kept.pop(name, None)
            continue
        others = [each for other, each in kept.items() if other != name]
        try:
            kept[name] = applied(kept.get(name), service(name, **spec), *others, ranges=ranges)
        except IpamExhausted:
            continue
        validate(kept[name])
        assert applied(kept[name], kept[name], *others, ranges=ranges) == kept[name]
    addresses = [address for each in kept.values() for address in each.spec.cluster_ips]
    assert len(addresses) == len(set(addresses))
    numbers = [{port.node_port for port in each.spec.ports} - {0} for each in kept.values()]
    assert sum(map(len, numbers)) == len(set().union(*numbers))
    for each in kept.values():
        used = [(port.node_port, port.protocol) for port in each.spec.ports if port.node_port]
        assert len(used) == len(set(used)) == (len(each.spec.ports) if each.spec.type != "ClusterIP" else 0)


def test_a_service_may_be_stored_as_it_was_before_there_was_allocation():
    bare = service(type="NodePort")

    made_whole = applied(bare, msgspec.structs.replace(bare))

    assert made_whole.spec.cluster_ip
    assert made_whole.spec.ports[0].node_port

"""From one Service to its frontends: kinds, families, ports, policies, annotations; and what is named as wrong."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from msgspec.structs import replace as replace_part

from pycilium.model.labels import NO_LABELS, Labels
from pycilium.model.remote_endpoint import remote_endpoint_of
from pycilium.model.resources import decode_object
from pycilium.model.service import Algorithm, ForwardingMode, FrontendKind, SourceRanges
from pycilium.services import CatalogueChanges, HostPortMapping, NodePlace, all_frontends
from pycilium.services.catalogue import Catalogue
from tests.unit.services.builders import SETTINGS, at, ep, pod, service, slice_of, words

DUAL = "ipFamilyPolicy: RequireDualStack, clusterIPs: [10.96.0.1, 'fd00:96::1']"


def changes(*things, host_ports=()):
    """What a catalogue is given: Services, slices and pods, by what they are."""
    sorted_out = {"Service": {}, "EndpointSlice": {}, "pod": {}}
    for thing in things:
        key = thing.key if not hasattr(thing, "metadata") else (thing.metadata.namespace, thing.metadata.name)
        sorted_out[getattr(thing, "kind", "pod")][key] = thing
    by_pod = {(each.namespace, each.pod): (each,) for each in host_ports}
    return CatalogueChanges(sorted_out["Service"], sorted_out["EndpointSlice"], sorted_out["pod"], by_pod)


def found(*things, settings=SETTINGS, host_ports=()):
    """Frontends by their address."""
    return {str(each.at): each for each in all_frontends(changes(*things, host_ports=host_ports), settings)}


def only(*things, settings=SETTINGS):
    (frontend,) = found(*things, settings=settings).values()
    return frontend


def problems(*things, settings=SETTINGS):
    catalogue = Catalogue(settings)
    catalogue.update(changes(*things))
    return {str(owner): texts for owner, texts in catalogue.problems().items()}


# == kinds ==


def test_a_cluster_ip_is_for_clients_of_the_cluster_alone():
    frontend = only(service(), slice_of("10.0.0.2", "10.0.0.1"))

    assert (frontend.at, frontend.kind, frontend.name) == (at("10.96.0.1:80"), FrontendKind.CLUSTER_IP, "default/web")
    assert words(frontend.inside) == ["10.0.0.1:8080", "10.0.0.2:8080"]
    assert frontend.outside == ()


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param("clusterIP: None", id="headless"),
        pytest.param("{type: ExternalName, externalName: example.org, clusterIP: '', ports: []}", id="a name"),
        pytest.param("clusterIP: ''", id="no address yet"),
    ],
)
def test_without_an_address_there_is_no_frontend(spec):
    assert found(service(spec=spec), slice_of("10.0.0.1")) == {}


def test_a_service_of_another_proxy_is_left_to_it():
    assert found(service(labels={"service.kubernetes.io/service-proxy-name": "other"})) == {}


def test_a_node_port_is_served_at_each_own_address_and_for_all_other_nodes():
    frontends = found(service(spec="{type: NodePort, ports: [{port: 80, nodePort: 30080}]}"), slice_of("10.0.0.1"))

    assert {name: each.kind for name, each in frontends.items()} == {
        "0.0.0.0:30080/TCP": FrontendKind.NODE_PORT,
        "10.96.0.1:80/TCP": FrontendKind.CLUSTER_IP,
        "192.0.2.1:30080/TCP": FrontendKind.NODE_PORT,
    }
    assert all(words(each.inside) == ["10.0.0.1:8080"] for each in frontends.values())
    assert words(frontends["192.0.2.1:30080/TCP"].outside) == ["10.0.0.1:8080"]


def test_a_node_port_outside_of_the_range_is_refused():
    web = service(spec="{type: NodePort, ports: [{port: 80, nodePort: 22}]}")

    assert list(found(web)) == ["10.96.0.1:80/TCP"]
    assert "node port 22 is outside of 30000-32767" in problems(web)["default/web"][0]


def test_a_load_balancer_is_served_at_the_addresses_that_it_was_given():
    spec = "{type: LoadBalancer, ports: [{port: 80, nodePort: 30080}]}"
    frontends = found(service(spec=spec, ingress=["198.51.100.1"]))

    assert frontends["198.51.100.1:80/TCP"].kind is FrontendKind.LOAD_BALANCER
    assert "192.0.2.1:30080/TCP" in frontends


def test_a_load_balancer_need_not_have_node_ports():
    spec = "{type: LoadBalancer, allocateLoadBalancerNodePorts: false, ports: [{port: 80, nodePort: 30080}]}"

    assert list(found(service(spec=spec, ingress=["198.51.100.1"]))) == ["10.96.0.1:80/TCP", "198.51.100.1:80/TCP"]


def test_addresses_that_a_type_no_longer_has_are_not_served():
    assert list(found(service(ingress=["198.51.100.1"]))) == ["10.96.0.1:80/TCP"]


def test_external_ips_are_served():
    frontend = found(service(spec="externalIPs: [203.0.113.1]"))["203.0.113.1:80/TCP"]

    assert (frontend.kind, frontend.service) == (FrontendKind.EXTERNAL_IP, "web")


def test_host_ports_lead_to_their_pod_alone():
    mapping = HostPortMapping("default", "proxy", 443, at("10.0.0.9:8443"))
    frontends = found(host_ports=[mapping])
    frontend = frontends["192.0.2.1:443/TCP"]

    assert list(frontends) == ["0.0.0.0:443/TCP", "192.0.2.1:443/TCP"]
    assert (frontend.kind, frontend.name) == (FrontendKind.HOST_PORT, "default/proxy")
    assert (words(frontend.inside), words(frontend.outside)) == (["10.0.0.9:8443"], ["10.0.0.9:8443"])


def test_a_host_port_at_one_address_is_served_there():
    mapping = HostPortMapping("default", "proxy", 443, at("10.0.0.9:8443"), ip_address("127.0.0.1"))

    assert list(found(host_ports=[mapping])) == ["127.0.0.1:443/TCP"]


# == ports and families ==


def test_each_port_has_the_backends_of_its_name_and_protocol():
    web = service(spec="ports: [{name: http, port: 80}, {name: dns, port: 53, protocol: UDP}]")
    ports = "[{name: http, port: 8080}, {name: dns, port: 5353, protocol: UDP}]"
    frontends = found(web, slice_of("10.0.0.1", ports=ports))

    assert {name: words(each.inside) for name, each in frontends.items()} == {
        "10.96.0.1:53/UDP": ["10.0.0.1:5353/UDP"],
        "10.96.0.1:80/TCP": ["10.0.0.1:8080"],
    }
    assert frontends["10.96.0.1:80/TCP"].port_name == "http"


def test_a_port_that_no_slice_names_is_named():
    web = service(spec="ports: [{name: http, port: 80}]")
    listed = slice_of("10.0.0.1", ports="[{name: web, port: 8080}]")

    assert only(web, listed).inside == ()
    (problem,) = problems(web, listed)["default/web"]
    assert problem.startswith("port 80/TCP: no EndpointSlice has a port named 'http'/TCP, only 'web'/TCP")


def test_slices_may_say_different_numbers_for_one_name():
    web = service(spec="ports: [{name: http, port: 80}]")
    one = slice_of("10.0.0.1", ports="[{name: http, port: 8080}]")
    other = slice_of("10.0.0.2", name="web-2", ports="[{name: http, port: 9090}]")

    assert words(only(web, one, other).inside) == ["10.0.0.1:8080", "10.0.0.2:9090"]


def test_each_family_has_its_own_backends():
    v6 = slice_of("fd00::1", name="web-2", family="IPv6")
    frontends = found(service(spec=f"{{{DUAL}}}"), slice_of("10.0.0.1"), v6)

    assert {name: words(each.inside) for name, each in frontends.items()} == {
        "10.96.0.1:80/TCP": ["10.0.0.1:8080"],
        "[fd00:96::1]:80/TCP": ["[fd00::1]:8080"],
    }


def test_a_node_port_of_two_families_is_served_at_addresses_of_both():
    spec = f"{{type: NodePort, {DUAL}, ports: [{{port: 80, nodePort: 30080}}]}}"

    assert [name for name in found(service(spec=spec)) if "30080" in name] == [
        "0.0.0.0:30080/TCP",
        "192.0.2.1:30080/TCP",
        "[::]:30080/TCP",
        "[2001:db8::1]:30080/TCP",
    ]


def test_a_family_that_is_off_is_not_served():
    assert list(found(service(spec=f"{{{DUAL}}}"), settings=replace(SETTINGS, families=(4,)))) == ["10.96.0.1:80/TCP"]


def test_endpoints_of_a_family_that_the_service_has_not_are_left_out_and_named():
    web, v6 = service(), slice_of("fd00::1", name="web-2", family="IPv6")

    assert only(web, v6).inside == ()
    assert "EndpointSlice web-2: its IPv6 endpoints are left out" in problems(web, v6)["default/web"][0]


def test_an_address_of_another_family_within_a_slice_is_left_out_and_named():
    good = slice_of("10.0.0.1", "10.0.0.2")
    odd = replace_part(good, address_type="IPv6")

    assert found(service(), odd)["10.96.0.1:80/TCP"].inside == ()
    assert "'10.0.0.1' is not an IPv6 address and is left out" in problems(service(), odd)["default/web"][0]


def test_names_cannot_be_backends():
    assert "names cannot be backends" in problems(service(), slice_of("a.b", family="FQDN"))["default/web"][0]


def test_external_addresses_of_a_family_that_the_service_has_not_are_named():
    web = service(spec="externalIPs: ['2001:db8::9']")

    assert "external IP 2001:db8::9 is IPv6, which ipFamilies does not name" in problems(web)["default/web"][0]


def test_an_endpoint_in_two_slices_is_one_backend_and_ready_if_one_says_so():
    frontend = only(service(), slice_of(ep("10.0.0.1", "not-ready")), slice_of("10.0.0.1", name="web-2"))

    assert words(frontend.inside) == ["10.0.0.1:8080"]


def test_endpoints_have_the_weight_of_their_slice():
    canary = slice_of("10.0.0.1", annotations={"pycilium.io/weight": "3"})
    drained = slice_of("10.0.0.3", name="web-3", annotations={"pycilium.io/weight": "0"})

    frontend = only(service(), canary, slice_of("10.0.0.2", name="web-2"), drained)

    assert [(str(each.at.address), each.weight) for each in frontend.inside] == [
        ("10.0.0.1", 3),
        ("10.0.0.2", 1),
        ("10.0.0.3", 0),
    ]


@pytest.mark.parametrize("weight", ["", "-1", "101", "1.5", "heavy", "\u0663"])
def test_a_weight_that_is_none_is_named_and_not_heeded(weight):
    odd = slice_of("10.0.0.1", annotations={"pycilium.io/weight": weight})

    assert words(only(service(), odd).inside) == ["10.0.0.1:8080"]
    (problem,) = problems(service(), odd)["default/web"]
    assert problem == (
        f"EndpointSlice web-1: annotation pycilium.io/weight: {weight!r} is no number from 0 to 100 and is not heeded"
    )


def test_five_thousand_endpoints_are_as_many_backends():
    slices = [slice_of(*(f"10.{number}.0.{each}" for each in range(100)), name=f"web-{number}") for number in range(50)]

    assert len(only(service(), *slices).inside) == 5000


# == policies ==

LOCAL_NODE_PORT = "{type: NodePort, externalTrafficPolicy: Local, ports: [{port: 80, nodePort: 30080}]}"
HERE_AND_THERE = slice_of(ep("10.0.0.1", node="n1"), ep("10.0.0.2", node="n2"))


def test_external_policy_local_narrows_what_clients_outside_reach():
    frontends = found(service(spec=LOCAL_NODE_PORT), HERE_AND_THERE)
    node_port = frontends["192.0.2.1:30080/TCP"]

    assert words(node_port.inside) == ["10.0.0.1:8080", "10.0.0.2:8080"]
    assert words(node_port.outside) == ["10.0.0.1:8080"]
    assert node_port.external_local
    assert not frontends["10.96.0.1:80/TCP"].external_local


def test_internal_policy_local_narrows_what_clients_of_the_cluster_reach_by_the_cluster_ip():
    spec = "{type: NodePort, internalTrafficPolicy: Local, ports: [{port: 80, nodePort: 30080}]}"
    frontends = found(service(spec=spec), HERE_AND_THERE)

    assert words(frontends["10.96.0.1:80/TCP"].inside) == ["10.0.0.1:8080"]
    assert frontends["10.96.0.1:80/TCP"].internal_local
    assert words(frontends["192.0.2.1:30080/TCP"].inside) == ["10.0.0.1:8080", "10.0.0.2:8080"]


def test_addresses_that_are_not_ready_are_published_if_the_service_says_so():
    listed = slice_of(ep("10.0.0.1", "not-ready"))

    assert words(only(service(), listed).inside) == ["10.0.0.1:8080 kept"]
    assert words(only(service(spec="publishNotReadyAddresses: true"), listed).inside) == ["10.0.0.1:8080"]


def test_affinity_is_that_of_the_service():
    assert only(service(spec="sessionAffinity: ClientIP")).affinity_s == 10800


def test_health_check_node_ports_are_handed_on():
    spec = "{type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 31000}"

    assert found(service(spec=spec, ingress=["198.51.100.1"]))["198.51.100.1:80/TCP"].health_check_node_port == 31000


def ranges_of(spec, **annotations):
    names = {"policy": "service.cilium.io/src-ranges-policy"}
    web = service(
        spec=f"{{type: LoadBalancer, {DUAL}, {spec}}}",
        ingress=["198.51.100.1", "2001:db8::9"],
        annotations={names[key]: value for key, value in annotations.items()},
    )
    frontends = found(web)
    return [frontends[name].source_ranges for name in ("198.51.100.1:80/TCP", "[2001:db8::9]:80/TCP")]


def test_source_ranges_are_those_of_the_frontends_family():
    v4, v6 = ranges_of("loadBalancerSourceRanges: [192.0.2.0/24, 10.0.0.0/8, '2001:db8::/32']")

    assert v4 == SourceRanges((ip_network("10.0.0.0/8"), ip_network("192.0.2.0/24")))
    assert v6 == SourceRanges((ip_network("2001:db8::/32"),))


def test_if_only_the_other_family_has_ranges_nobody_is_within_them():
    assert ranges_of("loadBalancerSourceRanges: [10.0.0.0/8]")[1] == SourceRanges(())


def test_ranges_may_be_those_that_are_denied():
    v4, v6 = ranges_of("loadBalancerSourceRanges: [10.0.0.0/8]", policy="deny")

    assert (v4, v6) == (SourceRanges((ip_network("10.0.0.0/8"),), deny=True), None)


def test_only_a_load_balancers_address_has_source_ranges():
    spec = "{type: LoadBalancer, loadBalancerSourceRanges: [10.0.0.0/8], ports: [{port: 80, nodePort: 30080}]}"
    frontends = found(service(spec=spec, ingress=["198.51.100.1"]))

    assert [name for name, each in frontends.items() if each.source_ranges] == ["198.51.100.1:80/TCP"]


# == annotations and settings ==


def test_annotations_choose_algorithm_and_forwarding():
    annotations = {"service.cilium.io/lb-algorithm": "maglev", "service.cilium.io/forwarding-mode": "dsr"}
    frontends = found(service(spec="externalIPs: [203.0.113.1]", annotations=annotations))

    assert {each.algorithm for each in frontends.values()} == {Algorithm.MAGLEV}
    assert frontends["203.0.113.1:80/TCP"].forwarding is ForwardingMode.DSR
    assert frontends["10.96.0.1:80/TCP"].forwarding is ForwardingMode.SNAT


@pytest.mark.parametrize("annotation", ["lb-algorithm", "forwarding-mode", "src-ranges-policy", "type"])
def test_an_annotation_that_says_nothing_known_is_named_and_not_heeded(annotation):
    web = service(annotations={f"service.cilium.io/{annotation}": "best"})

    assert only(web) == only(service())
    assert "'best' is not" in problems(web)["default/web"][0]


def test_an_annotation_can_leave_out_kinds():
    spec = "{type: LoadBalancer, externalIPs: [203.0.113.1], ports: [{port: 80, nodePort: 30080}]}"
    web = service(spec=spec, ingress=["198.51.100.1"], annotations={"service.cilium.io/type": "LoadBalancer"})

    assert list(found(web)) == ["198.51.100.1:80/TCP"]


def test_settings_say_what_services_leave_unsaid():
    web = service(spec="{externalIPs: [203.0.113.1], ports: [{name: a, port: 80}, {name: b, port: 80, protocol: UDP}]}")
    frontends = found(web, settings=replace(SETTINGS, algorithm=Algorithm.MAGLEV, mode="hybrid"))

    assert frontends["203.0.113.1:80/TCP"].algorithm is Algorithm.MAGLEV
    assert frontends["10.96.0.1:80/TCP"].algorithm is Algorithm.RANDOM
    assert frontends["203.0.113.1:80/TCP"].forwarding is ForwardingMode.DSR
    assert frontends["203.0.113.1:80/UDP"].forwarding is ForwardingMode.SNAT


# == selectors, where nobody makes slices ==

SELECTING = "{selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}"


def test_a_selector_selects_endpoints_of_its_namespace():
    others = [
        pod("other", "10.0.0.2", "{app: db}"),
        pod("far", "10.0.0.3", namespace="shop"),
        pod("more", "10.0.0.4", "{app: web, tier: x}", node="n2"),
    ]

    assert words(only(service(spec=SELECTING), pod(), *others).inside) == ["10.0.0.1:8080", "10.0.0.4:8080"]


def test_without_target_port_it_is_the_port_itself():
    assert words(only(service(spec="selector: {app: web}"), pod()).inside) == ["10.0.0.1:80"]


def test_named_target_ports_are_those_of_each_pod():
    web = service(spec="{selector: {app: web}, ports: [{port: 80, targetPort: http}]}")
    pods = [
        pod("a", "10.0.0.1", ports=[("http", 6, 8080), ("http", 17, 1)]),
        pod("b", "10.0.0.2", ports=[("http", 6, 9090)]),
        pod("c", "10.0.0.3"),
    ]

    assert words(only(web, *pods).inside) == ["10.0.0.1:8080", "10.0.0.2:9090"]
    assert "pod c has no TCP port named 'http'" in problems(web, *pods)["default/web"][0]


def test_a_pod_of_two_families_is_behind_both():
    frontends = found(service(spec=f"{{selector: {{app: web}}, {DUAL}}}"), pod(address="10.0.0.1,fd00::1"))

    assert [words(each.inside) for each in frontends.values()] == [["10.0.0.1:80"], ["[fd00::1]:80"]]


def test_slices_made_by_hand_are_honoured_besides():
    web = service(spec=SELECTING)

    assert words(only(web, pod(), slice_of("192.0.2.77")).inside) == ["10.0.0.1:8080", "192.0.2.77:8080"]


def test_where_somebody_makes_slices_selectors_are_theirs():
    assert only(service(spec=SELECTING), pod(), settings=replace(SETTINGS, select_endpoints=False)).inside == ()


def test_a_pod_that_leaves_gets_nothing_new():
    leaving = pod("b", "10.0.0.2", leaving=True)

    assert words(only(service(spec=SELECTING), pod(), leaving).inside) == ["10.0.0.1:8080", "10.0.0.2:8080 kept"]


PLACES = {"192.0.2.1": NodePlace("n1", "a"), "192.0.2.2": NodePlace("n2", "a"), "192.0.2.3": NodePlace("n3", "b")}
SPREAD = [pod(f"web-{number}", f"10.0.0.{number}", node=f"192.0.2.{number}") for number in (1, 2, 3)]


@pytest.mark.parametrize(
    ("distribution", "near"),
    [
        ("PreferClose", [1, 2]),
        ("PreferSameZone", [1, 2]),
        ("PreferSameNode", [1]),
    ],
)
def test_traffic_distribution_prefers_what_is_near(distribution, near):
    web = service(spec=f"{{selector: {{app: web}}, trafficDistribution: {distribution}}}")
    frontend = only(web, *SPREAD, settings=replace(SETTINGS, nodes=PLACES))

    assert [each.at.address for each in frontend.inside if each.weight] == [ip_address(f"10.0.0.{n}") for n in near]


def test_traffic_distribution_reaches_far_when_nothing_is_near():
    web = service(spec="{selector: {app: web}, trafficDistribution: PreferSameNode}")
    frontend = only(web, SPREAD[2], settings=replace(SETTINGS, nodes=PLACES))

    assert words(frontend.inside) == ["10.0.0.3:80"]


def test_endpoints_of_this_node_are_local_by_whatever_it_is_called():
    web = service(spec="{selector: {app: web}, internalTrafficPolicy: Local}")
    frontend = only(web, *SPREAD, pod("by-name", "10.0.0.9", node="n1"), settings=replace(SETTINGS, nodes=PLACES))

    assert words(frontend.inside) == ["10.0.0.1:80", "10.0.0.9:80"]


def test_hints_by_topology_mode_need_somebody_who_makes_them():
    web = service(spec=SELECTING, annotations={"service.kubernetes.io/topology-mode": "Auto"})

    assert "use trafficDistribution" in problems(web, pod())["default/web"][0]


def test_an_endpoint_says_what_a_selector_needs():
    resource = decode_object(
        {
            "apiVersion": "cilium.io/v2",
            "kind": "CiliumEndpoint",
            "metadata": {"name": "web-1"},
            "status": {
                "identity": {"id": 1, "labels": ["k8s:app=web", "k8s:empty=", "reserved:x"]},
                "networking": {"addressing": [{"ipv4": "10.0.0.1", "ipv6": "fd00::1"}], "node": "192.0.2.1"},
                "named-ports": [{"name": "http", "port": 80, "protocol": "TCP"}, {"name": "x", "protocol": "ANY"}],
                "state": "disconnecting",
            },
        }
    )

    labels = Labels.parse("k8s:app=web", "k8s:empty=", "reserved:x")
    expected = pod("web-1", "10.0.0.1,fd00::1", node="192.0.2.1", ports=[("http", 6, 80)], leaving=True)
    assert remote_endpoint_of(resource, selectable=True) == replace(expected, labels=labels)
    assert remote_endpoint_of(resource) == replace(expected, labels=NO_LABELS)


def test_an_endpoint_without_addresses_is_no_candidate():
    bare = {"apiVersion": "cilium.io/v2", "kind": "CiliumEndpoint", "metadata": {"name": "web-1"}}

    assert remote_endpoint_of(decode_object(bare), selectable=True) is None


@pytest.mark.parametrize(
    "text", ["10.0.0.01", "10.0.0", "10.0.0.256", "10.0.0.1.1", " 10.0.0.1", "10.0.0.+1", "", "a.b.c.d"]
)
def test_only_plain_addresses_are_addresses(text):
    good = slice_of("10.0.0.1")
    (endpoint,) = good.endpoints
    odd = replace_part(good, endpoints=(replace_part(endpoint, addresses=(text,)),))

    assert only(service(), odd).inside == ()
    assert "is not an IPv4 address" in problems(service(), odd)["default/web"][0]

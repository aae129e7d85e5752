"""Who has which address: the same whatever the order and split of changes, and the same as the plain reference says."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

from hypothesis import given, settings
from hypothesis import strategies as st

from pycilium.services import Catalogue, CatalogueChanges, HostPortMapping, NodePlace, ServiceSettings
from tests.unit.services.builders import SETTINGS, at, ep, pod, service, slice_of, words
from tests.unit.services.reference import described, reference
from tests.unit.services.test_frontends import DUAL, changes


def catalogue_of(*things, host_ports=()):
    made = Catalogue(SETTINGS)
    made.update(changes(*things, host_ports=host_ports))
    return made


# == changes ==


def test_a_change_names_what_is_different_and_nothing_else():
    catalogue = catalogue_of(service(), service("db", "clusterIP: 10.96.0.2"), slice_of("10.0.0.1"))
    changed = catalogue.update(changes(slice_of("10.0.0.2")))

    assert {str(key): words(frontend.inside) for key, frontend in changed.items()} == {
        "10.96.0.1:80/TCP": ["10.0.0.2:8080"]
    }


def test_what_is_gone_is_none():
    catalogue = catalogue_of(service())

    assert catalogue.update(CatalogueChanges(services={("default", "web"): None})) == {at("10.96.0.1:80"): None}
    assert list(catalogue.frontends()) == []


def test_the_same_again_changes_nothing():
    catalogue = catalogue_of(service(), slice_of("10.0.0.1"))

    assert catalogue.update(changes(service(), slice_of("10.0.0.1"))) == {}


def test_a_slice_may_move_to_another_service():
    catalogue = catalogue_of(service(), service("db", "clusterIP: 10.96.0.2"), slice_of("10.0.0.1"))
    changed = catalogue.update(changes(slice_of("10.0.0.1", service="db")))

    assert {str(key): words(frontend.inside) for key, frontend in changed.items()} == {
        "10.96.0.1:80/TCP": [],
        "10.96.0.2:80/TCP": ["10.0.0.1:8080"],
    }


def test_a_slice_may_come_before_its_service():
    catalogue = catalogue_of(slice_of("10.0.0.1"))
    changed = catalogue.update(changes(service()))

    assert words(changed[at("10.96.0.1:80")].inside) == ["10.0.0.1:8080"]


def test_an_address_of_the_node_that_comes_is_one_more_for_each_node_port():
    catalogue = catalogue_of(service(spec="{type: NodePort, ports: [{port: 80, nodePort: 30080}]}"))
    more = replace(SETTINGS, addresses=(*SETTINGS.addresses, ip_address("192.0.2.9")))

    assert list(catalogue.update(CatalogueChanges(settings=more))) == [at("192.0.2.9:30080")]


def test_an_address_of_the_node_costs_nothing_but_the_services_that_are_reached_there():
    node_port = service(spec="{type: NodePort, ports: [{port: 80, nodePort: 30080}]}")
    catalogue = catalogue_of(node_port, service("db", "clusterIP: 10.96.0.2"))
    before = {frontend.at: frontend for frontend in catalogue.frontends()}

    catalogue.update(CatalogueChanges(settings=replace(SETTINGS, addresses=(ip_address("192.0.2.9"),))))

    worked_out = [frontend for frontend in catalogue.frontends() if frontend is not before.get(frontend.at)]
    assert {frontend.service for frontend in worked_out} == {"web"}


def test_backends_here_are_those_of_this_node_that_take_connections():
    local = service(spec="{type: NodePort, externalTrafficPolicy: Local, ports: [{port: 80, nodePort: 30080}]}")
    listed = slice_of(ep("10.0.0.1", node="n1"), ep("10.0.0.2", "terminating", node="n1"), ep("10.0.0.3", node="n2"))
    drained = slice_of(ep("10.0.0.4", node="n1"), name="web-2", annotations={"pycilium.io/weight": "0"})

    assert catalogue_of(local, listed, drained).backends_here(("default", "web")) == 1
    assert catalogue_of(local, listed).backends_here(("default", "api")) == 0


# == conflicts ==


def test_of_two_with_one_address_the_older_has_it_and_the_other_is_named():
    catalogue = catalogue_of(service("new", age_s=1), service("old", age_s=9))

    assert catalogue.frontend(at("10.96.0.1:80")).service == "old"
    assert catalogue.problems() == {
        ("default", "new", False): (
            ("10.96.0.1:80/TCP belongs to default/old, which comes first: leave clusterIP out to be given a free one"),
        )
    }


def test_of_two_of_one_age_the_first_by_name_has_it():
    catalogue = catalogue_of(service("b"), service("a"), service("c", namespace="a"))

    assert catalogue.frontend(at("10.96.0.1:80")).name == "a/c"


def test_when_the_older_goes_the_other_takes_over():
    catalogue = catalogue_of(service("new", age_s=1), service("old", age_s=9))
    changed = catalogue.update(CatalogueChanges(services={("default", "old"): None}))

    assert changed[at("10.96.0.1:80")].service == "new"
    assert catalogue.problems() == {}


def test_one_that_is_made_anew_comes_last():
    catalogue = catalogue_of(service("first", age_s=9), service("second", age_s=5))
    changed = catalogue.update(changes(service("first", age_s=1)))

    assert changed[at("10.96.0.1:80")].service == "second"


def test_a_node_port_in_two_services_is_named_once():
    spec = "{type: NodePort, clusterIP: 10.96.0.%d, ports: [{port: 80, nodePort: 30080}]}"
    catalogue = catalogue_of(service("a", spec % 1, age_s=9), service("b", spec % 2))

    assert catalogue.problems() == {
        ("default", "b", False): (
            "node port 30080/TCP belongs to default/a, which comes first: choose another nodePort, or leave it out",
        )
    }
    assert catalogue.frontend(at("10.96.0.2:80")).service == "b"


def test_a_service_comes_before_a_host_port():
    web = service(spec="{type: NodePort, ports: [{port: 80, nodePort: 30080}]}")
    catalogue = catalogue_of(web, host_ports=[HostPortMapping("default", "proxy", 30080, at("10.0.0.9:80"))])

    assert catalogue.frontend(at("192.0.2.1:30080")).service == "web"
    ((owner, (problem,)),) = catalogue.problems().items()
    assert f"{owner.title}: {problem}" == (
        "Pod default/proxy: host port 30080/TCP belongs to default/web, which comes first: choose another hostPort"
    )


def test_ports_and_protocols_of_one_address_can_be_those_of_different_services():
    tcp = service("a", "{externalIPs: [203.0.113.1], ports: [{port: 53}]}")
    udp = service("b", "{clusterIP: 10.96.0.2, externalIPs: [203.0.113.1], ports: [{port: 53, protocol: UDP}]}")

    assert catalogue_of(tcp, udp).problems() == {}


def test_one_service_may_say_an_address_twice():
    web = service(spec="{type: LoadBalancer, externalIPs: [198.51.100.1]}", ingress=["198.51.100.1"])

    assert catalogue_of(web).problems() == {}


# == whatever the order ==

SPECS = [
    "{}",
    "clusterIP: None",
    "{clusterIP: 10.96.0.2, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}",
    "{type: NodePort, externalTrafficPolicy: Local, ports: [{port: 80, nodePort: 30080}]}",
    "{type: NodePort, internalTrafficPolicy: Local, clusterIP: 10.96.0.3, ports: [{port: 80, nodePort: 30080}]}",
    "{type: LoadBalancer, clusterIP: 10.96.0.4, ports: [{port: 80, nodePort: 30081}]}",
    "{externalIPs: [203.0.113.1, '2001:db8::9'], publishNotReadyAddresses: true}",
    "{selector: {app: web, tier: x}, trafficDistribution: PreferClose, externalIPs: [203.0.113.1]}",
    f"{{{DUAL}, ipFamilies: [IPv4, IPv6], type: NodePort, ports: [{{port: 80, nodePort: 30080}}]}}",
]
NAMES = ["a", "b", "c"]
some_service = st.builds(
    lambda name, spec, age_s: service(name, spec, age_s=age_s, ingress=["198.51.100.1"]),
    st.sampled_from(NAMES),
    st.sampled_from(SPECS),
    st.integers(0, 3),
)
some_endpoint = st.builds(
    lambda number, state, node, zones: ep(f"10.0.0.{number}", state, node=node, for_zones=zones),
    st.integers(1, 4),
    st.sampled_from(["ready", "ready", "not-ready", "terminating"]),
    st.sampled_from(["n1", "n2", None]),
    st.sets(st.sampled_from("ab")).map(sorted),
)
some_slice = st.builds(
    lambda name, owner, endpoints: slice_of(*endpoints, name=name, service=owner),
    st.sampled_from(["s1", "s2"]),
    st.sampled_from(NAMES),
    st.lists(some_endpoint, max_size=4, unique_by=lambda each: each["addresses"][0]),
)
some_pod = st.builds(
    lambda number, labels, node, leaving: pod(
        f"p{number}", f"10.0.1.{number},fd00::{number}", labels, node=node, leaving=leaving
    ),
    st.integers(1, 3),
    st.sampled_from(["{app: web}", "{app: web, tier: x}", "{app: db}"]),
    st.sampled_from(["192.0.2.1", "n2"]),
    st.booleans(),
)
some_host_port = st.builds(
    lambda number, port: HostPortMapping("default", f"p{number}", port, at(f"10.0.1.{number}:80")),
    st.integers(1, 3),
    st.sampled_from([443, 30080]),
)
PLACED = replace(SETTINGS, nodes={"192.0.2.1": NodePlace("n1", "a"), "n2": NodePlace("n2", "b")})
EARLIER = [SETTINGS, replace(PLACED, addresses=(ip_address("192.0.2.9"),)), replace(PLACED, zone="c")]


def of_change(thing):
    if isinstance(thing, HostPortMapping):
        return changes(host_ports=[thing])
    return changes(thing)


def without(thing):
    """The change that takes a thing away."""
    change = of_change(thing)
    return CatalogueChanges(
        dict.fromkeys(change.services),
        dict.fromkeys(change.slices),
        dict.fromkeys(change.pods),
        dict.fromkeys(change.host_ports, ()),
    )


def address_of(thing):
    """What names a thing: a later one of the same name takes its place."""
    change = of_change(thing)
    return next((kind, key) for kind in ("services", "slices", "pods", "host_ports") for key in getattr(change, kind))


things = st.one_of(some_service, some_slice, some_pod, some_host_port)
histories = st.lists(st.tuples(things, st.sampled_from(["set", "set", "set", "remove", *EARLIER])), max_size=14)


def left_of(history):
    """What is there in the end."""
    there = {}
    for thing, what in history:
        if what == "remove":
            there.pop(address_of(thing), None)
        elif what == "set":
            there[address_of(thing)] = thing
    return list(there.values())


@given(histories)
@settings(max_examples=150, deadline=None)
def test_frontends_depend_on_what_is_there_and_not_on_how_it_came(history):
    catalogue, mirror = Catalogue(SETTINGS), {}
    catalogue.update(CatalogueChanges(settings=PLACED))
    for thing, what in history:
        if isinstance(what, ServiceSettings):
            mirror |= catalogue.update(CatalogueChanges(settings=what))
            change = CatalogueChanges(settings=PLACED)
        else:
            change = of_change(thing) if what == "set" else without(thing)
        mirror |= catalogue.update(change)
    left = left_of(history)
    mappings = [each for each in left if isinstance(each, HostPortMapping)]
    at_once = Catalogue(PLACED)
    at_once.update(changes(*(each for each in left if each not in mappings), host_ports=mappings))

    assert {key: each for key, each in mirror.items() if each} == {each.at: each for each in at_once.frontends()}
    assert catalogue.problems() == at_once.problems()


@given(histories)
@settings(max_examples=150, deadline=None)
def test_frontends_are_those_of_the_plain_reference(history):
    left = left_of(history)
    mappings = [each for each in left if isinstance(each, HostPortMapping)]
    resources = [each for each in left if each not in mappings]
    catalogue = Catalogue(PLACED)
    catalogue.update(changes(*resources, host_ports=mappings))
    kinds = {
        kind: [each for each in resources if getattr(each, "kind", "pod") == kind]
        for kind in ("Service", "EndpointSlice", "pod")
    }

    expected = reference(kinds["Service"], kinds["EndpointSlice"], kinds["pod"], mappings, PLACED)

    assert described(catalogue.frontends()) == expected

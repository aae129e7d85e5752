"""Which addresses are services' own."""

from __future__ import annotations

from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st

from pycilium.model.service import Frontend, FrontendKind
from pycilium.services import ServiceAddresses
from pycilium.services.frontends import of_service
from tests.unit.services.builders import SETTINGS, at, service

ADDRESS = ip_address("10.96.0.1")


def frontend(text, kind=FrontendKind.CLUSTER_IP, *, owns_address=True):
    return Frontend(at(text), kind, "default", "web", owns_address=owns_address)


def owned(made):
    return {str(each.at.address): each.owns_address for each in of_service(made, (), (), SETTINGS).frontends}


def test_cluster_ips_and_addresses_from_pools_are_services_own_and_external_ips_may_be_a_machines():
    made = service(
        spec="{type: LoadBalancer, externalIPs: [198.51.100.1], ports: [{port: 80, nodePort: 30080}]}",
        ingress=["203.0.113.1"],
    )

    assert owned(made) == {
        "10.96.0.1": True,
        "203.0.113.1": True,
        "198.51.100.1": False,
        "0.0.0.0": False,
        "192.0.2.1": False,
    }


def test_an_address_that_somebody_elses_load_balancer_gave_may_be_a_nodes():
    made = service(spec="{type: LoadBalancer, loadBalancerClass: example.com/node-ips}", ingress=["192.0.2.1"])

    assert not owned(made)["192.0.2.1"]


def test_an_address_stays_while_any_frontend_has_it():
    addresses = ServiceAddresses()

    first = addresses.update(
        {at("10.96.0.1:80"): frontend("10.96.0.1:80"), at("10.96.0.1:81"): frontend("10.96.0.1:81")}
    )
    second = addresses.update({at("10.96.0.1:80"): None})
    third = addresses.update({at("10.96.0.1:81"): None})

    assert (first, second, third) == ({ADDRESS: True}, {}, {ADDRESS: None})


def test_addresses_of_nodes_are_not_among_them():
    ports = {
        at("192.0.2.1:30080"): frontend("192.0.2.1:30080", FrontendKind.NODE_PORT),
        at("0.0.0.0:8080"): frontend("0.0.0.0:8080", FrontendKind.HOST_PORT),
    }

    assert ServiceAddresses().update(ports) == {}


def test_a_host_port_at_an_address_that_no_node_knows_of_is_found():
    ports = {at("198.51.100.9:8080"): frontend("198.51.100.9:8080", FrontendKind.HOST_PORT, owns_address=False)}

    assert ServiceAddresses().update(ports) == {ip_address("198.51.100.9"): False}


_CHANGES = st.lists(
    st.tuples(
        st.sampled_from([at(f"10.96.0.{host}:{port}") for host in (1, 2) for port in (80, 81)]),
        st.sampled_from(
            [
                None,
                (FrontendKind.CLUSTER_IP, True),
                (FrontendKind.EXTERNAL_IP, False),
                (FrontendKind.NODE_PORT, False),
            ]
        ),
    )
)


@given(_CHANGES)
def test_addresses_depend_on_the_frontends_alone_not_on_the_way_to_them(changes):
    addresses, told, now = ServiceAddresses(), {}, {}
    for where, what in changes:
        now[where] = None if what is None else Frontend(where, what[0], "default", "web", owns_address=what[1])
        told |= addresses.update({where: now[where]})

    at_once = ServiceAddresses().update(now)

    assert {address: alone for address, alone in told.items() if alone is not None} == {
        address: alone for address, alone in at_once.items() if alone is not None
    }

"""Which Services flows name, and for how long."""

from __future__ import annotations

from pycilium.hubble.directories import Directories
from pycilium.hubble.flow import FlowConverter
from pycilium.hubble.proto import flow_pb2
from pycilium.hubble.service_names import FrontendKey, ServiceName, ServiceTable
from tests.unit.hubble.synthetic import (
    TCP,
    UDP,
    address_bytes,
    client_to_web,
    directories,
    event,
    filled_store,
    web_to_client,
)


def frontend(address: str, port: int, protocol: int = TCP) -> FrontendKey:
    return FrontendKey.of(address_bytes(address), port, protocol)


def services_of(made, known: Directories | None = None) -> tuple[str, str]:
    """The Services at the source and the destination of a flow."""
    store, _ = filled_store(made)
    known = known or directories()
    ((first, rows),) = store.segments(0, store.next)
    (flow,) = FlowConverter(store, known, "default/node1").flows(range(first, first + 1), rows)
    return text(flow.source_service), text(flow.destination_service)


def text(service: flow_pb2.Service) -> str:
    return f"{service.namespace}/{service.name}" if service.name else ""


def test_a_packet_to_a_frontend_names_its_service():
    assert services_of(event("10.0.0.1", "10.1.0.1", destination_port=80)) == ("", "shop/web")
    assert services_of(event("10.1.0.1", "10.0.0.1", source_port=80)) == ("shop/web", "")


def test_port_and_protocol_tell_services_apart():
    assert services_of(event("10.0.0.1", "10.1.0.1", destination_port=53, protocol=UDP)) == ("", "default/dns")
    assert services_of(event("10.0.0.1", "10.1.0.1", destination_port=53)) == ("", "")


def test_a_translated_packet_names_the_service_behind_its_backend():
    assert services_of(client_to_web(service_id=2)) == ("", "shop/web")
    assert services_of(web_to_client(service_id=2)) == ("shop/web", "")


def test_an_unknown_number_names_nothing():
    assert services_of(client_to_web(service_id=77)) == ("", "")


def test_what_is_gone_is_named_until_another_has_the_address():
    table = ServiceTable()
    table.set_frontend(frontend("10.1.0.1", 80), 1, ServiceName("shop", "old"))

    table.remove_frontend(frontend("10.1.0.1", 80))
    assert table.at(frontend("10.1.0.1", 80)) == table.of(1) == ServiceName("shop", "old")

    table.set_frontend(frontend("10.1.0.1", 80), 2, ServiceName("shop", "new"))
    assert table.at(frontend("10.1.0.1", 80)) == ServiceName("shop", "new")


def test_only_so_many_that_are_gone_are_remembered():
    table = ServiceTable(history=2)
    for port in range(1, 5):
        table.set_frontend(frontend("10.1.0.1", port), port, ServiceName("shop", f"web{port}"))
    for port in range(1, 5):
        table.remove_frontend(frontend("10.1.0.1", port))

    assert [key.port for key, _, _ in table.frontends()] == [3, 4]
    assert (table.of(1), table.of(4)) == (None, ServiceName("shop", "web4"))

"""What types alone cannot say of an EndpointSlice: the API's own rules. Nothing is changed or filled in."""

from __future__ import annotations

from pycilium.errors import InvalidResource
from pycilium.model.resources import checks
from pycilium.model.resources.checks import refuse
from pycilium.model.resources.endpoint_slice import EndpointHints, EndpointPort, EndpointSlice, SliceEndpoint

MAX_ENDPOINTS = 1000
MAX_ADDRESSES = 100
MAX_PORTS = 100
MAX_HINTS = 8


def check_slice(endpoint_slice: EndpointSlice) -> None:
    """InvalidResource at the first fault."""
    endpoints, ports = endpoint_slice.endpoints or (), endpoint_slice.ports or ()
    _check_count(len(endpoints), MAX_ENDPOINTS, "endpoints")
    _check_count(len(ports), MAX_PORTS, "ports")
    for index, endpoint in enumerate(endpoints):
        try:
            _check_endpoint(endpoint, endpoint_slice.address_type)
        except InvalidResource as error:  # paths are made when they are needed: there may be 100,000 endpoints
            refuse(f"endpoints[{index}].{error.path}", error.reason)
    names: set[str] = set()
    for index, port in enumerate(ports):
        _check_port(port, names, f"ports[{index}]")


def _check_endpoint(endpoint: SliceEndpoint, family: str) -> None:
    if not endpoint.addresses:
        refuse("addresses", "an endpoint needs an address")
    _check_count(len(endpoint.addresses), MAX_ADDRESSES, "addresses")
    for index, address in enumerate(endpoint.addresses):
        here = f"addresses[{index}]"
        if family == "FQDN":
            checks.check_dns_subdomain(address, here)
            continue
        if f"IPv{checks.check_reachable_address(address, here).version}" != family:
            refuse(here, f"{address} is not {family}, the addressType of this slice: put it into a slice of its own")
    if endpoint.node_name is not None:
        checks.check_dns_subdomain(endpoint.node_name, "nodeName")
    if endpoint.hostname:
        checks.check_dns_label(endpoint.hostname, "hostname")
    if endpoint.hints is not None:
        _check_hints(endpoint.hints)


def _check_hints(hints: EndpointHints) -> None:
    zones = [zone.name for zone in hints.for_zones]
    nodes = [node.name for node in hints.for_nodes]
    for field, names in (("forZones", zones), ("forNodes", nodes)):
        _check_count(len(names), MAX_HINTS, f"hints.{field}")
        if len(set(names)) != len(names):
            refuse(f"hints.{field}", "each name may stand there once")
        for index, name in enumerate(names):
            checks.check_label_value(name or "-", f"hints.{field}[{index}].name")


def _check_port(port: EndpointPort, names: set[str], path: str) -> None:
    if port.name:
        checks.check_dns_label(port.name, f"{path}.name")
    if port.name in names:
        refuse(f"{path}.name", "each port of a slice needs a name of its own; one may be without")
    names.add(port.name)
    if port.port is not None:
        checks.check_port(port.port, f"{path}.port", least=1)


def _check_count(count: int, most: int, path: str) -> None:
    if count > most:
        refuse(path, f"has {count} items, at most {most} are allowed: spread them over several")

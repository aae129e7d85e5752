"""Services by number, the same for ours and for kube-proxy: what the service rows are measured with. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address

from pycilium.model.resources import ObjectMeta, Resource
from pycilium.model.resources.endpoint_slice import (
    SERVICE_NAME_LABEL,
    EndpointConditions,
    EndpointPort,
    EndpointSlice,
    SliceEndpoint,
)
from pycilium.model.resources.service import Service, ServicePort, ServiceSpec, TransportProtocol

NAMESPACE = "default"
PORT = 80
FIRST = {4: IPv4Address("10.96.16.0"), 6: IPv6Address("fd00:96::1000")}
"""The cluster IPs are in a row."""
NODE_PORT = 30900
"""Of the first service, where it is to have one."""


def cluster_ip(number: int, family: int) -> str:
    return str(FIRST[family] + number)


def services(
    count: int, endpoints: Sequence[str], port: int, node: str, *, family: int = 4, node_port: bool = False
) -> list[Resource]:
    """`count` Services of one family with one TCP port each, and the last one with UDP too; they have these endpoints."""
    return [
        each
        for number in range(count)
        for each in one_service(
            *(number, endpoints, port, node),
            family=family,
            protocols=("TCP", "UDP") if number == count - 1 else ("TCP",),
            node_port=node_port and number == 0,
        )
    ]


def one_service(
    number: int,
    endpoints: Sequence[str],
    port: int,
    node: str,
    *,
    family: int = 4,
    protocols: Sequence[TransportProtocol] = ("TCP",),
    node_port: bool = False,
) -> tuple[Service, EndpointSlice]:
    name, address = f"service-{number}", cluster_ip(number, family)
    ports = tuple(
        ServicePort(
            name=protocol.lower(),
            port=PORT,
            protocol=protocol,
            target_port=port,
            node_port=NODE_PORT if node_port else 0,
        )
        for protocol in protocols
    )
    service = Service(
        metadata=ObjectMeta(name=name, namespace=NAMESPACE),
        spec=ServiceSpec(
            type="NodePort" if node_port else "ClusterIP",
            cluster_ip=address,
            cluster_ips=(address,),
            ip_families=("IPv4" if family == 4 else "IPv6",),
            ports=ports,
        ),
    )
    endpoint_slice = EndpointSlice(
        metadata=ObjectMeta(name=f"{name}-1", namespace=NAMESPACE, labels={SERVICE_NAME_LABEL: name}),
        address_type="IPv4" if family == 4 else "IPv6",
        endpoints=tuple(
            SliceEndpoint(addresses=(each,), conditions=EndpointConditions(ready=True), node_name=node)
            for each in endpoints
        ),
        ports=tuple(EndpointPort(name=each.name, protocol=each.protocol, port=port) for each in ports),
    )
    return service, endpoint_slice

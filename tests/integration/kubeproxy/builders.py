"""Short ways to write Services and EndpointSlices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pycilium.model.resources import decode_object
from pycilium.model.resources.endpoint_slice import EndpointSlice
from pycilium.model.resources.service import Service
from tests.kubeproxy.ports import NodeFacts

NODE = NodeFacts("node1", ("192.0.2.1", "2001:db8::1"), {4: "10.0.0.0/16", 6: "fd00:10::/48"}, zone="a")
Described = tuple[str, str, dict[str, Any]]
"""Address, node, and what else the slice says of the endpoint."""


def service(name: str = "web", number: int = 1, protocols: Sequence[str] = ("TCP",), **spec: Any) -> Service:
    addresses = [f"10.96.0.{number}", f"fd00:96::{number:x}"]
    balanced = [{"ip": f"203.0.113.{number}"}, {"ip": f"2001:db8:113::{number:x}"}]
    resource = decode_object(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {
                "clusterIP": addresses[0],
                "clusterIPs": addresses,
                "ipFamilies": ["IPv4", "IPv6"],
                "ipFamilyPolicy": "RequireDualStack",
                "ports": [
                    {"name": protocol.lower(), "port": 80, "protocol": protocol, "nodePort": 30000 + number}
                    if spec.get("type", "ClusterIP") != "ClusterIP"
                    else {"name": protocol.lower(), "port": 80, "protocol": protocol}
                    for protocol in protocols
                ],
                **spec,
            },
            "status": {"loadBalancer": {"ingress": balanced if spec.get("type") == "LoadBalancer" else []}},
        }
    )
    assert isinstance(resource, Service)
    return resource


def endpoint_slice(*endpoints: Described, of: str = "web", protocols: Sequence[str] = ("TCP",)) -> EndpointSlice:
    family = 6 if endpoints and ":" in endpoints[0][0] else 4
    resource = decode_object(
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": f"{of}-{family}",
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": of},
            },
            "addressType": f"IPv{family}",
            "ports": [{"name": each.lower(), "port": 8080, "protocol": each} for each in protocols],
            "endpoints": [
                {"addresses": [address], "nodeName": node, "zone": "a" if node == "node1" else "b", **more}
                for address, node, more in endpoints
            ],
        }
    )
    assert isinstance(resource, EndpointSlice)
    return resource


READY: dict[str, Any] = {"conditions": {"ready": True}}
NOT_READY: dict[str, Any] = {"conditions": {"ready": False, "serving": False}}
TERMINATING: dict[str, Any] = {"conditions": {"ready": False, "serving": True, "terminating": True}}

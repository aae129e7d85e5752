"""The Services of the matrix, as resources: the same on both sides but for the addresses of the pods. Pure.

Every Service has all ways in (cluster IP, node port, load balancer's address, external IP), TCP and UDP, both
families; its number is part of every address.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pycilium.model.resources import Resource, decode_object

PORT, TARGET_PORT = 80, 8080
CLASS = "example.com/matrix"
"""Nobody gives addresses to Services of this class or takes them away."""
CLUSTER_CIDRS = {4: "10.96.0.0/16", 6: "fd00:96::/112"}
BALANCED_CIDRS = {4: "192.0.2.0/24", 6: "2001:db8:0:2::/112"}
EXTERNAL_CIDRS = {4: "198.51.100.0/24", 6: "2001:db8:0:51::/112"}
PORTS = (("web", "TCP"), ("dns", "UDP"))
Condition = Literal["ready", "terminating", "not ready"]
Pods = Mapping[str, tuple[str, Mapping[int, str]]]
"""By name: the pod's node and its addresses by family."""
_CONDITIONS = {
    "ready": {"ready": True, "serving": True, "terminating": False},
    "terminating": {"ready": False, "serving": True, "terminating": True},
    "not ready": {"ready": False, "serving": False, "terminating": False},
}


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What sets one Service of the matrix apart from the others."""

    name: str
    backends: tuple[tuple[str, Condition], ...]
    """Pods by name, each as its EndpointSlice describes it."""
    policy: Literal["Cluster", "Local"] = "Cluster"
    """externalTrafficPolicy and internalTrafficPolicy."""
    affinity: bool = False
    source_ranges: tuple[str, ...] = ()

    @property
    def ready(self) -> tuple[str, ...]:
        return tuple(pod for pod, condition in self.backends if condition == "ready")


def cluster_ip(number: int, family: int) -> str:
    return f"10.96.1.{number}" if family == 4 else f"fd00:96::1{number:02x}"


def balanced_ip(number: int, family: int) -> str:
    return f"192.0.2.{number}" if family == 4 else f"2001:db8:0:2::{number:x}"


def external_ip(number: int, family: int) -> str:
    return f"198.51.100.{number}" if family == 4 else f"2001:db8:0:51::{number:x}"


def node_port(number: int) -> int:
    return 30000 + number


def resources(number: int, behaviour: Behaviour, pods: Pods) -> list[Resource]:
    """The Service and its EndpointSlices."""
    return [_service(number, behaviour), *(_slice(behaviour, family, pods) for family in (4, 6))]


def _service(number: int, behaviour: Behaviour) -> Resource:
    spec: dict[str, Any] = {
        "type": "LoadBalancer",
        "loadBalancerClass": CLASS,
        "clusterIP": cluster_ip(number, 4),
        "clusterIPs": [cluster_ip(number, family) for family in (4, 6)],
        "ipFamilies": ["IPv4", "IPv6"],
        "ipFamilyPolicy": "RequireDualStack",
        "externalIPs": [external_ip(number, family) for family in (4, 6)],
        "externalTrafficPolicy": behaviour.policy,
        "internalTrafficPolicy": behaviour.policy,
        "sessionAffinity": "ClientIP" if behaviour.affinity else "None",
        "ports": [
            {"name": name, "port": PORT, "protocol": protocol, "targetPort": TARGET_PORT, "nodePort": node_port(number)}
            for name, protocol in PORTS
        ],
    }
    if behaviour.source_ranges:
        spec["loadBalancerSourceRanges"] = list(behaviour.source_ranges)
    ingress = [{"ip": balanced_ip(number, family)} for family in (4, 6)]
    return decode_object(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": behaviour.name, "namespace": "default"},
            "spec": spec,
            "status": {"loadBalancer": {"ingress": ingress}},
        }
    )


def _slice(behaviour: Behaviour, family: int, pods: Pods) -> Resource:
    return decode_object(
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": f"{behaviour.name}-{family}",
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": behaviour.name},
            },
            "addressType": f"IPv{family}",
            "ports": [{"name": name, "port": TARGET_PORT, "protocol": protocol} for name, protocol in PORTS],
            "endpoints": [
                {"addresses": [pods[pod][1][family]], "nodeName": pods[pod][0], "conditions": _CONDITIONS[condition]}
                for pod, condition in behaviour.backends
            ],
        }
    )

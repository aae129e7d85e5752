"""networking.k8s.io/v1 NetworkPolicy, all fields of the API."""

from __future__ import annotations

from typing import Any, Literal

from pycilium.model.resources.base import Part, Resource, always
from pycilium.model.resources.selector import LabelSelector


class IPBlock(Part, frozen=True, kw_only=True):
    cidr: str
    except_: tuple[str, ...] = ()


class NetworkPolicyPeer(Part, frozen=True, kw_only=True):
    pod_selector: LabelSelector | None = None
    namespace_selector: LabelSelector | None = None
    ip_block: IPBlock | None = None


class NetworkPolicyPort(Part, frozen=True, kw_only=True):
    protocol: Literal["TCP", "UDP", "SCTP"] = "TCP"
    port: int | str | None = None
    """None is every port of the protocol; a string is the name of a port of the pod."""
    end_port: int | None = None


class NetworkPolicyIngressRule(Part, frozen=True, kw_only=True):
    from_: tuple[NetworkPolicyPeer, ...] | None = None
    ports: tuple[NetworkPolicyPort, ...] | None = None


class NetworkPolicyEgressRule(Part, frozen=True, kw_only=True):
    to: tuple[NetworkPolicyPeer, ...] | None = None
    ports: tuple[NetworkPolicyPort, ...] | None = None


class NetworkPolicySpec(Part, frozen=True, kw_only=True):
    """In `from`, `to` and `ports` an empty list says the same as none: everything (the API's rule)."""

    pod_selector: LabelSelector = LabelSelector()
    ingress: tuple[NetworkPolicyIngressRule, ...] | None = None
    egress: tuple[NetworkPolicyEgressRule, ...] | None = None
    policy_types: tuple[Literal["Ingress", "Egress"], ...] | None = None


class NetworkPolicy(Resource, frozen=True, kw_only=True):
    api_version: Literal["networking.k8s.io/v1"] = always("networking.k8s.io/v1")
    kind: Literal["NetworkPolicy"] = always("NetworkPolicy")
    spec: NetworkPolicySpec = NetworkPolicySpec()
    status: dict[str, Any] = {}

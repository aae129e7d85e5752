"""What gives Services of type LoadBalancer their addresses and makes them known on the link.

CiliumLoadBalancerIPPool and CiliumL2AnnouncementPolicy, all fields of the API.
"""

from __future__ import annotations

from typing import Literal

from pycilium.model.resources.base import Condition, Part, Resource, always
from pycilium.model.resources.selector import LabelSelector
from pycilium.model.resources.service import Service

L2_CLASS = "io.cilium/l2-announcer"
BGP_CLASS = "io.cilium/bgp-control-plane"
LOAD_BALANCER_CLASSES = (None, L2_CLASS, BGP_CLASS)
"""Services of these get their addresses from pools; those of other classes from somebody else."""
NAMESPACE_LABEL, NAME_LABEL = "io.kubernetes.service.namespace", "io.kubernetes.service.name"
"""What serviceSelectors may ask for besides a Service's own labels."""


def selectable_labels(service: Service) -> dict[str, str]:
    """A Service's labels, its namespace and name among them."""
    metadata = service.metadata
    return {**metadata.labels, NAMESPACE_LABEL: metadata.namespace, NAME_LABEL: metadata.name}


class IPPoolBlock(Part, frozen=True, kw_only=True):
    """Addresses of a pool: a CIDR, or those from `start` to `stop` (none: `start` alone)."""

    cidr: str = ""
    start: str = ""
    stop: str = ""


class LoadBalancerIPPoolSpec(Part, frozen=True, kw_only=True):
    service_selector: LabelSelector | None = None
    """None selects every Service of type LoadBalancer."""
    allow_first_last_ips: Literal["Yes", "No"] | None = None
    blocks: tuple[IPPoolBlock, ...] = ()
    disabled: bool = False


class ConditionedStatus(Part, frozen=True, kw_only=True):
    conditions: tuple[Condition, ...] = ()


class CiliumLoadBalancerIPPool(Resource, frozen=True, kw_only=True):
    api_version: Literal["cilium.io/v2"] = always("cilium.io/v2")
    kind: Literal["CiliumLoadBalancerIPPool"] = always("CiliumLoadBalancerIPPool")
    spec: LoadBalancerIPPoolSpec
    status: ConditionedStatus | None = None


class L2AnnouncementPolicySpec(Part, frozen=True, kw_only=True):
    node_selector: LabelSelector | None = None
    """None selects every node."""
    service_selector: LabelSelector | None = None
    """None selects every Service."""
    load_balancer_ips: bool = False
    external_ips: bool = False
    interfaces: tuple[str, ...] = ()
    """Regular expressions of devices' names; none: every device."""


class CiliumL2AnnouncementPolicy(Resource, frozen=True, kw_only=True):
    api_version: Literal["cilium.io/v2alpha1"] = always("cilium.io/v2alpha1")
    kind: Literal["CiliumL2AnnouncementPolicy"] = always("CiliumL2AnnouncementPolicy")
    spec: L2AnnouncementPolicySpec = L2AnnouncementPolicySpec()
    status: ConditionedStatus | None = None

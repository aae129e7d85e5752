"""networking.k8s.io/v1 ServiceCIDR: from which ranges Services get their cluster IPs.

Besides, where no API server has a flag for it, the annotation NODE_PORT_RANGE says which ports are node ports.
"""

from __future__ import annotations

from typing import Any, Literal

from pycilium.model.resources.base import Part, Resource, always

DEFAULT_SERVICE_CIDR = "kubernetes"
"""The name of the one whose first range's family is the cluster's first."""
NODE_PORT_RANGE = "pycilium.io/node-port-range"


class ServiceCIDRSpec(Part, frozen=True, kw_only=True):
    cidrs: tuple[str, ...] = ()


class ServiceCIDR(Resource, frozen=True, kw_only=True):
    api_version: Literal["networking.k8s.io/v1"] = always("networking.k8s.io/v1")
    kind: Literal["ServiceCIDR"] = always("ServiceCIDR")
    spec: ServiceCIDRSpec = ServiceCIDRSpec()
    status: dict[str, Any] = {}

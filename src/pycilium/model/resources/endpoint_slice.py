"""discovery.k8s.io/v1 EndpointSlice, all fields of the API: some of the endpoints of one Service and one family.

A slice belongs to the Service that its label `kubernetes.io/service-name` names, in its own namespace.
"""

from __future__ import annotations

from typing import Literal

from pycilium.model.resources.base import Part, Resource, always
from pycilium.model.resources.service import TransportProtocol

SERVICE_NAME_LABEL = "kubernetes.io/service-name"


class EndpointConditions(Part, frozen=True, kw_only=True):
    """None is "not known", which the API reads as ready, as serving if ready, and as not terminating."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class ObjectReference(Part, frozen=True, kw_only=True):
    kind: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""
    api_version: str = ""
    resource_version: str = ""
    field_path: str = ""


class ForZone(Part, frozen=True, kw_only=True):
    name: str


class ForNode(Part, frozen=True, kw_only=True):
    name: str


class EndpointHints(Part, frozen=True, kw_only=True):
    """For whose clients an endpoint is meant."""

    for_zones: tuple[ForZone, ...] = ()
    for_nodes: tuple[ForNode, ...] = ()


class SliceEndpoint(Part, frozen=True, kw_only=True):
    """One endpoint; its addresses mean the same and the first one is used."""

    addresses: tuple[str, ...]
    conditions: EndpointConditions = EndpointConditions()
    hostname: str | None = None
    target_ref: ObjectReference | None = None
    deprecated_topology: dict[str, str] | None = None
    node_name: str | None = None
    zone: str | None = None
    hints: EndpointHints | None = None

    @property
    def ready(self) -> bool:
        return self.conditions.ready is not False

    @property
    def serving(self) -> bool:
        return self.ready if self.conditions.serving is None else self.conditions.serving

    @property
    def terminating(self) -> bool:
        return self.conditions.terminating is True


class EndpointPort(Part, frozen=True, kw_only=True):
    name: str = ""
    protocol: TransportProtocol = "TCP"
    port: int | None = None
    """None is every port, which only consumers other than service proxies can use."""
    app_protocol: str | None = None


class EndpointSlice(Resource, frozen=True, kw_only=True):
    api_version: Literal["discovery.k8s.io/v1"] = always("discovery.k8s.io/v1")
    kind: Literal["EndpointSlice"] = always("EndpointSlice")
    address_type: Literal["IPv4", "IPv6", "FQDN"]
    endpoints: tuple[SliceEndpoint, ...] | None = None
    ports: tuple[EndpointPort, ...] | None = None

    @property
    def service_name(self) -> str:
        """The name of the Service that it belongs to; empty if it belongs to none."""
        return self.metadata.labels.get(SERVICE_NAME_LABEL, "")

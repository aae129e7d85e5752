"""Kubernetes' own kinds that we read: Pod, Namespace, Lease.

A Pod's spec and status are kept whole and free-form, as users' files carry far more than we use; properties
give the parts that we do use.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, NamedTuple

from pycilium.model.resources.base import Part, Resource, always


class PodPort(NamedTuple):
    """A port that a container of the pod gives a name."""

    name: str
    protocol: str
    port: int


class Pod(Resource, frozen=True, kw_only=True):
    api_version: Literal["v1"] = always("v1")
    kind: Literal["Pod"] = always("Pod")
    spec: dict[str, Any] = {}
    status: dict[str, Any] = {}

    @property
    def node_name(self) -> str:
        return str(self.spec.get("nodeName") or "")

    @property
    def service_account_name(self) -> str:
        return str(self.spec.get("serviceAccountName") or self.spec.get("serviceAccount") or "default")

    @property
    def host_network(self) -> bool:
        return bool(self.spec.get("hostNetwork"))

    @property
    def phase(self) -> str:
        return str(self.status.get("phase") or "")

    @property
    def pod_ips(self) -> tuple[str, ...]:
        """The addresses in its status, the first one first."""
        several = tuple(entry["ip"] for entry in self.status.get("podIPs") or () if entry.get("ip"))
        single = self.status.get("podIP")
        return several or ((single,) if single else ())

    @property
    def named_ports(self) -> tuple[PodPort, ...]:
        containers = [*(self.spec.get("initContainers") or ()), *(self.spec.get("containers") or ())]
        return tuple(
            PodPort(port["name"], port.get("protocol") or "TCP", port["containerPort"])
            for container in containers
            for port in container.get("ports") or ()
            if port.get("name")
        )


class Namespace(Resource, frozen=True, kw_only=True):
    """Its labels are what namespaceSelector sees."""

    api_version: Literal["v1"] = always("v1")
    kind: Literal["Namespace"] = always("Namespace")
    spec: dict[str, Any] = {}
    status: dict[str, Any] = {}


class LeaseSpec(Part, frozen=True, kw_only=True):
    holder_identity: str = ""
    lease_duration_seconds: int | None = None
    acquire_time: datetime | None = None
    renew_time: datetime | None = None
    lease_transitions: int = 0
    strategy: str = ""
    preferred_holder: str = ""


class Lease(Resource, frozen=True, kw_only=True):
    api_version: Literal["coordination.k8s.io/v1"] = always("coordination.k8s.io/v1")
    kind: Literal["Lease"] = always("Lease")
    spec: LeaseSpec = LeaseSpec()

"""What an agent must be able to do, so that the server can put it on a socket.

Every method may raise a `CiliumError`: its class and message reach the client as they are.
Anything else that is raised is a fault of ours; the client sees an internal error and the agent's log has the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pycilium.api.cni_messages import CniGcRequest, CniRequest, CniResult, CniStatusRequest
from pycilium.api.health_messages import HealthResponse, HealthStatusResponse
from pycilium.api.messages import (
    BpfMap,
    ClusterNodes,
    ConfigResponse,
    EndpointView,
    ExplainReply,
    ExplainRequest,
    Identity,
    IpEntry,
    PolicyResponse,
    StatusResponse,
)
from pycilium.api.process_messages import ProcessRequest
from pycilium.api.service_messages import ServiceView


class AgentService(Protocol):
    """The agent, as its local API sees it."""

    async def status(self) -> StatusResponse: ...

    async def endpoints(self) -> Sequence[EndpointView]: ...

    async def endpoint(self, reference: str) -> EndpointView:
        """The endpoint that `reference` means, written as Cilium does: `12`, `ipv4:10.0.0.5`, `ipv6:…`,
        `pod-name:ns/pod`, `cni-attachment-id:container:eth0`, `container-id:…`. NotFound if there is none.
        """
        ...

    async def add_process(self, request: ProcessRequest) -> EndpointView:
        """Take processes of the node for an endpoint; `cni_del` removes it again. Idempotent.

        InvalidResource, NotFound or EndpointConflict say what would be right.
        """
        ...

    async def identities(self) -> Sequence[Identity]: ...

    async def identity(self, number: int) -> Identity:
        """NotFound if nobody has it."""
        ...

    async def services(self) -> Sequence[ServiceView]:
        """Every frontend of every Service, by service id."""
        ...

    async def service(self, number: int) -> ServiceView:
        """NotFound if no frontend has that service id."""
        ...

    async def ip_entries(self) -> Sequence[IpEntry]: ...

    async def policy(self) -> PolicyResponse: ...

    async def maps(self) -> Sequence[BpfMap]: ...

    async def map(self, name: str) -> BpfMap:
        """With its entries. NotFound if there is no such map."""
        ...

    async def nodes(self) -> ClusterNodes: ...

    async def config(self) -> ConfigResponse: ...

    async def explain(self, request: ExplainRequest) -> ExplainReply: ...

    async def cni_add(self, request: CniRequest) -> CniResult:
        """Attach a pod. Returns once its addresses, identity and policy are live in the kernel.

        Idempotent: a second call for the same attachment gives the same result. On failure nothing stays behind.
        """
        ...

    async def cni_del(self, request: CniRequest) -> None:
        """Detach. Success also when nothing is there (any more)."""
        ...

    async def cni_check(self, request: CniRequest) -> None:
        """NotFound or DatapathError, saying what differs, unless everything ADD made is still as it was made."""
        ...

    async def cni_gc(self, request: CniGcRequest) -> None:
        """Detach everything that CNI attached and that the request does not name."""
        ...

    async def cni_status(self, request: CniStatusRequest) -> None:
        """AgentUnavailable, saying why, unless an ADD would be served now."""
        ...


class HealthService(Protocol):
    """What health.sock answers: which nodes this one reaches."""

    async def health(self) -> HealthResponse: ...

    async def health_status(self) -> HealthStatusResponse:
        """What the last probes came to."""
        ...

    async def health_probe(self) -> HealthStatusResponse:
        """Probe all nodes now. AgentUnavailable if health checking is off."""
        ...

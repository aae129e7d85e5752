"""An agent of which only the API is real: what tests of its clients talk to.

`FakeAgent` remembers what it was asked and answers as it was told; `served` puts it (or any AgentService) on a socket,
in a thread with a loop of its own, for callers that block.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from pycilium.api.cni_messages import (
    CniAddress,
    CniGcRequest,
    CniInterface,
    CniRequest,
    CniResult,
    CniRoute,
    CniStatusRequest,
)
from pycilium.api.messages import (
    BpfMap,
    ClusterNodes,
    ConfigResponse,
    EndpointIdentifiers,
    EndpointStatus,
    EndpointView,
    ExplainPeer,
    ExplainReply,
    ExplainRequest,
    Identity,
    IpEntry,
    MapEntry,
    PolicyResponse,
    Status,
    StatusResponse,
)
from pycilium.api.process_messages import ProcessRequest
from pycilium.api.server import ApiServer
from pycilium.api.service import AgentService
from pycilium.api.service_messages import BackendAddress, FrontendAddress, ServiceFlags, ServiceSpec, ServiceView
from pycilium.errors import NotFound

ADD_RESULT = CniResult(
    interfaces=[
        CniInterface(name="lxc0123456789ab", mac="02:00:00:00:00:01", mtu=1500),
        CniInterface(name="eth0", mac="02:00:00:00:00:02", mtu=1500, sandbox="/run/netns/pod"),
    ],
    ips=[
        CniAddress(address="10.0.0.5/32", gateway="10.0.0.1", interface=1),
        CniAddress(address="fd00:10::5/128", gateway="fd00:10::1", interface=1),
    ],
    routes=[CniRoute(dst="0.0.0.0/0", gw="10.0.0.1", mtu=1450), CniRoute(dst="::/0", gw="fd00:10::1")],
)

SERVICE = ServiceView(
    spec=ServiceSpec(
        id=3,
        frontend_address=FrontendAddress(ip="10.96.0.10", port=80, protocol="TCP"),
        backend_addresses=[
            BackendAddress(ip="10.0.0.5", port=8080, protocol="TCP", state="active", node_name="node1"),
            BackendAddress(ip="10.0.0.6", port=8080, protocol="TCP", state="terminating", node_name="node2"),
        ],
        flags=ServiceFlags(name="web", namespace="default", type="ClusterIP"),
    )
)


class FakeAgent:
    """Answers from memory. Set `failure` to make every CNI call raise it."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.calls: list[tuple[str, Any]] = []

    async def status(self) -> StatusResponse:
        return StatusResponse(cilium=Status(state="Ok", msg="1.2.3"), node_name="node1")

    async def endpoints(self) -> Sequence[EndpointView]:
        return [EndpointView(id=7, status=EndpointStatus(state="ready"))]

    async def endpoint(self, reference: str) -> EndpointView:
        if reference not in ("7", "pod-name:default/web"):
            raise NotFound(f"no endpoint {reference}")
        return EndpointView(id=7, status=EndpointStatus(state="ready"))

    async def add_process(self, request: ProcessRequest) -> EndpointView:
        self.calls.append(("add_process", request))
        if self.failure:
            raise self.failure
        identifiers = EndpointIdentifiers(cgroup=request.cgroup, k8s_pod_name=request.name)
        return EndpointView(id=7, status=EndpointStatus(state="ready", external_identifiers=identifiers))

    async def identities(self) -> Sequence[Identity]:
        return [Identity(id=1, labels=["reserved:host"])]

    async def identity(self, number: int) -> Identity:
        return Identity(id=number, labels=["reserved:host"])

    async def services(self) -> Sequence[ServiceView]:
        return [SERVICE]

    async def service(self, number: int) -> ServiceView:
        if number != SERVICE.spec.id:
            raise NotFound(f"no service {number}")
        return SERVICE

    async def ip_entries(self) -> Sequence[IpEntry]:
        return [IpEntry(cidr="10.0.0.1/32", identity=1, host_ip="192.0.2.1")]

    async def policy(self) -> PolicyResponse:
        return PolicyResponse(revision=3, policy="[]")

    async def maps(self) -> Sequence[BpfMap]:
        return [BpfMap(path="/bpf/maps/policies", name="policies", size=16, entries=1)]

    async def map(self, name: str) -> BpfMap:
        cache = [MapEntry(key="1", value="revision 3")]
        return BpfMap(path=f"/bpf/maps/{name}", name=name, size=16, entries=1, cache=cache)

    async def nodes(self) -> ClusterNodes:
        return ClusterNodes(self="node1", nodes_added=[])

    async def config(self) -> ConfigResponse:
        return ConfigResponse(status={"nodeName": "node1"})

    async def explain(self, request: ExplainRequest) -> ExplainReply:
        ends = (ExplainPeer(name=name, identity=0) for name in (request.source, request.destination))
        return ExplainReply(verdict="allowed", source=next(ends), destination=next(ends), decisions=[])

    async def cni_add(self, request: CniRequest) -> CniResult:
        self._called("add", request)
        return ADD_RESULT

    async def cni_del(self, request: CniRequest) -> None:
        self._called("del", request)

    async def cni_check(self, request: CniRequest) -> None:
        self._called("check", request)

    async def cni_gc(self, request: CniGcRequest) -> None:
        self._called("gc", request)

    async def cni_status(self, request: CniStatusRequest) -> None:
        self._called("status", request)

    def _called(self, name: str, request: object) -> None:
        self.calls.append((name, request))
        if self.failure is not None:
            raise self.failure


@contextlib.contextmanager
def served(service: AgentService, socket_path: str) -> Iterator[None]:
    """`service` on `socket_path` for as long as the block runs. What `start` raises comes through."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="agent", daemon=True)
    thread.start()
    server = ApiServer.of_agent(service, socket_path)
    try:
        asyncio.run_coroutine_threadsafe(server.start(), loop).result(10)
        yield
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()

"""What the agent answers while it waits for its node's pod CIDRs: its state, and "try again later" to all else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NoReturn

from pycilium import __version__
from pycilium.agent.config import AgentConfig
from pycilium.api import messages
from pycilium.api.cni_messages import CniGcRequest, CniRequest, CniResult, CniStatusRequest
from pycilium.api.process_messages import ProcessRequest
from pycilium.api.service_messages import ServiceView
from pycilium.errors import AgentUnavailable

# ruff: noqa: ARG002  the protocol's arguments are nothing to one who cannot serve


class WaitingService:
    """AgentService of an agent that has no addresses to give yet."""

    def __init__(self, config: AgentConfig, reason: Callable[[], str]) -> None:
        self._config, self._why = config, reason

    async def status(self) -> messages.StatusResponse:
        return messages.StatusResponse(
            cilium=messages.Status(state="Failure", msg=self._reason()),
            version=__version__,
            node_name=self._config.node_name,
            cluster=messages.ClusterStatus(self=self._config.node_name),
        )

    async def endpoints(self) -> Sequence[messages.EndpointView]:
        return ()

    async def endpoint(self, reference: str) -> messages.EndpointView:
        self._refuse()

    async def add_process(self, request: ProcessRequest) -> messages.EndpointView:
        self._refuse()

    async def identities(self) -> Sequence[messages.Identity]:
        self._refuse()

    async def identity(self, number: int) -> messages.Identity:
        self._refuse()

    async def services(self) -> Sequence[ServiceView]:
        self._refuse()

    async def service(self, number: int) -> ServiceView:
        self._refuse()

    async def ip_entries(self) -> Sequence[messages.IpEntry]:
        self._refuse()

    async def policy(self) -> messages.PolicyResponse:
        self._refuse()

    async def maps(self) -> Sequence[messages.BpfMap]:
        self._refuse()

    async def map(self, name: str) -> messages.BpfMap:
        self._refuse()

    async def nodes(self) -> messages.ClusterNodes:
        self._refuse()

    async def config(self) -> messages.ConfigResponse:
        self._refuse()

    async def explain(self, request: messages.ExplainRequest) -> messages.ExplainReply:
        self._refuse()

    async def cni_add(self, request: CniRequest) -> CniResult:
        self._refuse()

    async def cni_del(self, request: CniRequest) -> None:
        self._refuse()

    async def cni_check(self, request: CniRequest) -> None:
        self._refuse()

    async def cni_gc(self, request: CniGcRequest) -> None:
        self._refuse()

    async def cni_status(self, request: CniStatusRequest) -> None:
        self._refuse()

    def _reason(self) -> str:
        return f"the agent is still starting: {self._why()}"

    def _refuse(self) -> NoReturn:
        raise AgentUnavailable(self._reason())

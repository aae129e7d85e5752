"""The node's health: its health endpoint, the responders on node and endpoint, and the prober of all nodes.

      namespace without a name ── veth ── node        held by a descriptor of this process
        10.0.0.254, fd00:10::ffff                     the kernel answers ICMP echo
        :4240 /hello                                  a socket opened in there, served by this process

So the health endpoint needs no process and leaves nothing when the agent is killed: the namespace ends, and with it
its interface. A restarted agent makes it anew, with the same addresses. Nothing here keeps the agent from its work:
what fails is shown as a problem and tried again.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress

import structlog

from pycilium.agent.config import AgentConfig
from pycilium.agent.endpoints.lifecycle import Endpoints
from pycilium.agent.health.prober import Probe, Prober
from pycilium.agent.health.responder import Responder, open_listener
from pycilium.agent.intent import Intent, health_endpoint
from pycilium.agent.nodes.publishing import internal_ips
from pycilium.datapath import netns
from pycilium.errors import AgentUnavailable, CiliumError
from pycilium.health import NodeReport, ProbedNode

log = structlog.get_logger()
RETRY_S = 5.0


class NodeHealth:
    """`run` once the agent is ready; all else may be called at any time."""

    def __init__(
        self,
        config: AgentConfig,
        endpoints: Endpoints,
        nodes: Callable[[], Iterable[ProbedNode]],
        probe: Probe,
    ) -> None:
        self._config, self._endpoints = config, endpoints
        self.prober = Prober(nodes, probe, config.health_probe_interval_s)
        self._responder = Responder()
        self._netns_fd = -1
        self._problems: dict[str, str] = {}

    @property
    def problems(self) -> list[str]:
        """What of it does not work, in words."""
        return list(self._problems.values())

    @property
    def enabled(self) -> bool:
        return self._config.health_checking

    def report(self) -> list[NodeReport]:
        """All nodes, with what the last probes of them came to."""
        return self.prober.report()

    async def probe_now(self) -> None:
        """Probe every node; AgentUnavailable if health checking is off."""
        if not self.enabled:
            raise AgentUnavailable("health checking is off: health_checking in the agent's configuration")
        await self.prober.probe_all()

    async def run(self) -> None:
        """Answer and probe until cancelled; then the health endpoint is gone."""
        if not self.enabled:
            return
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._until_done("responder", self._answer_on_node))
                if self._config.endpoint_health_checking:
                    tasks.create_task(self._until_done("health endpoint", self._make_endpoint))
                tasks.create_task(self.prober.run())
        finally:
            await self._responder.stop()
            if self._netns_fd >= 0:
                os.close(self._netns_fd)

    async def _until_done(self, what: str, step: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await step()
            except CiliumError as error:
                if self._problems.get(what) != str(error):
                    log.warning("health checking is incomplete", part=what, reason=str(error))
                self._problems[what] = str(error)
                await asyncio.sleep(RETRY_S)
            else:
                self._problems.pop(what, None)
                return

    async def _answer_on_node(self) -> None:
        await self._responder.serve(open_listener())

    async def _make_endpoint(self) -> None:
        if self._netns_fd < 0:
            self._netns_fd = await asyncio.to_thread(netns.nameless)
        made = await self._endpoints.add_health(f"/proc/{os.getpid()}/fd/{self._netns_fd}")
        listener = await asyncio.to_thread(netns.run_in, self._netns_fd, open_listener)
        try:
            await self._responder.serve(listener)
        except BaseException:
            with suppress(OSError):
                listener.close()
            raise
        self.prober.nodes_changed()
        log.info("health endpoint", endpoint=str(made), addresses=", ".join(map(str, made.addresses)))


def probed_nodes(config: AgentConfig, intent: Intent) -> list[ProbedNode]:
    """All nodes of the cluster: the others by their CiliumNodes, this one by what it has."""
    snapshot = intent.db.snapshot()
    own, endpoint = internal_ips(snapshot.all(intent.host_addresses), config), health_endpoint(intent)
    here = ProbedNode(config.node_name, tuple(own), endpoint.addresses if endpoint is not None else ())
    return [here, *(ProbedNode(node.name, node.internal_ips, node.health_ips) for node in snapshot.all(intent.nodes))]

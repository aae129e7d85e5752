"""The node's pod CIDRs, known before anything of the node is made: from the configuration, or given by the operator.

With cluster-pool the agent publishes its CiliumNode without CIDRs and waits until the operator has written some; it
keeps them in its run directory, so that a restart needs neither store nor operator. While it waits it answers on its
socket what it waits for.
"""

from __future__ import annotations

import asyncio
import contextlib
from ipaddress import ip_network
from pathlib import Path

import msgspec
import structlog

from pycilium.agent.config import AgentConfig
from pycilium.agent.endpoints.files import write_whole
from pycilium.agent.nodes.publishing import addresses_of
from pycilium.agent.plumbing import Plumbing
from pycilium.agent.waiting import WaitingService
from pycilium.api.server import ApiServer
from pycilium.errors import AlreadyExists, Conflict, NotFound, StoreError
from pycilium.model.resources import CiliumNode, ObjectMeta
from pycilium.model.resources.cilium_objects import IpamSpec, NodeSpec
from pycilium.store import Store

log = structlog.get_logger()

LOOK_FIRST_S, LOOK_MOST_S = 0.1, 2.0
ANSWER_S = 5.0


class PodCidrs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One CIDR of each family that is on."""

    ipv4: str | None
    ipv6: str | None


async def settled(config: AgentConfig, store: Store, stop: asyncio.Event) -> AgentConfig:
    """`config` with the pod CIDRs that the node has; returns early, unchanged, if `stop` is set before it has any."""
    if config.ipam == "host-scope":
        return config
    request = PodCidrRequest(config, store)
    api = ApiServer.of_agent(WaitingService(config, lambda: request.reason), str(Path(config.run_dir) / "cilium.sock"))
    obtaining = asyncio.create_task(request.obtained())
    stopped = asyncio.create_task(stop.wait())
    await api.start()
    try:
        await asyncio.wait({obtaining, stopped}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
        obtaining.cancel()
        await api.stop()
    with contextlib.suppress(asyncio.CancelledError):
        cidrs = await obtaining
        return msgspec.structs.replace(config, ipv4_pod_cidr=cidrs.ipv4, ipv6_pod_cidr=cidrs.ipv6)
    return config


class PodCidrRequest:
    """Asks for what the node needs, and remembers what it got."""

    def __init__(self, config: AgentConfig, store: Store) -> None:
        self._config, self._store = config, store
        self._file = Path(config.run_dir) / "state" / "pod-cidrs.json"
        self.reason = "the store has not been read yet"

    async def obtained(self) -> PodCidrs:
        """What the store says; what is remembered if the store is away or knows the node no more."""
        remembered = self._remembered()
        delay_s = LOOK_FIRST_S
        while True:
            cidrs, why = await self._asked(remembered)
            if cidrs is not None:
                self._remember(cidrs)
                return cidrs
            if why != self.reason:
                log.info("waiting", reason=why)
                self.reason = why
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, LOOK_MOST_S)

    async def _asked(self, remembered: PodCidrs | None) -> tuple[PodCidrs | None, str]:
        try:
            async with asyncio.timeout(ANSWER_S):
                node = await self._node(remembered)
        except (StoreError, TimeoutError) as error:
            if remembered is not None:
                log.warning("pod CIDRs taken from the last run", error=str(error))
            return remembered, str(error) or "the store does not answer"
        cidrs = self._complete(node.spec.ipam.pod_cidrs if node.spec.ipam else ())
        ipam = node.status.ipam if node.status else None
        problem = ipam.operator_status.error if ipam and ipam.operator_status else ""
        missing = f"the operator has given node {self._config.node_name} no pod CIDR yet"
        return cidrs, f"{missing}: {problem or 'is one running?'}"

    async def _node(self, remembered: PodCidrs | None) -> CiliumNode:
        """Its CiliumNode, made if there is none; with what is remembered if it has no CIDRs (any more)."""
        name = self._config.node_name
        wanted = tuple(cidr for cidr in (remembered.ipv4, remembered.ipv6) if cidr) if remembered else ()
        try:
            node = await self._store.get(CiliumNode, name)
        except NotFound:
            hosts = await asyncio.to_thread(Plumbing(self._config, None, None).host_addresses)
            spec = NodeSpec(addresses=addresses_of(hosts, self._config), ipam=IpamSpec(pod_cidrs=wanted))
            try:
                return await self._store.create(CiliumNode(metadata=ObjectMeta(name=name), spec=spec))
            except AlreadyExists:
                return await self._store.get(CiliumNode, name)
        if not wanted or (node.spec.ipam and node.spec.ipam.pod_cidrs):
            return node
        ipam = msgspec.structs.replace(node.spec.ipam or IpamSpec(), pod_cidrs=wanted)
        with contextlib.suppress(Conflict):
            return await self._store.replace(
                msgspec.structs.replace(node, spec=msgspec.structs.replace(node.spec, ipam=ipam))
            )
        return await self._store.get(CiliumNode, name)

    def _complete(self, cidrs: tuple[str, ...]) -> PodCidrs | None:
        """The first CIDR of each family that is on; None if one is missing."""
        first = {ip_network(cidr).version: cidr for cidr in reversed(cidrs)}
        ipv4_on, ipv6_on = self._config.ipv4_pod_cidr is not None, self._config.ipv6_pod_cidr is not None
        if (ipv4_on and 4 not in first) or (ipv6_on and 6 not in first):
            return None
        return PodCidrs(first[4] if ipv4_on else None, first[6] if ipv6_on else None)

    def _remembered(self) -> PodCidrs | None:
        """What an earlier agent wrote down, if it is still what is wanted. A damaged file costs no more than a wait."""
        try:
            kept = msgspec.json.decode(self._file.read_bytes(), type=PodCidrs)
            return self._complete(tuple(cidr for cidr in (kept.ipv4, kept.ipv6) if cidr))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log.warning("remembered pod CIDRs cannot be read", file=str(self._file), error=str(error))
            return None

    def _remember(self, cidrs: PodCidrs) -> None:
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._file, msgspec.json.encode(cidrs))
        except OSError as error:
            log.error("pod CIDRs cannot be written down", file=str(self._file), error=error.strerror)  # noqa: TRY400  foreseen

"""The CiliumNode of this node: kept true to the node's own addresses for as long as the agent runs.

Only what is this agent's is written: addresses, its health endpoint's too, boot id and, unless an operator gives them
out, pod CIDRs; the rest of the resource stays as others left it. A CiliumNode of this name that another machine lives
by, which shows by its addresses and by its lease being renewed, is left alone: two nodes of one name would take each
other's pods.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import msgspec
import structlog

from pycilium.agent.config import AgentConfig
from pycilium.agent.intent import HostAddress, Intent, health_endpoint
from pycilium.agent.nodes.cluster import GATEWAY_DEVICE, is_underlay
from pycilium.agent.sources import retry_delay_s
from pycilium.errors import AlreadyExists, CiliumError, Conflict, NotFound
from pycilium.model.node import GATEWAY_IP, INTERNAL_IP
from pycilium.model.peer import Address
from pycilium.model.resources import CiliumNode, Lease, ObjectMeta
from pycilium.model.resources.cilium_objects import AddressPair, IpamSpec, NodeAddress, NodeSpec
from pycilium.store import Store
from pycilium.store.leases import elapsed_s

log = structlog.get_logger()

NODE_LEASES = "kube-node-lease"
"""The namespace of the leases by which nodes show that they live; each is named as its node."""
LEASE_S = 40
"""How long a lease lasts that does not say so."""
RETRY_S = 1.0


def internal_ips(hosts: Iterable[HostAddress], config: AgentConfig) -> list[Address]:
    """Where others reach this node, in the order in which it says so: the underlay's family, then the devices'."""
    devices = {name: position for position, name in enumerate(config.devices)}
    first = 6 if config.underlay_family == "ipv6" else 4
    found = [host for host in hosts if is_underlay(host, frozenset(devices))]
    found.sort(key=lambda host: (host.address.version != first, devices.get(host.interface, 0), int(host.address)))
    return [host.address for host in found]


def node_ip(hosts: Iterable[HostAddress], config: AgentConfig) -> str:
    """The address by which endpoints name this node; "" if it has none."""
    return next((str(address) for address in internal_ips(hosts, config)), "")


def addresses_of(hosts: Iterable[HostAddress], config: AgentConfig) -> tuple[NodeAddress, ...]:
    """A node's own addresses, as its CiliumNode names them."""
    known = list(hosts)
    gateways = sorted((host.address for host in known if host.interface == GATEWAY_DEVICE), key=lambda it: it.version)
    return (
        *(NodeAddress(type=INTERNAL_IP, ip=str(address)) for address in internal_ips(known, config)),
        *(NodeAddress(type=GATEWAY_IP, ip=str(address)) for address in gateways),
    )


class NodePublisher:
    """Follows the host addresses; call `run` once they have been read."""

    def __init__(
        self,
        config: AgentConfig,
        intent: Intent,
        store: Store,
        boot_id: str = "",
        *,
        elapsed: Callable[[], float] = elapsed_s,
    ) -> None:
        self._config, self._intent, self._store, self._boot_id = config, intent, store, boot_id
        self._elapsed = elapsed
        self._changed = asyncio.Event()
        self._published_health: AddressPair | None = None
        self.published = asyncio.Event()
        """Set once the CiliumNode is this node's."""
        self.problem = ""
        """Why it is not, or not what it should be; for status."""
        self._rival: tuple[str, float] | None = None
        """The version of the lease of another machine of this name, and since when it has been that."""

    async def run(self) -> None:
        """Publish until cancelled."""
        self._changed.set()
        self._intent.db.on_commit(self._committed)
        while True:
            await self._changed.wait()
            self._changed.clear()
            await self.publish()

    def _committed(self, tables: frozenset[str]) -> None:
        if "host-addresses" in tables or ("endpoints" in tables and self._health() != self._published_health):
            self._changed.set()

    async def publish(self) -> None:
        """Write the CiliumNode; returns once the store has it."""
        while True:
            if await self.try_to_publish():
                return
            await asyncio.sleep(retry_delay_s(RETRY_S))

    async def try_to_publish(self) -> bool:
        """Whether the store has it; `problem` says why not."""
        try:
            problem = await self._write()
        except CiliumError as error:  # also that the store does not take it as it is
            problem = str(error)
        if problem and problem != self.problem:
            log.warning("node not published yet", node=self._config.node_name, reason=problem)
        self.problem = problem
        if not problem:
            self.published.set()
        return not problem

    async def _write(self) -> str:
        """What keeps the node from being published, "" if it is. CiliumError if the store does."""
        name = self._config.node_name
        try:
            present = await self._store.get(CiliumNode, name)
        except NotFound:
            try:
                await self._store.create(CiliumNode(metadata=ObjectMeta(name=name), spec=self._spec(NodeSpec())))
            except AlreadyExists:
                return f"CiliumNode {name} was made by somebody else just now: looking again"
            return ""
        if not self.published.is_set() and (why := await self._why_not_ours(present)):
            return why
        wanted = msgspec.structs.replace(present, spec=self._spec(present.spec))
        if wanted != present:
            try:
                await self._store.replace(wanted)
            except Conflict:
                return f"CiliumNode {name} was changed by somebody else just now: looking again"
        return ""

    def _spec(self, present: NodeSpec) -> NodeSpec:
        """`present`, with what is ours as it should be."""
        config = self._config
        others = tuple(each for each in present.addresses if each.type not in (INTERNAL_IP, GATEWAY_IP))
        ipam = present.ipam
        if config.ipam == "host-scope" or not (
            ipam and ipam.pod_cidrs
        ):  # those of a node that was removed stay its own
            cidrs = tuple(cidr for cidr in (config.ipv4_pod_cidr, config.ipv6_pod_cidr) if cidr)
            ipam = msgspec.structs.replace(ipam or IpamSpec(), pod_cidrs=cidrs)
        self._published_health = self._health()
        return msgspec.structs.replace(
            present,
            addresses=(*addresses_of(self._hosts(), config), *others),
            health=self._published_health,
            bootid=self._boot_id,
            ipam=ipam,
        )

    def _health(self) -> AddressPair | None:
        endpoint = health_endpoint(self._intent)
        if endpoint is None:
            return None
        return AddressPair(ipv4=str(endpoint.ipv4 or ""), ipv6=str(endpoint.ipv6 or ""))

    async def _why_not_ours(self, present: CiliumNode) -> str:
        """Whether another machine may live under our name: none of our addresses, and a lease that we saw not run out.

        The times in the lease are not believed: clocks may be wrong, and two of one name would disturb all others.
        """
        if self._config.kubernetes_node:
            return ""  # of one name there is one kubelet, and the lease is that one's: it lives on with other addresses
        theirs = {each.ip for each in present.spec.addresses if each.type == INTERNAL_IP}
        if not theirs or theirs & {str(address) for address in internal_ips(self._hosts(), self._config)}:
            return ""
        name = self._config.node_name
        try:
            lease = await self._store.get(Lease, name, NODE_LEASES)
        except NotFound:
            return ""
        now, version = self._elapsed(), lease.metadata.resource_version
        lasts_s = lease.spec.lease_duration_seconds or LEASE_S
        if self._rival is None or self._rival[0] != version:
            self._rival = version, now
        if now - self._rival[1] > lasts_s:
            return ""
        return (
            f"another machine, at {', '.join(sorted(theirs))}, is node {name}, or was less than {lasts_s} s ago: "
            f"give this one another node_name, or stop the other"
        )

    def _hosts(self) -> list[HostAddress]:
        return list(self._intent.db.snapshot().all(self._intent.host_addresses))

"""What a node does for Services besides translating them: announces addresses, answers health checks, guards ports.

services, backends here ──┬──► ServiceHealth     healthCheckNodePorts
own node's labels ────────┤
L2 policies, devices ─────┼──► L2Announcer       ARP and neighbour discovery
                          └──► NodePorts         sockets in the way
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv6Address

from pycilium.agent.config import AgentConfig
from pycilium.agent.intent import Intent
from pycilium.agent.services.controller import FrontendChange
from pycilium.agent.services.health_ports import ServiceHealth, health_check_ports
from pycilium.agent.services.l2_announcements import L2Announcer, LinkDevice, Target
from pycilium.agent.services.l2_policy import HOSTNAME_LABEL, L2Intent, l2_policy_of
from pycilium.agent.services.node_ports import NodePorts
from pycilium.agent.services.proxy_health import ProxyHealth
from pycilium.agent.sources import Source
from pycilium.api.service_messages import L2AnnouncementView
from pycilium.datapath import neighbour_frames
from pycilium.datapath.netlink import Netlink
from pycilium.model.resources import CiliumL2AnnouncementPolicy, Service
from pycilium.store import Leases, Store

Name = tuple[str, str]
_DECIDING = frozenset({"services", "l2-policies", "own-node"})


class NodeServices:
    """`run` once the kernel leads packets to backends: what is announced before that leads nowhere."""

    def __init__(
        self,
        config: AgentConfig,
        intent: Intent,
        store: Store,
        devices: Mapping[str, int],
        target: Target,
        backends_here: Callable[[Name], int],
    ) -> None:
        self._config, self._intent, self._store = config, intent, store
        self._backends_here = backends_here
        self._policies = Source(CiliumL2AnnouncementPolicy, intent.l2_policies, _checked, lambda key: key.name)
        self.health = ServiceHealth(lambda: health_check_ports(self._services()), backends_here)
        self.proxy = ProxyHealth(config.kube_proxy_healthz_port)
        self.ports = NodePorts(self._services)
        self.announcer = L2Announcer(
            self._l2_intent,
            lambda: link_devices(devices),
            Leases(store),
            config.node_name,
            config.l2_announcement_lease_s,
            target,
            tell_neighbours,
        )
        self._devices = devices
        intent.db.on_commit(lambda tables: self.changed() if tables & _DECIDING else None)

    @property
    def problems(self) -> list[str]:
        """What of it does not work, in words."""
        return [*self.health.problems, *self.proxy.problems, *self.ports.problems, *self.announcer.problems]

    def changed(self) -> None:
        """Services, their backends or the node's devices may be others now."""
        self.health.changed()
        self.ports.changed()
        self.announcer.changed()

    def frontends_changed(self, changes: list[FrontendChange]) -> None:
        """Which nodes may announce a Service with externalTrafficPolicy Local depends on its backends."""
        frontends = (frontend for change in changes for frontend in (change.old, change.new))
        if any(frontend is not None and frontend.external_local for frontend in frontends):
            self.announcer.changed()

    def announcements(self) -> list[L2AnnouncementView]:
        """What this node announces, and would if others did not."""
        announced = self.announcer.announced()
        return [
            L2AnnouncementView(
                lease=lease,
                addresses=sorted({str(each.address) for each in announcements}),
                devices=sorted({each.device for each in announcements}),
                announcing=lease in announced,
            )
            for lease, announcements in sorted(self.announcer.candidacies().items())
        ]

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._policies.run(self._store, self._intent.db), name="L2 policies")
            tasks.create_task(self.health.run(), name="health checks of services")
            tasks.create_task(self.proxy.run(), name="health of the proxy")
            tasks.create_task(self.ports.run(), name="node ports")
            await self._policies.synced.wait()
            tasks.create_task(self.announcer.run(), name="L2 announcements")

    def _services(self) -> tuple[Service, ...]:
        """Those for which there may be anything to do; there may be thousands of others."""
        return tuple(self._intent.db.snapshot().by(self._intent.services, "outward", True))

    def _l2_intent(self) -> L2Intent:
        snapshot = self._intent.db.snapshot()
        own = next(iter(snapshot.all(self._intent.own_node)), None)
        labels = {**(own.labels if own is not None else {}), HOSTNAME_LABEL: self._config.node_name}
        return L2Intent(
            services=self._services(),
            policies=tuple(l2_policy_of(policy) for policy in snapshot.all(self._intent.l2_policies)),
            node_labels=labels,
            devices=tuple(self._devices),
            has_local_backend=lambda service: (
                self._backends_here((service.metadata.namespace, service.metadata.name)) > 0
            ),
        )


def link_devices(devices: Mapping[str, int]) -> dict[str, LinkDevice]:
    """The devices as they are now; one that is gone is left out."""
    with Netlink.open() as netlink:
        links = [netlink.link(name) for name in devices]
    return {link.name: LinkDevice(link.ifindex, link.mac) for link in links if link is not None}


def tell_neighbours(ifindex: int, mac: bytes, addresses: list[IPv4Address | IPv6Address]) -> None:
    """At which MAC the addresses are, to all on the device's link."""
    neighbour_frames.send(ifindex, (neighbour_frames.frame(mac, address) for address in addresses))


def _checked(policy: CiliumL2AnnouncementPolicy) -> CiliumL2AnnouncementPolicy:
    return policy

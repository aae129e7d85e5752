"""How the node is: the answer to GET /healthz, and everything that is wrong, in words. Reads only."""

from __future__ import annotations

import platform
import time

from pycilium import __version__
from pycilium.agent import bpf_maps, views
from pycilium.agent.health import views as health_views
from pycilium.agent.parts import Parts
from pycilium.agent.services import views as service_views
from pycilium.api import messages
from pycilium.store import hide_password

NEED_ROOM = ("identity_bits", "policy_rows", "policies")
NAMED_PROBLEMS = 10
LOST_SHOWN_S = 3600.0
"""How long after its start an agent names what of an earlier one's it could not keep."""


class AgentStatus:
    """As the node's parts tell it at the moment of asking."""

    def __init__(self, parts: Parts) -> None:
        self._parts, self._started = parts, time.monotonic()

    def answer(self) -> messages.StatusResponse:
        """GET /healthz."""
        parts = self._parts
        problems = self._problems()
        state: messages.Health = "Ok" if not problems else "Warning"
        if parts.deadman.problems:
            state, problems = "Failure", [*parts.deadman.problems.values(), *problems]
        if not parts.loop.is_open:
            state, problems = "Failure", [*self.store_errors(), "the store has not been read yet"]
        kubernetes, kvstore = stores(parts.config.store, self.store_errors())
        return messages.StatusResponse(
            cilium=messages.Status(state=state, msg="; ".join(problems) or __version__),
            version=__version__,
            node_name=parts.config.node_name,
            kernel=platform.release(),
            attach_mode=parts.attach_mode,
            acceleration=parts.acceleration(),
            datapath_mode="veth",
            cluster=messages.ClusterStatus(
                cilium_health=self._health_summary(),
                nodes=self.nodes().nodes_added,
                self=parts.config.node_name,
            ),
            kubernetes=kubernetes,
            kvstore=kvstore,
            operator=parts.operator_lease.status(),
            hubble=self._hubble_status(),
            ipam=self._ipam_status(),
            masquerading=views.masquerading(parts.config),
            kube_proxy_replacement=service_views.kube_proxy_replacement(parts.config),
            encryption=messages.EncryptionStatus(),
            services=parts.controller.services.counts() if parts.controller.services is not None else None,
            l2_announcements=parts.node_services.announcements() if parts.node_services is not None else [],
            node_monitor=messages.MonitorStatus(seen=parts.flows.next, lost=parts.ingestion.lost),
            bpf_maps=messages.BpfMapStatus(
                maps=[
                    messages.MapFill(name=each.name, size=each.size, entries=each.entries)
                    for each in bpf_maps.maps(parts)
                ]
            ),
            controllers=self._controllers(),
        )

    def nodes(self) -> messages.ClusterNodes:
        """GET /cluster/nodes: this node first."""
        config, gateways = self._parts.config, self._parts.plumbing.gateways
        families = [
            messages.NodeFamily(enabled=True, ip=str(gateways[version]), alloc_range=cidr) if cidr else None
            for version, cidr in ((4, config.ipv4_pod_cidr), (6, config.ipv6_pod_cidr))
        ]
        address = messages.NodeAddressing(ipv4=families[0], ipv6=families[1])
        node = messages.Node(name=f"{config.cluster_name}/{config.node_name}", primary_address=address, source="local")
        others = sorted(self._parts.intent.db.snapshot().all(self._parts.intent.nodes), key=lambda other: other.name)
        views_of_others = [views.node_view(other, config.cluster_name) for other in others]
        return messages.ClusterNodes(self=config.node_name, nodes_added=[node, *views_of_others])

    def store_errors(self) -> list[str]:
        """Why the store cannot be read: the first reason, and how many more kinds have one; empty while it can."""
        errors = list(dict.fromkeys(source.error for source in self._parts.sources if source.error))
        return errors if len(errors) < 2 else [f"{errors[0]} (and {len(errors) - 1} more kinds)"]

    def _problems(self) -> list[str]:
        parts = self._parts
        problems = self.store_errors()
        problems += [parts.node.problem] if parts.node.problem else []
        problems += [parts.cni.problem] if parts.cni is not None and parts.cni.problem else []
        problems += parts.endpoints.ipam.exhausted()
        problems += [f"{name} does not tell labels: {why}" for name, why in parts.endpoints.runtime_problems().items()]
        problems += _few([f"{key}: {why}" for source in parts.sources for key, why in source.rejected.items()])
        problems += _few(list(parts.controller.cluster.problems()))
        services = parts.controller.services
        problems += _few(list(services.problems())) if services is not None else []
        problems += _few(parts.node_services.problems) if parts.node_services is not None else []
        problems += [f"policy of {labels}: {why}" for labels, why in parts.controller.engine.problems().items()]
        problems += _few([f"{name}: {key}: {status.error}" for name, key, status in parts.controller.failing()])
        problems += self._too_full()
        problems += parts.fill.problems()
        if time.monotonic() - self._started < LOST_SHOWN_S:
            problems += [str(lost) for lost in parts.datapath.moved.lost]
        return problems

    def _too_full(self) -> list[str]:
        """Maps of which more than half is in use, so that a restart would not find room for its new numbers."""
        sizes = self._parts.sizes
        return [
            f"map {name} holds {count} entries; with more than {sizes[name] // 2} a restart has no room for new ones: "
            f"raise its capacity in the agent's configuration"
            for name, count in self._parts.controller.entry_counts().items()
            if name in NEED_ROOM and count > sizes[name] // 2
        ]

    def _controllers(self) -> list[messages.ControllerStatus]:
        failing: dict[str, list[str]] = {}
        for name, key, status in self._parts.controller.failing():
            failing.setdefault(name, []).append(f"{key}: {status.error}")
        return [
            messages.ControllerStatus(
                name=reconciler.name,
                status=messages.ControllerDetail(
                    consecutive_failure_count=len(failing.get(reconciler.name, ())),
                    last_failure_msg="; ".join(failing.get(reconciler.name, ())[:3]),
                ),
            )
            for reconciler in self._parts.controller.reconcilers
        ]

    def _health_summary(self) -> messages.Status:
        health = self._parts.health
        if not health.enabled:
            return messages.Status(state="Disabled")
        problems = health.problems
        return messages.Status(
            state="Warning" if problems else "Ok", msg="; ".join(problems) or health_views.reachable(health.report())
        )

    def _hubble_status(self) -> messages.HubbleStatus:
        flows = self._parts.flows
        return messages.HubbleStatus(
            state="Ok",
            observer=messages.ObserverStatus(
                current_flows=len(flows), max_flows=flows.capacity, seen_flows=flows.next, uptime=""
            ),
        )

    def _ipam_status(self) -> messages.IpamStatus:
        ipam = self._parts.endpoints.ipam
        used = [f"{pool.in_use}/{pool.capacity} of {pool.cidr}" for pool in (ipam.ipv4, ipam.ipv6) if pool is not None]
        pods = {endpoint.attachment: endpoint.qualified_pod_name for endpoint in self._parts.endpoints.all()}
        allocations = {
            str(address): pods.get(owner) or owner
            for owner, held in ipam.held.items()
            for address in (held.ipv4, held.ipv6)
            if address is not None
        }
        return messages.IpamStatus(
            allocations=allocations,
            ipv4=[str(held.ipv4) for held in ipam.held.values() if held.ipv4],
            ipv6=[str(held.ipv6) for held in ipam.held.values() if held.ipv6],
            status=", ".join(used),
        )


def stores(url: str, errors: list[str]) -> tuple[messages.Status, messages.Status]:
    """Of Kubernetes and of the key-value store: one of the two is where resources live, the other disabled."""
    state: messages.Health = "Failure" if errors else "Ok"
    other = messages.Status(state="Disabled")
    if url.startswith("kubernetes:"):
        name = url.removeprefix("kubernetes:").removeprefix("//") or "this pod's cluster"
        return messages.Status(state=state, msg="; ".join(errors) or name), other
    return other, messages.Status(state=state, msg="; ".join(errors) or hide_password(url))


def _few(problems: list[str]) -> list[str]:
    """The first few of problems of one sort: a node that goes can leave hundreds."""
    more = len(problems) - NAMED_PROBLEMS
    return problems if more <= 0 else [*problems[:NAMED_PROBLEMS], f"and {more} more"]

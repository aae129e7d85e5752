"""The life of this node's endpoints: CNI ADD, DEL, CHECK and GC, and processes that become and cease to be one.

ADD is one straight line: labels → addresses → interface and identity side by side → one control round → answer. What
was taken is given back in reverse if anything on the way fails, so a failed ADD leaves nothing. Calls for the same
attachment wait for one another; calls for different ones run side by side.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

import structlog

from pycilium.agent import views
from pycilium.agent.endpoints.identities import Identities
from pycilium.agent.endpoints.labelling import PodLabelling, Workload
from pycilium.agent.endpoints.late_labels import LateLabels
from pycilium.agent.endpoints.register import EndpointRegister
from pycilium.agent.endpoints.relabelling import Relabelling
from pycilium.agent.plumbing import Plumbing
from pycilium.api.cni_messages import CniRequest, CniResult, contradictions
from pycilium.datapath.pod_interface import host_ifname
from pycilium.endpoint import EndpointEvent, advance
from pycilium.errors import CiliumError, DatapathError, EndpointConflict, NotFound
from pycilium.ipam import HostScope
from pycilium.model.endpoint import (
    HEALTH_CONTAINER,
    HEALTH_IFNAME,
    PROCESS_IFNAME,
    Endpoint,
    attachment_name,
    nameless_process,
    process_container_id,
)
from pycilium.model.identity import HEALTH

T = TypeVar("T")
log = structlog.get_logger()


class Endpoints:
    """Of one node. What there is stands in the register; what is made and removed goes this way alone."""

    def __init__(
        self,
        register: EndpointRegister,
        identities: Identities,
        plumbing: Plumbing,
        labelling: PodLabelling,
        relabelling: Relabelling,
        late_labels: LateLabels,
    ) -> None:
        self.register, self._identities, self._plumbing = register, identities, plumbing
        self._labelling, self._relabelling, self._late_labels = labelling, relabelling, late_labels
        self._turns = relabelling.turns
        self._threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="plumbing")

    @property
    def ipam(self) -> HostScope:
        return self.register.ipam

    def all(self) -> list[Endpoint]:
        """Every endpoint, by id."""
        return self.register.all()

    # == what the runtime asks ==

    async def add(self, request: CniRequest) -> CniResult:
        """Attach a pod; returns once everything about it is live in the kernel."""
        async with self._turns.of(attachment_name(request.container_id, request.ifname)):
            existing = self.register.find(request.container_id, request.ifname)
            if existing is not None and await self._is_intact(existing):
                return self._result(existing)
            if existing is not None:
                await self._remove(existing)
            workload = await self._labelling.of_request(request)
            endpoint = await self._create(request, workload)
        if not workload.is_known:
            self._late_labels.expect(endpoint)
        return self._result(endpoint)

    async def add_health(self, netns: str) -> Endpoint:
        """Attach the node's own health endpoint, which has a reserved identity and no pod; as `add` otherwise."""
        request = CniRequest(container_id=HEALTH_CONTAINER, ifname=HEALTH_IFNAME, netns=netns)
        async with self._turns.of(attachment_name(HEALTH_CONTAINER, HEALTH_IFNAME)):
            existing = self.register.find(HEALTH_CONTAINER, HEALTH_IFNAME)
            if existing is not None:
                await self._remove(existing)
            return await self._create(request, Workload(namespace="", name="", labels=HEALTH.labels))

    async def add_process(self, wanted: Workload, cgroup: str, cgroup_id: int) -> Endpoint:
        """Take the processes of a cgroup for an endpoint; the same again changes its labels, if they are others.

        `cgroup_id` 0: there is no such cgroup yet. EndpointConflict if the name is another's.
        """
        container_id = process_container_id(wanted.namespace, wanted.name)
        async with self._turns.of(attachment_name(container_id, PROCESS_IFNAME)):
            existing = self.register.find(container_id, PROCESS_IFNAME)
            if existing is None:
                return await self._create_process(wanted, cgroup, cgroup_id)
        if existing.cgroup != cgroup:
            raise EndpointConflict(
                f"{existing.qualified_pod_name} is the processes of {existing.cgroup} already: choose another name, or "
                f"remove it first (cilium endpoint rm {wanted.name} -n {wanted.namespace})"
            )
        await self._relabelling.relabel(existing, wanted.labels)
        return self.register.find(container_id, PROCESS_IFNAME) or existing

    def move_process(self, endpoint: Endpoint, cgroup_id: int, past: frozenset[int] = frozenset()) -> None:
        """Its cgroup was made anew, or is gone (0); those in the `past` are gone too, and have left sockets."""
        current = self.register.find(endpoint.container_id, PROCESS_IFNAME)
        if current is None or (current.cgroup_id, current.past_cgroup_ids) == (cgroup_id, past):
            return
        changed = replace(current, cgroup_id=cgroup_id, past_cgroup_ids=past)
        self.register.keep(advance(changed, EndpointEvent.POLICY_CHANGED))

    def workload_of_process(self, namespace: str, name: str, labels: dict[str, str]) -> Workload:
        """What `add_process` wants."""
        return self._labelling.of_process(namespace, name, labels)

    async def delete(self, container_id: str, ifname: str) -> None:
        """Detach; nothing to do is success."""
        async with self._turns.of(attachment_name(container_id, ifname)):
            existing = self.register.find(container_id, ifname)
            if existing is not None:
                await self._remove(existing)
            elif ifname != PROCESS_IFNAME:
                await self._in_thread(self._plumbing.delete, host_ifname(container_id, ifname))

    async def check(self, request: CniRequest) -> None:
        """Raise, saying what differs, unless all that ADD made is as it was made."""
        endpoint = self.register.find(request.container_id, request.ifname)
        if endpoint is None:
            raise NotFound(f"no endpoint for container {request.container_id} interface {request.ifname}")
        differences = await self._in_thread(self._plumbing.check, endpoint)
        differences += self.register.differences(endpoint)
        differences += (
            contradictions(previous, self._result(endpoint)) if (previous := request.config.get("prevResult")) else []
        )
        if differences:
            raise DatapathError(f"{endpoint}: {'; '.join(differences)}")

    async def collect(self, network: str, valid: set[tuple[str, str]]) -> None:
        """Detach everything that `network` attached and that is not in `valid` (container id, interface)."""
        for endpoint in self.all():
            if (
                not endpoint.is_health
                and endpoint.network == network
                and (endpoint.container_id, endpoint.ifname) not in valid
            ):
                await self.delete(endpoint.container_id, endpoint.ifname)

    async def collect_vanished(self) -> None:
        """Forget endpoints whose interface went without a DEL, as when a runtime died, and free their addresses."""
        there = {(link.name, link.ifindex) for link in await self._in_thread(self._plumbing.pod_interfaces)}
        # A health endpoint is its controller's to mend, and processes have no interface.
        pods = [each for each in self.all() if not each.is_health and not each.is_process]
        for suspect in [each for each in pods if (each.host_ifname, each.ifindex) not in there]:
            async with self._turns.of(suspect.attachment):
                endpoint = self.register.find(suspect.container_id, suspect.ifname)
                if endpoint is None or await self._in_thread(self._plumbing.exists, endpoint):
                    continue
                log.warning("interface is gone, its addresses are free again", endpoint=str(endpoint))
                await self._remove(endpoint)

    def runtime_problems(self) -> dict[str, str]:
        """By runtime: why it could not be asked what a container is."""
        return self._labelling.runtime_problems

    @property
    def quiet_for_s(self) -> float:
        """Since when nobody has asked for anything, in seconds."""
        return self._turns.quiet_for_s

    # == the steps ==

    async def _create(self, request: CniRequest, workload: Workload) -> Endpoint:
        owner = attachment_name(request.container_id, request.ifname)
        is_pod, host_ports = request.container_id != HEALTH_CONTAINER, request.host_ports
        async with contextlib.AsyncExitStack() as undo:
            addresses = self.register.new_addresses(owner, is_pod=is_pod)
            undo.callback(self.ipam.release, owner)
            endpoint_id = self.register.new_id(owner)
            undo.callback(self.register.release_id, endpoint_id)
            identity = asyncio.ensure_future(self._identities.number_for(workload.labels))
            try:
                interface = await self._in_thread(self._plumbing.create, request, addresses)
            except BaseException:
                identity.cancel()
                raise
            undo.push_async_callback(self._in_thread, self._plumbing.delete, interface.host_ifname)
            endpoint = Endpoint(
                endpoint_id=endpoint_id,
                container_id=request.container_id,
                ifname=request.ifname,
                netns=request.netns,
                host_ifname=interface.host_ifname,
                ifindex=interface.ifindex,
                mac=interface.mac,
                host_mac=interface.host_mac,
                ipv4=addresses.ipv4,
                ipv6=addresses.ipv6,
                mtu_bytes=self._plumbing.pod_mtu_bytes,
                pod_name=workload.name,
                namespace=workload.namespace,
                labels=workload.labels,
                sec_identity=await identity,
                network=str(request.config.get("name", "")),
                host_ports=host_ports,
                named_ports=workload.named_ports,
            )
            undo.callback(self.register.forget, endpoint)
            ready = self.register.realize(advance(endpoint, EndpointEvent.IDENTITY_KNOWN))
            undo.pop_all()
            return ready

    async def _create_process(self, wanted: Workload, cgroup: str, cgroup_id: int) -> Endpoint:
        container_id = process_container_id(wanted.namespace, wanted.name)
        owner = attachment_name(container_id, PROCESS_IFNAME)
        async with contextlib.AsyncExitStack() as undo:
            sec_identity = await self._identities.number_for(wanted.labels)
            endpoint_id = self.register.new_id(owner)
            undo.callback(self.register.release_id, endpoint_id)
            endpoint = replace(
                nameless_process(endpoint_id, cgroup, cgroup_id, sec_identity),
                container_id=container_id,
                pod_name=wanted.name,
                namespace=wanted.namespace,
                labels=wanted.labels,
            )
            undo.callback(self.register.forget, endpoint)
            made = self.register.realize(advance(endpoint, EndpointEvent.IDENTITY_KNOWN))
            undo.pop_all()
            return made

    async def _remove(self, endpoint: Endpoint) -> None:
        # The device takes its program along at once; detaching it first would cost a grace period of the kernel.
        if not endpoint.is_process:
            await self._in_thread(self._plumbing.delete, endpoint.host_ifname)
        self.register.forget(endpoint)
        self.register.release(endpoint)

    async def _is_intact(self, endpoint: Endpoint) -> bool:
        try:
            return not await self._in_thread(self._plumbing.check, endpoint)
        except CiliumError:
            return False

    def _result(self, endpoint: Endpoint) -> CniResult:
        return views.cni_result(endpoint, self._plumbing.gateways)

    async def _in_thread(self, function: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)

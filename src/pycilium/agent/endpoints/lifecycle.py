"""The life of this node's endpoints: CNI ADD, DEL, CHECK and GC, changes of labels, and restoring after a restart.

ADD is one straight line: labels → addresses → interface and identity side by side → one control round → answer. What
was taken is given back in reverse if anything on the way fails, so a failed ADD leaves nothing. Calls for the same
attachment wait for one another; calls for different ones run side by side.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

import structlog

from pycilium.agent import views
from pycilium.agent.config import AgentConfig
from pycilium.agent.earlier_agent import KernelMemory
from pycilium.agent.endpoints import memory as endpoint_memory
from pycilium.agent.endpoints.files import EndpointFiles, Found
from pycilium.agent.endpoints.identities import Identities
from pycilium.agent.endpoints.labelling import PodLabelling, Workload
from pycilium.agent.endpoints.late_labels import LateLabels
from pycilium.agent.intent import Intent
from pycilium.agent.loop import ControlLoop
from pycilium.agent.plumbing import Plumbing
from pycilium.agent.runtimes import Runtimes
from pycilium.api.cni_messages import CniRequest, CniResult, contradictions
from pycilium.datapath.pod_interface import host_ifname
from pycilium.endpoint import EndpointEvent, advance, restored
from pycilium.errors import CiliumError, DatapathError, EndpointConflict, IpamExhausted, NotFound, StoreError
from pycilium.ipam import Addresses, EndpointIds, HostScope
from pycilium.model.endpoint import (
    HEALTH_CONTAINER,
    HEALTH_IFNAME,
    PROCESS_IFNAME,
    Endpoint,
    attachment_name,
    nameless_process,
    process_container_id,
)
from pycilium.model.identity import HEALTH, is_node_local
from pycilium.model.labels import Labels
from pycilium.model.policy import Subject
from pycilium.model.resources import CiliumEndpoint, ResourceKey
from pycilium.store import Store

T = TypeVar("T")
log = structlog.get_logger()


class Endpoints:
    """Owns the endpoints table, the addresses and the endpoint ids."""

    def __init__(  # the composition root calls this once
        self,
        config: AgentConfig,
        intent: Intent,
        store: Store,
        identities: Identities,
        plumbing: Plumbing,
        files: EndpointFiles,
        loop: ControlLoop,
        ipam: HostScope,
        runtimes: Runtimes | None = None,
    ) -> None:
        self._intent, self._store = intent, store
        self._identities, self._plumbing, self._files, self._loop = identities, plumbing, files, loop
        self.ipam, self.ids = ipam, EndpointIds()
        self.pool_exhausted: Callable[[str], None] = lambda _: None
        """Called with the reason when an endpoint gets no address; not again before one has got one."""
        self._is_exhausted = False
        self._identity_change_grace_s = config.identity_change_grace_period_s
        is_shared = not config.store.startswith("sqlite:")
        self._labelling = PodLabelling(intent, store, config.cluster_name, runtimes, is_shared=is_shared)
        self._late_labels = LateLabels(self._labelling, self._relabel)
        self._last_call_s = 0.0
        self._callers: Counter[str] = Counter()
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="plumbing")

    # == what the runtime asks ==

    async def add(self, request: CniRequest) -> CniResult:
        """Attach a pod; returns once everything about it is live in the kernel."""
        async with self._one_at_a_time(attachment_name(request.container_id, request.ifname)):
            existing = self._find(request.container_id, request.ifname)
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
        async with self._one_at_a_time(attachment_name(HEALTH_CONTAINER, HEALTH_IFNAME)):
            existing = self._find(HEALTH_CONTAINER, HEALTH_IFNAME)
            if existing is not None:
                await self._remove(existing)
            return await self._create(request, Workload(namespace="", name="", labels=HEALTH.labels))

    async def add_process(self, wanted: Workload, cgroup: str, cgroup_id: int) -> Endpoint:
        """Take the processes of a cgroup for an endpoint; the same again changes its labels, if they are others.

        `cgroup_id` 0: there is no such cgroup yet. EndpointConflict if the name is another's.
        """
        container_id = process_container_id(wanted.namespace, wanted.name)
        async with self._one_at_a_time(attachment_name(container_id, PROCESS_IFNAME)):
            existing = self._find(container_id, PROCESS_IFNAME)
            if existing is None:
                return await self._create_process(wanted, cgroup, cgroup_id)
        if existing.cgroup != cgroup:
            raise EndpointConflict(
                f"{existing.qualified_pod_name} is the processes of {existing.cgroup} already: choose another name, or "
                f"remove it first (cilium endpoint rm {wanted.name} -n {wanted.namespace})"
            )
        await self._relabel(existing, wanted.labels)
        return self._find(container_id, PROCESS_IFNAME) or existing

    def move_process(self, endpoint: Endpoint, cgroup_id: int, past: frozenset[int] = frozenset()) -> None:
        """Its cgroup was made anew, or is gone (0); those in the `past` are gone too, and have left sockets."""
        current = self._find(endpoint.container_id, PROCESS_IFNAME)
        if current is None or (current.cgroup_id, current.past_cgroup_ids) == (cgroup_id, past):
            return
        changed = replace(current, cgroup_id=cgroup_id, past_cgroup_ids=past)
        moved = advance(changed, EndpointEvent.POLICY_CHANGED)
        self._insert(moved)
        self._loop.run_now()
        self._files.save(self._find(endpoint.container_id, PROCESS_IFNAME) or moved)

    def workload_of_process(self, namespace: str, name: str, labels: dict[str, str]) -> Workload:
        """What `add_process` wants."""
        return self._labelling.of_process(namespace, name, labels)

    async def delete(self, container_id: str, ifname: str) -> None:
        """Detach; nothing to do is success."""
        async with self._one_at_a_time(attachment_name(container_id, ifname)):
            existing = self._find(container_id, ifname)
            if existing is not None:
                await self._remove(existing)
            elif ifname != PROCESS_IFNAME:
                await self._in_thread(self._plumbing.delete, host_ifname(container_id, ifname))

    async def check(self, request: CniRequest) -> None:
        """Raise, saying what differs, unless all that ADD made is as it was made."""
        endpoint = self._find(request.container_id, request.ifname)
        if endpoint is None:
            raise NotFound(f"no endpoint for container {request.container_id} interface {request.ifname}")
        differences = await self._in_thread(self._plumbing.check, endpoint)
        differences += self._loop.differences(endpoint)
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
            async with self._one_at_a_time(suspect.attachment):
                endpoint = self._find(suspect.container_id, suspect.ifname)
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
        return time.monotonic() - self._last_call_s

    # == what changes while they live ==

    def all(self) -> list[Endpoint]:
        """Every endpoint, by id."""
        snapshot = self._intent.db.snapshot()
        return sorted(snapshot.all(self._intent.endpoints), key=lambda endpoint: endpoint.endpoint_id)

    async def refresh_labels(self) -> bool:
        """Give every endpoint the identity that belongs to its labels as they are now.

        Another one if the labels of its pod or namespace changed, or if the cluster has another number for them: the
        lowest of several, one in place of this node's own, a new one if it was lost. Whether nothing is left to do.
        """
        announced = {subject.labels for _, subject in self._to_relabel()}
        if await self._identities.announce(announced):
            # Until they have heard of an identity the other nodes drop what is sent with it.
            await asyncio.sleep(self._identity_change_grace_s)
        for endpoint, subject in self._to_relabel():
            if subject.labels in announced:  # what changed meanwhile has its own turn
                await self._become(endpoint, subject)
        self._identities.drop_unused()
        return all(
            self._identities.known(endpoint.labels) == endpoint.sec_identity
            for endpoint in self.all()
            if endpoint.labels and not endpoint.state.is_leaving
        )

    def _to_relabel(self) -> list[tuple[Endpoint, Subject]]:
        """Endpoints that should have another identity or call their ports otherwise, with what they are to be."""
        found = []
        snapshot = self._intent.db.snapshot()
        for endpoint in self.all():
            if endpoint.state.is_leaving:
                continue
            pod = snapshot.get(self._intent.pods, ResourceKey("Pod", endpoint.namespace, endpoint.pod_name))
            subject = (
                self._labelling.subject_of(pod) if pod is not None and not endpoint.is_process else endpoint.subject
            )
            known = self._identities.known(subject.labels)
            if subject.labels and (subject, known) != (endpoint.subject, endpoint.sec_identity):
                found.append((endpoint, subject))
        return found

    async def _relabel(self, endpoint: Endpoint, labels: Labels) -> None:
        current = self._find(endpoint.container_id, endpoint.ifname)
        if current is not None:
            await self._become(current, Subject(labels, current.named_ports))

    async def _become(self, endpoint: Endpoint, subject: Subject) -> None:
        """Give the endpoint these labels and names of ports, if it is still there."""
        labels, ports = subject
        async with self._one_at_a_time(endpoint.attachment):
            number = await self._identities.number_for(labels)
            current = self._find(endpoint.container_id, endpoint.ifname)
            if current is None:
                return
            if labels == current.labels and current.sec_identity and is_node_local(number):
                # The store is away: what others know it by is better than what only we do.
                number = current.sec_identity
            if (subject, number) == (current.subject, current.sec_identity):
                return
            changed = advance(replace(current, labels=labels, named_ports=ports), EndpointEvent.LABELS_CHANGED)
            changed = advance(replace(changed, sec_identity=number), EndpointEvent.IDENTITY_KNOWN)
            self._insert(changed)
            self._files.save(self._realize(changed))

    # == after a restart ==

    async def restore(self, found: Found[Endpoint], remembered: Mapping[int, KernelMemory]) -> None:
        """Take up the endpoints that an earlier agent left, before the first control round.

        `found` is what its files say; an interface that no file speaks of any more is taken up by what the kernel
        remembers of it, and removed only if that is nothing.
        """
        for why in found.damaged:
            log.error("endpoint file is damaged", reason=why)
        for endpoint in found.items:
            if endpoint.is_health:
                # Its namespace ended with the agent that held it; what is still there of it is on its way out.
                await self._in_thread(self._plumbing.delete, endpoint.host_ifname)
                self._files.remove(endpoint.endpoint_id)
                continue
            if not endpoint.is_process and not await self._in_thread(self._plumbing.exists, endpoint):
                log.info("endpoint is gone", endpoint=str(endpoint))
                self._files.remove(endpoint.endpoint_id)
                continue
            self.take_up(restored(endpoint))
        known = {endpoint.host_ifname for endpoint in self.all()}
        for link in await self._in_thread(self._plumbing.pod_interfaces):
            if link.name in known:
                continue
            memory = remembered.get(link.ifindex)
            of_health = link.attachment == attachment_name(HEALTH_CONTAINER, HEALTH_IFNAME)
            if memory is None or not link.attachment or of_health:
                log.info("interface that nobody remembers is removed", interface=link.name)
                await self._in_thread(self._plumbing.delete, link.name)
                continue
            endpoint = endpoint_memory.of_kernel(link, memory, self._plumbing.pod_mtu_bytes)
            log.warning("endpoint taken up as the kernel remembers it", endpoint=str(endpoint))
            self.take_up(endpoint)

    def take_up(self, endpoint: Endpoint) -> None:
        """One that an earlier agent left, with its id and its addresses."""
        try:
            self.ids.claim(endpoint.endpoint_id, endpoint.attachment)
            self.ipam.claim(endpoint.attachment, Addresses(endpoint.ipv4, endpoint.ipv6))
        except EndpointConflict as error:
            self.ids.release(endpoint.endpoint_id)
            log.error("endpoint cannot be taken up", endpoint=str(endpoint), reason=str(error))  # noqa: TRY400
            return
        self._insert(endpoint)

    async def settle_restored(self) -> None:
        """Once the sources are synced: identities for what was restored. What cannot be settled stays as it was."""
        for nameless in self.all():
            endpoint = nameless if nameless.labels else await self._named(nameless)
            key = ResourceKey("Pod", endpoint.namespace, endpoint.pod_name)
            pod = self._intent.db.snapshot().get(self._intent.pods, key)
            of_pod = self._labelling.subject_of(pod) if pod is not None and not endpoint.is_process else None
            labels, ports = of_pod or endpoint.subject
            try:
                number = await self._identities.number_for(labels)
            except CiliumError as error:
                log.warning("endpoint keeps its identity", endpoint=str(endpoint), reason=str(error))
                continue
            changed = replace(endpoint, labels=labels, named_ports=ports, sec_identity=number)
            self._insert(advance(changed, EndpointEvent.IDENTITY_KNOWN))
            if endpoint is not nameless:
                self._files.save(changed)
            if pod is None and not endpoint.is_process and not self._labelling.has_labels_of_its_own(changed):
                self._late_labels.expect(changed)

    async def _named(self, endpoint: Endpoint) -> Endpoint:
        published: Sequence[CiliumEndpoint] = ()
        with contextlib.suppress(StoreError):
            published = (await self._store.list(CiliumEndpoint)).items
        identity = self._intent.db.snapshot().get(self._intent.identities, endpoint.sec_identity)
        return endpoint_memory.named(endpoint, identity, published)

    # == the steps ==

    async def _create(self, request: CniRequest, workload: Workload) -> Endpoint:
        owner = attachment_name(request.container_id, request.ifname)
        is_pod, host_ports = request.container_id != HEALTH_CONTAINER, request.host_ports
        async with contextlib.AsyncExitStack() as undo:
            addresses = self._allocated(owner, is_pod=is_pod)
            undo.callback(self.ipam.release, owner)
            endpoint_id = self.ids.allocate(owner)
            undo.callback(self.ids.release, endpoint_id)
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
            undo.callback(self._forget, endpoint)
            self._insert(advance(endpoint, EndpointEvent.IDENTITY_KNOWN))
            ready = self._realize(endpoint)
            self._files.save(ready)
            undo.pop_all()
            return ready

    async def _create_process(self, wanted: Workload, cgroup: str, cgroup_id: int) -> Endpoint:
        container_id = process_container_id(wanted.namespace, wanted.name)
        owner = attachment_name(container_id, PROCESS_IFNAME)
        async with contextlib.AsyncExitStack() as undo:
            sec_identity = await self._identities.number_for(wanted.labels)
            endpoint_id = self.ids.allocate(owner)
            undo.callback(self.ids.release, endpoint_id)
            endpoint = replace(
                nameless_process(endpoint_id, cgroup, cgroup_id, sec_identity),
                container_id=container_id,
                pod_name=wanted.name,
                namespace=wanted.namespace,
                labels=wanted.labels,
            )
            undo.callback(self._forget, endpoint)
            self._insert(advance(endpoint, EndpointEvent.IDENTITY_KNOWN))
            made = self._realize(endpoint)
            self._files.save(made)
            undo.pop_all()
            return made

    def _allocated(self, owner: str, *, is_pod: bool) -> Addresses:
        try:
            addresses = self.ipam.allocate(owner) if is_pod else self.ipam.allocate_last(owner)
        except IpamExhausted as error:
            log.warning("no address for an endpoint", attachment=owner, reason=str(error))
            if not self._is_exhausted:
                self._is_exhausted = True
                self.pool_exhausted(str(error))
            raise
        self._is_exhausted = False
        return addresses

    def _realize(self, endpoint: Endpoint) -> Endpoint:
        """Run a round and return the endpoint as it is then; DatapathError if the kernel refused part of it."""
        self._loop.run_now()
        now = self._find(endpoint.container_id, endpoint.ifname)
        assert now is not None
        differences = self._loop.differences(now) if not now.is_process or now.cgroup_id else []
        if differences:
            raise DatapathError(f"{now}: {'; '.join(differences)}")
        return now

    def _forget(self, endpoint: Endpoint) -> None:
        with self._intent.db.write() as txn:
            txn.delete(self._intent.endpoints, endpoint.endpoint_id)
        self._loop.run_now()
        self._files.remove(endpoint.endpoint_id)

    async def _remove(self, endpoint: Endpoint) -> None:
        # The device takes its program along at once; detaching it first would cost a grace period of the kernel.
        if not endpoint.is_process:
            await self._in_thread(self._plumbing.delete, endpoint.host_ifname)
        self._forget(endpoint)
        self._release(endpoint)

    def _release(self, endpoint: Endpoint) -> None:
        self._files.remove(endpoint.endpoint_id)
        self.ipam.release(endpoint.attachment)
        self.ids.release(endpoint.endpoint_id)

    async def _is_intact(self, endpoint: Endpoint) -> bool:
        try:
            return not await self._in_thread(self._plumbing.check, endpoint)
        except CiliumError:
            return False

    def _find(self, container_id: str, ifname: str) -> Endpoint | None:
        found = self._intent.db.snapshot().by(self._intent.endpoints, "container", (container_id, ifname))
        return next(iter(found), None)

    def _insert(self, endpoint: Endpoint) -> None:
        with self._intent.db.write() as txn:
            txn.insert(self._intent.endpoints, endpoint)

    def _result(self, endpoint: Endpoint) -> CniResult:
        return views.cni_result(endpoint, self._plumbing.gateways)

    @contextlib.asynccontextmanager
    async def _one_at_a_time(self, owner: str) -> AsyncIterator[None]:
        self._last_call_s = time.monotonic()
        self._callers[owner] += 1
        try:
            async with self._locks[owner]:
                yield
        finally:
            self._last_call_s = time.monotonic()
            self._callers[owner] -= 1
            if not self._callers[owner]:
                del self._callers[owner], self._locks[owner]

    async def _in_thread(self, function: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)

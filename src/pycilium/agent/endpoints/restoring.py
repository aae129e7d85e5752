"""What an earlier agent left of endpoints: taken up before the first control round, settled once sources are read.

Files say what there was, and the kernel what is still there; where a file is lost, the kernel's own memory and the
store stand in for it. Nothing that carries traffic is removed as long as anybody remembers it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import structlog

from pycilium.agent.earlier_agent import KernelMemory
from pycilium.agent.endpoints import memory as endpoint_memory
from pycilium.agent.endpoints.files import Found
from pycilium.agent.endpoints.identities import Identities
from pycilium.agent.endpoints.labelling import PodLabelling
from pycilium.agent.endpoints.late_labels import LateLabels
from pycilium.agent.endpoints.register import EndpointRegister
from pycilium.agent.endpoints.turns import Turns
from pycilium.agent.intent import Intent
from pycilium.agent.plumbing import Plumbing, PodLink
from pycilium.endpoint import EndpointEvent, advance, restored
from pycilium.errors import CiliumError, StoreError
from pycilium.model.endpoint import HEALTH_CONTAINER, HEALTH_IFNAME, Endpoint, attachment_name
from pycilium.model.resources import CiliumEndpoint
from pycilium.store import Store

log = structlog.get_logger()
_HEALTH = attachment_name(HEALTH_CONTAINER, HEALTH_IFNAME)


class Restoring:
    """Of one node, once after each start: `take_up`, and then `settle`."""

    def __init__(
        self,
        intent: Intent,
        store: Store,
        register: EndpointRegister,
        identities: Identities,
        plumbing: Plumbing,
        labelling: PodLabelling,
        late_labels: LateLabels,
        turns: Turns,
    ) -> None:
        self._intent, self._store, self._register, self._identities = intent, store, register, identities
        self._plumbing, self._labelling, self._late_labels, self._turns = plumbing, labelling, late_labels, turns

    async def take_up(self, found: Found[Endpoint], remembered: Mapping[int, KernelMemory]) -> None:
        """`found` is what the files say, `remembered` what the kernel does, by interface.

        An interface that no file speaks of is taken up as the kernel remembers it, and removed only if it does not.
        """
        for why in found.damaged:
            log.error("endpoint file is damaged", reason=why)
        for endpoint in found.items:
            await self._take_up_as_its_file_says(endpoint)
        known = {endpoint.host_ifname for endpoint in self._register.all()}
        for link in await asyncio.to_thread(self._plumbing.pod_interfaces):
            if link.name not in known:
                await self._take_up_as_remembered(link, remembered.get(link.ifindex))

    async def _take_up_as_its_file_says(self, endpoint: Endpoint) -> None:
        if endpoint.is_health:
            # Its namespace ended with the agent that held it; what is still there of it is on its way out.
            await asyncio.to_thread(self._plumbing.delete, endpoint.host_ifname)
            self._register.drop_file(endpoint)
        elif not endpoint.is_process and not await asyncio.to_thread(self._plumbing.exists, endpoint):
            log.info("endpoint is gone", endpoint=str(endpoint))
            self._register.drop_file(endpoint)
        else:
            self._register.take_up(restored(endpoint))

    async def _take_up_as_remembered(self, link: PodLink, memory: KernelMemory | None) -> None:
        if memory is None or not link.attachment or link.attachment == _HEALTH:
            log.info("interface that nobody remembers is removed", interface=link.name)
            await asyncio.to_thread(self._plumbing.delete, link.name)
            return
        endpoint = endpoint_memory.of_kernel(link, memory, self._plumbing.pod_mtu_bytes)
        log.warning("endpoint taken up as the kernel remembers it", endpoint=str(endpoint))
        self._register.take_up(endpoint)

    async def settle(self) -> None:
        """Once the sources are synced: identities for what was taken up. What cannot be settled stays as it was."""
        for each in self._register.all():
            async with self._turns.of(each.attachment):
                endpoint = self._register.find(each.container_id, each.ifname)
                if endpoint is not None:
                    await self._settle(endpoint)

    async def _settle(self, found: Endpoint) -> None:
        endpoint = found if found.labels else await self._named(found)
        pod = self._labelling.pod_of(endpoint)
        labels, ports = self._labelling.subject_of(pod) if pod is not None else endpoint.subject
        try:
            number = await self._identities.number_for(labels)
        except CiliumError as error:
            log.warning("endpoint keeps its identity", endpoint=str(endpoint), reason=str(error))
            return
        changed = replace(endpoint, labels=labels, named_ports=ports, sec_identity=number)
        self._register.put(advance(changed, EndpointEvent.IDENTITY_KNOWN))
        if endpoint is not found:
            self._register.save(changed)
        if pod is None and not endpoint.is_process and not self._labelling.has_labels_of_its_own(changed):
            self._late_labels.expect(changed)

    async def _named(self, endpoint: Endpoint) -> Endpoint:
        published: Sequence[CiliumEndpoint] = ()
        with contextlib.suppress(StoreError):
            published = (await self._store.list(CiliumEndpoint)).items
        identity = self._intent.db.snapshot().get(self._intent.identities, endpoint.sec_identity)
        return endpoint_memory.named(endpoint, identity, published)

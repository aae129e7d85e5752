"""The last step of an agent's start, once every source has been read; from then on it keeps up."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Sequence
from typing import Any

import structlog

from pycilium.agent.config import AgentConfig
from pycilium.agent.deadman import Deadman
from pycilium.agent.endpoints.files import queued_deletes
from pycilium.agent.endpoints.lifecycle import Endpoints
from pycilium.agent.endpoints.publishing import Publisher
from pycilium.agent.endpoints.relabelling import Relabelling
from pycilium.agent.endpoints.restoring import Restoring
from pycilium.agent.following import follow_labels
from pycilium.agent.health.node import NodeHealth
from pycilium.agent.intent import Intent
from pycilium.agent.loop import ControlLoop
from pycilium.agent.nodes.heartbeat import Heartbeat
from pycilium.agent.nodes.kubernetes_node import announce_node
from pycilium.agent.nodes.publishing import NodePublisher
from pycilium.agent.runtimes.cni_folder import CniFolder
from pycilium.agent.runtimes.docker_network import DockerNetwork
from pycilium.agent.services.node import NodeServices
from pycilium.agent.sources import Source
from pycilium.datapath import process
from pycilium.hubble.server import HubbleServer
from pycilium.model.resources import CiliumEndpoint, CiliumEndpointSlice

log = structlog.get_logger()


async def become_ready(
    config: AgentConfig,
    intent: Intent,
    sources: list[Source[Any, Any]],
    endpoints: Endpoints,
    restoring: Restoring,
    relabelling: Relabelling,
    control: ControlLoop,
    hubble: HubbleServer,
    store: Any,
    node: NodePublisher,
    health: NodeHealth,
    deadman: Deadman,
    node_services: NodeServices | None,
    cni: CniFolder | None,
    dockers: Sequence[DockerNetwork],
    started: float,
) -> None:
    """Once every source has been read: settle what was restored, let the kernel follow, then keep up with labels."""
    await asyncio.gather(deadman.note(), *(source.synced.wait() for source in sources))
    await restoring.settle()
    control.open()
    queue = queued_deletes(config.run_dir)
    for why in queue.damaged:
        log.error("queued detach request is damaged", reason=why)
    for queued in queue.items:
        await endpoints.delete(queued.request.container_id, queued.request.ifname)
        queued.done()
    hubble.agent_events.agent_started(time.time_ns())
    # What is there now stays: it is never looked through again, which would stop everything for up to half a second.
    gc.freeze()
    gc.enable()
    process.return_free_memory()
    log.info("ready", node=config.node_name, seconds=round(time.monotonic() - started, 3))
    publisher = Publisher(config, intent, store, hubble.agent_events, node)
    for source in sources:
        if source.kind in (CiliumEndpoint, CiliumEndpointSlice):
            source.listed = publisher.endpoints_listed
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(node.run(), name="node")
        if cni is not None:
            tasks.create_task(cni.run(), name="CNI folder")
        if config.kubernetes_node:
            tasks.create_task(_announce(config, cni), name="Node")
        for docker in dockers:
            tasks.create_task(docker.run(), name="Docker")
        tasks.create_task(publisher.run(), name="publisher")
        tasks.create_task(follow_labels(intent, relabelling), name="labels")
        tasks.create_task(health.run(), name="health")
        await node.published.wait()  # until then the name, and its leases, may be another machine's
        if node_services is not None:
            tasks.create_task(node_services.run(), name="services")
        heartbeat = Heartbeat(
            store,
            config.node_name,
            config.node_lease_duration_s,
            lambda: any(True for _ in intent.db.snapshot().all(intent.own_node)),
            publisher.publish_again,
            renew=not config.kubernetes_node,
        )
        tasks.create_task(heartbeat.run(), name="heartbeat")


async def _announce(config: AgentConfig, cni: CniFolder | None) -> None:
    """Pods may come once the runtime knows whom to call."""
    if cni is not None:
        await cni.in_place.wait()
    await announce_node(config)

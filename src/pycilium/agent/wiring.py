"""How one node's agent is put together. Read it from top to bottom: that is also the order of its start.

      store ──► sources ──► intent tables ──► control loop ──► kernel
      CNI plugin ──► API ──► endpoints ──┘         │
      kernel's ring ──► ingestion ──► flow store ──┴──► Hubble

Nothing is programmed before every source has been read once, so that a restart never takes an empty intent for the
truth; the kernel goes on with what the agent before left. The end is the reverse of the start and takes nothing from
the kernel.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from functools import partial
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any

import structlog

from pycilium import __version__
from pycilium.agent.config import AgentConfig, node_ports, serves_all
from pycilium.agent.controller import Controller
from pycilium.agent.deadman import Deadman
from pycilium.agent.earlier_agent import (
    discard_unreferenced,
    kernel_memory,
    newest_admitted,
    node_local_in_use,
    numbers_in_use,
    processes_in_kernel,
)
from pycilium.agent.endpoints.files import EndpointFiles
from pycilium.agent.endpoints.identities import Identities, insert_reserved
from pycilium.agent.endpoints.labelling import PodLabelling
from pycilium.agent.endpoints.late_labels import LateLabels
from pycilium.agent.endpoints.lifecycle import Endpoints
from pycilium.agent.endpoints.processes import Processes
from pycilium.agent.endpoints.register import EndpointRegister
from pycilium.agent.endpoints.relabelling import Relabelling
from pycilium.agent.endpoints.restoring import Restoring
from pycilium.agent.explaining import Explainer, Rules
from pycilium.agent.flows import FlowIngestion, Names
from pycilium.agent.following import (
    follow_addresses,
    follow_links,
    read_addresses,
    settle_links,
)
from pycilium.agent.health.node import NodeHealth, probed_nodes
from pycilium.agent.health.port import health_port
from pycilium.agent.health.probing import Probes
from pycilium.agent.intent import Intent
from pycilium.agent.lifelines import lifelines
from pycilium.agent.link_operations import LinkOperations
from pycilium.agent.loop import ControlLoop
from pycilium.agent.map_collection import collect_connections
from pycilium.agent.map_fill import MapFill
from pycilium.agent.masquerade import Masquerade
from pycilium.agent.node_datapath import (
    ROOM_FOR_RESTART,
    attach_mode,
    cluster_settings,
    datapath_config,
    desire_node_links,
    desire_sock_links,
    make_services,
    refuse_other_addresses,
)
from pycilium.agent.nodes import cidrs as node_cidrs
from pycilium.agent.nodes.operator_lease import OperatorLease
from pycilium.agent.nodes.publishing import NodePublisher
from pycilium.agent.parts import Parts
from pycilium.agent.plumbing import Plumbing
from pycilium.agent.readiness import become_ready
from pycilium.agent.route_operations import RouteOperations
from pycilium.agent.runtime_config import write_runtime_config
from pycilium.agent.runtimes import Runtimes, open_runtimes
from pycilium.agent.runtimes.cni_folder import make_cni_folder
from pycilium.agent.runtimes.docker import Docker
from pycilium.agent.runtimes.docker_network import DockerNetwork
from pycilium.agent.service import Service
from pycilium.agent.services.acceleration import acceleration_of, desire_acceleration
from pycilium.agent.services.controller import tell_all
from pycilium.agent.services.l2_announcements import make_target
from pycilium.agent.services.memory import ServiceMemory, end_sockets_in, forget_in
from pycilium.agent.services.names import ServiceNames
from pycilium.agent.services.node import NodeServices
from pycilium.agent.services.socket_flows import SocketOwners
from pycilium.agent.source_kinds import make_sources
from pycilium.agent.targets import make_targets
from pycilium.api.server import ApiServer
from pycilium.datapath import features, loader, netns, reserved_ports
from pycilium.datapath.echo import Echo
from pycilium.datapath.events import EventReader
from pycilium.hubble.agent_events import AgentEventLog
from pycilium.hubble.directories import Directories, KernelInterfaces
from pycilium.hubble.server import HubbleServer
from pycilium.hubble.store import FlowStore
from pycilium.ipam import HostScope
from pycilium.model.resources import Pod, ResourceKey
from pycilium.policy import PolicyEngine
from pycilium.policy.builtin import HEALTH_POLICY
from pycilium.store import Selection, open_store

log = structlog.get_logger()


async def run(config: AgentConfig, stop: asyncio.Event) -> None:
    """Be the agent until `stop` is set. Raises what keeps it from starting."""
    started = time.monotonic()
    features.require()
    async with contextlib.AsyncExitStack() as ending:
        os.makedirs(config.run_dir, exist_ok=True)
        store = open_store(config.store, only={Pod: Selection(f"spec.nodeName={config.node_name}")})
        ending.push_async_callback(store.close)
        config = await node_cidrs.settled(config, store, stop)
        if stop.is_set():
            return

        # The node: its gateway, and programs and maps in the kernel.
        ipam = HostScope(
            IPv4Network(config.ipv4_pod_cidr) if config.ipv4_pod_cidr else None,
            IPv6Network(config.ipv6_pod_cidr) if config.ipv6_pod_cidr else None,
        )
        plumbing = Plumbing(config, ipam.ipv4.gateway if ipam.ipv4 else None, ipam.ipv6.gateway if ipam.ipv6 else None)
        write_runtime_config(config)
        files = EndpointFiles(config.run_dir)
        found = files.load()
        refuse_other_addresses(config, plumbing, found.items)
        devices = plumbing.devices()
        gateway = plumbing.make_gateway()
        for change in gateway.changes:
            log.info("setting of the node changed", change=change)
        overlay_ifindex = plumbing.make_overlay()
        if serves_all(config) and (change := reserved_ports.reserve(node_ports(config.node_port_range))):
            log.info("setting of the node changed", change=change)
        datapath = ending.enter_context(loader.load(datapath_config(config, plumbing, gateway, overlay_ifindex)))
        for lost in datapath.moved.lost:
            log.warning("entries of an earlier agent are lost", what=str(lost))
        attached = LinkOperations(datapath, config.bpf_root, config.attach_mode)
        targets = make_targets(datapath, attached, RouteOperations(), with_services=config.services)
        targets.stages.resync()
        discard_unreferenced(targets, started)
        remembered, remembered_processes = kernel_memory(targets), processes_in_kernel(targets)

        # Intent and what follows from it.
        intent = Intent.new()
        insert_reserved(intent)
        with intent.db.write() as txn:
            txn.insert(intent.policies, HEALTH_POLICY)
        engine = PolicyEngine(
            numbers_in_use(targets, newest_admitted(datapath)),
            allow_localhost=config.allow_localhost == "always",
            cidr_matches_pods=config.cidr_matches == "all",
            max_policies=ROOM_FOR_RESTART * config.policy_capacity,
        )
        desire_node_links(devices, targets, gateway, overlay_ifindex)
        desire_acceleration(config, devices, targets.links)
        desire_sock_links(config, targets)
        if serves_all(config) and config.cgroup_root is None:
            log.warning("the node's own processes do not reach Services: cgroup_root is not set")
        masquerade = Masquerade(config, intent, targets.masquerade, devices)
        services = make_services(config, intent, targets)
        controller = Controller(intent, engine, targets, cluster_settings(config, plumbing), services)
        controller.pod_cidrs_decided = masquerade.except_pod_cidrs
        control = ControlLoop(intent, controller)
        identities = Identities(store, intent, node_local_in_use(targets))
        opened = open_runtimes(config.container_runtimes)
        runtimes = Runtimes(opened)
        ending.push_async_callback(runtimes.close)
        register = EndpointRegister(intent, files, control, ipam)
        is_shared = not config.store.startswith("sqlite:")
        labelling = PodLabelling(intent, store, config.cluster_name, runtimes, is_shared=is_shared)
        relabelling = Relabelling(register, identities, labelling, config.identity_change_grace_period_s)
        late_labels = LateLabels(labelling, relabelling.relabel)
        endpoints = Endpoints(register, identities, plumbing, labelling, relabelling, late_labels)
        restoring = Restoring(intent, store, register, identities, plumbing, labelling, late_labels, relabelling.turns)
        processes = Processes(endpoints, controller.processes, attached.has_sockets)

        dockers = [DockerNetwork(each, endpoints, runtimes.problems) for each in opened if isinstance(each, Docker)]
        node = NodePublisher(config, intent, store, plumbing.boot_id())

        # Health.
        echo = Echo.open()
        ending.callback(echo.close)
        health = NodeHealth(config, endpoints, lambda: probed_nodes(config, intent), Probes(echo))
        intent.db.on_commit(
            lambda tables: health.prober.nodes_changed() if tables & {"nodes", "host-addresses"} else None
        )

        # Flows.
        names = Names(intent, config.cluster_name, controller.cluster.endpoints)
        intent.db.on_commit(names.committed)
        control.before_round = names.before_round
        control.after_round = names.refresh_remote
        flows = FlowStore(config.flow_capacity, names.endpoints)
        explainer = Explainer(intent, engine, plumbing.gateways, controller.cluster)
        rules = Rules(intent, engine, explainer)
        agent_events = AgentEventLog()
        service_names = ServiceNames(agent_events)
        directories = Directories(names.endpoints, names.identities, rules, KernelInterfaces(), service_names.table)
        hubble = HubbleServer(
            flows,
            directories,
            config.node_name,
            f"pycilium v{__version__}",
            cluster_name=config.cluster_name,
            agent_events=agent_events,
        )
        reader = ending.enter_context(EventReader.of(datapath))
        register.pool_exhausted = lambda said: hubble.agent_events.pool_exhausted(time.time_ns(), said)
        owners = SocketOwners(lambda: intent.db.snapshot().all(intent.endpoints), netns.own_cookie())
        ingestion = FlowIngestion(reader, flows, hubble.notify, owners.owners)
        names.before_change = service_names.before_change = ingestion.drain
        memory = ServiceMemory(
            forget_in(datapath),
            end_sockets=end_sockets_in(datapath, intent),
            still_gone=services.still_gone if services is not None else list,
        )
        fill = MapFill(datapath.sizes())
        node_services = None
        if services is not None:
            services.on_change, services.on_left = service_names.changed, memory.left
        if services is not None and config.kube_proxy_replacement:
            node_services = NodeServices(
                config, intent, store, devices, make_target(datapath.map), services.catalogue.backends_here
            )
            services.on_change = tell_all(service_names.changed, node_services.frontends_changed)
            node_services.ports.found = lambda said: hubble.agent_events.node_port_taken(time.time_ns(), said)

        # What guards the node against us.
        def given_up(link: str, said: str) -> None:
            targets.links.desired_delete(link)
            control.run_now()
            hubble.agent_events.attachment_rolled_back(time.time_ns(), said)

        def tried_again() -> None:
            desire_node_links(devices, targets, gateway, overlay_ifindex)
            desire_acceleration(config, devices, targets.links)
            control.run_now()

        checks = lifelines(config, store, echo, devices)
        deadman = Deadman(checks, attached, config.deadman_window_s, given_up, tried_again)

        # Who asks.
        resources: dict[ResourceKey, Any] = {}
        sources = make_sources(intent, resources, identities.marks, config)
        cni = make_cni_folder(config)
        operator_lease = OperatorLease(store, config.operator_lease_name, needed=config.ipam == "cluster-pool")
        service = Service(
            Parts(
                config=config,
                attach_mode=attach_mode(config),
                acceleration=partial(acceleration_of, config, devices, attached),
                intent=intent,
                sources=sources,
                controller=controller,
                loop=control,
                endpoints=endpoints,
                processes=processes,
                plumbing=plumbing,
                node=node,
                datapath=datapath,
                flows=flows,
                ingestion=ingestion,
                explainer=explainer,
                health=health,
                operator_lease=operator_lease,
                cni=cni,
                deadman=deadman,
                sizes=datapath.sizes(),
                fill=fill,
                node_services=node_services,
                resources=resources,
            )
        )
        api = ApiServer.of_agent(service, str(Path(config.run_dir) / "cilium.sock"))
        health_api = ApiServer.of_health(service, str(Path(config.run_dir) / "health.sock"))

        # The start.
        if config.health_port is not None:
            healthz = health_port(config.health_port, lambda: control.is_open, ipv4=config.ipv4_pod_cidr is not None)
            await healthz.start()
            ending.push_async_callback(healthz.stop)
        await read_addresses(intent, plumbing)
        await restoring.take_up(found, remembered)
        processes.restore(remembered_processes)
        await api.start()
        ending.push_async_callback(api.stop)
        await health_api.start()
        ending.push_async_callback(health_api.stop)
        await hubble.start(str(Path(config.run_dir) / "hubble.sock"), config.hubble_listen)
        ending.push_async_callback(hubble.stop)
        ingestion.start()
        ending.callback(ingestion.stop)
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(source.run(store, intent.db), name=source.kind.__name__) for source in sources]
            running.append(tasks.create_task(follow_addresses(intent, plumbing, control), name="addresses"))
            running.append(tasks.create_task(processes.run(), name="processes"))
            running.append(tasks.create_task(settle_links(attached, endpoints), name="links"))
            running.append(tasks.create_task(operator_lease.run(), name="operator lease"))
            running.append(tasks.create_task(deadman.run(), name="deadman"))
            running.append(
                tasks.create_task(
                    follow_links(endpoints, node_services.changed if node_services else lambda: None), name="vanished"
                )
            )
            running.append(tasks.create_task(identities.marks.run(), name="marks"))
            running.append(tasks.create_task(memory.run(), name="memory of services"))
            running.append(tasks.create_task(collect_connections(datapath, services, fill), name="conntrack"))
            ready = tasks.create_task(
                become_ready(
                    config,
                    intent,
                    sources,
                    endpoints,
                    restoring,
                    relabelling,
                    control,
                    hubble,
                    store,
                    node,
                    health,
                    deadman,
                    node_services,
                    cni,
                    dockers,
                    started,
                ),
                name="ready",
            )
            await stop.wait()
            for task in (*running, ready):
                task.cancel()
        log.info("agent ends; the kernel goes on")

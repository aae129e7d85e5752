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
import gc
import os
import time
from collections.abc import Mapping, Sequence
from functools import partial
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Any

import structlog

from pycilium import __version__
from pycilium.agent import node_cidrs
from pycilium.agent.cluster import ClusterSettings
from pycilium.agent.config import AgentConfig, node_ports
from pycilium.agent.controller import Controller
from pycilium.agent.deadman import Deadman
from pycilium.agent.endpoint_files import EndpointFiles, queued_deletes
from pycilium.agent.endpoints import Endpoints
from pycilium.agent.explaining import Explainer, Rules
from pycilium.agent.flows import WAKEUP_NS, FlowIngestion, Names
from pycilium.agent.health import NodeHealth, probed_nodes
from pycilium.agent.heartbeat import Heartbeat
from pycilium.agent.identities import Identities, insert_reserved, is_cluster_identity
from pycilium.agent.identity_marks import IdentityMarks
from pycilium.agent.intent import Intent
from pycilium.agent.lifelines import lifelines
from pycilium.agent.link_operations import LinkOperations, LinkTarget, sock_targets
from pycilium.agent.loop import ControlLoop
from pycilium.agent.masquerade import Masquerade
from pycilium.agent.node_publishing import NodePublisher
from pycilium.agent.operator_lease import OperatorLease
from pycilium.agent.parts import Parts
from pycilium.agent.plumbing import Plumbing
from pycilium.agent.probing import Probes
from pycilium.agent.publishing import Publisher
from pycilium.agent.route_operations import RouteOperations
from pycilium.agent.service import Service
from pycilium.agent.sources import RETRY_FIRST_S, RETRY_MOST_S, Source, retry_delay_s
from pycilium.agent.targets import (
    Targets,
    discard_unreferenced,
    kernel_memory,
    make_targets,
    node_local_in_use,
    numbers_in_use,
)
from pycilium.api.server import ApiServer
from pycilium.datapath import (
    cgroup_links,
    conntrack,
    features,
    layouts,
    links,
    loader,
    nat,
    netlink,
    netns,
    overlay_device,
    process,
    reserved_ports,
    service_flows,
)
from pycilium.datapath.echo import Echo
from pycilium.datapath.events import EventReader
from pycilium.datapath.gateway_device import HOST_NAME, Gateway
from pycilium.datapath.links import Hook
from pycilium.errors import CiliumError, ConfigError
from pycilium.hubble.directories import Directories, KernelInterfaces
from pycilium.hubble.server import HubbleServer
from pycilium.hubble.store import FlowStore
from pycilium.ipam import HostScope
from pycilium.model.endpoint import Endpoint
from pycilium.model.identity import cluster_identity_number
from pycilium.model.node import Node, node_of
from pycilium.model.policy import Policy
from pycilium.model.remote_endpoint import remote_endpoint_of
from pycilium.model.resources import (
    CiliumClusterwideNetworkPolicy,
    CiliumEndpoint,
    CiliumIdentity,
    CiliumNetworkPolicy,
    CiliumNode,
    Namespace,
    NetworkPolicy,
    Pod,
    ResourceKey,
)
from pycilium.policy import PolicyEngine, parse_policy
from pycilium.policy.builtin import HEALTH_POLICY
from pycilium.store import open_store

log = structlog.get_logger()

POLICY_KINDS = (NetworkPolicy, CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy)
CONNTRACK_INTERVAL_S = 30.0
QUIET_S = 2.0
VANISHED_AFTER_S = 1.0
ROOM_FOR_RESTART = 2
"""A restarted agent writes all policy under new numbers before it removes the old: the maps hold both."""
ENTRIES_PER_FLOW = 2
"""Of a masqueraded one."""
NEWS_BYTES = 1 << 16


async def run(config: AgentConfig, stop: asyncio.Event) -> None:
    """Be the agent until `stop` is set. Raises what keeps it from starting."""
    started = time.monotonic()
    features.require()
    async with contextlib.AsyncExitStack() as ending:
        os.makedirs(config.run_dir, exist_ok=True)
        store = open_store(config.store)
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
        files = EndpointFiles(config.run_dir)
        found = files.load()
        refuse_other_addresses(config, plumbing, found.items)
        devices = plumbing.devices()
        gateway = plumbing.make_gateway()
        for change in gateway.changes:
            log.info("setting of the node changed", change=change)
        overlay_ifindex = plumbing.make_overlay()
        if config.services and (change := reserved_ports.reserve(node_ports(config.node_port_range))):
            log.info("setting of the node changed", change=change)
        datapath = ending.enter_context(loader.load(datapath_config(config, plumbing, gateway, overlay_ifindex)))
        attached = LinkOperations(datapath, config.bpf_root, config.attach_mode)
        targets = make_targets(datapath, attached, RouteOperations())
        targets.stages.resync()
        discard_unreferenced(targets, started)
        remembered = kernel_memory(targets)

        # Intent and what follows from it.
        intent = Intent.new()
        insert_reserved(intent)
        with intent.db.write() as txn:
            txn.insert(intent.policies, HEALTH_POLICY)
        engine = PolicyEngine(
            numbers_in_use(targets),
            allow_localhost=config.allow_localhost == "always",
            cidr_matches_pods=config.cidr_matches == "all",
            max_policies=ROOM_FOR_RESTART * config.policy_capacity,
        )
        desire_node_links(devices, targets, gateway, overlay_ifindex)
        masquerade = Masquerade(config, intent, targets.masquerade, devices)
        controller = Controller(intent, engine, targets, cluster_settings(config, plumbing))
        controller.pod_cidrs_decided = masquerade.except_pod_cidrs
        control = ControlLoop(intent, controller)
        identities = Identities(store, intent, node_local_in_use(targets))
        endpoints = Endpoints(config, intent, store, identities, plumbing, files, control, ipam)

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
        intent.db.on_commit(lambda _: names.refresh())
        control.after_round = names.refresh_remote
        flows = FlowStore(config.flow_capacity, names.endpoints)
        explainer = Explainer(intent, engine, plumbing.gateways, controller.cluster)
        rules = Rules(intent, engine, explainer)
        directories = Directories(names.endpoints, names.identities, rules, KernelInterfaces())
        hubble = HubbleServer(
            flows, directories, config.node_name, f"pycilium v{__version__}", cluster_name=config.cluster_name
        )
        reader = ending.enter_context(EventReader.of(datapath))
        endpoints.pool_exhausted = lambda said: hubble.agent_events.pool_exhausted(time.time_ns(), said)
        ingestion = FlowIngestion(reader, flows, hubble.notify)
        names.before_change = ingestion.drain

        # What guards the node against us.
        def given_up(link: str, said: str) -> None:
            targets.links.desired_delete(link)
            control.run_now()
            hubble.agent_events.attachment_rolled_back(time.time_ns(), said)

        checks = lifelines(config, store, echo, devices)
        deadman = Deadman(checks, attached, config.deadman_window_s, given_up)

        # Who asks.
        resources: dict[ResourceKey, Any] = {}
        sources = make_sources(intent, resources, identities.marks, config.cluster_name, config.node_name)
        operator_lease = OperatorLease(store, config.operator_lease_name, needed=config.ipam == "cluster-pool")
        service = Service(
            Parts(
                config=config,
                attach_mode=attach_mode(config),
                intent=intent,
                sources=sources,
                controller=controller,
                loop=control,
                endpoints=endpoints,
                plumbing=plumbing,
                node=node,
                datapath=datapath,
                flows=flows,
                ingestion=ingestion,
                explainer=explainer,
                health=health,
                operator_lease=operator_lease,
                deadman=deadman,
                sizes=datapath.sizes(),
                resources=resources,
            )
        )
        api = ApiServer.of_agent(service, str(Path(config.run_dir) / "cilium.sock"))
        health_api = ApiServer.of_health(service, str(Path(config.run_dir) / "health.sock"))

        # The start.
        await read_addresses(intent, plumbing)
        await endpoints.restore(found, remembered)
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
            running.append(tasks.create_task(settle_links(attached, endpoints), name="links"))
            running.append(tasks.create_task(operator_lease.run(), name="operator lease"))
            running.append(tasks.create_task(deadman.run(), name="deadman"))
            running.append(tasks.create_task(follow_links(endpoints), name="vanished"))
            running.append(tasks.create_task(identities.marks.run(), name="marks"))
            running.append(tasks.create_task(conntrack_collection(datapath), name="conntrack"))
            ready = tasks.create_task(
                become_ready(
                    config, intent, sources, endpoints, control, hubble, store, node, health, deadman, started
                ),
                name="ready",
            )
            await stop.wait()
            for task in (*running, ready):
                task.cancel()
        log.info("agent ends; the kernel goes on")


def refuse_other_addresses(config: AgentConfig, plumbing: Plumbing, endpoints: Sequence[Endpoint]) -> None:
    """ConfigError if pods run with addresses that the configured pod CIDRs do not hold: they would lose them."""
    cidrs: dict[int, Any] = {
        4: IPv4Network(config.ipv4_pod_cidr or "0.0.0.0/0"),
        6: IPv6Network(config.ipv6_pod_cidr or "::/0"),
    }
    for endpoint in endpoints:
        for address in () if endpoint.is_health else endpoint.addresses:
            if address not in cidrs[address.version] and plumbing.exists(endpoint):
                raise ConfigError(
                    f"ipv{address.version}_pod_cidr: {cidrs[address.version]} does not hold {address} of {endpoint}: "
                    "set the CIDR back, or remove the pods that have other addresses first"
                )


def datapath_config(
    config: AgentConfig, plumbing: Plumbing, gateway: Gateway, overlay_ifindex: int
) -> loader.DatapathConfig:
    """What the programs are loaded with on this node."""
    ipv4, ipv6 = plumbing.gateways.get(4), plumbing.gateways.get(6)
    return loader.DatapathConfig(
        bpf_root=config.bpf_root,
        constants=layouts.ProgramConfig(
            gateway_ipv4=int(ipv4) if ipv4 else 0,
            gateway_ipv6=ipv6.packed if ipv6 else bytes(16),
            host_ifindex=gateway.ifindex,
            host_mac=gateway.mac,
            aggregation=layouts.Aggregation[config.event_aggregation.upper()],
            report_interval_s=config.report_interval_s,
            event_wakeup_ns=WAKEUP_NS,
            masquerade=int(config.masquerade),
            overlay_ifindex=overlay_ifindex,
            tunnel_port=config.tunnel_port,
            services=int(config.services),
            host_netns_cookie=netns.own_cookie(),
            socket_host_only=int(config.socket_lb_host_only),
        ),
        map_entries={
            "events": config.event_ring_bytes,
            "ct4": config.conntrack_capacity,
            "ct6": config.conntrack_capacity,
            "nat4": ENTRIES_PER_FLOW * config.nat_capacity,
            "nat6": ENTRIES_PER_FLOW * config.nat_capacity,
            "endpoints4": config.endpoint_capacity,
            "endpoints6": config.endpoint_capacity,
            "ipcache4": config.ipcache_capacity,
            "ipcache6": config.ipcache_capacity,
            "nodes": config.node_capacity,
            "path_mtus": config.node_capacity,
            "identity_bits": ROOM_FOR_RESTART * config.identity_capacity,
            "policies": ROOM_FOR_RESTART * config.policy_capacity,
            "policy_rows": ROOM_FOR_RESTART * config.policy_row_capacity,
            "services4": config.service_capacity,
            "services6": config.service_capacity,
            "service_slots": config.service_slot_capacity,
            "backends": config.backend_capacity,
            "source_ranges4": config.source_range_capacity,
            "source_ranges6": config.source_range_capacity,
            "affinity": config.affinity_capacity,
            "service_flows4": config.service_flow_capacity,
            "service_flows6": config.service_flow_capacity,
            "socket_flows": config.socket_capacity,
        },
    )


def cluster_settings(config: AgentConfig, plumbing: Plumbing) -> ClusterSettings:
    """What this node's configuration says about the others."""
    cidrs = (config.ipv4_pod_cidr, config.ipv6_pod_cidr)
    return ClusterSettings(
        node_name=config.node_name,
        pod_cidrs=tuple(ip_network(cidr) for cidr in cidrs if cidr),
        tunnel=config.routing_mode == "tunnel",
        underlay_version=plumbing.underlay_family,
        devices=frozenset(config.devices),
        auto_direct_node_routes=config.auto_direct_node_routes,
        mtu_bytes=plumbing.pod_mtu_bytes,
        kube_apiserver=frozenset(ip_address(address) for address in config.kube_apiserver),
        node_capacity=config.node_capacity,
    )


def attach_mode(config: AgentConfig) -> str:
    """The way in which programs are attached here: tcx or tc."""
    if config.attach_mode != "auto":
        return config.attach_mode
    return "tcx" if links.has_tcx() else "tc"


def desire_node_links(devices: Mapping[str, int], targets: Targets, gateway: Gateway, overlay_ifindex: int) -> None:
    """The programs that are not a pod's: on the gateway, on the overlay and on the devices towards the outside."""
    targets.links.desired_set(HOST_NAME, LinkTarget(gateway.ifindex, "from_host", Hook.EGRESS))
    if overlay_ifindex:
        targets.links.desired_set(overlay_device.NAME, LinkTarget(overlay_ifindex, "from_overlay", Hook.INGRESS))
    for device, ifindex in devices.items():
        targets.links.desired_set(device, LinkTarget(ifindex, "from_netdev", Hook.INGRESS, guarded=True))
        targets.links.desired_set(f"{device}:egress", LinkTarget(ifindex, "to_netdev", Hook.EGRESS, guarded=True))


def desire_sock_links(config: AgentConfig, targets: Targets) -> None:
    """The programs on sockets, if services are translated there. AttachError if there is no such cgroup."""
    if config.services and config.cgroup_root is not None:
        cgroup = cgroup_links.cgroup_root() if config.cgroup_root == "auto" else Path(config.cgroup_root)
        for target in sock_targets(cgroup):
            targets.links.desired_set(target.key, target)


def make_sources(
    intent: Intent, resources: dict[ResourceKey, Any], marks: IdentityMarks, cluster: str, node_name: str
) -> list[Source[Any, Any]]:
    """One source per kind that decides something here."""

    def other_node(resource: CiliumNode) -> Node | None:
        return node_of(resource) if resource.metadata.name != node_name else None

    def policy(resource: Any) -> Policy:
        parsed = parse_policy(resource, cluster=cluster)
        resources[resource.key] = resource
        return parsed

    return [
        *(
            Source(
                kind=kind,
                table=intent.policies,
                convert=policy,
                owns=partial(_is_of_kind, kind.__name__),
            )
            for kind in POLICY_KINDS
        ),
        Source(Namespace, intent.namespaces, lambda resource: resource),
        Source(Pod, intent.pods, lambda resource: resource),
        Source(
            CiliumIdentity,
            intent.identities,
            marks.identity,
            lambda key: cluster_identity_number(key.name) or key.name,
            is_cluster_identity,
        ),
        Source(CiliumNode, intent.nodes, other_node, lambda key: key.name),
        Source(CiliumEndpoint, intent.remote_endpoints, remote_endpoint_of),
    ]


def _is_of_kind(kind: str, policy: Policy) -> bool:
    return policy.key.kind == kind


async def become_ready(  # the last step of the start
    config: AgentConfig,
    intent: Intent,
    sources: list[Source[Any, Any]],
    endpoints: Endpoints,
    control: ControlLoop,
    hubble: HubbleServer,
    store: Any,
    node: NodePublisher,
    health: NodeHealth,
    deadman: Deadman,
    started: float,
) -> None:
    """Once every source has been read: settle what was restored, let the kernel follow, then keep up with labels."""
    await asyncio.gather(deadman.note(), *(source.synced.wait() for source in sources))
    await endpoints.settle_restored()
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
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(node.run(), name="node")
        tasks.create_task(publisher.run(), name="publisher")
        tasks.create_task(follow_labels(intent, endpoints), name="labels")
        tasks.create_task(health.run(), name="health")
        await node.published.wait()  # until then the name, and its lease, may be another machine's
        heartbeat = Heartbeat(store, config.node_name, config.node_lease_duration_s, publisher.publish_again)
        tasks.create_task(heartbeat.run(), name="heartbeat")


async def follow_labels(intent: Intent, endpoints: Endpoints) -> None:
    """Give endpoints another identity whenever their labels change, or those labels have another number.

    While some have a number of this node's own, for want of the store, the store is asked again and again.
    """
    changed = asyncio.Event()
    changed.set()
    deciding = {"pods", "namespaces", "identities"}
    intent.db.on_commit(lambda tables: changed.set() if tables & deciding else None)
    delay_s = RETRY_FIRST_S
    while True:
        changed.clear()
        try:
            settled = await endpoints.refresh_labels()
        except CiliumError as error:
            log.warning("labels could not be taken over yet", error=str(error))
            settled = False
        delay_s = RETRY_FIRST_S if settled else min(2 * delay_s, RETRY_MOST_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if settled else retry_delay_s(delay_s)):
                await changed.wait()


async def read_addresses(intent: Intent, plumbing: Plumbing) -> None:
    """Make the table of the node's own addresses what the kernel says."""
    found = {host.address: host for host in await asyncio.to_thread(plumbing.host_addresses)}
    if found != {host.address: host for host in intent.db.snapshot().all(intent.host_addresses)}:
        with intent.db.write() as txn:
            txn.replace_all(intent.host_addresses, found.values())


async def follow_addresses(intent: Intent, plumbing: Plumbing, control: ControlLoop) -> None:
    """Keep the table of the node's own addresses true: listed again whenever the kernel says that one changed.

    With an address the kernel removes the routes that hang on it, so those are read again too.
    """
    loop = asyncio.get_running_loop()
    with netlink.address_news() as news:
        while True:
            try:
                await loop.sock_recv(news, NEWS_BYTES)
            except OSError as error:
                log.debug("address news overran", error=str(error))  # listing again is the answer to that too
            await read_addresses(intent, plumbing)
            control.reread_routes()


async def follow_links(endpoints: Endpoints) -> None:
    """Give back what endpoints held whose interface is gone, whenever the kernel says that interfaces changed."""
    loop = asyncio.get_running_loop()
    with netlink.link_news() as news:
        while True:
            await endpoints.collect_vanished()
            try:
                await loop.sock_recv(news, NEWS_BYTES)
            except OSError as error:
                log.debug("news of interfaces overran", error=str(error))  # listing again is the answer to that too
            await asyncio.sleep(VANISHED_AFTER_S)  # a DEL removes the interface first: let it end by itself


async def settle_links(attached: LinkOperations, endpoints: Endpoints) -> None:
    """Give new devices their links, one at a time, whenever no pod has come or gone for a while."""
    while True:
        await asyncio.sleep(QUIET_S)
        while attached.unsettled and endpoints.quiet_for_s >= QUIET_S:
            await asyncio.to_thread(attached.settle_one)


async def conntrack_collection(datapath: loader.Datapath) -> None:
    """Remove connections that have expired, now and then, and what they leave; lookups do not need it."""
    with contextlib.ExitStack() as stack:
        families = (
            (layouts.CT4, layouts.NAT4, layouts.SERVICE_FLOWS4),
            (layouts.CT6, layouts.NAT6, layouts.SERVICE_FLOWS6),
        )
        opened = [[stack.enter_context(datapath.map(spec)).raw for spec in family] for family in families]
        while True:
            await asyncio.sleep(CONNTRACK_INTERVAL_S)
            for connections, mappings, flows in opened:
                await asyncio.to_thread(conntrack.collect, connections, int(time.monotonic()))
                await asyncio.to_thread(nat.collect, mappings, connections, int(time.monotonic()))
                await asyncio.to_thread(service_flows.collect, flows, connections, int(time.monotonic()))

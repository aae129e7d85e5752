"""Connectivity tests in a running lab: pods by its CNI plugin, the lab's own world, Hubble by the nodes' sockets.

Of two runs in one lab the second is refused; what a killed one left is cleared first, for its lock died with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Self, TypeVar

from pycilium.connectivity.agents import Question
from pycilium.connectivity.arena import (
    HOST_PORT,
    NAMESPACE,
    PORT,
    PORT_NAME,
    Arena,
    Peer,
    PodPlan,
    ServiceInFront,
    by_family,
    pods_for,
    service_of,
)
from pycilium.connectivity.flows import Flow, flow_of
from pycilium.connectivity.grounds import Tell
from pycilium.connectivity.policies import Plain
from pycilium.connectivity.probes import Probe, ProbeResult
from pycilium.errors import CiliumError, NotFound
from pycilium.lab import agents, cgroups, labs, namespaces, pods, processes
from pycilium.lab.layout import WORLD_IPV4, WORLD_IPV6, LabLayout, LabRecord, PodRecord
from pycilium.model.host_port import HostPort
from pycilium.model.l4 import NamedTarget, Protocol
from pycilium.model.resources import CiliumNetworkPolicy, NetworkPolicy, Resource, ResourceKey, Service, decode_object

T = TypeVar("T")
_PEER = (sys.executable, "-m", "pycilium.connectivity.peer")
_READY_S, _PROBES_S = 20.0, 30.0
_ERRORS = ("level=error", "level=critical")


class LabGround:
    """One lab that is up."""

    def __init__(self, layout: LabLayout, record: LabRecord) -> None:
        self._layout, self._record = layout, record
        self._lock: IO[bytes] | None = None
        self._worker = ThreadPoolExecutor(1, "lab")
        self._log_sizes: dict[str, int] = {}

    @property
    def name(self) -> str:
        return f"lab {self._record.name}"

    @property
    def nodes(self) -> Sequence[str]:
        return [node.name for node in self._record.nodes]

    async def prepare(self, tell: Tell) -> Arena:
        for node in self.nodes:
            await asyncio.to_thread(self._agent(node).status)
            self._log_sizes[node] = processes.size_of(self._log_of(node))
        await self.clear(_silent)
        plans = pods_for(len(self.nodes))
        tell(f"making {len(plans)} pods")
        peers = [self._peer(plan, await self._in_order(self._make_pod, plan)) for plan in plans]
        echoes = [(plan, peer) for plan, peer in zip(plans, peers, strict=True) if plan.serves]
        tell("making Services")
        services = [await self._in_order(self._make_service, plan, peer) for plan, peer in echoes]
        return Arena(
            families=self._record.ip_families,
            peers=(*peers, *self._hosts(), *self._worlds()),
            services=tuple(services),
            lacking={} if len(self.nodes) > 1 else {"other node": f"{self.name} has one node"},
        )

    async def clear(self, tell: Tell) -> None:
        if self._lock is None:
            await self.claim()  # what is there may be another run's
        left = await self._in_order(self._pods)  # also one that was being made when the run was interrupted
        if left:
            tell(f"removing {len(left)} pods")
        for pod in left:
            await self._in_order(self._remove_pod, pod)
        await self._in_order(self._forget)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._worker.shutdown()
        if self._lock is not None:
            self._lock.close()

    async def apply(self, policies: Sequence[Plain]) -> None:
        await self._in_order(self._apply, [decode_object(plain) for plain in policies])

    async def withdraw(self, policies: Sequence[Plain]) -> None:
        keys = [ResourceKey(plain["kind"], NAMESPACE, plain["metadata"]["name"]) for plain in policies]
        await self._in_order(self._delete, keys)

    async def ask(self, node: str, question: Question) -> Any:
        if question == "health":
            from pycilium.api.client import HealthClient

            socket = self._layout.agent_socket(node).with_name("health.sock")
            return await asyncio.to_thread(HealthClient(str(socket)).probe)
        return await asyncio.to_thread(self._agent(node).get, question)

    async def probe(self, source: Peer, probes: Sequence[Probe]) -> list[ProbeResult]:
        text = json.dumps([probe.plain for probe in probes])
        done = await asyncio.to_thread(self._run_in, source, ["probe", text])
        if done.returncode != 0:
            raise CiliumError(f"{source} could not probe: {done.stderr.strip()[-500:]}")
        return [ProbeResult.from_plain(json.loads(line)) for line in done.stdout.splitlines()]

    async def flows(self, since_s: float) -> list[Flow]:
        found = await asyncio.gather(*(asyncio.to_thread(self._flows_of, node, since_s) for node in self.nodes))
        return [flow for flows in found for flow in flows]

    async def log_errors(self) -> list[str]:
        found = []
        for node in self.nodes:
            with self._log_of(node).open("rb") as log:
                log.seek(self._log_sizes.get(node, 0))
                lines = log.read().decode(errors="replace").splitlines()
            found += [f"{node}: {line}" for line in lines if any(mark in line for mark in _ERRORS)]
        return found

    async def claim(self) -> None:
        lock = self._layout.folder.joinpath("connectivity.lock").open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.close()
            raise CiliumError(f"another connectivity test runs in {self.name}; wait for its end") from error
        self._lock = lock

    async def _in_order(self, function: Callable[..., T], *arguments: Any) -> T:
        """What touches the store runs in one thread, one after the other: gRPC's asyncio cannot take more of them."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, function, *arguments)

    def _apply(self, resources: Sequence[Resource]) -> None:
        with labs.open_store(self._layout) as store:
            store.apply(resources)

    def _delete(self, keys: Sequence[ResourceKey]) -> None:
        with labs.open_store(self._layout) as store:
            store.delete_all(keys)

    def _forget(self) -> None:
        """Whatever is in the test's namespace, and the namespace."""
        with labs.open_store(self._layout) as store:
            for kind in (CiliumNetworkPolicy, NetworkPolicy, Service):
                store.delete_all([each.key for each in store.list(kind, NAMESPACE).items])
            store.delete_all([ResourceKey("Namespace", "", NAMESPACE)])

    def _agent(self, node: str) -> Any:
        from pycilium.api.client import AgentClient

        return AgentClient(str(self._layout.agent_socket(node)))

    def _log_of(self, node: str) -> Path:
        return agents.log_of(self._layout, node)

    def _make_pod(self, plan: PodPlan) -> PodRecord:
        nodes = self.nodes
        made = pods.add(
            self._layout,
            self._record,
            name=plan.name,
            namespace=plan.namespace,
            node=nodes[1] if plan.other_node else nodes[0],
            labels=plan.labels,
            host_ports=[HostPort.parse(f"{HOST_PORT}:{PORT}/TCP")] if plan.serves else [],
            named_ports=[NamedTarget(PORT_NAME, Protocol.TCP, PORT)] if plan.serves else [],
            service_account=plan.account,
        )
        if plan.serves:
            log = self._layout.pod_log(plan.namespace, plan.name)
            argv = [*_peer_in(None, pods.cgroup_of(self._layout, made)), "serve", plan.name, str(PORT), f"udp:{PORT}"]
            processes.start_in(made.netns, argv, log=log)
            _await(lambda: "ready" in processes.last_lines(log), f"{plan.name} does not serve; see {log}")
        return made

    def _pods(self) -> list[PodRecord]:
        return [pod for pod in labs.pod_records(self._layout) if pod.namespace == NAMESPACE]

    def _remove_pod(self, pod: PodRecord) -> None:
        with contextlib.suppress(NotFound):
            pods.remove(self._layout, self._record, pod.namespace, pod.name)

    def _peer(self, plan: PodPlan, pod: PodRecord) -> Peer:
        return Peer(plan.name, plan.labels, by_family(pod.addresses), pod.node, host_port=plan.serves)

    def _make_service(self, plan: PodPlan, backend: Peer) -> ServiceInFront:
        with labs.open_store(self._layout) as store:
            store.apply([decode_object(service_of(plan, self._record.ip_families))])
            kept = store.get(Service, plan.name, NAMESPACE)
        addresses = {family: found[0] for family, found in by_family(kept.spec.cluster_ips).items() if found}
        return ServiceInFront(plan.name, backend, addresses, kept.spec.ports[0].node_port or 0)

    def _hosts(self) -> list[Peer]:
        return [
            Peer(node.name, {"kind": "host", "name": node.name}, by_family(node.addresses), node.name)
            for node in self._record.nodes
        ]

    def _worlds(self) -> list[Peer]:
        """Each of the world's addresses as a peer."""
        families = {"ipv4": WORLD_IPV4, "ipv6": WORLD_IPV6}
        return [
            Peer(
                name,
                {"kind": "world", "name": name},
                {family: (families[family][index],) for family in self._record.underlay_families},
                asks=not index,
            )
            for index, name in enumerate(("world", "other-world"))
        ]

    def _run_in(self, source: Peer, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                [*_peer_in(*self._place(source)), *words],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_PROBES_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise CiliumError(f"{source} did not end its probes within {_PROBES_S:g} s") from error

    def _place(self, peer: Peer) -> tuple[str, Path | None]:
        """Namespace and cgroup."""
        if peer.kind == "world":
            return self._record.world, None
        if peer.kind == "host":
            return self._record.node(peer.node).namespace, cgroups.of_node(self._layout.name, peer.node)
        cgroup = cgroups.of_pod(self._layout.name, peer.node, NAMESPACE, peer.name)
        return self._layout.pod_netns(NAMESPACE, peer.name), cgroup

    def _flows_of(self, node: str, since_s: float) -> list[Flow]:
        import grpc
        from google.protobuf.json_format import MessageToDict

        from pycilium.hubble.proto import flow_pb2, observer_pb2, observer_pb2_grpc

        request = observer_pb2.GetFlowsRequest(number=(1 << 64) - 1)
        seconds, fraction = divmod(since_s, 1)
        request.since.seconds, request.since.nanos = int(seconds), int(fraction * 1e9)
        request.whitelist.add(source_pod=[f"{NAMESPACE}/"])
        request.whitelist.add(destination_pod=[f"{NAMESPACE}/"])
        try:
            with grpc.insecure_channel(f"unix://{self._layout.hubble_socket(node)}") as channel:
                observer: Any = observer_pb2_grpc.ObserverStub
                answers = observer(channel).GetFlows(request, timeout=_READY_S)
                return [
                    flow_of(MessageToDict(answer, preserving_proto_field_name=True))
                    for answer in answers
                    if answer.HasField("flow") and answer.flow.Type == flow_pb2.L3_L4
                ]
        except grpc.RpcError as error:
            raise CiliumError(f"Hubble of {node} does not answer: {error.details()}") from error


def _await(condition: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + _READY_S
    while not condition():
        if time.monotonic() > deadline:
            raise CiliumError(f"{otherwise} (waited {_READY_S:g} s)")
        time.sleep(0.02)


def _peer_in(netns: str | None, cgroup: Path | None) -> list[str]:
    """A peer that moves itself: this process, whose threads start several at once, stays where it is."""
    words = [*_PEER]
    if cgroup is not None:
        words += ["--in-cgroup", str(cgroup)]
    if netns is not None:
        words += ["--in-netns", str(namespaces.path_of(netns))]
    return words


def _silent(_: str) -> None:
    """For steps that are of no interest."""

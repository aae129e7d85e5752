"""Connectivity tests in a Kubernetes cluster: everything through its API server, nothing else is reached.

Pods are of the agents' own image; agents and Hubble are asked by commands in the agents' pods, whose network is the
nodes' own, so that they play the nodes too. The namespace is the claim: of two runs the second finds it and is refused.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Self

from pycilium.connectivity.agents import Question
from pycilium.connectivity.arena import (
    NAMESPACE,
    Arena,
    Peer,
    PodPlan,
    ServiceInFront,
    by_family,
    pods_for,
    service_of,
)
from pycilium.connectivity.flows import Flow, flow_of
from pycilium.connectivity.grounds import Tell, objects
from pycilium.connectivity.policies import Plain
from pycilium.connectivity.probes import Probe, ProbeResult
from pycilium.errors import AlreadyExists, CiliumError, InstallRefused, KindNotServed, PodUnreachable
from pycilium.install.kubernetes_cluster import KINDS, POD, Cluster, kind_of
from pycilium.install.kubernetes_exec import execute
from pycilium.install.kubernetes_names import AGENT_CONTAINER
from pycilium.store.kubernetes.failures import Call

_AGENTS = "k8s-app=cilium"
_NODE, _NAMESPACE, _SERVICE = KINDS["Node"], KINDS["Namespace"], KINDS["Service"]
_MADE = ("CiliumNetworkPolicy", "NetworkPolicy", "Service", "Pod", "ServiceAccount")
"""What a run makes in its namespace, in the order in which it goes."""
_NEEDED = (
    *(("create", _NAMESPACE, ""), ("delete", _NAMESPACE, ""), ("list", _NODE, "")),
    *((verb, KINDS[name], "") for name in _MADE for verb in ("patch", "delete", "list")),
    *(("create", POD, "exec"), ("get", POD, "exec"), ("get", POD, "log")),
)
_READY_S, _GONE_S, _POLL_S = 180.0, 90.0, 0.5
_WAY_S = 5.0
_ERRORS = ("level=error", "level=critical")


class KubernetesGround:
    """One cluster in which we are installed.

    Args:
        cluster: opened; it is not closed here.
        namespace: where the agents are.
        image: of the pods; "" takes the agents' own.
    """

    def __init__(self, cluster: Cluster, namespace: str, image: str = "") -> None:
        self._cluster, self._namespace, self._image = cluster, namespace, image
        self._agents: dict[str, Plain] = {}
        self._restarts: dict[str, int] = {}
        self._ahead_s: dict[str, float] = {}
        """How far the nodes' clocks are ahead of ours; a little less, so that nothing is missed."""
        self._began_s = 0.0

    async def __aenter__(self) -> Self:
        """Finds the agents; InstallRefused if there are none."""
        for pod in await self._cluster.listed(POD, self._namespace, _AGENTS):
            if (pod.get("status") or {}).get("phase") == "Running":
                self._agents[str(pod["spec"]["nodeName"])] = pod
        if not self._agents:
            raise InstallRefused(
                f"no agent runs in namespace {self._namespace} (no running pod has the label {_AGENTS}): install with "
                f"`cilium install --wait`, or say by -n where Cilium is"
            )
        self._agents = dict(sorted(self._agents.items()))
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    @property
    def name(self) -> str:
        return f"the cluster at {self._cluster.access.server}"

    @property
    def nodes(self) -> Sequence[str]:
        return list(self._agents)

    async def claim(self) -> None:
        await self._check_rights()
        try:
            await self._cluster.create(objects.namespace())
        except AlreadyExists as error:
            raise CiliumError(
                f"namespace {NAMESPACE} exists: another connectivity test runs here, or one was killed; "
                f"`cilium connectivity test --cleanup` takes away what is left of it"
            ) from error

    async def prepare(self, tell: Tell) -> Arena:
        await self.look_at_agents()
        plans = pods_for(len(self.nodes))
        tell(f"making {len(plans)} pods")
        image = self._image_of()
        for plan in plans:
            await self._cluster.apply(objects.account(plan.account))
            await self._cluster.apply(objects.pod(plan, self._node_of(plan), image, host_port=True))
        made = await self._ready([plan.name for plan in plans], tell)
        peers = [self._peer(plan, made[plan.name]) for plan in plans]
        families = tuple(sorted({family for peer in peers for family in peer.addresses}))
        lacking: dict[str, str] = {}
        if len(self.nodes) == 1:
            lacking["other node"] = f"{self.name} has one node with an agent"
        hosts = await self._hosts()
        worlds = await self._worlds(image, families, lacking, tell)
        outside_of = await self._outside_of(image, worlds, hosts, lacking, tell)
        tell("making Services")
        by_name = {peer.name: peer for peer in peers}
        services = [await self._service(plan, by_name[plan.name], families) for plan in plans if plan.serves]
        return Arena(families, (*peers, *hosts, *worlds), tuple(services), lacking, outside_of)

    async def look_at_agents(self) -> None:
        """From now on their errors count; and what their clocks say."""
        self._began_s = time.time()
        self._restarts = {node: _restarts(pod) for node, pod in self._agents.items()}
        self._ahead_s = {node: await self._ahead_of_us(node) for node in self.nodes}

    async def clear(self, tell: Tell) -> None:
        kept = await self._cluster.get(_NAMESPACE, NAMESPACE)
        if kept is None:
            return
        if objects.MARK not in (kept["metadata"].get("labels") or {}):
            raise CiliumError(
                f"namespace {NAMESPACE} is not of a connectivity test (it lacks the label {objects.MARK})"
            )
        for name in _MADE:
            for each in await self._listed(name):
                await self._cluster.delete(KINDS[name], each["metadata"]["name"], NAMESPACE)
        tell("waiting until the pods have ended")
        if not await self._within(_GONE_S, lambda: self._none_of("Pod")):
            raise CiliumError(
                f"pods in namespace {NAMESPACE} have not ended within {_GONE_S:g} s: does their node's kubelet run? "
                f"`cilium connectivity test --cleanup` tries again"
            )
        await self._cluster.delete(_NAMESPACE, NAMESPACE)
        if not await self._within(_GONE_S, self._namespace_gone):
            tell(f"namespace {NAMESPACE} is empty and stays until the cluster's controllers remove it")

    async def apply(self, policies: Sequence[Plain]) -> None:
        for policy in policies:
            await self._cluster.apply(policy)

    async def withdraw(self, policies: Sequence[Plain]) -> None:
        for policy in policies:
            await self._cluster.delete(kind_of(policy), policy["metadata"]["name"], NAMESPACE)

    async def ask(self, node: str, question: Question) -> Any:
        return json.loads(await self._on_agent(node, [*objects.PROGRAM, "ask", question]))

    async def probe(self, source: Peer, probes: Sequence[Probe]) -> list[ProbeResult]:
        text = json.dumps([probe.plain for probe in probes])
        if source.kind == "host":
            output = await self._on_agent(source.node, [*objects.PROGRAM, "probe", text])
        else:
            pod = objects.WORLD_POD if source.kind == "world" else source.name
            within = ["--in-netns", "/proc/1/ns/net"] if source.kind == "world" else []
            words = [*objects.PROGRAM, *within, "probe", text]
            output = await self._in_pod(NAMESPACE, pod, objects.CONTAINER, words)
        return [ProbeResult.from_plain(json.loads(line)) for line in output.splitlines()]

    async def flows(self, since_s: float) -> list[Flow]:
        words = ["hubble", "observe", "-o", "json", "--namespace", NAMESPACE, "--since"]
        outputs = await asyncio.gather(
            *(self._on_agent(node, [*words, _time(since_s + self._ahead_s[node])]) for node in self.nodes)
        )
        plain = [json.loads(line) for output in outputs for line in output.splitlines()]
        return [flow_of(each) for each in plain if "flow" in each]

    async def log_errors(self) -> list[str]:
        found = []
        for node, pod in self._agents.items():
            name = pod["metadata"]["name"]
            query = {"container": AGENT_CONTAINER, "sinceTime": _time(self._began_s + self._ahead_s[node])}
            log = await self._cluster.client.call(Call("get", POD, self._namespace, name, "log"), query=query)
            lines = log.decode(errors="replace").splitlines()
            found += [f"{node}: {line}" for line in lines if any(mark in line for mark in _ERRORS)]
            now = await self._cluster.get(POD, name, self._namespace)
            if now is None or _restarts(now) > self._restarts[node]:
                found.append(f"{node}: its agent {'is another one now' if now is None else 'was restarted'}")
        return found

    async def _ahead_of_us(self, node: str) -> float:
        return float(await self._on_agent(node, [*objects.PROGRAM, "clock"])) - time.time()

    async def _check_rights(self) -> None:
        """InstallRefused with all rights that are missing, before anything is made."""
        missing = []
        for verb, kind, subresource in _NEEDED:
            inside = (self._namespace if subresource else NAMESPACE) if kind.namespaced else None
            if not await self._cluster.may(verb, kind, inside, subresource):
                missing.append(f"{verb} {kind.plural}{f'/{subresource}' if subresource else ''}")
        if missing:
            raise InstallRefused(
                f"these rights are missing for the connectivity test: {', '.join(missing)}; bind a ClusterRole that "
                f"grants them to who runs it (cluster-admin does)"
            )

    def _image_of(self) -> dict[str, str]:
        """The agents', under the same rule for fetching it."""
        agent = next(iter(self._agents.values()))
        container = next(each for each in agent["spec"]["containers"] if each["name"] == AGENT_CONTAINER)
        policy = container.get("imagePullPolicy") or "IfNotPresent"
        return {"image": self._image or container["image"], "imagePullPolicy": policy}

    def _node_of(self, plan: PodPlan) -> str:
        return self.nodes[1] if plan.other_node else self.nodes[0]

    def _peer(self, plan: PodPlan, pod: Plain) -> Peer:
        addresses = by_family(objects.addresses_of(pod))
        return Peer(plan.name, plan.labels, addresses, pod["spec"]["nodeName"], host_port=plan.serves)

    async def _ready(self, names: Sequence[str], tell: Tell) -> dict[str, Plain]:
        """The pods, once all of them are ready; CiliumError with what keeps them."""
        deadline, said = time.monotonic() + _READY_S, ""
        while True:
            found = {pod["metadata"]["name"]: pod for pod in await self._listed("Pod")}
            problems = [why for name in names if (why := objects.problem(found.get(name), name))]
            if not problems:
                return found
            if time.monotonic() > deadline or any(objects.hopeless(found.get(name)) for name in names):
                raise CiliumError(f"the test's pods do not become ready: {'; '.join(problems)}")
            if problems[0] != said:
                tell(problems[0])
                said = problems[0]
            await asyncio.sleep(_POLL_S)

    async def _worlds(
        self, image: dict[str, str], families: Sequence[str], lacking: dict[str, str], tell: Tell
    ) -> list[Peer]:
        """Two addresses behind one pod. Where such a pod may not be, its scenarios are left out."""
        node = self.nodes[0]
        try:
            await self._cluster.apply(objects.account(objects.WORLD_POD))
            await self._cluster.apply(objects.world(node, image, families))
            await self._ready([objects.WORLD_POD], tell)
        except CiliumError as error:
            lacking["world"] = f"no world could be made: {error}"
            return []
        return [
            Peer(
                name,
                {"kind": "world", "name": name},
                {family: (objects.WORLD[family][index],) for family in families},
                node,
                asks=not index,
            )
            for index, name in enumerate(("world", "other-world"))
        ]

    async def _outside_of(
        self, image: dict[str, str], worlds: Sequence[Peer], hosts: Sequence[Peer], lacking: dict[str, str], tell: Tell
    ) -> tuple[str, ...]:
        """Another node, for which the world is outside once it has a way back, and the network lets such packets by."""
        need = "world at node ports"
        if not worlds or len(hosts) < 2:
            lacking[need] = (
                "a client outside comes in at another node than its own, and there is one node with an agent"
            )
            return ()
        own, other = hosts[:2]
        shared = [family for family in worlds[0].addresses if own.addresses.get(family) and other.addresses.get(family)]
        gateways = {family: own.addresses[family][0] for family in shared}
        probes = [Probe("icmp", other.addresses[family][0], timeout_s=1.0) for family in shared]
        try:
            await self._cluster.apply(objects.account(objects.WAY_POD))
            await self._cluster.apply(objects.way(other.node, image, gateways))
            await self._ready([objects.WAY_POD], tell)
        except CiliumError as error:
            lacking[need] = f"{other} could not be given a way back to the world, which is behind {own}: {error}"
            return ()
        if not await self._within(_WAY_S, lambda: self._all_answer(worlds[0], probes)):
            lacking[need] = f"the network between {own} and {other} lets no packet by whose address is not a node's own"
            return ()
        return (other.node,)

    async def _all_answer(self, source: Peer, probes: Sequence[Probe]) -> bool:
        return all(result.answered for result in await self.probe(source, probes))

    async def _hosts(self) -> list[Peer]:
        listed = {node["metadata"]["name"]: node for node in await self._cluster.listed(_NODE)}
        return [
            Peer(name, {"kind": "host", "name": name}, by_family(objects.node_addresses(listed[name])), name)
            for name in self.nodes
            if name in listed
        ]

    async def _service(self, plan: PodPlan, backend: Peer, families: tuple[str, ...]) -> ServiceInFront:
        made = await self._cluster.apply(service_of(plan, families))
        spec = made["spec"]
        own = spec.get("clusterIPs") or [spec.get("clusterIP")]
        addresses = {family: found[0] for family, found in by_family([each for each in own if each]).items()}
        return ServiceInFront(plan.name, backend, addresses, int(spec["ports"][0].get("nodePort") or 0))

    async def _listed(self, kind: str) -> list[Plain]:
        """Of the test's namespace; none where the server has no such kind."""
        try:
            return await self._cluster.listed(KINDS[kind], NAMESPACE)
        except KindNotServed:
            return []

    async def _none_of(self, kind: str) -> bool:
        return not await self._listed(kind)

    async def _namespace_gone(self) -> bool:
        return await self._cluster.get(_NAMESPACE, NAMESPACE) is None

    async def _within(self, limit_s: float, condition: Callable[[], Awaitable[bool]]) -> bool:
        """Whether it becomes true in time."""
        deadline = time.monotonic() + limit_s
        while not await condition():
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(_POLL_S)
        return True

    async def _on_agent(self, node: str, words: Sequence[str]) -> str:
        return await self._in_pod(self._namespace, self._agents[node]["metadata"]["name"], AGENT_CONTAINER, words)

    async def _in_pod(self, namespace: str, pod: str, container: str, words: Sequence[str]) -> str:
        done = await execute(self._cluster, namespace, pod, container, words)
        if done.exit_code != 0:
            said = (done.complaints or done.output).decode(errors="replace").strip()[-500:]
            raise PodUnreachable(
                f"`{' '.join(words)[:80]}` in pod {namespace}/{pod} ended with {done.exit_code}: {said}"
            )
        return done.output.decode(errors="replace")


def _time(seconds: float) -> str:
    """As API servers and Hubble take it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _restarts(pod: Plain) -> int:
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    return sum(int(each.get("restartCount", 0)) for each in statuses if each.get("name") == AGENT_CONTAINER)

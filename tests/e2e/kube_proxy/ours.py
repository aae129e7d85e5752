"""Our side: a lab whose agents serve Services, with the same pods and the same ways into it as the twin.

A Service of its own, `marker`, is written after all others and with another port each time: once a node's agent has it,
it has all that was written before.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pycilium.api.client import AgentClient
from pycilium.lab import agents, cgroups, labs, namespaces, pods
from pycilium.lab.layout import LabLayout, LabRecord
from pycilium.lab.plan import UpOptions
from pycilium.model.resources import Resource, decode_object, to_plain
from pycilium.model.resources.endpoint_slice import EndpointSlice
from pycilium.model.resources.service import Service
from pycilium.store import BlockingStore, open_blocking
from tests.e2e.kube_proxy import services
from tests.e2e.kube_proxy.probes import Probe
from tests.e2e.kube_proxy.side import PODS, WORLD, quiet_about_nothing, route_services

IN_FORCE_S = 30.0
MARKER = "marker"
MARKER_NUMBER = 255


@contextmanager
def ours(store: str, node_count: int, **config: object) -> Iterator[Ours]:
    """A lab with its pods and probes; nothing of it is left afterwards. `config`: fields of every agent's configuration."""
    name = f"matrix-{secrets.token_hex(3)}"
    with ExitStack() as stack:
        record = labs.up(UpOptions(name=name, node_count=node_count, store=store), lambda _: None)
        stack.callback(labs.down, name)
        layout = LabLayout(name)
        if config:
            _configure(layout, record, config)
        yield Ours(layout, record, stack)


class Ours:
    """See `Side`."""

    name = "pycilium"

    def __init__(self, layout: LabLayout, record: LabRecord, stack: ExitStack) -> None:
        self._layout, self._record, self._marked = layout, record, 20000
        self._store: BlockingStore = stack.enter_context(open_blocking(layout.store_url))
        self.node_names = [node.name for node in record.nodes]
        self.addresses = {node.name: {4: str(node.ipv4), 6: str(node.ipv6)} for node in record.nodes}
        self.pods: dict[str, tuple[str, Mapping[int, str]]] = {}
        starters = {WORLD: _starter(record.world, None)}
        for node in record.nodes:
            starters[node.name] = _starter(node.namespace, cgroups.of_node(layout.name, node.name))
            quiet_about_nothing(node.namespace)
        for pod, index in PODS.items():
            node = record.nodes[min(index, len(record.nodes) - 1)]
            made = pods.add(layout, record, name=pod, namespace="default", node=node.name, labels={"app": pod})
            self.pods[pod] = (node.name, {4: str(made.ipv4), 6: str(made.ipv6)})
            starters[pod] = _starter(made.netns, cgroups.of_pod(layout.name, node.name, "default", pod))
        route_services(record)
        self.names = self._named()
        self.probes = {place: Probe(place, start) for place, start in starters.items()}
        for probe in self.probes.values():
            stack.callback(probe.close)
        for pod in self.pods:
            self.probes[pod].serve(services.TARGET_PORT)

    def apply(self, resources: Sequence[Resource]) -> None:
        self._marked += 1
        marker = _marker(self._marked, self.pods)
        wanted = {each.key for each in (*resources, *marker)}
        known = [each.key for kind in (Service, EndpointSlice) for each in self._store.list(kind).items]
        self._store.delete_all([key for key in known if key not in wanted])
        self._store.apply(resources)
        for each in resources:
            if isinstance(each, Service):
                status = to_plain(each)["status"]
                self._store.patch_status(Service, each.metadata.name, each.metadata.namespace, status)
        self._store.apply(marker)
        for node in self.node_names:
            self._wait_until_in_force(node)

    def _wait_until_in_force(self, node: str) -> None:
        agent = AgentClient(str(self._layout.agent_socket(node)))
        deadline = time.monotonic() + IN_FORCE_S
        while not _is_in_force(agent.services(), self._marked):
            if time.monotonic() > deadline:
                raise AssertionError(f"{node}: the Services were not in force after {IN_FORCE_S:.0f} s")
            time.sleep(0.02)

    def _named(self) -> dict[str, str]:
        found = {address: pod for pod, (_, addresses) in self.pods.items() for address in addresses.values()}
        for node in self._record.nodes:
            gateways = _gateways(self._layout, node.name)
            found |= dict.fromkeys((*node.addresses, *gateways), node.name)
        return found | {"172.18.0.1": WORLD, "fd00:172:18::1": WORLD, "127.0.0.1": "loopback", "::1": "loopback"}


def _is_in_force(views: Sequence[Mapping[str, object]], marked: int) -> bool:
    """The marker is realized with its newest port, and so is everything else as it is desired."""
    found = json.dumps(
        [view for view in views if view["spec"]["flags"]["name"] == MARKER]  # type: ignore[index]
    )
    return f'"port": {marked}' in found and all(
        view.get("status") and view["status"]["realized"] == view["spec"]  # type: ignore[index]
        for view in views
    )


def _marker(port: int, pods: services.Pods) -> list[Resource]:
    """It comes last by name too."""
    behaviour = services.Behaviour(MARKER, (("one", "ready"),))
    service, *slices = (to_plain(each) for each in services.resources(MARKER_NUMBER, behaviour, pods))
    for each in service["spec"]["ports"]:
        each["port"] = port
    for each in slices:
        for slice_port in each["ports"]:
            slice_port["port"] = port
    return [decode_object(each) for each in (service, *slices)]


def _gateways(layout: LabLayout, node: str) -> tuple[str, ...]:
    """The addresses of cilium_host, by which a node speaks to its pods."""
    found = AgentClient(str(layout.agent_socket(node))).ip_entries()
    return tuple(str(each["cidr"]).partition("/")[0] for each in found if each.get("identity") == 1)


def _configure(layout: LabLayout, record: LabRecord, config: Mapping[str, object]) -> None:
    for node in record.nodes:
        path = Path(layout.node_folder(node.name), "agent.json")
        agents.stop(layout, node.name)
        path.write_text(json.dumps(json.loads(path.read_bytes()) | config), encoding="utf-8")
        agents.start(layout, record, node.name)


def _starter(netns: str, cgroup: Path | None) -> Callable[[Sequence[str]], subprocess.Popen[str]]:
    def start(argv: Sequence[str]) -> subprocess.Popen[str]:
        with cgroups.inside(cgroup):
            return namespaces.run_in(
                netns, lambda: subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )

    return start

"""What must hold once nothing is broken and all have caught up: each check gives what is wrong, in words."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pycilium.api.client import AgentClient
from pycilium.datapath import cgroup_links, layouts
from pycilium.datapath.maps import Map
from pycilium.errors import CiliumError
from pycilium.lab import agents, labs, operators
from pycilium.lab.layout import LabLayout
from pycilium.model.identity import CLUSTER_IDENTITIES, NODE_LOCAL_IDENTITIES
from pycilium.model.labels import Labels
from pycilium.model.resources import CiliumEndpoint, CiliumIdentity, CiliumNode
from tests.e2e.chaos import kernel_ipcache
from tests.e2e.chaos.history import History
from tests.e2e.chaos.model import PodName, State
from tests.e2e.chaos.services import SERVICES
from tests.e2e.chaos.verdicts import identity_labels
from tests.e2e.lab import inside

_LINKS_OF_NODE = {"eth0", "eth0:egress", "cilium_vxlan", "cilium_host"}
_LINKS_OF_NODE |= {f"cgroup:{program}" for program in cgroup_links.PROGRAMS}
_HEALTH = "cilium-health-ep"
_COUNTED = ("identity_bits", "policies", "policy_rows", "nodes")


@dataclass(frozen=True)
class Stored:
    """What the store says."""

    identities: Mapping[int, Labels]
    endpoints: Mapping[PodName, int]
    """The identity of each."""
    nodes: frozenset[str]


def differences(layout: LabLayout, state: State) -> list[str]:
    """How the lab differs from what is intended; empty when all is in sync and nothing is left over."""
    try:
        stored = _stored(layout)
    except CiliumError as error:
        return [f"the store: {error}"]
    found = [*_of_store(state, stored)]
    for node in state.nodes:
        try:
            found += [f"{node}: {text}" for text in _of_node(layout, state, node, stored)]
        except (CiliumError, OSError) as error:
            found.append(f"{node}: {error}")
    return found


def identities_nobody_has(layout: LabLayout, state: State) -> list[str]:
    """What the operator is to collect: identities in the store of labels that no pod has."""
    used = {identity_labels(state, pod) for pod in state.pods}
    return [f"{number} ({labels})" for number, labels in _stored(layout).identities.items() if labels not in used]


@dataclass(frozen=True)
class Complaint:
    """A line that should not be in a log, unless something excuses it."""

    log: Path
    line: str

    def __str__(self) -> str:
        return f"{self.log.parent.name}/{self.log.name}: {self.line}"

    @property
    def event(self) -> str:
        return next((event for event in _EXCUSED if event in self.line), self.line)

    def excuse(self, history: History) -> str:
        """What was broken on purpose at that time and explains it; empty if nothing does."""
        said = re.search(r"timestamp=(\S+)", self.line)
        if self.event not in _EXCUSED or said is None:
            return ""
        states = history.in_force(datetime.fromisoformat(said[1]).timestamp())
        return "" if all(state.healthy for state in states) else _EXCUSED[self.event]


_EXCUSED = {"attachment rolled back": "store or cable failed just after an agent had begun"}


class Logs:
    """Reads what agents and operators said since it was asked last."""

    def __init__(self, layout: LabLayout) -> None:
        self._layout = layout
        self._read: dict[tuple[Path, int], int] = {}

    def complaints(self, nodes: Iterable[str]) -> list[Complaint]:
        """Errors and tracebacks."""
        logs = [agents.log_of(self._layout, node) for node in nodes]
        logs += [operators.log_of(self._layout, name) for name in operators.names(self._layout)]
        return [Complaint(log, line) for log in logs for line in self._new(log) if _is_bad(line)]

    def _new(self, log: Path) -> list[str]:
        try:
            with log.open(encoding="utf-8", errors="replace") as opened:
                which = (log, os.fstat(opened.fileno()).st_ino)
                opened.seek(self._read.get(which, 0))
                lines = opened.read().splitlines()
                self._read[which] = opened.tell()
        except FileNotFoundError:
            return []
        return lines


def _is_bad(line: str) -> bool:
    return "level=error" in line or "level=critical" in line or "Traceback" in line or "exception=" in line


def _stored(layout: LabLayout) -> Stored:
    with labs.open_store(layout) as store:
        identities, endpoints, nodes = (store.list(kind).items for kind in (CiliumIdentity, CiliumEndpoint, CiliumNode))
    return Stored(
        {int(one.metadata.name): Labels.from_map(one.security_labels) for one in identities},
        {
            (one.metadata.namespace, one.metadata.name): one.status.identity.id
            for one in endpoints
            if one.status and one.status.identity
        },
        frozenset(one.metadata.name for one in nodes),
    )


def _of_store(state: State, stored: Stored) -> Iterator[str]:
    if stored.nodes != set(state.nodes):
        yield f"the store has nodes {sorted(stored.nodes)}, not {sorted(state.nodes)}"
    yield from _sets("the store's CiliumEndpoints", stored.endpoints, state.pods)
    for pod, number in stored.endpoints.items():
        if pod in state.pods and stored.identities.get(number) != identity_labels(state, pod):
            yield f"CiliumEndpoint {pod} has {number} ({stored.identities.get(number)}), not {identity_labels(state, pod)}"
    if len(set(stored.identities.values())) != len(stored.identities):
        yield f"labels with several numbers: {stored.identities}"


def _of_node(layout: LabLayout, state: State, node: str, stored: Stored) -> Iterator[str]:
    client = AgentClient(str(layout.agent_socket(node)), timeout_s=10)
    status, endpoints = client.status(), client.endpoints()
    pods = {pod: labs.find_pod(layout, *pod).addresses for pod in state.pods}
    own = {pod: addresses for pod, addresses in pods.items() if state.pods[pod].node == node}
    yield from _of_status(status)
    yield from _sets("its nodes", (one["name"].partition("/")[2] for one in status["cluster"]["nodes"]), state.nodes)
    yield from _of_endpoints(state, endpoints, own, stored)
    yield from _of_addresses(status["ipam"]["allocations"], own)
    entries = client.ip_entries()
    yield from _of_ipcache(state, entries, pods, stored)
    held = kernel_ipcache.read(layout.node_folder(node) / "bpf" / "maps")
    yield from kernel_ipcache.differences(held, kernel_ipcache.believed(entries))
    yield from _of_services(state, client.services(), pods)
    yield from _of_kernel(layout, node, endpoints, status)


def _of_status(status: Mapping[str, Any]) -> Iterator[str]:
    for part in ("cilium", "hubble", "kvstore"):
        if status[part]["state"] != "Ok":
            yield f"{part} is {status[part]}"
    for controller in status["controllers"]:
        if controller["status"].get("consecutive-failure-count"):
            yield f"controller {controller['name']}: {controller['status'].get('last-failure-msg')}"


def _of_endpoints(
    state: State, endpoints: list[dict[str, Any]], own: Mapping[PodName, object], stored: Stored
) -> Iterator[str]:
    found = {}
    for endpoint in endpoints:
        status = endpoint["status"]
        identifiers = status["external-identifiers"]
        if status["state"] != "ready" or status["health"]["overallHealth"] != "OK":
            yield f"endpoint {endpoint['id']} is {status['state']}, {status['health']}, {status.get('log')}"
        if identifiers.get("container-id") != _HEALTH:
            pod = (identifiers["k8s-namespace"], identifiers["k8s-pod-name"])
            found[pod] = status["identity"]
    yield from _sets("its endpoints", found, own)
    for pod, identity in found.items():
        labels = Labels.parse(*identity["labels"])
        if pod in own and (labels, stored.identities.get(identity["id"])) != (identity_labels(state, pod),) * 2:
            yield f"endpoint {pod} has {identity}, stored as {stored.identities.get(identity['id'])}"


def _of_addresses(allocations: Mapping[str, str], own: Mapping[PodName, tuple[str, ...]]) -> Iterator[str]:
    expected = {address: "/".join(pod) for pod, addresses in own.items() for address in addresses}
    found = {address: owner for address, owner in allocations.items() if not owner.startswith(_HEALTH)}
    if found != expected:
        yield f"addresses {found}, not {expected}"


def _of_ipcache(
    state: State, entries: list[dict[str, Any]], pods: Mapping[PodName, tuple[str, ...]], stored: Stored
) -> Iterator[str]:
    found = {
        entry["cidr"].partition("/")[0]: stored.identities.get(entry["identity"], entry["identity"])
        for entry in entries
        if entry["identity"] in CLUSTER_IDENTITIES or entry["identity"] in NODE_LOCAL_IDENTITIES
    }
    expected = {address: identity_labels(state, pod) for pod, addresses in pods.items() for address in addresses}
    for address in found.keys() | expected.keys():
        if found.get(address) != expected.get(address):
            yield f"ipcache: {address} is {found.get(address)}, not {expected.get(address)}"


def _of_services(state: State, views: list[dict[str, Any]], pods: Mapping[PodName, tuple[str, ...]]) -> Iterator[str]:
    """What the kernel has of them."""
    found = {
        (realized["frontend-address"]["ip"], realized["frontend-address"]["protocol"]): {
            backend["ip"] for backend in realized["backend-addresses"]
        }
        for view in views
        if (realized := view.get("status", {}).get("realized"))
    }
    for service in SERVICES:
        for family, address in enumerate(service.addresses):
            expected = {pods[pod][family] for pod in service.backends(state)}
            for protocol in ("TCP", "UDP"):
                if found.get((address, protocol)) != expected:
                    yield f"behind {address} {protocol} is {found.get((address, protocol))}, not {expected}"


def _of_kernel(
    layout: LabLayout, node: str, endpoints: list[dict[str, Any]], status: Mapping[str, Any]
) -> Iterator[str]:
    names = {endpoint["status"]["networking"]["interface-name"] for endpoint in endpoints}
    netns = labs.load(layout.name).node(node).namespace
    devices = {name for name in inside(netns, _device_names) if name.startswith("lxc")}
    yield from _sets("its lxc devices", devices, names)
    pinned = os.listdir(layout.node_folder(node) / "bpf" / "links")
    yield from _sets("its pinned links", pinned, names | _LINKS_OF_NODE)
    sizes = {entry["name"]: entry.get("entries") for entry in status["bpf-maps"]["maps"]}
    for name in ("endpoints4", "endpoints6"):
        if sizes[name] != len(endpoints):
            yield f"map {name} has {sizes[name]} entries for {len(endpoints)} endpoints"
    for name in _COUNTED:
        with Map.open(layout.node_folder(node) / "bpf" / "maps" / name, layouts.MAPS[name]) as held:
            count = sum(1 for _ in held.items())
        if count != sizes[name]:
            yield f"map {name} has {count} entries, and its agent believes {sizes[name]}"
    files = os.listdir(layout.node_folder(node) / "state" / "endpoints")
    if len(files) != len(endpoints):
        yield f"{len(files)} endpoint files for {len(endpoints)} endpoints: {sorted(files)}"


def _device_names() -> list[str]:
    """Of the calling thread's network namespace: /sys shows the one it was mounted in."""
    return [name for _, name in socket.if_nameindex()]


def _sets(what: str, found: Iterable[Any], expected: Iterable[Any]) -> Iterator[str]:
    found, expected = set(found), set(expected)
    more, less = found - expected, expected - found
    if more or less:
        yield f"{what}: too many {sorted(more)}, missing {sorted(less)}"

"""Pods of a lab: the Pod resource, a namespace of its own, and the real CNI plugin, as a container runtime does it.

Everything of a pod is written down (pods/<namespace>.<name>.json) before it is made; a step that fails undoes those
before it. Removal goes on past what is already gone, so that it can be repeated.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from pycilium.errors import AlreadyExists, CiliumError, NotFound, StoreError
from pycilium.lab import agents, cgroups, namespaces, processes
from pycilium.lab.labs import find_pod, open_store, pod_records, write_atomically
from pycilium.lab.layout import LabLayout, LabRecord, NodeRecord, PodRecord, check_pod_name
from pycilium.model.host_port import HostPort
from pycilium.model.l4 import NamedTarget
from pycilium.model.resources import Namespace, ObjectMeta, Pod, validate
from pycilium.store import BlockingStore

INTERFACE = "eth0"
PLUGIN_TIMEOUT_S = 120


def add(
    layout: LabLayout,
    record: LabRecord,
    *,
    name: str,
    namespace: str,
    node: str,
    labels: Mapping[str, str],
    host_ports: Iterable[HostPort] = (),
    named_ports: Iterable[NamedTarget] = (),
    service_account: str = "",
) -> PodRecord:
    """Makes a pod; its addresses, identity and policy are live when this returns. All or nothing."""
    check_pod_name(namespace, name)
    place = record.node(node)
    netns = layout.pod_netns(namespace, name)
    path = layout.pod_record(namespace, name)
    if path.exists() or namespaces.exists(netns):
        raise AlreadyExists(f"pod {namespace}/{name} exists already in lab {layout.name}")
    pod = PodRecord(
        name=name,
        namespace=namespace,
        node=node,
        netns=netns,
        container_id=secrets.token_hex(16),
        host_ports=tuple(map(str, host_ports)),
    )
    with open_store(layout) as store, contextlib.ExitStack() as undo:
        _claim(layout, pod)
        undo.callback(path.unlink, missing_ok=True)
        _create_resource(store, pod, labels, _spec(pod, named_ports, service_account))
        undo.callback(_delete_resource, store, pod)
        pod = _attach(layout, place, pod, undo)
        store.patch_status(Pod, name, namespace, _running(pod, place.ipv4 or place.ipv6))
        undo.pop_all()
    return pod


def start_existing(
    layout: LabLayout,
    record: LabRecord,
    *,
    name: str,
    namespace: str,
    node: str,
    host_ports: Iterable[HostPort] = (),
) -> PodRecord:
    """Starts a pod whose Pod is in the store already, as a kubelet does; also while the store is away."""
    check_pod_name(namespace, name)
    netns = layout.pod_netns(namespace, name)
    pod = PodRecord(
        name=name,
        namespace=namespace,
        node=node,
        netns=netns,
        container_id=secrets.token_hex(16),
        host_ports=tuple(map(str, host_ports)),
    )
    _claim(layout, pod)
    try:
        _bind(layout, pod)
        return _start(layout, record.node(node), pod)
    except BaseException:
        layout.pod_record(namespace, name).unlink(missing_ok=True)
        raise


def attach_again(layout: LabLayout, record: LabRecord, pod: PodRecord) -> PodRecord:
    """Gives a pod whose node was off a sandbox anew, as a kubelet does after a reboot; nothing runs in it yet."""
    pod = msgspec.structs.replace(pod, container_id=secrets.token_hex(16), addresses=())
    write_atomically(layout.pod_record(pod.namespace, pod.name), msgspec.json.encode(pod))
    return _start(layout, record.node(pod.node), pod)


def node_with_fewest(layout: LabLayout, record: LabRecord) -> str:
    """Where the next pod goes when nobody says where: of the nodes that are on, the first with the fewest pods."""
    counts = Counter(pod.node for pod in pod_records(layout))
    on = [node.name for node in record.nodes if namespaces.exists(node.namespace)]
    return min(on or [node.name for node in record.nodes], key=lambda name: counts[name])


def remove(layout: LabLayout, record: LabRecord, namespace: str, name: str) -> None:
    """Ends the pod's processes, detaches it, and removes it. NotFound when there is no such pod."""
    pod = find_pod(layout, namespace, name)
    node = record.node(pod.node).namespace
    processes.end_all_in([pod.netns])
    if namespaces.exists(node):  # a node that is off has nothing to detach
        run_plugin(layout, node, pod, "DEL")
    namespaces.delete(pod.netns)
    cgroups.remove(cgroup_of(layout, pod))
    with open_store(layout) as store:
        _delete_resource(store, pod)
    layout.pod_log(namespace, name).unlink(missing_ok=True)
    layout.pod_record(namespace, name).unlink(missing_ok=True)


def relabel(
    layout: LabLayout, namespace: str, name: str, added: Mapping[str, str], removed: Iterable[str]
) -> dict[str, str]:
    """Changes the labels of a running pod; gives those it has now. The agent follows on its own."""
    check_pod_name(namespace, name)
    gone = set(removed)
    with open_store(layout) as store:
        pod = store.get(Pod, name, namespace)
        labels = {key: value for key, value in pod.metadata.labels.items() if key not in gone} | dict(added)
        store.replace(pod.with_metadata(labels=labels))
    return labels


def labels_of(layout: LabLayout) -> dict[tuple[str, str], dict[str, str]]:
    """The labels of every pod that the store knows, by namespace and name."""
    with open_store(layout) as store:
        return {(pod.metadata.namespace, pod.metadata.name): pod.metadata.labels for pod in store.list(Pod).items}


def cgroup_of(layout: LabLayout, pod: PodRecord) -> Path | None:
    """Where the pod's processes belong."""
    return cgroups.of_pod(layout.name, pod.node, pod.namespace, pod.name)


def run_plugin(layout: LabLayout, node_namespace: str, pod: PodRecord, command: str) -> dict[str, Any]:
    """One call of `cilium-cni`, as a runtime on that node makes it. CiliumError with the plugin's own words."""
    argv = agents.command("cilium-cni", "pycilium.cni.plugin")
    config: dict[str, Any] = {
        "cniVersion": "1.1.0",
        "name": "cilium",
        "type": "cilium-cni",
        "socket": str(layout.agent_socket(pod.node)),
    }
    if pod.host_ports:
        config["runtimeConfig"] = {"portMappings": [_port_mapping(HostPort.parse(text)) for text in pod.host_ports]}
    environment = {
        **os.environ,
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": pod.container_id,
        "CNI_NETNS": str(namespaces.path_of(pod.netns)),
        "CNI_IFNAME": INTERFACE,
        "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE={pod.namespace};K8S_POD_NAME={pod.name}",
        "CNI_PATH": os.path.dirname(argv[0]),
    }
    done = namespaces.run_in(
        node_namespace,
        lambda: subprocess.run(
            argv,
            input=json.dumps(config),
            env=environment,
            capture_output=True,
            text=True,
            timeout=PLUGIN_TIMEOUT_S,
            check=False,
        ),
    )
    answer = _decoded(done.stdout)
    if done.returncode != 0:
        said = ": ".join(str(answer[key]) for key in ("msg", "details") if answer.get(key)) or done.stderr.strip()
        raise CiliumError(f"pod {pod.namespace}/{pod.name}: cilium-cni {command} failed: {said}")
    return answer


def _port_mapping(host_port: HostPort) -> dict[str, Any]:
    """As container runtimes write it."""
    mapping = {
        "hostPort": host_port.port,
        "containerPort": host_port.target_port,
        "protocol": host_port.protocol.name.lower(),
    }
    return mapping if host_port.address is None else {**mapping, "hostIP": str(host_port.address)}


def _start(layout: LabLayout, place: NodeRecord, pod: PodRecord) -> PodRecord:
    """Attaches a pod that the store knows, and tells the store if it is there."""
    with contextlib.ExitStack() as undo:
        pod = _attach(layout, place, pod, undo)
        undo.pop_all()
    with contextlib.suppress(StoreError), open_store(layout) as store:
        store.patch_status(Pod, pod.name, pod.namespace, _running(pod, place.ipv4 or place.ipv6))
    return pod


def _attach(layout: LabLayout, place: NodeRecord, pod: PodRecord, undo: contextlib.ExitStack) -> PodRecord:
    """Namespace and addresses of a pod that is written down; the record says the addresses afterwards."""
    namespaces.create(pod.netns)
    undo.callback(namespaces.delete, pod.netns)
    cgroups.make(cgroup_of(layout, pod))
    undo.callback(cgroups.remove, cgroup_of(layout, pod))
    undo.callback(_forgive, run_plugin, layout, place.namespace, pod, "DEL")
    result = run_plugin(layout, place.namespace, pod, "ADD")
    addresses = tuple(ip["address"].partition("/")[0] for ip in result.get("ips", []))
    pod = msgspec.structs.replace(pod, addresses=addresses)
    write_atomically(layout.pod_record(pod.namespace, pod.name), msgspec.json.encode(pod))
    return pod


def _decoded(text: str) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        value = json.loads(text)
        if isinstance(value, dict):
            return value
    return {}


def _claim(layout: LabLayout, pod: PodRecord) -> None:
    """Writes the record; of two that add the same pod, one gets the name."""
    try:
        with layout.pod_record(pod.namespace, pod.name).open("xb") as file:
            file.write(msgspec.json.encode(pod))
    except FileExistsError as error:
        raise AlreadyExists(f"pod {pod.namespace}/{pod.name} exists already in lab {layout.name}") from error


def _spec(pod: PodRecord, named_ports: Iterable[NamedTarget], service_account: str) -> dict[str, Any]:
    """What users write of a pod, as far as a lab has it."""
    spec: dict[str, Any] = {"nodeName": pod.node}
    if service_account:
        spec["serviceAccountName"] = service_account
    ports = [{"name": each.name, "containerPort": each.port, "protocol": each.protocol.name} for each in named_ports]
    if ports:
        spec["containers"] = [{"name": pod.name, "ports": ports}]
    return spec


def _create_resource(store: BlockingStore, pod: PodRecord, labels: Mapping[str, str], spec: dict[str, Any]) -> None:
    """The Pod, and its Namespace if nobody has made it yet."""
    resource = Pod(metadata=ObjectMeta(name=pod.name, namespace=pod.namespace, labels=dict(labels)), spec=spec)
    validate(resource)
    with contextlib.suppress(AlreadyExists):
        store.create(Namespace(metadata=ObjectMeta(name=pod.namespace)))
    store.create(resource)


def _bind(layout: LabLayout, pod: PodRecord) -> None:
    """Says in the Pod on which node it is, as a scheduler does, if nobody has: agents look at their own pods alone."""
    with contextlib.suppress(StoreError), open_store(layout) as store:
        resource = store.get(Pod, pod.name, pod.namespace)
        if not resource.node_name:
            store.replace(msgspec.structs.replace(resource, spec={**resource.spec, "nodeName": pod.node}))


def _running(pod: PodRecord, host: str | None) -> dict[str, Any]:
    """The status that a kubelet gives a pod that runs."""
    return {
        "phase": "Running",
        "hostIP": host,
        "podIP": pod.addresses[0] if pod.addresses else None,
        "podIPs": [{"ip": address} for address in pod.addresses],
    }


def _delete_resource(store: BlockingStore, pod: PodRecord) -> None:
    with contextlib.suppress(NotFound):
        store.delete(Pod, pod.name, pod.namespace)


def _forgive(function: Any, *arguments: Any) -> None:
    with contextlib.suppress(CiliumError):
        function(*arguments)

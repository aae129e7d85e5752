"""What an endpoint was when its file is lost: made up from the kernel's entries and from what the store says. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from pycilium.agent.earlier_agent import KernelMemory
from pycilium.agent.endpoints.workload_names import name_of_container
from pycilium.agent.entries import ProcessTarget
from pycilium.agent.plumbing import PodLink
from pycilium.model.endpoint import Endpoint, EndpointState, nameless_process, process_container_id
from pycilium.model.identity import Identity
from pycilium.model.labels import Labels, pod_labels
from pycilium.model.resources import CiliumEndpoint


def of_kernel(link: PodLink, memory: KernelMemory, mtu_bytes: int) -> Endpoint:
    """As the kernel's entries have it: without a pod, a namespace or labels."""
    container_id, _, ifname = link.attachment.rpartition(":")
    return Endpoint(
        endpoint_id=memory.endpoint_id,
        container_id=container_id,
        ifname=ifname,
        netns="",
        host_ifname=link.name,
        ifindex=link.ifindex,
        mac=memory.mac,
        host_mac=memory.host_mac,
        ipv4=memory.ipv4,
        ipv6=memory.ipv6,
        mtu_bytes=mtu_bytes,
        pod_name="",
        namespace="",
        labels=Labels(),
        sec_identity=memory.sec_identity,
        state=EndpointState.RESTORING,
        host_ports=memory.host_ports,
    )


def of_kernel_process(cgroup: str, cgroup_id: int, memory: ProcessTarget) -> Endpoint:
    """The same of processes of the node, whose cgroup is still there."""
    made = nameless_process(memory.endpoint_id, cgroup, cgroup_id, memory.sec_identity)
    return replace(made, state=EndpointState.RESTORING)


def named_process(endpoint: Endpoint, identity: Identity | None, published: Iterable[CiliumEndpoint]) -> Endpoint:
    """As `named`; one of which the store knows nothing is called as its cgroup."""
    labels = identity.labels if identity is not None else pod_labels({}, "default")
    name = name_of_container(endpoint.cgroup.rpartition("/")[2], "", must_tell_apart=False) or "process"
    for resource in published:
        status = resource.status
        if status is None or status.identity is None or status.external_identifiers is None:
            continue
        wanted = process_container_id(resource.metadata.namespace, resource.metadata.name)
        is_process = status.external_identifiers.container_id == wanted
        if is_process and (status.id, status.identity.id) == (endpoint.endpoint_id, endpoint.sec_identity):
            name = resource.metadata.name
    container_id = process_container_id(labels.namespace, name)
    return replace(endpoint, labels=labels, namespace=labels.namespace, pod_name=name, container_id=container_id)


def named(endpoint: Endpoint, identity: Identity | None, published: Iterable[CiliumEndpoint]) -> Endpoint:
    """With what the store knows of it: its labels by its identity, its pod by its id and address."""
    if endpoint.is_process:
        return named_process(endpoint, identity, published)
    labels = identity.labels if identity is not None else pod_labels({}, "default")
    pod_name = ""
    for resource in published:
        status = resource.status
        if status is not None and status.id == endpoint.endpoint_id and status.networking is not None:
            addresses = {text for pair in status.networking.addressing for text in (pair.ipv4, pair.ipv6)}
            here = any(str(address) in addresses for address in endpoint.addresses)
            pod_name = resource.metadata.name if here else pod_name
    return replace(endpoint, labels=labels, namespace=labels.namespace, pod_name=pod_name)

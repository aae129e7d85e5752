"""What types alone cannot say of Kubernetes' own kinds and of the kinds that agents write.

Cilium's policies have a module of their own (validate_policy). Each function takes a decoded resource and raises
InvalidResource at the first fault; nothing is changed or filled in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pycilium.model.identity import CLUSTER_IDENTITIES, cluster_identity_number
from pycilium.model.resources import checks
from pycilium.model.resources.base import ObjectMeta
from pycilium.model.resources.checks import refuse
from pycilium.model.resources.cilium_objects import (
    CiliumEndpoint,
    CiliumEndpointSlice,
    CiliumIdentity,
    CiliumNode,
    EndpointNetworking,
)
from pycilium.model.resources.core import Lease, Namespace, Pod
from pycilium.model.resources.network_policy import NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort
from pycilium.model.resources.selector import LabelSelector


def check_metadata(metadata: ObjectMeta, *, namespaced: bool, kind: str) -> None:
    checks.check_dns_subdomain(metadata.name, "metadata.name")
    if namespaced:
        checks.check_dns_label(metadata.namespace, "metadata.namespace")
    elif metadata.namespace:
        refuse("metadata.namespace", f"a {kind} belongs to the whole cluster: leave the namespace out")
    checks.check_labels(metadata.labels, "metadata.labels")
    checks.check_annotations(metadata.annotations, "metadata.annotations")


def check_selector(selector: LabelSelector, path: str, *, cilium: bool = False) -> None:
    """`cilium`: keys may name their source (`reserved:host`)."""
    check_key = checks.check_selector_key if cilium else checks.check_label_key
    for key, value in selector.match_labels.items():
        check_key(key, f"{path}.matchLabels")
        checks.check_label_value(value, f"{path}.matchLabels.{key}")
    for index, requirement in enumerate(selector.match_expressions):
        here = f"{path}.matchExpressions[{index}]"
        check_key(requirement.key, f"{here}.key")
        needs_values = requirement.operator in ("In", "NotIn")
        if needs_values and not requirement.values:
            refuse(f"{here}.values", f"operator {requirement.operator} needs at least one value")
        if not needs_values and requirement.values:
            refuse(f"{here}.values", f"operator {requirement.operator} takes no values")
        for position, value in enumerate(requirement.values):
            checks.check_label_value(value, f"{here}.values[{position}]")


def check_namespace(namespace: Namespace) -> None:
    checks.check_dns_label(namespace.metadata.name, "metadata.name")


def check_pod(pod: Pod) -> None:
    """Only what we read; the rest of a pod's spec is the runtime's business."""
    for field in ("nodeName", "serviceAccountName"):
        value = pod.spec.get(field)
        if value is not None and not isinstance(value, str):
            refuse(f"spec.{field}", f"must be a string, not {value!r}")
        if value:
            checks.check_dns_subdomain(value, f"spec.{field}")
    if not isinstance(pod.spec.get("hostNetwork", False), bool):
        refuse("spec.hostNetwork", "must be true or false")
    for field in ("initContainers", "containers"):
        for index, container in enumerate(_list_of_objects(pod.spec.get(field), f"spec.{field}")):
            _check_container_ports(container, f"spec.{field}[{index}]")
    for index, entry in enumerate(_list_of_objects(pod.status.get("podIPs"), "status.podIPs")):
        checks.check_address(str(entry.get("ip")), f"status.podIPs[{index}].ip")


def _check_container_ports(container: dict[str, Any], path: str) -> None:
    names: set[str] = set()
    for index, port in enumerate(_list_of_objects(container.get("ports"), f"{path}.ports")):
        here = f"{path}.ports[{index}]"
        number = port.get("containerPort")
        if not isinstance(number, int) or isinstance(number, bool):
            refuse(f"{here}.containerPort", f"must be a number from 1 to 65535, not {number!r}")
        checks.check_port(number, f"{here}.containerPort", least=1)
        name = port.get("name")
        if name is not None and not isinstance(name, str):
            refuse(f"{here}.name", f"must be a string, not {name!r}")
        if name:
            checks.check_port_name(name, f"{here}.name")
            if name in names:
                refuse(f"{here}.name", f"{name!r} stands twice: each port of a container needs a name of its own")
            names.add(name)
        if port.get("protocol", "TCP") not in ("TCP", "UDP", "SCTP", None):
            refuse(f"{here}.protocol", f"must be TCP, UDP or SCTP, not {port['protocol']!r}")


def _list_of_objects(value: Any, path: str) -> Sequence[dict[str, Any]]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        refuse(path, "must be a list of objects")
    return value


def check_lease(lease: Lease) -> None:
    duration_s = lease.spec.lease_duration_seconds
    if duration_s is not None and duration_s < 1:
        refuse("spec.leaseDurationSeconds", f"must be 1 or more, not {duration_s}")


def check_network_policy(policy: NetworkPolicy) -> None:
    check_selector(policy.spec.pod_selector, "spec.podSelector")
    for index, ingress in enumerate(policy.spec.ingress or ()):
        _check_peers(ingress.from_ or (), f"spec.ingress[{index}].from")
        _check_ports(ingress.ports or (), f"spec.ingress[{index}].ports")
    for index, egress in enumerate(policy.spec.egress or ()):
        _check_peers(egress.to or (), f"spec.egress[{index}].to")
        _check_ports(egress.ports or (), f"spec.egress[{index}].ports")
    types = policy.spec.policy_types or ()
    if len(set(types)) != len(types):
        refuse("spec.policyTypes", "each type may stand there once")


def _check_peers(peers: Sequence[NetworkPolicyPeer], path: str) -> None:
    for index, peer in enumerate(peers):
        here = f"{path}[{index}]"
        if peer.ip_block is not None:
            if peer.pod_selector is not None or peer.namespace_selector is not None:
                refuse(here, "ipBlock cannot stand beside podSelector or namespaceSelector: make it a peer of its own")
            network = checks.network_of(peer.ip_block.cidr, f"{here}.ipBlock.cidr")
            checks.check_excepted(peer.ip_block.except_, network, f"{here}.ipBlock.except", strictly=True)
        elif peer.pod_selector is None and peer.namespace_selector is None:
            refuse(here, "a peer needs podSelector, namespaceSelector or ipBlock (podSelector: {} means every pod)")
        for field, selector in (("podSelector", peer.pod_selector), ("namespaceSelector", peer.namespace_selector)):
            if selector is not None:
                check_selector(selector, f"{here}.{field}")


def _check_ports(ports: Sequence[NetworkPolicyPort], path: str) -> None:
    for index, port in enumerate(ports):
        here = f"{path}[{index}]"
        if isinstance(port.port, int):
            checks.check_port(port.port, f"{here}.port", least=1)
        elif port.port is not None:
            if port.port.isascii() and port.port.isdigit():
                refuse(f"{here}.port", f"write the number without quotes: {port.port}")
            checks.check_port_name(port.port, f"{here}.port")
        if port.end_port is not None:
            number = port.port if isinstance(port.port, int) else None
            checks.check_end_port(number, port.end_port, f"{here}.endPort")


def check_identity(identity: CiliumIdentity) -> None:
    name = identity.metadata.name
    if cluster_identity_number(name) is None:
        least, most = CLUSTER_IDENTITIES[0], CLUSTER_IDENTITIES[-1]
        refuse("metadata.name", f"a CiliumIdentity is named by its number, {least} to {most}, not {name!r}")
    for key in identity.security_labels:
        if ":" not in key:
            refuse("security-labels", f"the label {key!r} names no source: write it like k8s:{key}")


def check_endpoint(endpoint: CiliumEndpoint) -> None:
    _check_addressing(endpoint.status.networking if endpoint.status else None, "status.networking")


def check_endpoint_slice(endpoints: CiliumEndpointSlice) -> None:
    for index, each in enumerate(endpoints.endpoints):
        _check_addressing(each.networking, f"endpoints[{index}].networking")


def _check_addressing(networking: EndpointNetworking | None, path: str) -> None:
    for index, pair in enumerate(networking.addressing if networking else ()):
        for family, value in (("ipv4", pair.ipv4), ("ipv6", pair.ipv6)):
            if value:
                checks.check_address(value, f"{path}.addressing[{index}].{family}")


def check_node(node: CiliumNode) -> None:
    for index, address in enumerate(node.spec.addresses):
        if address.type.endswith("IP"):
            checks.check_address(address.ip, f"spec.addresses[{index}].ip")
    ipam = node.spec.ipam
    for index, cidr in enumerate(ipam.pod_cidrs if ipam else ()):
        checks.pod_cidr_of(cidr, f"spec.ipam.podCIDRs[{index}]")

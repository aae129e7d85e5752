"""What the agent shows of itself: table rows and map entries as the messages of its API. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from pycilium.agent.config import AgentConfig
from pycilium.agent.ipcache import IpcacheTarget
from pycilium.agent.nodes.cluster import NodeTarget
from pycilium.api import messages
from pycilium.api.cni_messages import CniAddress, CniInterface, CniResult, CniRoute
from pycilium.api.messages import PolicyEnabled
from pycilium.datapath import layouts
from pycilium.model.endpoint import Endpoint, mac_text
from pycilium.model.identity import Identity
from pycilium.model.node import Node
from pycilium.model.peer import Address
from pycilium.model.policy import Direction
from pycilium.policy import PolicyEngine

MAC_BYTES = 6


def identity_view(identity: Identity) -> messages.Identity:
    """GET /identity."""
    labels = sorted(str(label) for label in identity.labels)
    digest = hashlib.sha256(";".join(labels).encode()).hexdigest()
    return messages.Identity(id=identity.number, labels=labels, labels_sha256=digest)


def endpoint_view(endpoint: Endpoint, engine: PolicyEngine, differences: Iterable[str]) -> messages.EndpointView:
    """GET /endpoint: Cilium's shape."""
    labels = sorted(str(label) for label in endpoint.labels)
    policy = _policy_of(endpoint, engine)
    missing = list(differences)
    return messages.EndpointView(
        id=endpoint.endpoint_id,
        status=messages.EndpointStatus(
            state=endpoint.state,
            identity=identity_view(Identity(endpoint.sec_identity, endpoint.labels)),
            labels=messages.EndpointLabels(security_relevant=labels),
            networking=messages.EndpointNetworking(
                addressing=[
                    messages.AddressPair(
                        ipv4=str(endpoint.ipv4) if endpoint.ipv4 else "",
                        ipv6=str(endpoint.ipv6) if endpoint.ipv6 else "",
                    )
                ],
                interface_index=endpoint.ifindex,
                interface_name=endpoint.host_ifname,
                mac=mac_text(endpoint.mac),
                host_mac=mac_text(endpoint.host_mac),
                container_interface_name=endpoint.ifname,
                mtu=endpoint.mtu_bytes,
            ),
            named_ports=[
                messages.NamedPort(name=each.name, port=each.port, protocol=each.protocol.name)
                for each in sorted(endpoint.named_ports)
            ],
            policy=messages.EndpointPolicyStatus(
                spec=policy, realized=policy if not missing else messages.EndpointPolicy()
            ),
            external_identifiers=messages.EndpointIdentifiers(
                container_id=endpoint.container_id,
                k8s_namespace=endpoint.namespace,
                k8s_pod_name=endpoint.pod_name,
                pod_name=endpoint.qualified_pod_name,
                cni_attachment_id=endpoint.attachment,
                netns=endpoint.netns,
                cgroup=endpoint.cgroup,
            ),
            health=messages.EndpointHealth(
                bpf="OK" if not missing else "Failure",
                policy="OK" if not missing else "Failure",
                connected=True,
                overall_health="OK" if not missing else "Failure",
            ),
            log=[messages.EndpointLogEntry(timestamp="", state=endpoint.state, message=text) for text in missing],
        ),
    )


def with_addresses_of_node(endpoint: Endpoint, addresses: Iterable[Address]) -> Endpoint:
    """Processes of the node as they are shown: with the addresses that they have with all others."""
    found = {address.version: address for address in reversed(list(addresses))}
    ipv4, ipv6 = found.get(4), found.get(6)
    return replace(
        endpoint,
        ipv4=ipv4 if isinstance(ipv4, IPv4Address) else None,
        ipv6=ipv6 if isinstance(ipv6, IPv6Address) else None,
    )


def cni_result(endpoint: Endpoint, gateways: Mapping[int, Address]) -> CniResult:
    """What ADD answers of it."""
    ips, routes = [], []
    for address in endpoint.addresses:
        gateway = str(gateways[address.version])
        ips.append(CniAddress(address=f"{address}/{address.max_prefixlen}", gateway=gateway, interface=1))
        routes.append(CniRoute(dst="0.0.0.0/0" if address.version == 4 else "::/0", gw=gateway))
    return CniResult(
        interfaces=[
            CniInterface(name=endpoint.host_ifname, mac=mac_text(endpoint.host_mac), mtu=endpoint.mtu_bytes),
            CniInterface(
                name=endpoint.ifname, mac=mac_text(endpoint.mac), mtu=endpoint.mtu_bytes, sandbox=endpoint.netns
            ),
        ],
        ips=ips,
        routes=routes,
    )


def _policy_of(endpoint: Endpoint, engine: PolicyEngine) -> messages.EndpointPolicy:
    enforced: dict[tuple[bool, bool], PolicyEnabled] = {
        (False, False): "none",
        (True, False): "ingress",
        (False, True): "egress",
        (True, True): "both",
    }
    directions = tuple(bool(engine.enforcing(endpoint.labels, way)) for way in (Direction.INGRESS, Direction.EGRESS))
    return messages.EndpointPolicy(
        id=endpoint.sec_identity,
        policy_revision=engine.revision,
        policy_enabled=enforced[directions[0], directions[1]],
        policy_id=engine.policy_id(endpoint.subject) or 0,
    )


def node_view(node: Node, cluster: str) -> messages.Node:
    """One of GET /cluster/nodes."""
    families = {
        version: messages.NodeFamily(
            enabled=True,
            ip=str(node.internal_ip(version) or ""),
            alloc_range=next((str(cidr) for cidr in node.pod_cidrs if cidr.version == version), ""),
        )
        for version in (4, 6)
        if node.internal_ip(version) or any(cidr.version == version for cidr in node.pod_cidrs)
    }
    return messages.Node(
        name=f"{cluster}/{node.name}",
        primary_address=messages.NodeAddressing(ipv4=families.get(4), ipv6=families.get(6)),
        source="custom-resource",
    )


def ipcache_text(entry: IpcacheTarget, node: NodeTarget | None) -> str:
    """An entry of the ipcache as `bpf ipcache` shows it, Cilium's words first."""
    endpoint = str(node.address) if node is not None and node.tunnel else "0.0.0.0"  # noqa: S104  no address to bind to
    return (
        f"identity={entry.sec_identity} encryptkey=0 tunnelendpoint={endpoint} flags=<none> "
        f"cidridentity={entry.cidr_identity} node={entry.node_id}"
    )


def entry_text(value: Any) -> str:
    """One map key or value for people: `address=10.0.0.5 port=80`."""
    if not is_dataclass(value):
        return str(value)
    return " ".join(f"{field.name}={_field_text(field.name, getattr(value, field.name))}" for field in fields(value))


def _field_text(name: str, value: Any) -> str:
    if isinstance(value, bytes):
        return mac_text(value) if len(value) == MAC_BYTES else str(_address(value))
    if name.startswith("address") and isinstance(value, int):
        return str(IPv4Address(value))
    if isinstance(value, layouts.SelectorBits):
        return _selectors_text(value.words)
    return str(value)


def _address(packed: bytes) -> IPv4Address | IPv6Address:
    address = IPv6Address(packed)
    return address.ipv4_mapped or address


def _selectors_text(words: Iterable[int]) -> str:
    """The numbers of the bits that are set: `{0,5,513}`."""
    bits = [str(word * 64 + bit) for word, value in enumerate(words) for bit in range(64) if value >> bit & 1]
    return "{" + ",".join(bits) + "}"


def masquerading(config: AgentConfig) -> messages.Masquerading:
    """Of the families that the node runs."""
    families = messages.MasqueradedFamilies(ipv4=bool(config.ipv4_pod_cidr), ipv6=bool(config.ipv6_pod_cidr))
    if not config.masquerade:
        return messages.Masquerading(enabled=False)
    return messages.Masquerading(enabled=True, mode="BPF", enabled_protocols=families)

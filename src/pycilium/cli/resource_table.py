"""The columns of `cilium get`, by kind. Pure: resources in, rows out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from pycilium.model.resources import Resource, to_plain

Column = tuple[str, Callable[[dict[str, Any]], object]]


def table(
    resources: Sequence[Resource], *, namespaces: bool, wide: bool, now: datetime | None = None
) -> tuple[list[str], list[list[object]]]:
    """Headers and rows. All resources are of one kind."""
    moment = now or datetime.now(UTC)
    columns: list[Column] = [("NAME", lambda plain: plain["metadata"]["name"])]
    if namespaces:
        columns.insert(0, ("NAMESPACE", lambda plain: plain["metadata"].get("namespace", "")))
    columns += _COLUMNS.get(resources[0].kind, ())
    columns.append(("AGE", lambda plain: _age(plain["metadata"].get("creationTimestamp"), moment)))
    if wide:
        columns += _WIDE.get(resources[0].kind, ())
        columns.append(("LABELS", lambda plain: _pairs(plain["metadata"].get("labels") or {})))
    rows = [[read(plain) for _, read in columns] for plain in map(to_plain, resources)]
    return [header for header, _ in columns], rows


def _path(*steps: str | int) -> Callable[[dict[str, Any]], object]:
    """Reads a value deep inside; empty where a step is missing."""

    def read(plain: dict[str, Any]) -> object:
        value: Any = plain
        for step in steps:
            try:
                value = value[step]
            except (LookupError, TypeError):
                return ""
        return value

    return read


def _node_address(wanted: str) -> Callable[[dict[str, Any]], object]:
    def read(plain: dict[str, Any]) -> object:
        addresses = (plain.get("spec") or {}).get("addresses") or []
        return ",".join(entry["ip"] for entry in addresses if entry.get("type") == wanted)

    return read


def _selected(plain: dict[str, Any]) -> object:
    spec = plain.get("spec") or {}
    selector = spec.get("podSelector", spec.get("endpointSelector", {})) or {}
    words = [f"{key}={value}" for key, value in (selector.get("matchLabels") or {}).items()]
    for expression in selector.get("matchExpressions") or []:
        values = f" ({','.join(expression.get('values') or [])})" if expression.get("values") else ""
        words.append(f"{expression['key']} {expression['operator']}{values}")
    return ",".join(words) or "<all>"


def _external_addresses(plain: dict[str, Any]) -> object:
    """As kubectl: what a load balancer got, or is to get, and the external IPs."""
    spec = plain.get("spec") or {}
    if spec.get("type") == "ExternalName":
        return spec.get("externalName", "")
    ingress = ((plain.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []
    found = [each.get("ip") or each.get("hostname", "") for each in ingress] + list(spec.get("externalIPs") or [])
    awaited = "<pending>" if spec.get("type") == "LoadBalancer" else "<none>"
    return ",".join(found) or awaited


def _service_ports(plain: dict[str, Any]) -> object:
    ports = (plain.get("spec") or {}).get("ports") or []
    return ",".join(_service_port(port) for port in ports) or "<none>"


def _service_port(port: dict[str, Any]) -> str:
    node_port = f":{port['nodePort']}" if port.get("nodePort") else ""
    return f"{port['port']}{node_port}/{port.get('protocol', 'TCP')}"


def _slice_endpoints(plain: dict[str, Any]) -> object:
    addresses = [address for each in plain.get("endpoints") or [] for address in each["addresses"]]
    return _first_few(addresses) or "<unset>"


def _slice_ports(plain: dict[str, Any]) -> object:
    return _first_few([str(port.get("port", "*")) for port in plain.get("ports") or []]) or "<unset>"


def _first_few(words: Sequence[str], most: int = 3) -> str:
    more = f" + {len(words) - most} more..." if len(words) > most else ""
    return ",".join(words[:most]) + more


def _condition(kind: str, field: str) -> Callable[[dict[str, Any]], object]:
    def read(plain: dict[str, Any]) -> object:
        conditions = (plain.get("status") or {}).get("conditions") or []
        return next((each.get(field, "") for each in conditions if each["type"] == kind), "")

    return read


_CLUSTER_POLICY: tuple[Column, ...] = (("SELECTS", _selected), ("VALID", _condition("Valid", "status")))

_COLUMNS: dict[str, tuple[Column, ...]] = {
    "Pod": (
        ("STATUS", _path("status", "phase")),
        ("IP", _path("status", "podIP")),
        ("NODE", _path("spec", "nodeName")),
    ),
    "Namespace": (("STATUS", lambda plain: (plain.get("status") or {}).get("phase", "Active")),),
    "NetworkPolicy": (("POD-SELECTOR", _selected),),
    "CiliumNetworkPolicy": _CLUSTER_POLICY,
    "CiliumClusterwideNetworkPolicy": _CLUSTER_POLICY,
    "CiliumIdentity": (
        ("NAMESPACE", _path("security-labels", "k8s:io.kubernetes.pod.namespace")),
        ("SECURITY LABELS", lambda plain: _pairs(plain.get("security-labels") or {})),
    ),
    "CiliumEndpoint": (
        ("SECURITY IDENTITY", _path("status", "identity", "id")),
        ("ENDPOINT STATE", _path("status", "state")),
        ("IPV4", _path("status", "networking", "addressing", 0, "ipv4")),
        ("IPV6", _path("status", "networking", "addressing", 0, "ipv6")),
    ),
    "CiliumEndpointSlice": (
        ("NAMESPACE", _path("namespace")),
        ("ENDPOINTS", lambda plain: len(plain.get("endpoints") or ())),
    ),
    "CiliumNode": (
        ("CILIUMINTERNALIP", _node_address("CiliumInternalIP")),
        ("INTERNALIP", _node_address("InternalIP")),
    ),
    "Lease": (("HOLDER", _path("spec", "holderIdentity")),),
    "Service": (
        ("TYPE", lambda plain: (plain.get("spec") or {}).get("type", "ClusterIP")),
        (
            "CLUSTER-IP",
            lambda plain: _path("spec", "clusterIP")(plain) or _path("spec", "clusterIPs", 0)(plain) or "<none>",
        ),
        ("EXTERNAL-IP", _external_addresses),
        ("PORT(S)", _service_ports),
    ),
    "EndpointSlice": (
        ("ADDRESSTYPE", _path("addressType")),
        ("PORTS", _slice_ports),
        ("ENDPOINTS", _slice_endpoints),
    ),
    "CiliumLoadBalancerIPPool": (
        ("DISABLED", lambda plain: str((plain.get("spec") or {}).get("disabled", False)).lower()),
        ("CONFLICTING", _condition("cilium.io/PoolConflict", "status")),
        ("IPS AVAILABLE", _condition("cilium.io/IPsAvailable", "message")),
    ),
}

_WIDE: dict[str, tuple[Column, ...]] = {
    "Service": (("SELECTOR", lambda plain: _pairs((plain.get("spec") or {}).get("selector") or {})),),
    "CiliumNetworkPolicy": (("DESCRIPTION", _path("spec", "description")),),
    "CiliumClusterwideNetworkPolicy": (("DESCRIPTION", _path("spec", "description")),),
}


def _pairs(labels: dict[str, str]) -> str:
    return ",".join(f"{key}={value}" if value else key for key, value in sorted(labels.items())) or "<none>"


def _age(created: str | None, now: datetime) -> str:
    """As kubectl writes it: the largest two units that say something."""
    if not created:
        return "<unknown>"
    seconds = max(0, int((now - datetime.fromisoformat(created)).total_seconds()))
    if seconds < 120:
        return f"{seconds}s"
    if seconds < 600:
        return f"{seconds // 60}m{seconds % 60}s" if seconds % 60 else f"{seconds // 60}m"
    if seconds < 3 * 3600:
        return f"{seconds // 60}m"
    if seconds < 48 * 3600:
        return f"{seconds // 3600}h"
    return f"{seconds // 86400}d"

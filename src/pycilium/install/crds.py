"""CustomResourceDefinitions of our kinds: schemas from the very types that decode them, columns and names as Cilium's.

Invariant: what the API server admits by these, our decoding takes; a field is written once, in the type.
"""

from __future__ import annotations

import re
from typing import Any

from pycilium.install.json_schemas import Dialect, Schema, schema_of
from pycilium.install.templates import Plain
from pycilium.model.resources import KINDS, Kind
from pycilium.store.kubernetes.objects import crd_name

SCHEMA_VERSION = "1.34.2"
"""Of the CRDs of the Cilium that ours agree with."""
VERSION_LABEL = "io.cilium.k8s.crd.schema.version"
_POLICY = ("cilium", "ciliumpolicy")
_CATEGORIES = {"CiliumNetworkPolicy": _POLICY, "CiliumClusterwideNetworkPolicy": _POLICY}
_VALID = (("Valid", "string", ".status.conditions[?(@.type=='Valid')].status"),)
COLUMNS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "CiliumNetworkPolicy": _VALID,
    "CiliumClusterwideNetworkPolicy": _VALID,
    "CiliumIdentity": (("Namespace", "string", r".metadata.labels.io\.kubernetes\.pod\.namespace"),),
    "CiliumEndpoint": (
        ("Security Identity", "integer", ".status.identity.id"),
        ("Ingress Enforcement", "string", ".status.policy.ingress.state"),
        ("Egress Enforcement", "string", ".status.policy.egress.state"),
        ("Endpoint State", "string", ".status.state"),
        ("IPv4", "string", ".status.networking.addressing[0].ipv4"),
        ("IPv6", "string", ".status.networking.addressing[0].ipv6"),
    ),
    "CiliumEndpointSlice": (("Namespace", "string", ".namespace"),),
    "CiliumNode": (
        ("CiliumInternalIP", "string", '.spec.addresses[?(@.type=="CiliumInternalIP")].ip'),
        ("InternalIP", "string", '.spec.addresses[?(@.type=="InternalIP")].ip'),
    ),
    "CiliumLoadBalancerIPPool": (
        ("Disabled", "boolean", ".spec.disabled"),
        ("Conflicting", "string", '.status.conditions[?(@.type=="cilium.io/PoolConflict")].status'),
        ("IPs Available", "string", '.status.conditions[?(@.type=="cilium.io/IPsAvailable")].message'),
    ),
}


def _either(schemas: list[Schema]) -> Schema:
    if {each["type"] for each in schemas} != {"integer", "string"}:
        raise TypeError(f"Kubernetes has no type for {schemas}")
    return {"x-kubernetes-int-or-string": True}


_STRUCTURAL = Dialect(closed=False, either=_either)


def definitions() -> list[Plain]:
    """One of each kind that an API server does not have by itself."""
    return [_definition(kind) for kind in KINDS if crd_name(kind)]


def is_newer(present: Plain) -> bool:
    """Whether a definition is of a later version than ours, which must not be taken back."""
    label = (present["metadata"].get("labels") or {}).get(VERSION_LABEL, "")
    return _numbers(label) > _numbers(SCHEMA_VERSION)


def established(present: Plain | None) -> bool:
    """Whether the API server serves it."""
    conditions = ((present or {}).get("status") or {}).get("conditions") or []
    return any(each.get("type") == "Established" and each.get("status") == "True" for each in conditions)


def _definition(kind: Kind[Any]) -> Plain:
    group, _, version = kind.api_version.rpartition("/")
    older = [each.rpartition("/")[2] for each in kind.older_versions]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": crd_name(kind), "labels": {VERSION_LABEL: SCHEMA_VERSION}},
        "spec": {
            "group": group,
            "scope": "Namespaced" if kind.namespaced else "Cluster",
            "names": {
                "kind": kind.name,
                "listKind": f"{kind.name}List",
                "plural": kind.plural,
                "singular": kind.name.lower(),
                "shortNames": list(kind.short_names),
                "categories": list(_CATEGORIES.get(kind.name, ("cilium",))),
            },
            "versions": [
                _version(kind, version, storage=True),
                *(_version(kind, each, storage=False) for each in older),
            ],
        },
    }


def _version(kind: Kind[Any], version: str, *, storage: bool) -> Plain:
    columns = [
        *({"name": name, "type": of, "jsonPath": path} for name, of, path in COLUMNS.get(kind.name, ())),
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    ]
    return {
        "name": version,
        "served": True,
        "storage": storage,
        **({} if storage else {"deprecated": True}),
        "additionalPrinterColumns": columns,
        **({"subresources": {"status": {}}} if kind.status_apart else {}),
        "schema": {"openAPIV3Schema": schema(kind)},
    }


def schema(kind: Kind[Any]) -> Schema:
    """Structural, as Kubernetes wants it: what every object has is its business, not the schema's."""
    whole = schema_of(kind.resource, _STRUCTURAL)
    head: Schema = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}}
    required = [name for name in whole.get("required", ()) if name not in head]
    properties = {**whole["properties"], **head}
    return {"type": "object", **({"required": required} if required else {}), "properties": properties}


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split("."))) if re.fullmatch(r"\d+(\.\d+)*", version) else ()

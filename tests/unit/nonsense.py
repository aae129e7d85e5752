"""Objects that an API server lets through and that mean nothing: good ones in which somebody wrote at random.

Names, and the types of fields, are what API servers see to; the rest is whatever was typed into `kubectl edit`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

TEXTS = (
    "",
    " ",
    ",",
    "=",
    ":",
    "[",
    "None",
    "none",
    "TCP",
    "-1",
    "0",
    "00300",
    "\u0663\u0660\u0660",
    "300",
    "65536",
    "x" * 64,
    "x" * 400,
    "k8s:app=web",
    "k8s:io.kubernetes.pod.namespace",
    "reserved:host",
    "10.0.1.7",
    "010.0.1.7",
    "10.0.1.7/24",
    "10.0.1.0/24",
    "10.0.1.0/255.255.255.0",
    "0.0.0.0/0",
    "::/0",
    "0.0.0.0",
    "::",
    "127.0.0.1",
    "169.254.169.254",
    "224.0.0.1",
    "255.255.255.255",
    "::ffff:10.0.1.7",
    "::ffff:0:0/96",
    "fe80::1%eth0",
    "fd00::1",
    "fd00::/64",
    "10.0.0.1-10.0.0.9",
    "InternalIP",
    "CiliumInternalIP",
    "*",
)

NUMBERS = (-(2**63), -1, 0, 1, 2, 80, 256, 300, 65535, 65536, 70000, 2**31, 2**32, 2**63 - 1)
_ADDRESS_PAIR = {"ipv4": "10.0.1.7", "ipv6": "fd00::7"}
_NETWORKING = {"addressing": [_ADDRESS_PAIR], "node": "192.168.0.2"}
_PORTS = [{"name": "http", "port": 8080, "protocol": "TCP"}]

GOOD: dict[str, dict[str, Any]] = {
    "CiliumNode": {
        "apiVersion": "cilium.io/v2",
        "metadata": {"name": "b", "labels": {"topology.kubernetes.io/zone": "z"}},
        "spec": {
            "addresses": [
                {"type": "InternalIP", "ip": "192.168.0.2"},
                {"type": "CiliumInternalIP", "ip": "10.0.1.254"},
            ],
            "bootid": "x",
            "health": {"ipv4": "10.0.1.253"},
            "ipam": {"podCIDRs": ["10.0.1.0/24", "fd00::/112"]},
        },
        "status": {"ipam": {"operator-status": {"error": ""}}},
    },
    "CiliumIdentity": {
        "apiVersion": "cilium.io/v2",
        "metadata": {"name": "300", "annotations": {"io.cilium.heartbeat": "2026-01-01T00:00:00Z"}},
        "security-labels": {"k8s:app": "web", "k8s:io.kubernetes.pod.namespace": "a"},
    },
    "CiliumEndpoint": {
        "apiVersion": "cilium.io/v2",
        "metadata": {"name": "web", "namespace": "a", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "status": {
            "id": 7,
            "identity": {"id": 1005, "labels": ["k8s:app=web", "k8s:io.kubernetes.pod.namespace=a"]},
            "networking": _NETWORKING,
            "named-ports": _PORTS,
            "external-identifiers": {"pod-name": "a/web"},
            "state": "ready",
        },
    },
    "CiliumEndpointSlice": {
        "apiVersion": "cilium.io/v2alpha1",
        "metadata": {"name": "ces-1"},
        "namespace": "a",
        "endpoints": [{"name": "web", "id": 1005, "networking": _NETWORKING, "named-ports": _PORTS}],
    },
    "Service": {
        "apiVersion": "v1",
        "metadata": {
            "name": "web",
            "namespace": "a",
            "annotations": {
                "lbipam.cilium.io/ips": "10.7.0.1",
                "lbipam.cilium.io/sharing-key": "k",
                "lbipam.cilium.io/sharing-cross-namespace": "b",
                "service.cilium.io/lb-algorithm": "maglev",
                "service.cilium.io/forwarding-mode": "dsr",
                "service.cilium.io/src-ranges-policy": "allow",
                "service.kubernetes.io/topology-mode": "auto",
            },
        },
        "spec": {
            "type": "LoadBalancer",
            "selector": {"app": "web"},
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": "http", "nodePort": 30080}],
            "clusterIP": "10.96.0.1",
            "clusterIPs": ["10.96.0.1", "fd00:96::1"],
            "ipFamilies": ["IPv4", "IPv6"],
            "externalIPs": ["10.8.0.1"],
            "loadBalancerIP": "10.7.0.1",
            "loadBalancerSourceRanges": ["10.9.0.0/16"],
            "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
            "externalTrafficPolicy": "Local",
            "healthCheckNodePort": 30099,
        },
        "status": {
            "loadBalancer": {"ingress": [{"ip": "10.7.0.1", "ports": [{"port": 80}]}, {"hostname": "x"}]},
            "conditions": [
                {
                    "type": "cilium.io/IPAMRequestSatisfied",
                    "status": "True",
                    "reason": "satisfied",
                    "message": "",
                    "lastTransitionTime": "2026-01-01T00:00:00Z",
                }
            ],
        },
    },
    "EndpointSlice": {
        "apiVersion": "discovery.k8s.io/v1",
        "metadata": {
            "name": "web-1",
            "namespace": "a",
            "labels": {"kubernetes.io/service-name": "web"},
            "annotations": {"pycilium.io/weight": "3"},
        },
        "addressType": "IPv4",
        "endpoints": [
            {
                "addresses": ["10.0.1.7"],
                "conditions": {"ready": True},
                "nodeName": "b",
                "zone": "z",
                "hints": {"forZones": [{"name": "z"}]},
            },
            {"addresses": ["10.0.1.8"], "conditions": {"ready": True}},
        ],
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    },
    "Pod": {
        "apiVersion": "v1",
        "metadata": {"name": "web", "namespace": "a", "labels": {"app": "web"}, "annotations": {"x": "y"}},
        "spec": {
            "nodeName": "self",
            "serviceAccountName": "default",
            "containers": [{"ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP", "hostPort": 80}]}],
        },
        "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]},
    },
    "Namespace": {"apiVersion": "v1", "metadata": {"name": "a", "labels": {"team": "x"}}},
    "CiliumLoadBalancerIPPool": {
        "apiVersion": "cilium.io/v2",
        "metadata": {"name": "pool"},
        "spec": {"blocks": [{"cidr": "10.7.0.0/24"}, {"start": "10.6.0.1", "stop": "10.6.0.9"}]},
    },
}
_SEEN_TO = ("apiVersion", "kind", "metadata", "metadata.name", "metadata.namespace", "metadata.creationTimestamp")
_ENUMERATED = {
    "Service": (
        "type",
        "protocol",
        "ipFamilies",
        "sessionAffinity",
        "externalTrafficPolicy",
    ),
    "EndpointSlice": ("addressType", "protocol"),
    "CiliumEndpoint": ("state",),
}
"""Words of which API servers know all."""
Step = str | int


@st.composite
def objects(draw: st.DrawFn, *kinds: str) -> dict[str, Any]:
    """One of these kinds, with up to three things written over, left out or doubled."""
    kind = draw(st.sampled_from(kinds))
    plain = {**copy.deepcopy(GOOD[kind]), "kind": kind}
    for _ in range(draw(st.integers(0, 3))):
        paths = [path for path in _paths(plain) if not _is_seen_to(kind, path)]
        if paths:
            _spoil(draw, plain, draw(st.sampled_from(paths)))
    return plain


def _spoil(draw: st.DrawFn, plain: Any, path: tuple[Step, ...]) -> None:
    at = plain
    for step in path[:-1]:
        at = at[step]
    last, value = path[-1], at[path[-1]]
    if isinstance(value, bool):
        at[last] = not value
    elif isinstance(value, str):
        at[last] = draw(st.sampled_from(TEXTS))
    elif isinstance(value, int):
        at[last] = draw(st.sampled_from(NUMBERS))
    elif isinstance(at, list) and draw(st.booleans()):
        at.append(copy.deepcopy(value))
    else:
        del at[last]


def _is_seen_to(kind: str, path: tuple[Step, ...]) -> bool:
    words = _ENUMERATED.get(kind, ())
    text = ".".join(map(str, path))
    return text in _SEEN_TO or any(step in words for step in path) or text.startswith("status.conditions")


def _paths(value: Any, before: tuple[Step, ...] = ()) -> Iterator[tuple[Step, ...]]:
    """Of everything within."""
    inner: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield (*before, key)
        yield from _paths(each, (*before, key))

"""Policies drawn at random: of all three kinds, by labels, namespaces, CIDRs, entities and ports. Pure."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from tests.e2e.lab import policy, ports

PORTS = (8080, 8081)
APPS, TEAMS = ("a", "b", "c", "d"), ("one", "two")
NAMESPACES = ("red", "blue")
_NAMES = ("NetworkPolicy/0", "NetworkPolicy/1", "NetworkPolicy/2")
_NAMES += ("CiliumNetworkPolicy/0", "CiliumNetworkPolicy/1", "CiliumNetworkPolicy/2", "CiliumNetworkPolicy/3")
_NAMES += ("CiliumClusterwideNetworkPolicy/0", "CiliumClusterwideNetworkPolicy/1")
_NAMESPACE_TEAM = "k8s:io.cilium.k8s.namespace.labels.team"
_CIDRS = ("10.0.1.0/24", "10.0.0.0/22", "10.0.0.0/16", "fd00:10:0:2::/112", "fd00:10::/32", "1.1.1.0/24")
_CIDRS += ("0.0.0.0/0", "::/0", "2606:4700::/32", "8.8.8.8/32")


def random_policy(random: Random) -> tuple[str, dict[str, Any]]:
    """Its kind and name, and the resource."""
    name = random.choice(_NAMES)
    kind, _, number = name.partition("/")
    namespace = NAMESPACES[int(number) % len(NAMESPACES)]
    spec = _network_policy(random) if kind == "NetworkPolicy" else _cilium_policy(random, kind)
    return name, policy(f"chaos-{number}", namespace, kind, **spec)


def _app(random: Random) -> dict[str, Any]:
    if random.random() < 0.2:
        return {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": [random.choice(APPS)]}]}
    return {"matchLabels": {"app": random.choice(APPS)}}


def _some(random: Random, draw: Callable[[Random], Any], most: int = 2) -> list[Any]:
    return [draw(random) for _ in range(random.randint(1, most))]


def _network_policy(random: Random) -> dict[str, Any]:
    def peer(random: Random) -> dict[str, Any]:
        kind = random.random()
        if kind < 0.4:
            return {"podSelector": _app(random)}
        if kind < 0.7:
            return {"namespaceSelector": {"matchLabels": {"team": random.choice(TEAMS)}}}
        if kind < 0.8:
            return {"namespaceSelector": {}, "podSelector": _app(random)}
        return {"ipBlock": {"cidr": random.choice(_CIDRS)}}

    def rule(field: str) -> Callable[[Random], dict[str, Any]]:
        return lambda random: {field: _some(random, peer)} | _network_policy_ports(random)

    spec: dict[str, Any] = {"podSelector": _app(random), "policyTypes": []}
    if random.random() < 0.8:
        spec |= {"policyTypes": ["Ingress"], "ingress": _some(random, rule("from"))}
    if random.random() < 0.4 or not spec["policyTypes"]:
        spec |= {"policyTypes": [*spec["policyTypes"], "Egress"], "egress": _some(random, rule("to"))}
    return spec


def _network_policy_ports(random: Random) -> dict[str, Any]:
    if random.random() < 0.6:
        return {}
    return {"ports": [{"protocol": random.choice(("TCP", "UDP")), "port": random.choice(PORTS)}]}


def _cilium_policy(random: Random, kind: str) -> dict[str, Any]:
    spec: dict[str, Any] = {"endpointSelector": _app(random)}
    for direction, word in (("ingress", "from"), ("egress", "to")):
        if random.random() < 0.5:
            spec[direction] = _some(random, lambda random, word=word: _cilium_rule(random, word, kind))
        if random.random() < 0.2:
            spec[f"{direction}Deny"] = [_cilium_rule(random, word, kind)]
            spec.setdefault(direction, [{f"{word}Entities": ["all"]}])
    return spec if len(spec) > 1 else spec | {"ingress": [{"fromEntities": ["cluster"]}]}


def _cilium_rule(random: Random, word: str, kind: str) -> dict[str, Any]:
    draw = random.random()
    if draw < 0.45:
        rule = {f"{word}Endpoints": _some(random, _app)}
    elif draw < 0.6:
        rule = {f"{word}Endpoints": [{"matchLabels": {_NAMESPACE_TEAM: random.choice(TEAMS)}}]}
    elif draw < 0.7:
        rule = {f"{word}CIDR": _some(random, lambda random: random.choice(_CIDRS))}
    elif draw < 0.8:
        rule = {f"{word}CIDRSet": [{"cidr": "10.0.0.0/16", "except": [f"10.0.{random.randint(1, 9)}.0/24"]}]}
    else:
        rule = {f"{word}Entities": [random.choice(("cluster", "world", "all", "host"))]}
    return rule | ({"toPorts": _cilium_ports(random)} if random.random() < 0.4 else {})


def _cilium_ports(random: Random) -> list[dict[str, Any]]:
    return ports(random.choice((f"{PORTS[0]}/TCP", f"{PORTS[1]}/TCP", f"{PORTS[0]}-{PORTS[1]}/TCP", f"{PORTS[0]}/ANY")))

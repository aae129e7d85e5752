"""Arenas that tests are about: one node or two, in both families."""

from __future__ import annotations

from pycilium.connectivity.arena import PODS, Arena, Peer, ServiceInFront

WORLDS = {"world": ("1.1.1.1", "2606:4700:4700::1111"), "other-world": ("8.8.8.8", "2001:4860:4860::8888")}


def arena(nodes: int = 2, families: tuple[str, ...] = ("ipv4", "ipv6"), *, services: bool = True) -> Arena:
    """As a ground makes it: pods on the first two nodes, all of them reaching the world."""
    pods = [
        Peer(
            plan.name,
            plan.labels,
            in_families(families, f"10.0.{2 if plan.other_node else 1}.{number}", f"fd00::{number}"),
            "node2" if plan.other_node else "node1",
            host_port=plan.serves,
        )
        for number, plan in enumerate(PODS, 2)
        if nodes > 1 or not plan.other_node
    ]
    hosts = [
        Peer(
            f"node{number}",
            {"kind": "host", "name": f"node{number}"},
            in_families(families, f"172.18.0.1{number}", f"fd00:172::1{number}"),
            f"node{number}",
        )
        for number in range(1, nodes + 1)
    ]
    worlds = [
        Peer(name, {"kind": "world", "name": name}, in_families(families, *addresses), asks=name == "world")
        for name, addresses in WORLDS.items()
    ]
    made = [
        ServiceInFront(
            peer.name, peer, one_in_families(families, f"10.96.0.{number}", f"fd00:96::{number}"), 30_000 + number
        )
        for number, peer in enumerate(pods)
        if peer.kind == "echo" and services
    ]
    lacking = {} if nodes > 1 else {"other node": "there is one node"}
    return Arena(families, (*pods, *hosts, *worlds), tuple(made), lacking)


def in_families(families: tuple[str, ...], ipv4: str, ipv6: str) -> dict[str, tuple[str, ...]]:
    return {family: (address,) for family, address in (("ipv4", ipv4), ("ipv6", ipv6)) if family in families}


def one_in_families(families: tuple[str, ...], ipv4: str, ipv6: str) -> dict[str, str]:
    return {family: addresses[0] for family, addresses in in_families(families, ipv4, ipv6).items()}

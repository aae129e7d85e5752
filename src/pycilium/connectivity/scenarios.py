"""Scenarios: from who is there to the actions that are tried, by the names that Cilium's users know. Pure.

An action is one probe from one peer to another. Invariant: a scenario that finds nothing to do says why it is skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from pycilium.connectivity.arena import HOST_PORT, PORT, WORLD_PORT, Arena, Peer
from pycilium.connectivity.probes import Probe, Protocol


@dataclass(frozen=True, slots=True)
class Action:
    """One attempt of a scenario."""

    scenario: str
    source: Peer
    destination: Peer
    """Who answers in the end; the probe's address may be a Service's or a node's before it."""
    probe: Probe
    via: str = ""
    """What is in front of the destination, in words."""

    @property
    def family(self) -> str:
        return "ipv6" if ":" in self.probe.address else "ipv4"

    @property
    def own_address(self) -> str:
        """The source's in the same family; "" if it is not known beforehand."""
        return next(iter(self.source.addresses.get(self.family, ())), "")

    def __str__(self) -> str:
        via = f" by {self.via}" if self.via else ""
        return f"{self.scenario}: {self.source} -> {self.destination}{via}, {self.probe}"


@dataclass(frozen=True, slots=True)
class Scenario:
    """How to find the actions.

    Attributes:
        needs: what an arena may be lacking, see `Arena.lacking`.
    """

    name: str
    find: Callable[[str, Arena], Iterable[Action]]
    needs: tuple[str, ...] = ()

    def actions(self, arena: Arena) -> list[Action]:
        return list(self.find(self.name, arena))

    def lacking(self, arena: Arena) -> str:
        """Why there is nothing to do; "" if there is something."""
        missing = next((arena.lacking[need] for need in self.needs if need in arena.lacking), "")
        return missing or ("" if self.actions(arena) else "nobody here could take part")


def _direct(
    protocol: Protocol, sources: str, destinations: str, port: int = 0
) -> Callable[[str, Arena], Iterator[Action]]:
    """Every address of every destination, from every source."""

    def find(name: str, arena: Arena) -> Iterator[Action]:
        for source, destination in arena.pairs(sources, destinations):
            for family in arena.families:
                if not source.addresses.get(family):
                    continue
                for address in destination.addresses.get(family, ()):
                    yield Action(name, source, destination, Probe(protocol, address, port))

    return find


def _pod_to_service(name: str, arena: Arena) -> Iterator[Action]:
    for client in arena.of_kind("client"):
        for service in arena.services:
            for address in service.addresses.values():
                yield Action(name, client, service.backend, Probe("tcp", address, PORT), f"Service {service.name}")


def _pod_to_host_port(name: str, arena: Arena) -> Iterator[Action]:
    for client in arena.of_kind("client"):
        for echo in arena.of_kind("echo"):
            if echo.host_port:
                for address in _addresses(arena.node(echo.node), arena):
                    yield Action(name, client, echo, Probe("tcp", address, HOST_PORT), f"host port of {echo.node}")


def _to_node_port(sources: str, *, own: bool | None) -> Callable[[str, Arena], Iterator[Action]]:
    """Of the source's own node (True), of others (False), of all (None)."""

    def find(name: str, arena: Arena) -> Iterator[Action]:
        for source in arena.asking(sources):
            for service in arena.services:
                for node in arena.with_node_ports_for(source):
                    if not service.node_port or own not in (None, node.node == source.node):
                        continue
                    for address in _addresses(node, arena):
                        via = f"node port of {node.node} for {service.name}"
                        yield Action(name, source, service.backend, Probe("tcp", address, service.node_port), via)

    return find


def _pod_to_itself(name: str, arena: Arena) -> Iterator[Action]:
    for service in arena.services:
        for address in service.addresses.values():
            yield Action(name, service.backend, service.backend, Probe("tcp", address, PORT), f"Service {service.name}")


def _addresses(peer: Peer, arena: Arena) -> Iterator[str]:
    for family in arena.families:
        yield from peer.addresses.get(family, ())


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("pod-to-pod", _direct("tcp", "client", "echo", PORT)),
        Scenario("pod-to-pod-udp", _direct("udp", "client", "echo", PORT)),
        Scenario("client-to-client", _direct("icmp", "client", "client")),
        Scenario("pod-to-service", _pod_to_service, ("services",)),
        Scenario("pod-to-hostport", _pod_to_host_port, ("services", "host ports")),
        Scenario("pod-to-local-nodeport", _to_node_port("client", own=True), ("services",)),
        Scenario("pod-to-remote-nodeport", _to_node_port("client", own=False), ("services", "other node")),
        Scenario("pod-to-host", _direct("icmp", "client", "host")),
        Scenario("host-to-pod", _direct("tcp", "host", "echo", PORT), ("host",)),
        Scenario("pod-to-world", _direct("tcp", "client", "world", WORLD_PORT), ("world",)),
        Scenario("pod-to-cidr", _direct("tcp", "client", "world", WORLD_PORT), ("world",)),
        Scenario("world-to-pod", _direct("tcp", "world", "echo", PORT), ("world", "world as client")),
        Scenario("outside-to-nodeport", _to_node_port("world", own=None), ("services", "world", "world at node ports")),
        Scenario("pod-to-itself-via-service", _pod_to_itself, ("services",)),
    )
}

"""Probes over a real cable: who answers, who does not, and in which words; and an agent's health endpoint."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import TypeVar

import pytest

from pycilium.agent.health.probing import Probes
from pycilium.agent.health.responder import Responder, open_listener
from pycilium.api.client import AgentClient, HealthClient
from pycilium.datapath import netns
from pycilium.datapath.echo import Echo
from pycilium.health import Answer, ProbeKind
from pycilium.lab import namespaces
from tests.integration.agent.conftest import GATEWAY, NODE, Place
from tests.integration.agent.test_deadman import running_agent, until

pytestmark = pytest.mark.root

T = TypeVar("T")
TIMEOUT_S = 0.3
PATIENT_S = 10.0


def probing(place: Place, ask: Callable[[Probes], Awaitable[T]], timeout_s: float = PATIENT_S) -> T:
    """What `ask` finds with probes that are sent from the node, while the gateway answers on port 4240."""

    async def run() -> T:
        responder = Responder()
        await responder.serve(namespaces.run_in(place.gateway, open_listener))
        echo = Echo.open()
        try:
            return await ask(Probes(echo, timeout_s))
        finally:
            echo.close()
            await responder.stop()

    return namespaces.run_in(place.node, lambda: asyncio.run(run()))


@pytest.mark.parametrize("kind", ProbeKind)
@pytest.mark.parametrize("version", [4, 6])
def test_a_neighbour_answers_and_says_how_soon(place: Place, kind: ProbeKind, version: int) -> None:
    answer = probing(place, lambda probes: probes(ip_address(GATEWAY[version]), kind))

    assert answer.status == ""
    assert 0 < answer.latency_ns < PATIENT_S * 1e9


@pytest.mark.parametrize("version", [4, 6])
def test_the_node_reaches_itself(place: Place, version: int) -> None:
    answer = probing(place, lambda probes: probes(ip_address(NODE[version]), ProbeKind.ICMP))

    assert answer.status == ""


@pytest.mark.parametrize("kind", ProbeKind)
@pytest.mark.parametrize("address", ["192.0.2.99", "2001:db8::99"])
def test_nobody_is_a_timeout(place: Place, kind: ProbeKind, address: str) -> None:
    answer = probing(place, lambda probes: probes(ip_address(address), kind), TIMEOUT_S)

    assert answer == Answer(status="no answer within 0.3 s")


def test_where_nobody_listens_the_kernels_words_are_given(place: Place) -> None:
    assert probing(place, lambda probes: probes(ip_address(NODE[4]), ProbeKind.HTTP)) == Answer(
        status="connection refused"
    )


@pytest.mark.parametrize("kind", ProbeKind)
def test_without_a_route_it_is_told_at_once(place: Place, kind: ProbeKind) -> None:
    place.in_node("ip", "route", "delete", "default")

    assert probing(place, lambda probes: probes(ip_address("203.0.113.1"), kind)) == Answer(
        status="network is unreachable"
    )


def test_a_hundred_at_once_all_get_their_own_answer(place: Place) -> None:
    async def ask(probes: Probes) -> list[Answer]:
        wanted = [GATEWAY[4], "192.0.2.99"] * 50
        return await asyncio.gather(*(probes(ip_address(address), ProbeKind.ICMP) for address in wanted))

    answers = probing(place, ask, 2.0)

    assert [not answer.status for answer in answers] == [True, False] * 50


def test_an_agent_has_a_health_endpoint_that_answers_and_that_outlives_nothing(place: Place, tmp_path) -> None:
    with running_agent(place, tmp_path) as agent:
        health = HealthClient(str(tmp_path / "health.sock"))
        until(lambda: all_answer(health.probe()), agent)

        [endpoint] = AgentClient(str(tmp_path / "cilium.sock")).endpoints()
        assert endpoint["status"]["identity"]["labels"] == ["reserved:health"]
        assert endpoint["status"]["networking"]["addressing"] == [{"ipv4": "10.0.0.254", "ipv6": "fd00:10::ffff"}]
        interface = endpoint["status"]["networking"]["interface-name"]
        agent.kill()
        agent.wait()

    until(lambda: interface not in namespaces.run_in(place.node, lambda: [name for _, name in socket.if_nameindex()]))
    with running_agent(place, tmp_path) as agent:
        until(lambda: all_answer(health.probe()), agent)
        [again] = AgentClient(str(tmp_path / "cilium.sock")).endpoints()
        assert again["status"]["networking"]["addressing"] == endpoint["status"]["networking"]["addressing"]


def all_answer(answer: dict) -> bool:
    """Whether every path to every node does, the health endpoint's too."""
    nodes = answer.get("nodes") or []
    hosts = [part for node in nodes for part in (node["host"], node.get("health-endpoint") or {})]
    paths = [path for host in hosts for path in (host.get("primary-address"), *host.get("secondary-addresses", []))]
    return bool(paths) and all(
        path and all(path.get(way) and not path[way].get("status") for way in ("icmp", "http")) for path in paths
    )


def test_a_nameless_namespace_is_empty_and_its_own(place: Place) -> None:
    fd = namespaces.run_in(place.node, netns.nameless)

    assert netns.run_in(fd, lambda: [name for _, name in socket.if_nameindex()]) == ["lo"]
    assert netns.run_in(fd, lambda: netns.is_own(fd))
    os.close(fd)

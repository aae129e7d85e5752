"""What is forgotten of backends that left, of which maps, and when."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

from pycilium.agent.services.controller import Left
from pycilium.agent.services.memory import AGAIN_AFTER_S, ServiceMemory
from pycilium.model.l4 import Protocol
from pycilium.model.service import L4Address

UDP = L4Address(ip_address("10.96.0.1"), 53, Protocol.UDP)
TCP = L4Address(ip_address("10.96.0.1"), 80, Protocol.TCP)
BACKEND = L4Address(ip_address("10.0.0.5"), 5353, Protocol.UDP)


class Maps:
    """Remembers what it was told to forget, and which sockets to end."""

    def __init__(self) -> None:
        self.now = 0.0
        self.told: list[str] = []
        self.back: set[int] = set()
        self.memory = ServiceMemory(
            self.forget,
            end_sockets=self.end,
            still_gone=lambda left: [each for each in left if each.backend_id not in self.back],
            clock=lambda: self.now,
        )

    def forget(self, spec, left) -> None:
        pairs = ",".join(f"{pair >> 32}:{pair & 0xFFFFFFFF}" for pair in left.tolist())
        self.told.append(f"{spec.name} {pairs}")

    def end(self, left) -> None:
        self.told += [f"end {each.service_id}:{each.backend_id} {each.backend}" for each in left]

    async def after(self, seconds: float) -> list[str]:
        self.now += seconds
        await self.memory.forget_due()
        told, self.told = self.told, []
        return told


def left(frontend: L4Address, service_id: int, backend_id: int) -> Left:
    """One that nobody is left who shares its memory of clients, by the id 50 above the frontend's."""
    return Left(frontend, service_id, backend_id, BACKEND, service_id + 50)


async def test_clients_are_remembered_while_another_frontend_that_shares_the_memory_leads_to_their_backend():
    maps = Maps()
    maps.memory.left([replace(left(TCP, 3, 7), affinity_id=0)])

    assert await maps.after(0.0) == []


async def test_of_a_tcp_service_only_affinity_is_forgotten():
    maps = Maps()
    maps.memory.left([left(TCP, 3, 7)])

    assert await maps.after(0.0) == ["affinity 53:7"]


async def test_of_a_udp_service_sockets_are_ended_and_flows_forgotten_too_in_that_order():
    maps = Maps()
    maps.memory.left([left(UDP, 3, 7)])

    assert await maps.after(0.0) == [
        "end 3:7 10.0.0.5:5353/UDP",
        "service_flows4 3:7",
        "service_flows6 3:7",
        "socket_flows 3:7",
        "affinity 53:7",
    ]


async def test_it_is_done_once_more_for_programs_that_had_read_the_frontend_before():
    maps = Maps()
    maps.memory.left([left(TCP, 3, 7)])
    await maps.after(0.0)

    assert await maps.after(AGAIN_AFTER_S / 2) == []
    assert await maps.after(AGAIN_AFTER_S / 2) == ["affinity 53:7"]
    assert await maps.after(AGAIN_AFTER_S) == []


async def test_datagrams_of_a_backend_that_flaps_are_not_forgotten_once_it_is_back():
    maps = Maps()
    maps.memory.left([left(UDP, 3, 7), left(TCP, 4, 8)])
    maps.back = {7}
    assert await maps.after(0.0) == ["affinity 54:8"]

    maps.memory.left([left(UDP, 3, 9)])
    assert "service_flows4 3:9" in await maps.after(0.0)
    maps.back = {7, 8, 9}
    assert await maps.after(AGAIN_AFTER_S) == []

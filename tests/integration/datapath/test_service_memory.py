"""What programs remember of clients of Services, in maps of the kernel: what is taken, and what is left."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import Any

import pytest

from pycilium.datapath import bpf_syscall as bpf
from pycilium.datapath import layouts, service_memory
from pycilium.datapath.codec import MapSpec
from pycilium.datapath.layouts import AffinityEntry, AffinityKey, ServiceFlowEntry, ServiceFlowFlags
from pycilium.datapath.maps import Map

pytestmark = pytest.mark.root

NOW_S = 100_000
CLIENT, FRONTEND, BACKEND = {4: "10.0.0.9", 6: "fd00::9"}, {4: "10.96.0.1", 6: "fd96::1"}, {4: "10.0.0.5", 6: "fd00::5"}
FLOWS = {4: layouts.SERVICE_FLOWS4, 6: layouts.SERVICE_FLOWS6}
FAMILIES = pytest.mark.parametrize("family", [4, 6])


@pytest.fixture
def made() -> Iterator[Callable[[MapSpec[Any, Any]], Map[Any, Any]]]:
    """Makes maps that nobody else sees."""
    opened: list[Map[Any, Any]] = []

    def make(spec: MapSpec[Any, Any]) -> Map[Any, Any]:
        fd = bpf.map_create(spec.type, spec.key.size, spec.value.size, 1024, name=spec.name)
        opened.append(Map(fd, spec))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


def mapped(text: str) -> bytes:
    plain = ip_address(text)
    return plain.packed if plain.version == 6 else bytes(10) + b"\xff\xff" + plain.packed


def key_address(family: int, text: str) -> Any:
    return int(ip_address(text)) if family == 4 else ip_address(text).packed


def flows(family: int, protocol: int, *, used_s: int, flags: int = 0, service: int = 1, backend: int = 2) -> dict:
    """Both directions of a client's connection to the frontend."""
    kind = layouts.ServiceFlow4Key if family == 4 else layouts.ServiceFlow6Key
    client, frontend, behind = (each[family] for each in (CLIENT, FRONTEND, BACKEND))
    common = {"backend_id": backend, "service_id": service, "used_s": used_s}
    forward = kind(
        source=key_address(family, client),
        destination=key_address(family, frontend),
        source_port=40000,
        destination_port=80,
        protocol=protocol,
    )
    reply = kind(
        source=key_address(family, behind),
        destination=key_address(family, client),
        source_port=8080,
        destination_port=40000,
        protocol=protocol,
    )
    return {
        forward: ServiceFlowEntry(
            source=mapped(client),
            destination=mapped(behind),
            source_port=40000,
            destination_port=8080,
            flags=flags,
            **common,
        ),
        reply: ServiceFlowEntry(
            source=mapped(frontend),
            destination=mapped(client),
            source_port=80,
            destination_port=40000,
            flags=flags | ServiceFlowFlags.REPLY,
            **common,
        ),
    }


@FAMILIES
def test_flows_to_backends_that_left_their_service_are_forgotten(made, family):
    remembered = made(FLOWS[family])
    remembered.update_batch(flows(family, socket.IPPROTO_UDP, used_s=NOW_S))

    of_another = service_memory.forget(remembered.raw, FLOWS[family], service_memory.pairs_of([(7, 2), (1, 3)]))
    of_it = service_memory.forget(remembered.raw, FLOWS[family], service_memory.pairs_of([(1, 2)]))

    assert (of_another.removed, of_it.removed) == (0, 2)


def test_affinity_is_forgotten_with_the_backend_and_after_the_longest_time(made):
    affinity = made(layouts.AFFINITY)
    keys = [AffinityKey(client=mapped("10.0.0.9"), affinity_id=number) for number in (1, 2, 3)]
    for key, backend, used_s in zip(keys, (5, 5, 6), (NOW_S, NOW_S, NOW_S - 100), strict=True):
        affinity.update(key, AffinityEntry(backend_id=backend, used_s=used_s))

    service_memory.forget(affinity.raw, layouts.AFFINITY, service_memory.pairs_of([(1, 5)]))
    service_memory.collect_affinity(affinity.raw, 99, NOW_S)

    assert [key for key, _ in affinity.items()] == [keys[1]]

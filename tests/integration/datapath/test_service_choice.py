"""Which backend a client gets, as a packet's program is told: the same on every node where it has to be."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pycilium.datapath import bpffs, layouts
from pycilium.datapath.layouts import BackendState, ServiceEntry, ServiceFlags, ServiceSet
from pycilium.datapath.loader import Datapath, DatapathConfig, load
from tests.integration.datapath.conftest import build_bpf
from tests.integration.datapath.sockets import IPV4, IPV6, TCP, UDP, Place, sixteen

pytestmark = pytest.mark.root

PROBE = Path(__file__).parent / "service_probe.bpf.c"
QUESTION = struct.Struct("!16s16sHHBBBx")
SEED = 0x5E7C1CE5
SLOTS = [5, 6, 7, 5, 6, 5, 7]
SIZES = {
    **dict.fromkeys(("services4", "services6", "affinity", "socket_flows"), 1024),
    **dict.fromkeys(("service_flows4", "service_flows6", "source_ranges4", "source_ranges6", "backends"), 1024),
    "service_slots": 1024,
}
each_family = pytest.mark.parametrize("place", [IPV4, IPV6], ids=("ipv4", "ipv6"))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Datapath]:
    folder = tmp_path_factory.mktemp("service-probe")
    build_bpf.compile_object(PROBE, folder / "objects" / "service_probe.bpf.o")
    bpffs.ensure(folder / "bpf")
    with load(DatapathConfig(str(folder / "bpf"), map_entries=SIZES), folder / "objects") as datapath:
        backends = datapath.mapped(layouts.BACKENDS)
        for number in set(SLOTS):
            backends.write(number, layouts.BackendEntry(port=80, state=BackendState.ACTIVE))
        datapath.mapped(layouts.SERVICE_SLOTS).values[10 : 10 + len(SLOTS)] = np.array(SLOTS, np.uint32)
        yield datapath
    bpffs.unmount(folder / "bpf")


@pytest.fixture
def datapath(loaded: Datapath) -> Iterator[Datapath]:
    yield loaded
    for spec in (layouts.SERVICES4, layouts.SERVICES6, layouts.AFFINITY):
        with loaded.map(spec) as opened:
            opened.delete_batch([key for key, _ in opened.items()])


def ask(
    datapath: Datapath,
    program: str,
    place: Place,
    client: str = "192.0.2.77",
    *,
    port: int = 40000,
    protocol: int = TCP,
    outside: bool = False,
) -> int:
    family = 6 if place is IPV6 else 4
    question = QUESTION.pack(sixteen(client), sixteen(place.service), port, 80, protocol, family, outside)
    return datapath.programs[program].test_run(question).retval


def serve(datapath: Datapath, place: Place, **fields: object) -> None:
    """All slots to clients of the cluster, the first one alone to others, unless the fields say otherwise."""
    whole, one = ServiceSet(first_slot=10, slots=len(SLOTS)), ServiceSet(first_slot=10, slots=1)
    entry = ServiceEntry(**{"inside": whole, "outside": one, "service_id": 7, "affinity_id": 9, **fields})
    if place is IPV6:
        with datapath.map(layouts.SERVICES6) as opened6:
            opened6.update(layouts.Service6Key(address=sixteen(place.service), port=80, protocol=TCP), entry)
    else:
        with datapath.map(layouts.SERVICES4) as opened4:
            opened4.update(layouts.Service4Key(address=int(ip_address(place.service)), port=80, protocol=TCP), entry)


def murmur3(words: list[int]) -> int:
    """MurmurHash3 of 32-bit words, as its author describes it."""
    mask, hashed = 0xFFFFFFFF, SEED

    def turned(word: int, bits: int) -> int:
        return (word << bits | word >> (32 - bits)) & mask

    for word in words:
        hashed ^= turned(word * 0xCC9E2D51 & mask, 15) * 0x1B873593 & mask
        hashed = (turned(hashed, 13) * 5 + 0xE6546B64) & mask
    hashed ^= 4 * len(words)
    hashed = (hashed ^ hashed >> 16) * 0x85EBCA6B & mask
    hashed = (hashed ^ hashed >> 13) * 0xC2B2AE35 & mask
    return hashed ^ hashed >> 16


def hash_of(client: str, port: int, protocol: int = TCP) -> int:
    return murmur3([*struct.unpack("!4I", sixteen(client)), port << 16 | protocol])


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    client=st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str),
    port=st.integers(0, 65535),
    protocol=st.sampled_from([TCP, UDP]),
)
def test_the_hash_is_one_that_every_node_can_make(datapath: Datapath, client: str, port: int, protocol: int) -> None:
    assert ask(datapath, "probe_hash", IPV4, client, port=port, protocol=protocol) == hash_of(client, port, protocol)


@each_family
def test_maglev_goes_by_address_and_port_of_the_client(datapath: Datapath, place: Place) -> None:
    serve(datapath, place, flags=ServiceFlags.MAGLEV)

    for port in range(40000, 40050):
        expected = SLOTS[hash_of("192.0.2.77", port) % len(SLOTS)]
        assert ask(datapath, "probe_choose", place, port=port) == expected


@each_family
def test_maglev_with_affinity_goes_by_the_clients_address_alone(datapath: Datapath, place: Place) -> None:
    serve(datapath, place, flags=ServiceFlags.MAGLEV | ServiceFlags.AFFINITY, affinity_s=3600)

    for last in range(50):
        client = f"192.0.2.{last}"
        assert ask(datapath, "probe_choose", place, client) == SLOTS[hash_of(client, 0) % len(SLOTS)]


@each_family
def test_without_maglev_the_same_client_comes_to_all(datapath: Datapath, place: Place) -> None:
    serve(datapath, place)

    assert {ask(datapath, "probe_choose", place) for _ in range(200)} == set(SLOTS)


@each_family
def test_affinity_is_a_clients_and_not_its_ports(datapath: Datapath, place: Place) -> None:
    serve(datapath, place, flags=ServiceFlags.AFFINITY, affinity_s=3600)

    chosen = {
        client: {ask(datapath, "probe_choose", place, client, port=40000 + port) for port in range(20)}
        for client in (f"192.0.2.{last}" for last in range(30))
    }

    assert {len(of_one) for of_one in chosen.values()} == {1}
    assert set().union(*chosen.values()) == set(SLOTS)


@each_family
def test_frontends_with_one_id_of_affinity_share_what_a_client_has_had(datapath: Datapath, place: Place) -> None:
    chosen = []
    for service_id, affinity_id in ((7, 9), (8, 9), (7, 10)):
        serve(
            datapath,
            place,
            flags=ServiceFlags.AFFINITY,
            affinity_s=3600,
            service_id=service_id,
            affinity_id=affinity_id,
        )
        clients = (f"192.0.2.{last}" for last in range(30))
        chosen.append([ask(datapath, "probe_choose", place, client) for client in clients])

    assert chosen[0] == chosen[1] != chosen[2]


@each_family
def test_clients_outside_have_a_set_of_their_own(datapath: Datapath, place: Place) -> None:
    serve(datapath, place)
    assert {ask(datapath, "probe_choose", place, outside=True) for _ in range(30)} == {SLOTS[0]}

    serve(datapath, place, outside=ServiceSet())
    assert ask(datapath, "probe_choose", place, outside=True) == 0
    assert ask(datapath, "probe_choose", place) in SLOTS


@each_family
def test_what_is_no_frontend_has_no_backend(datapath: Datapath, place: Place) -> None:
    serve(datapath, place)

    assert ask(datapath, "probe_choose", place, protocol=UDP) == 0


@each_family
@pytest.mark.parametrize(
    ("flags", "within", "beyond"),
    [
        (ServiceFlags.EXTERNAL, True, True),
        (ServiceFlags.EXTERNAL | ServiceFlags.SOURCE_ALLOW, True, False),
        (ServiceFlags.EXTERNAL | ServiceFlags.SOURCE_DENY, False, True),
        (ServiceFlags(0), False, False),
    ],
)
def test_source_ranges_are_a_services_own(
    datapath: Datapath, place: Place, flags: ServiceFlags, within: bool, beyond: bool
) -> None:
    serve(datapath, place, flags=flags)
    inside, outside = ("2001:db8:1::7", "2001:db8:2::7") if place is IPV6 else ("192.0.2.7", "198.51.100.7")
    network = ip_network("2001:db8:1::/48" if place is IPV6 else "192.0.2.0/24")
    everything = ip_network("::/0" if place is IPV6 else "0.0.0.0/0")
    _range(datapath, 7, network)
    _range(datapath, 8, everything)

    admitted = [bool(ask(datapath, "probe_admits", place, client)) for client in (inside, outside)]

    assert admitted == [within, beyond]


def _range(datapath: Datapath, service_id: int, network: IPv4Network | IPv6Network) -> None:
    prefix_len = 32 + network.prefixlen
    if network.version == 6:
        with datapath.map(layouts.SOURCE_RANGES6) as opened6:
            address = network.network_address.packed
            opened6.update(layouts.SourceRange6Key(prefix_len=prefix_len, service_id=service_id, address=address), 1)
    else:
        with datapath.map(layouts.SOURCE_RANGES4) as opened4:
            opened4.update(
                layouts.SourceRange4Key(
                    prefix_len=prefix_len, service_id=service_id, address=int(network.network_address)
                ),
                1,
            )

"""What it takes to bring Services in force: 10,000 with 10 endpoints each from nothing, one endpoint more, and one that
comes and goes a hundred times a second.

Ours: from the first write into the store until the kernel has the last frontend, the way through a running agent; the
peers are the programs that kube-proxy hands its rules to, without the time that kube-proxy itself takes to follow the
cluster and to make their text. Then what all of it takes of memory.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pycilium.datapath import layouts
from pycilium.datapath.maps import Map
from pycilium.model.resources import Resource
from pycilium.store import open_blocking
from pycilium.store.blocking import BlockingStore
from tests.benchmark import service_set
from tests.benchmark.figures import Aim, Figure, Options, Tell, alone, in_turns
from tests.benchmark.ours import Lab, lab, wait_for_services
from tests.benchmark.peers import PORT
from tests.benchmark.peers_services import FACTS, Proxy, proxied_node
from tests.benchmark.row_memory import use_default_sizes

ENDPOINTS = 10
APART_S = 0.1
"""Changes that come one by one, not in a row that is taken in together."""
PATIENCE_S = 60.0
MB = 1024
MAPS = (
    layouts.SERVICES4,
    layouts.SERVICES6,
    layouts.SERVICE_SLOTS,
    layouts.BACKENDS,
    layouts.SOURCE_RANGES4,
    layouts.SOURCE_RANGES6,
)
FLAPS_PER_S = 100
FASTER, AT_ONCE, KEEPS_UP = Aim("ratio", "<", 1.0), Aim("ours", "<", 5), Aim("ours", "≥", 95)


def measure(options: Options, tell: Tell) -> list[Figure]:
    count, changes = options.sized(10_000, 100), options.sized(10, 2)
    what = f"{count:,} services of {ENDPOINTS} endpoints"
    theirs = {}
    for mode in ("iptables", "nftables"):
        tell(f"{what}: {mode}")
        with proxied_node(mode) as (proxy, _):
            theirs[mode] = _programmed(proxy, count, changes)
    with lab(tell, "prog") as made:
        use_default_sizes(made)
        empty = made.resident_kb()["VmRSS"]
        tell(f"{what}: ours")
        began = time.monotonic()
        made.apply(_resources(count))
        written_s = time.monotonic() - began
        wait_for_services(made, count)
        took_s = time.monotonic() - began
        tell("one endpoint more")
        changed_ms = _changed_ms(made, changes)
        tell("an endpoint that comes and goes")
        flapped = _flapped(made, options.sized(1000, 50))
        full = made.resident_kb()["VmRSS"]
        sizes = _map_mb(made)
    note = f"the writing took {written_s:.1f} s of it"
    figures = [
        in_turns("programming", what, "s", [took_s], mode, [theirs[mode][0]], FASTER, note) for mode in theirs
    ] + [
        in_turns("programming", "one endpoint more", "ms", changed_ms, mode, theirs[mode][1], AT_ONCE)
        for mode in theirs
    ]
    return [
        *figures,
        alone("programming", f"an endpoint flaps {FLAPS_PER_S} times a second: in force", "/s", [flapped], KEEPS_UP),
        alone("programming", "agent's RSS with them", "MB", [full / MB], note=f"{empty / MB:.0f} MB without"),
        alone("programming", "maps of Services in the kernel", "MB", [sizes]),
    ]


def _resources(count: int) -> list[Resource]:
    """Every endpoint has an address of its own."""
    return [each for number in range(count) for each in _with_endpoints(number, ENDPOINTS)]


def _with_endpoints(number: int, endpoints: int) -> Sequence[Resource]:
    addresses = [f"10.{100 + host}.{number // 250}.{number % 250 + 1}" for host in range(endpoints)]
    return service_set.one_service(number, addresses, PORT, FACTS.name)


def _programmed(proxy: Proxy, count: int, changes: int) -> tuple[float, list[float]]:
    """Seconds for all of them, and milliseconds for each endpoint more."""
    resources = _resources(count)
    proxy.apply(resources)
    whole_s, changed_ms = proxy.seconds, []
    for number in range(changes):
        resources[2 * number : 2 * number + 2] = _with_endpoints(number, ENDPOINTS + 1)
        proxy.apply(resources, changed=f"service-{number}")
        changed_ms.append(proxy.seconds * 1e3)
    return whole_s, changed_ms


def _changed_ms(made: Lab, changes: int) -> list[float]:
    """Milliseconds from the call that writes a slice until its frontend has one backend more, each in a Service of its own.

    The store is open before, as it is for whoever writes slices: a controller.
    """
    services_map = made.bpf_root / "maps" / layouts.SERVICES4.name
    with open_blocking(made.layout.store_url) as store, Map.open(services_map, layouts.SERVICES4) as services:
        return [_change(store, services, number) for number in range(changes)]


def _change(store: BlockingStore, services: Map[Any, Any], number: int) -> float:
    _, grown = _with_endpoints(number, ENDPOINTS + 1)
    key = layouts.Service4Key(address=int(service_set.FIRST[4]) + number, port=service_set.PORT, protocol=6)
    time.sleep(APART_S)
    began = time.perf_counter()
    store.apply([grown])
    while (found := services.lookup(key)) is None or found.inside.slots <= ENDPOINTS:
        if time.perf_counter() - began > PATIENCE_S:
            raise RuntimeError(f"service {number} never had {ENDPOINTS + 1} backends in the kernel")
        time.sleep(0)  # the agent may want this processor
    return (time.perf_counter() - began) * 1e3


def _flapped(made: Lab, changes: int) -> float:
    """How many changes a second are in force before the next is written."""
    services_map = made.bpf_root / "maps" / layouts.SERVICES4.name
    slices = [_with_endpoints(0, endpoints)[1] for endpoints in (ENDPOINTS, ENDPOINTS + 1)]
    key = layouts.Service4Key(address=int(service_set.FIRST[4]), port=service_set.PORT, protocol=6)
    in_force = 0
    with open_blocking(made.layout.store_url) as store, Map.open(services_map, layouts.SERVICES4) as services:
        began = time.monotonic()
        for change in range(changes):
            store.apply([slices[change % 2]])
            due = began + (change + 1) / FLAPS_PER_S
            while (found := services.lookup(key)) is None or found.inside.slots != ENDPOINTS + change % 2:
                if time.monotonic() > due:
                    break
                time.sleep(0)  # the agent may want this processor
            else:
                in_force += 1
            time.sleep(max(0.0, due - time.monotonic()))
        return in_force / (time.monotonic() - began)


def _map_mb(made: Lab) -> float:
    """What the kernel says that they take."""
    total = 0
    for spec in MAPS:
        with Map.open(made.bpf_root / "maps" / spec.name, spec) as opened:
            lines = Path(f"/proc/self/fdinfo/{opened.fd}").read_text(encoding="ascii").splitlines()
            total += int(next(line.split()[1] for line in lines if line.startswith("memlock:")))
    return total / MB / MB

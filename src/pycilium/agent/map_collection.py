"""Removes connections that have expired, and what they leave elsewhere; lookups do not need it, room does.

Now and then, and soon after the programs have found no room: what has ended makes some.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import closing
from typing import Any

from pycilium.agent.map_fill import MapFill
from pycilium.agent.services.controller import Services
from pycilium.datapath import conntrack, layouts, loader, nat, service_flows, service_memory
from pycilium.datapath.codec import MapSpec
from pycilium.datapath.layouts import Direction, DropReason
from pycilium.datapath.maps import PerCpuArray

AnySpec = MapSpec[Any, Any]

INTERVAL_S, SHORT_INTERVAL_S = 30.0, 5.0
"""From one collection to the next; and where packets have been dropped for want of room."""
LOOK_S = 1.0
NO_ROOM = (DropReason.CT_INSERT_FAILED, DropReason.NAT_NO_MAPPING)
FAMILIES: tuple[tuple[AnySpec, AnySpec, AnySpec], ...] = (
    (layouts.CT4, layouts.NAT4, layouts.SERVICE_FLOWS4),
    (layouts.CT6, layouts.NAT6, layouts.SERVICE_FLOWS6),
)


async def collect_connections(datapath: loader.Datapath, services: Services | None, fill: MapFill) -> None:
    """Until cancelled."""
    with closing(datapath.percpu(layouts.METRICS)) as metrics:
        refused = _dropped(metrics, DropReason.CT_INSERT_FAILED)
        while True:
            await _until_due(metrics)
            if datapath.moved.under_way:  # what is in one map only may be in use by programs that have the one before
                continue
            for family in FAMILIES:
                await asyncio.to_thread(_collect, datapath, *family, fill, with_services=services is not None)
            if services is not None:
                await asyncio.to_thread(_collect_affinity, datapath, services.longest_affinity_s)
            before, refused = refused, _dropped(metrics, DropReason.CT_INSERT_FAILED)
            fill.note_refused(refused - before)


async def _until_due(metrics: PerCpuArray[Any]) -> None:
    """The interval; the short one if packets find no room meanwhile."""
    before, waited_s = _found_no_room(metrics), 0.0
    while waited_s < INTERVAL_S:
        await asyncio.sleep(LOOK_S)
        waited_s += LOOK_S
        if waited_s >= SHORT_INTERVAL_S and _found_no_room(metrics) != before:
            return


def _found_no_room(metrics: PerCpuArray[Any]) -> int:
    return sum(_dropped(metrics, reason) for reason in NO_ROOM)


def _dropped(metrics: PerCpuArray[Any], reason: DropReason) -> int:
    """How many packets, ever."""
    return sum(each.packets for way in Direction for each in metrics.lookup(way << 8 | reason))


def _collect(
    datapath: loader.Datapath,
    connections: AnySpec,
    mappings: AnySpec,
    flows: AnySpec,
    fill: MapFill,
    *,
    with_services: bool,
) -> None:
    now_s = int(time.monotonic())
    with datapath.map(connections) as known, datapath.map(mappings) as nat_map:
        fill.note(connections.name, conntrack.collect(known.raw, now_s).alive)
        fill.note(mappings.name, nat.collect(nat_map.raw, known.raw, now_s).alive)
        if with_services:
            with datapath.map(flows) as translated:
                fill.note(flows.name, service_flows.collect(translated.raw, known.raw, now_s).alive)


def _collect_affinity(datapath: loader.Datapath, longest_s: int) -> None:
    with datapath.map(layouts.AFFINITY) as affinity:
        service_memory.collect_affinity(affinity.raw, longest_s, int(time.monotonic()))

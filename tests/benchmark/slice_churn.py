"""What each node is told while pods start and end at a given rate, with slices and without: worked out, second by second.

A rate at which a thousand simulated nodes can be told on one machine is far below that of a big cluster, and what
slices save hangs on it. So here time is a number: the operator's own decisions (what to write, what may wait, how
fast), and the bytes of the objects that it would write.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from pycilium.endpoint.slice_entries import SliceEntries, name_of
from pycilium.endpoint.slices import MOST, Slice, planned
from pycilium.model.resources import CiliumEndpoint, CiliumEndpointSlice, ObjectMeta, Resource, encode_json
from pycilium.operator.endpoint_slices import GATHER_S
from pycilium.operator.write_rate import Deferral, RateLimit, WriteRate
from tests.benchmark.api_nodes import endpoint_of

LIMIT = RateLimit(nodes=0, limit=10, burst=20)
ENVELOPE = 150
"""What a watch and the server's bookkeeping add to an object: type, uid, versions, times."""


@dataclass
class Churn:
    """A cluster whose pods start, and end by chance, `rate` a second."""

    pods: int
    most: int = MOST
    entries: SliceEntries = field(default_factory=SliceEntries)
    slices: dict[str, Slice] = field(default_factory=dict)
    living: list[CiliumEndpoint] = field(default_factory=list)
    made: int = 0

    def __post_init__(self) -> None:
        self._random = random.Random(1)
        for _ in range(self.pods):
            self._start()
        for write in planned(self.slices, self.entries.wanted, self.most):
            self.slices[write.name] = write.slice

    def told(self, seconds: int, starts_per_s: int, ends_per_s: int) -> tuple[float, float]:
        """Bytes that each node is told per second: by slices, and by CiliumEndpoints."""
        deferral, rate, by_slices, by_endpoints = Deferral(), WriteRate(), 0, 0
        for step in range(int(seconds / GATHER_S)):
            now = 1000.0 + step * GATHER_S
            by_endpoints += sum(_size(self._start()) for _ in range(_share(starts_per_s, step)))
            by_endpoints += sum(_size(self._end()) for _ in range(_share(ends_per_s, step)))
            due, _ = deferral.due(planned(self.slices, self.entries.wanted, self.most), now)
            for write in due:
                if rate.wait_s(LIMIT, now):
                    break
                by_slices += _size_of(write.name, write.slice)
                self.slices[write.name] = write.slice
                if not write.slice.entries:
                    del self.slices[write.name]
        return by_slices / seconds, by_endpoints / seconds

    def _start(self) -> CiliumEndpoint:
        self.made += 1
        endpoint = endpoint_of(self.made % 1000, f"app-6d4cf56db6-{self.made:05d}", self.made)
        self.entries.change(endpoint)
        self.living.append(endpoint)
        return endpoint

    def _end(self) -> CiliumEndpoint:
        endpoint = self.living.pop(self._random.randrange(len(self.living)))
        self.entries.remove(name_of(endpoint))
        return endpoint


def _share(per_s: int, step: int) -> int:
    """Of a rate, what falls into one step."""
    return int((step + 1) * per_s * GATHER_S) - int(step * per_s * GATHER_S)


def _size_of(name: str, slice_: Slice) -> int:
    endpoints = tuple(slice_.entries.values())
    return _size(CiliumEndpointSlice(metadata=ObjectMeta(name=name), namespace=slice_.namespace, endpoints=endpoints))


def _size(resource: Resource) -> int:
    return len(encode_json(resource)) + ENVELOPE

"""What programs remember of clients of Services: rid of backends that left their Service.

    affinity            which backend a client had
    service_flows4/6    connections that are translated per packet
    socket_flows        addresses of sockets that were translated

`forget` is what makes a client of a backend that is gone choose another, and what lets a number be given out again.
Everything goes a chunk at a time; the programs may write meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from pycilium.datapath import layouts
from pycilium.datapath.codec import MapSpec
from pycilium.datapath.conntrack import Collected
from pycilium.datapath.maps import Columns, RawMap

Pairs = npt.NDArray[np.uint64]
"""Service id, or id of affinity, and backend id in one number."""


def pairs_of(left: Iterable[tuple[int, int]]) -> Pairs:
    """(service id or id of affinity, backend id) as `forget` takes them."""
    return np.array([service << 32 | backend for service, backend in left], np.uint64)


def forget(target: RawMap, spec: MapSpec[Any, Any], left: Pairs) -> Collected:
    """Remove what a map of the programs remembers of backends that left their Service."""

    def of_those(keys: Columns, values: Columns) -> npt.NDArray[np.bool_]:
        key, value = _structured(keys, spec.key.dtype), _structured(values, spec.value.dtype)
        ids = key["affinity_id"] if spec is layouts.AFFINITY else value["service_id"]
        found: npt.NDArray[np.bool_] = np.isin(ids.astype(np.uint64) << np.uint64(32) | value["backend_id"], left)
        return found

    return _remove(target, of_those)


def collect_affinity(target: RawMap, longest_s: int, now_s: int) -> Collected:
    """Remove clients that have not come for `longest_s`, the longest affinity of any Service."""

    def over(_: Columns, values: Columns) -> npt.NDArray[np.bool_]:
        used_s = _structured(values, layouts.AffinityEntry.DTYPE)["used_s"].astype(np.int64)
        found: npt.NDArray[np.bool_] = now_s - used_s > longest_s
        return found

    return _remove(target, over)


def _remove(target: RawMap, dead: Any) -> Collected:
    alive = removed = 0
    for keys, values in target.chunks():
        gone = [row.tobytes() for row in keys[dead(keys, values)]]
        failures = target.delete_batch(gone)
        removed += len(gone) - len(failures)
        alive += len(keys) - len(gone) + len(failures)
    return Collected(alive, removed)


def _structured(rows: Columns, dtype: Any) -> npt.NDArray[Any]:
    found: npt.NDArray[Any] = np.ascontiguousarray(rows).view(dtype).reshape(-1)
    return found

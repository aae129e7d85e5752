"""Which backends clients have had, rid of those that left their service: programs only see that a backend exists."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from pycilium.datapath.layouts import AffinityEntry, AffinityKey
from pycilium.datapath.maps import AnyMap


def forget(target: AnyMap[AffinityKey, AffinityEntry], backends: Mapping[int, Collection[int]]) -> int:
    """Remove what clients had of each of these services, by id, that is not among its backends; how much that was.

    Services that are not named keep everything. An entry that a program makes meanwhile may be missed: call it
    after the service's frontends have been switched to the backends.
    """
    keys, entries = target.dump()
    stale = np.zeros(len(keys), np.bool_)
    for service_id, wanted in backends.items():
        of_service = keys["service_id"] == service_id
        stale |= of_service & ~np.isin(entries["backend_id"], np.fromiter(wanted, np.uint32))
    gone = [AffinityKey.from_bytes(key.tobytes()) for key in keys[stale]]
    return len(gone) - len(target.delete_batch(gone))

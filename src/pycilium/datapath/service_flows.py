"""What became of connections to services, packet by packet: rid of those that are over.

An entry lives as long as its connection in conntrack. That of a backend in the node's own network namespace is seen one
way only, so it lives by the time of its last use. The programs never remove one that is in use.
"""

from __future__ import annotations

import socket
from typing import Any

import numpy as np
import numpy.typing as npt

from pycilium.datapath import layouts
from pycilium.datapath.conntrack import Bytes, Collected, canonical_keys, is_among, known_keys
from pycilium.datapath.layouts import CtLifetimeS, ServiceFlowFlags
from pycilium.datapath.maps import Columns, RawMap

GRACE_S = 10
"""An entry that was used so lately stays: its connection may be younger than the list of connections."""
IDLE_TCP_S, IDLE_OTHER_S = int(CtLifetimeS.TCP_S), int(CtLifetimeS.OTHER_S)


def collect(target: RawMap, conntrack: RawMap, now_s: int) -> Collected:
    """Remove the entries of service_flows4 or 6 whose connection, of ct4 or ct6, is over."""
    known = known_keys(conntrack)
    alive = removed = 0
    for keys, values in target.chunks():
        gone = [row.tobytes() for row in keys[_dead(keys, values, known, now_s)]]
        failures = target.delete_batch(gone)
        removed += len(gone) - len(failures)
        alive += len(keys) - len(gone) + len(failures)
    return Collected(alive, removed)


def _dead(keys: Columns, values: Columns, known: npt.NDArray[Any], now_s: int) -> npt.NDArray[np.bool_]:
    raw: Bytes = np.asarray(keys)
    entry_bytes: Bytes = np.asarray(values)
    entry = np.ascontiguousarray(values).view(layouts.ServiceFlowEntry.DTYPE).reshape(-1)
    width = 4 if raw.shape[1] == layouts.ServiceFlow4Key.SIZE else 16
    is_reply = ((entry["flags"] & ServiceFlowFlags.REPLY) != 0)[:, None]
    protocol: Bytes = raw[:, 2 * width + 4]
    ends = [np.where(is_reply, _end(raw, width, which), _end_of_entry(entry_bytes, width, which)) for which in (0, 1)]
    connected = is_among(canonical_keys(ends[0], ends[1], protocol), known)
    idle_s = now_s - entry["used_s"].astype(np.int64)
    allowed_s = np.where(protocol == socket.IPPROTO_TCP, IDLE_TCP_S, IDLE_OTHER_S)
    by_time = (entry["flags"] & ServiceFlowFlags.HOST) != 0
    dead: npt.NDArray[np.bool_] = np.where(by_time, idle_s > allowed_s, ~connected & (idle_s > GRACE_S))
    return dead


def _end(key: Bytes, width: int, which: int) -> Bytes:
    """Address and port of the source (0) or the destination (1), as the packet had them."""
    port = 2 * width + 2 * which
    return np.hstack([key[:, which * width : (which + 1) * width], key[:, port : port + 2]])


def _end_of_entry(entry: Bytes, width: int, which: int) -> Bytes:
    """The same as the packet has them afterwards."""
    port = 32 + 2 * which
    return np.hstack([entry[:, 16 * (which + 1) - width : 16 * (which + 1)], entry[:, port : port + 2]])

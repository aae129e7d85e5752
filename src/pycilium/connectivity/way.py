"""Another node's way back to a world: with it that world is outside for this node, as a client on its link is.

```
   the world's node                          this node
   cilium_world ── stack ── its device ───── its device: node ports are answered here
                                              a route to each of the world's addresses, by the world's node
```

Invariant: routes go with the process, however it ends. Those of IPv4 have a source address on a device that leads
into a network namespace of this process alone; where that is not enough, with IPv6, they end by themselves.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import struct
from collections.abc import Sequence

from pyroute2 import IPRoute

from pycilium.connectivity.world import leave_netns

DEVICE = "cilium_way"
_SOURCE = "169.254.77.1"
"""Of nothing that is sent: with this address its routes go."""
_LIFETIME_S = 600
_PR_SET_PDEATHSIG = 1
_SIGNALS = {signal.SIGTERM, signal.SIGINT}


def keep_way(hops: Sequence[str]) -> None:
    """Routes, each as `GATEWAY=ADDRESS`, until the process ends."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    holder = _namespace_of_a_child()
    with IPRoute() as ip:
        ip.link("add", ifname=DEVICE, kind="veth", peer={"ifname": "eth0", "net_ns_pid": holder})
        (index,) = ip.link_lookup(ifname=DEVICE)
        ip.link("set", index=index, state="up")
        ip.addr("add", index=index, address=_SOURCE, prefixlen=32)
        for hop in hops:
            ip.route("replace", **_route(hop))
        print("ready", flush=True)
        signal.sigwait(_SIGNALS)
        for hop in hops:
            ip.route("del", **_route(hop))


def _namespace_of_a_child() -> int:
    """The process that has it, and nothing to do: it is there once this returns."""
    there, told = os.pipe()
    child = os.fork()
    if not child:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        leave_netns()
        os.write(told, b".")
        while True:
            signal.pause()
    os.close(told)
    if not os.read(there, 1):
        raise SystemExit("no network namespace could be made")
    return child


def _route(hop: str) -> dict[str, object]:
    gateway, _, address = hop.partition("=")
    if ":" in address:
        lifetime = struct.pack("=I", _LIFETIME_S)
        return {"dst": f"{address}/128", "gateway": gateway, "family": socket.AF_INET6, "expires": lifetime}
    return {"dst": f"{address}/32", "gateway": gateway, "family": socket.AF_INET, "prefsrc": _SOURCE}

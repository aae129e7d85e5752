"""A world of one node's own: a network namespace behind a cable, with addresses that are neither a pod's nor a node's.

```
   the node's namespace                       this process's own
   cilium_world ───────────────────────────── eth0, the world's addresses
   a route to each of them                    default route to the node
```

Pods of that node reach it as they reach the internet; others do not, for no router knows of it. Invariant: cable and
routes go with the process, however it ends, because the namespace does.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
from collections.abc import Sequence

from pyroute2 import IPRoute

from pycilium.connectivity.peer import serve

PORT = 80
DEVICE = "cilium_world"
_CLONE_NEWNET = 0x40000000
_MAC = "02:77:6f:72:6c:64"
"""Of the node's end: the world has it as a neighbour for ever, and asks nobody."""
_GATEWAY = {socket.AF_INET: "169.254.1.1", socket.AF_INET6: "fe80::77"}
_PERMANENT, _ONLINK, _NODAD = 0x80, 4, 2


def serve_world(addresses: Sequence[str]) -> None:
    """Answers HTTP at the addresses until the process ends."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    moved, made = os.pipe(), os.pipe()
    helper = os.fork()
    if not helper:  # stays in the node's namespace, and makes the cable once the parent has one of its own
        os.read(moved[0], 1)
        _lay_cable(os.getppid(), addresses)
        os.write(made[1], b".")
        os._exit(0)
    leave_netns()
    os.write(moved[1], b".")
    os.close(made[1])
    if not os.read(made[0], 1):
        raise SystemExit("the cable to the world could not be made")
    os.waitpid(helper, 0)
    _furnish(addresses)
    serve("world", [str(PORT)])


def leave_netns() -> None:
    """Into a network namespace of this process's own."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, f"unshare: {os.strerror(number)}")


def _lay_cable(pid: int, addresses: Sequence[str]) -> None:
    with IPRoute() as ip:
        peer = {"ifname": "eth0", "net_ns_pid": pid}
        ip.link("add", ifname=DEVICE, kind="veth", address=_MAC, peer=peer)
        (index,) = ip.link_lookup(ifname=DEVICE)
        ip.link("set", index=index, state="up")
        for address in addresses:
            family = _family(address)
            length = 32 if family == socket.AF_INET else 128
            ip.route("replace", dst=f"{address}/{length}", oif=index, family=family, scope=253)


def _furnish(addresses: Sequence[str]) -> None:
    """The world's end: its addresses, and the node as the way to everything."""
    with IPRoute() as ip:
        for name in ("lo", "eth0"):
            (index,) = ip.link_lookup(ifname=name)
            ip.link("set", index=index, state="up")
        for address in addresses:
            length = 32 if _family(address) == socket.AF_INET else 128
            ip.addr("add", index=index, address=address, prefixlen=length, flags=_NODAD)
        for family in dict.fromkeys(map(_family, addresses)):
            gateway = _GATEWAY[family]
            ip.neigh("replace", dst=gateway, lladdr=_MAC, ifindex=index, state=_PERMANENT, family=family)
            anywhere = "0.0.0.0/0" if family == socket.AF_INET else "::/0"
            ip.route("replace", dst=anywhere, gateway=gateway, oif=index, flags=_ONLINK, family=family)


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET

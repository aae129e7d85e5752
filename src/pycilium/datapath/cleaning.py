"""Taking out of the kernel what an agent put there: programs, maps, devices, routes, its run folder.

For machines and for nodes of clusters alike. Settings of sysctl stay. Idempotent; the agent must have ended.
Invariant: nothing is touched that does not carry a mark of ours, and no file system but the run folder's own.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from pathlib import Path

from pycilium.datapath import gateway_device, link_pins, links, overlay_device, pod_interface
from pycilium.datapath.netlink import Netlink
from pycilium.datapath.rtnetlink import ROUTE_PROTOCOL, delete_route
from pycilium.errors import AttachError
from pycilium.model.endpoint import HEALTH_CONTAINER, HEALTH_IFNAME, attachment_name

_BATCH = 100
"""Requests sent at once: the kernel queues an answer to each before we read the first."""
_MNT_DETACH = 2


def attached() -> list[str]:
    """The containers that have an interface of ours, as `container id:interface`."""
    of_health = attachment_name(HEALTH_CONTAINER, HEALTH_IFNAME)
    found = [pod_interface.attachment_of(link) for link in pod_interface.interfaces()]
    return [attachment for attachment in found if attachment != of_health]


def clean(bpf_root: str | Path, run_dir: str | Path) -> list[str]:
    """What was taken away, in words. Containers that still run have no network afterwards."""
    folder = Path(bpf_root) / "links"
    detached = [pin for pin, _ in list(link_pins.pinned(folder)) if link_pins.unpin(pin)]
    filters = _detach_filters(folder)
    routes = _delete_routes()
    interfaces = pod_interface.interfaces()
    for interface in interfaces:
        pod_interface.delete(interface.name)
    devices = [name for name in _device_names() if gateway_device.is_ours(name)]
    overlay_device.remove()
    gateway_device.remove()
    removed = [str(each) for each in (Path(bpf_root), Path(run_dir)) if _remove(each)]
    counted = (
        (len(detached) + filters, "programs"),
        (routes, "routes"),
        (len(interfaces), "interfaces of containers"),
    )
    return [f"{count} {what}" for count, what in counted if count] + devices + removed


def _detach_filters(folder: Path) -> int:
    """Of kernels without tcx, where nothing is pinned."""
    with Netlink.open() as node:
        found = [link.ifindex for link in node.links()]
    detached = 0
    for ifindex in found:
        for hook in links.Hook:
            with suppress(AttachError):  # a device that is going
                detached += links.detach(ifindex, folder / "none", hook=hook)
    return detached


def _delete_routes() -> int:
    with Netlink.open() as node:
        ours = [route.destination for route in node.routes() if route.protocol == ROUTE_PROTOCOL]
        for start in range(0, len(ours), _BATCH):
            node.run([delete_route(cidr, protocol=ROUTE_PROTOCOL) for cidr in ours[start : start + _BATCH]])
    return len(ours)


def _device_names() -> list[str]:
    with Netlink.open() as node:
        return [link.name for link in node.links()]


def _remove(folder: Path) -> bool:
    """A folder with all that is in it, but for what else is mounted there; cgroups that we mounted there are let go."""
    if not folder.exists():
        return False
    for point in _mounted_below(folder.resolve(), "cgroup2"):
        _libc().umount2(os.fsencode(point), _MNT_DETACH)
    _remove_own(folder, folder.stat().st_dev)
    return True


def _remove_own(folder: Path, device: int) -> None:
    for entry in os.scandir(folder):
        path = Path(entry.path)
        if not entry.is_dir(follow_symlinks=False):
            path.unlink(missing_ok=True)
        elif entry.stat(follow_symlinks=False).st_dev == device:
            _remove_own(path, device)
    with suppress(OSError):  # something is mounted within it, or on it: a pod's volume, say
        folder.rmdir()


def _mounted_below(folder: Path, kind: str) -> list[str]:
    lines = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    mounts = (line.split() for line in lines)
    return [mount[1] for mount in mounts if mount[2] == kind and mount[1].startswith(f"{folder}/")]


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)

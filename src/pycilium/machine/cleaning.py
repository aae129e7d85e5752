"""Taking out of the kernel what an agent put there: programs, maps, devices, routes. Settings of sysctl stay."""

from __future__ import annotations

import shutil
from pathlib import Path

from pycilium.agent.config import AgentConfig
from pycilium.agent.route_operations import RouteOperations
from pycilium.datapath import gateway_device, link_pins, links, overlay_device, pod_interface
from pycilium.datapath.netlink import Netlink
from pycilium.model.endpoint import HEALTH_CONTAINER, HEALTH_IFNAME, attachment_name


def attached() -> list[str]:
    """The containers that have an interface of ours, as `container id:interface`."""
    of_health = attachment_name(HEALTH_CONTAINER, HEALTH_IFNAME)
    found = [pod_interface.attachment_of(link) for link in pod_interface.interfaces()]
    return [attachment for attachment in found if attachment != of_health]


def clean(config: AgentConfig) -> None:
    """Idempotent. The agent must have ended. Containers that still run have no network afterwards."""
    folder = Path(config.bpf_root) / "links"
    for pin, _ in list(link_pins.pinned(folder)):
        link_pins.unpin(pin)
    _detach_filters(config.devices, folder)
    operations = RouteOperations()
    operations.delete([destination for destination, _ in operations.dump()])
    for interface in pod_interface.interfaces():
        pod_interface.delete(interface.name)
    overlay_device.remove()
    gateway_device.remove()
    shutil.rmtree(config.bpf_root, ignore_errors=True)
    shutil.rmtree(config.run_dir, ignore_errors=True)


def _detach_filters(devices: list[str], folder: Path) -> None:
    """Of kernels without tcx, where nothing is pinned."""
    with Netlink.open() as node:
        found = [node.ifindex(name) for name in devices]
    for ifindex in filter(None, found):
        for hook in links.Hook:
            links.detach(ifindex, folder / "none", hook=hook)

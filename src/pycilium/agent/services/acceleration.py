"""Acceleration: the program that translates for services before the stack, on the devices towards the outside."""

from __future__ import annotations

from collections.abc import Mapping

from pycilium.agent.config import AgentConfig, serves_all
from pycilium.agent.link_operations import AnyTarget, LinkOperations, XdpTarget
from pycilium.datapath import xdp_links
from pycilium.reconcile.reconciler import Reconciler

PROGRAM = "xdp_netdev"


def acceleration_key(device: str) -> str:
    """Under which the program on the device is known among attached programs."""
    return f"{device}:xdp"


def desire_acceleration(config: AgentConfig, devices: Mapping[str, int], links: Reconciler[str, AnyTarget]) -> None:
    """A program before the stack of each device, if the configuration says so."""
    mode = config.load_balancer_acceleration
    if not serves_all(config) or mode == "disabled":
        return
    for device, ifindex in devices.items():
        links.desired_set(acceleration_key(device), XdpTarget(ifindex, PROGRAM, mode))


def acceleration_of(config: AgentConfig, devices: Mapping[str, int], attached: LinkOperations) -> str:
    """`eth0 native, eth1 generic`, or why a device has none; "" if none is to have any. In the node's namespace."""
    if not serves_all(config) or config.load_balancer_acceleration == "disabled":
        return ""
    said = []
    for device in devices:
        reason = attached.not_accelerated.get(acceleration_key(device), "")
        said.append(f"{device} {xdp_links.way_of(device) or 'none'}{f' ({reason})' if reason else ''}")
    return ", ".join(said)

"""The MTU of pods: what the network between the nodes takes, less what the overlay adds to every packet.

Pure. One MTU for all pods of a node: the smallest that any of its devices leaves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pycilium.datapath.layouts import PathMtuLimits
from pycilium.errors import ConfigError

IPV6_MIN_MTU_BYTES = 1280
ETHERNET_MTU_BYTES = 1500
"""Assumed where no device is configured."""
_OVERLAY_BYTES = {4: int(PathMtuLimits.OVERLAY_BYTES_IPV4), 6: int(PathMtuLimits.OVERLAY_BYTES_IPV6)}


def pod_mtu_bytes(
    devices: Mapping[str, int], routing_mode: Literal["tunnel", "native"], outer_family: int, *, ipv6_pods: bool
) -> int:
    """`devices`: MTU in bytes by name. ConfigError if too little is left for IPv6, and for which device."""
    name, available = min(devices.items(), key=lambda device: device[1], default=("", ETHERNET_MTU_BYTES))
    overhead = _OVERLAY_BYTES[outer_family] if routing_mode == "tunnel" else 0
    left = available - overhead
    if ipv6_pods and left < IPV6_MIN_MTU_BYTES:
        raise ConfigError(
            f"devices: {name} has an MTU of {available}, which leaves pods {left}; IPv6 needs {IPV6_MIN_MTU_BYTES}: "
            f"raise it to {IPV6_MIN_MTU_BYTES + overhead}, or set ipv6_pod_cidr to null"
        )
    return left

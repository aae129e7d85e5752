"""What this node gives out: pod addresses and endpoint ids. Decisions only, no I/O."""

from pycilium.ipam.host_scope import Addresses, HostScope, Pool
from pycilium.ipam.rotation import EndpointIds, Rotation

__all__ = ["Addresses", "EndpointIds", "HostScope", "Pool", "Rotation"]

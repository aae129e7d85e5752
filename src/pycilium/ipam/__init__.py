"""Addresses: what a node gives to its pods, and a cluster to its nodes. Decisions only, no I/O."""

from pycilium.ipam.cluster_pool import CidrPool, ClusterPool, NodeClaim, Plan
from pycilium.ipam.host_scope import Addresses, HostScope, Pool
from pycilium.ipam.rotation import EndpointIds, Rotation

__all__ = ["Addresses", "CidrPool", "ClusterPool", "EndpointIds", "HostScope", "NodeClaim", "Plan", "Pool", "Rotation"]
